"""The coarsest level: an exact covariance, split by the sixteen symmetries of HEALPix into small blocks.

The isometries of the square prism leave the covariance as it is. In functions that transform by the irreducible
representations of their group it falls into ten blocks: eight of functions that every isometry keeps up to a sign, and
two of pairs of functions, whose two members have the same block. Factors of the blocks have a fifteenth of the entries
of one factor of the whole, and take a hundredth of its operations.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from .geometry import N_IMAGE, pixel_images, pixel_vectors
from .matern import MaternTable

__all__ = ["BaseGeometry", "apply_base", "base_geometry", "base_matrices"]

SAME = 1e-11
"""Squared chords on the unit sphere that differ by less are equal but for rounding."""

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Index = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class BaseGeometry:
    """The coarsest grid in functions of its pixels that transform alike under the isometries.

    Parameters
    ----------
    basis : ndarray, shape (n_pixel, n_pixel)
        Orthonormal functions of the pixels, one a row, block after block; of a block with two members the first
        members stand before the second ones.
    n_member : tuple of int
        Members of each block: functions that have the same covariance.
    log_distance : ndarray, shape (n_angle, n_shell_pair)
        ln(distance / kpc) between two cells, -inf for a cell and itself.
    angles : ndarray of int, shape (n_orbit_pair, 16)
        The angles that occur between the pixels of two orbits.
    weights : ndarray, shape (n_orbit_pair, 16, 16)
        For each pair of functions on two orbits (at most 16), the weights of the correlations at those angles in the
        covariance of the two.
    pairs : tuple of ndarray of int, shape (n_function, n_function)
        For each block, where among all (n_orbit_pair * 16) the covariance of two functions stands.
    shells : ndarray of int, shape (n_shell, n_shell)
        Which pair of shells two shells are.
    """

    basis: Float
    n_member: tuple[int, ...]
    log_distance: Float
    angles: Index
    weights: Float
    pairs: tuple[Index, ...]
    shells: Index


def base_geometry(nside: int, log_centre: Float) -> BaseGeometry:
    """All distances on the coarsest grid, and the functions that split it; ``log_centre`` is ln(distance / kpc)."""
    images = pixel_images(nside)
    rays = pixel_vectors(nside, np.arange(images.shape[1]))
    orbits = np.unique(images.min(axis=0))
    blocks = [_functions(matrices, images, orbits) for matrices in _representations()]
    blocks = [block for block in blocks if block[0].size]
    chord2, kind = _kinds(np.square(rays[:, None] - rays).sum(axis=-1))
    angles, weights, pairs = _orbit_pairs(kind, images, orbits, blocks)

    near, far = np.triu_indices(log_centre.size)
    shells = np.empty((log_centre.size, log_centre.size), dtype=np.int32)
    shells[near, far] = shells[far, near] = np.arange(near.size)
    radius = np.exp(log_centre)
    # |a - b|^2 = (r - s)^2 + r s chord^2, which loses no digits between cells close to each other
    squared = np.square(radius[far] - radius[near]) + np.multiply.outer(chord2, radius[far] * radius[near])
    with np.errstate(divide="ignore"):
        log_distance = 0.5 * np.log(squared)
    return BaseGeometry(
        basis=np.concatenate([own.reshape(-1, own.shape[-1]) for own, _ in blocks]),
        n_member=tuple(len(own) for own, _ in blocks),
        log_distance=log_distance,
        angles=angles,
        weights=weights,
        pairs=pairs,
        shells=shells,
    )


def base_matrices(
    geometry: BaseGeometry, row: jax.Array, log_length: jax.Array, jitter: float, dtype: np.dtype[Any]
) -> tuple[jax.Array, ...]:
    """Cholesky factors of the blocks, each of shape (n_function * n_shell, n_function * n_shell)."""
    correlation = MaternTable.correlation(row, geometry.log_distance, log_length)
    covariance = jnp.einsum(
        "pfa,pas->pfs", jnp.asarray(geometry.weights), correlation[geometry.angles], precision="highest"
    ).reshape(-1, correlation.shape[1])
    factors = []
    for pairs in geometry.pairs:
        n = len(pairs) * len(geometry.shells)
        index = (pairs[:, None, :, None], geometry.shells[None, :, None, :])
        block = covariance.at[index].get(mode="promise_in_bounds").reshape(n, n)
        # symmetric as it is: to average it with its transpose costs as much as the factorisation
        factor = jax.lax.linalg.cholesky(block + jitter * jnp.eye(n), symmetrize_input=False)
        factors.append(factor.astype(dtype))
    return tuple(factors)


def apply_base(geometry: BaseGeometry, factors: tuple[jax.Array, ...], excitation: jax.Array) -> jax.Array:
    """The field on the coarsest grid, (n_pixel, n_shell), from excitations of the functions in ``basis``' order."""
    n_shell, first, made = excitation.shape[1], 0, []
    for own, n_member in zip(factors, geometry.n_member, strict=True):
        n_function = own.shape[0] // n_shell
        # one by one: a product with two columns is several times slower on a processor than two products with one
        for _ in range(n_member):
            part = excitation[first : first + n_function].ravel()
            made.append(jnp.matmul(own, part, precision="highest").reshape(-1, n_shell))
            first += n_function
    basis = jnp.asarray(geometry.basis.T, dtype=excitation.dtype)
    return jnp.matmul(basis, jnp.concatenate(made), precision="highest")


def _representations() -> list[Float]:
    """The irreducible representations of the isometries, as matrices of shape (16, n, n), n = 1 or 2.

    Image 8 k + 4 m + q is the mirror at the equator (k times), the mirror y -> -y (m times) and then q quarter turns.
    """
    image = np.arange(N_IMAGE)
    turn, mirror, equator = image & 3, (image >> 2) & 1, (image >> 3) & 1
    signs = [(-1.0) ** (a * turn + b * mirror) for a in (0, 1) for b in (0, 1)]
    cosine, sine = np.array([1.0, 0.0, -1.0, 0.0])[turn], np.array([0.0, 1.0, 0.0, -1.0])[turn]
    reflected = (-1.0) ** mirror
    plane = np.stack([np.stack([cosine, -sine * reflected], -1), np.stack([sine, cosine * reflected], -1)], axis=1)
    return [
        matrices * ((-1.0) ** (odd * equator))[:, None, None]
        for odd in (0, 1)
        for matrices in (*(sign[:, None, None] for sign in signs), plane)
    ]


def _functions(matrices: Float, images: Int, orbits: Int) -> tuple[Float, Index]:
    """Orthonormal functions that transform by a representation, (member, function, pixel), and their orbits."""
    functions, own = [], []
    for number, pixel in enumerate(orbits):
        fixed = images[:, pixel] == pixel
        size, vectors = np.linalg.eigh(matrices[fixed].sum(axis=0))
        for vector in vectors.T[size > 0.5]:
            function = np.zeros((matrices.shape[1], images.shape[1]))
            for matrix, image in zip(matrices, images[:, pixel], strict=True):
                function[:, image] += matrix @ vector
            functions.append(function / np.linalg.norm(function, axis=1, keepdims=True))
            own.append(number)
    stacked = np.stack(functions, axis=1) if functions else np.empty((matrices.shape[1], 0, images.shape[1]))
    return stacked, np.array(own, dtype=np.int32)


def _kinds(values: Float) -> tuple[Float, Int]:
    """The values that differ by more than rounding, and which of them each entry is."""
    order = np.argsort(values, axis=None)
    ascending = values.ravel()[order]
    new = np.diff(ascending, prepend=-1.0) > SAME
    kind = np.empty(values.size, dtype=np.int64)
    kind[order] = np.cumsum(new) - 1
    return ascending[new], kind.reshape(values.shape)


def _orbit_pairs(
    kind: Int, images: Int, orbits: Int, blocks: list[tuple[Float, Index]]
) -> tuple[Index, Float, tuple[Index, ...]]:
    """Angles, weights and places as ``BaseGeometry`` has them."""
    members = [np.unique(images[:, pixel]) for pixel in orbits]
    n_pair = orbits.size * (orbits.size + 1) // 2
    angles, weights = np.zeros((n_pair, N_IMAGE), dtype=np.int32), np.zeros((n_pair, N_IMAGE, N_IMAGE))
    pairs = tuple(np.empty((own.shape[1],) * 2, dtype=np.int32) for own, _ in blocks)
    for number, (a, b) in enumerate(itertools.combinations_with_replacement(range(orbits.size), 2)):
        found, of_pixels = np.unique(kind[np.ix_(members[a], members[b])], return_inverse=True)
        angles[number, : found.size] = found
        of_angle = np.equal.outer(np.arange(found.size), of_pixels.reshape(members[a].size, -1)).astype(np.float64)
        slot = 0
        for places, (functions, of_orbit) in zip(pairs, blocks, strict=True):
            # the members of a block have the same covariance: one is enough
            first, second = np.flatnonzero(of_orbit == a), np.flatnonzero(of_orbit == b)
            left, right = functions[0][np.ix_(first, members[a])], functions[0][np.ix_(second, members[b])]
            weight = np.einsum("ip,gpq,jq->ijg", left, of_angle, right).reshape(-1, found.size)
            weights[number, slot : slot + len(weight), : found.size] = weight
            place = number * N_IMAGE + slot + np.arange(len(weight)).reshape(first.size, second.size)
            places[np.ix_(second, first)] = place.T
            places[np.ix_(first, second)] = place
            slot += len(weight)
    return angles, weights, pairs
