"""Galaxies drawn from the prior, what is worth comparing in them, and the one case whose posterior is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError

from .problem import Problem
from .records import Hyperparameters

if TYPE_CHECKING:
    import jax

    from .refinement import Refinement

__all__ = ["LinearPosterior", "SkyTruth", "field_matrix", "linear_posterior", "sky_scalars", "sky_truth"]

Float = npt.NDArray[np.float64]

NEAR_KPC = 1.0


@dataclass(frozen=True, eq=False)
class SkyTruth:
    """A Galaxy from the prior and the sky that it makes.

    Parameters
    ----------
    problem : Problem
        With the noisy sky.
    density : ndarray, shape (n_pixel, n_shell), cm-3
    hyperparameters : Hyperparameters
    """

    problem: Problem
    density: Float
    hyperparameters: Hyperparameters


def sky_truth(template: Problem, prior_field: Refinement, seed: int) -> SkyTruth:
    """Draw hyperparameters and a field from the problem's prior, and a sky with the problem's noise.

    Parameters
    ----------
    template : Problem
        Its sky is replaced; its sigma must not come from a sky with this truth, or it would give the truth away.
    prior_field : Refinement
        On the problem's grid.
    seed : int

    Returns
    -------
    SkyTruth
    """
    rng = np.random.default_rng(seed)
    drawn = template.prior.draw(rng)
    excitations = tuple(rng.standard_normal(shape).astype(prior_field.dtype) for shape in prior_field.shapes)
    correlated = np.asarray(_compiled(prior_field).draw(drawn["length"], drawn["slope"], excitations), dtype=np.float64)
    density = np.exp(drawn["scale"] * correlated + drawn["offset"])
    sky = template.predict(density) + np.where(template.used, template.sigma, 0.0) * rng.standard_normal(
        template.sky.shape
    )
    return SkyTruth(template.with_sky(sky), density, Hyperparameters(**drawn))


def sky_scalars(problem: Problem, density: npt.ArrayLike) -> dict[str, Float]:
    """Quantities of densities that are worth ranking: chosen cells, sums along lines of sight, and all cells.

    Parameters
    ----------
    problem : Problem
        The choice follows from its response and mask, not from its sky.
    density : array_like, shape (..., n_pixel, n_shell), cm-3

    Returns
    -------
    dict of str to ndarray, shape (...)
        Logarithms; ``cells`` has the shape (..., n_pixel n_shell).
    """
    density = np.asarray(density, dtype=np.float64)
    if density.shape[-2:] != problem.response.shape:
        raise GridError(f"densities must have the shape (..., {problem.response.shape}), got {density.shape}")
    seen = np.where(problem.used[:, None], problem.response, 0.0)
    order = np.argsort(seen, axis=None)
    brightest, middle = (
        np.unravel_index(int(order[at]), seen.shape) for at in (-1, -max(int((seen > 0).sum()) // 2, 1))
    )
    columns = seen.sum(axis=1)
    used = np.flatnonzero(problem.used)
    bright, faint = int(np.argmax(columns)), int(used[np.argmin(columns[used])])
    near = int(np.argmin(np.abs(np.log(problem.grid.centres / NEAR_KPC))))
    cells: dict[str, tuple[Any, ...]] = {
        "ln density, most emission": brightest,
        "ln density, median emission": middle,
        f"ln density, bright, {NEAR_KPC:g} kpc": (bright, near),
        "ln density, bright, outermost": (bright, problem.grid.n_shell - 1),
        f"ln density, faint, {NEAR_KPC:g} kpc": (faint, near),
    }
    if not problem.used.all():
        masked = int(np.flatnonzero(~problem.used)[np.argmax(problem.response[~problem.used].sum(axis=1))])
        cells["ln density, masked"] = (masked, int(np.argmax(problem.response[masked])))
    out = {name: np.log(density[..., pixel, shell]) for name, (pixel, shell) in cells.items()}
    for name, pixel in (("bright", bright), ("faint", faint)):
        out[f"ln line-of-sight sum, {name}"] = np.log(density[..., pixel, :] @ problem.grid.widths)
    out["ln total sky"] = np.log(problem.predict(density).sum(axis=-1))
    out["cells"] = np.log(density).reshape(*density.shape[:-2], -1)
    return out


@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """Exact posterior of ``ln(density) = offset + scale s`` where the density is linear in s.

    Parameters
    ----------
    mean, std : ndarray, shape (n_pixel, n_shell)
        Of ln(density).
    offset, scale : float
    field_matrix : ndarray, shape (n_cell, n_excitation)
        From independent excitations to s.
    forward : ndarray, shape (n_used, n_excitation)
        From excitations to the sky in units of sigma.
    """

    mean: Float
    std: Float
    offset: float
    scale: float
    field_matrix: Float
    forward: Float

    def draw(self, n_pair: int, rng: np.random.Generator) -> Float:
        """Mirrored pairs of samples of the density, shape (2 n_pair, n_pixel, n_shell), cm-3."""
        n_data, n_excitation = self.forward.shape
        prior = rng.standard_normal((n_excitation, n_pair))
        error = self.forward @ prior + rng.standard_normal((n_data, n_pair))
        away = self.scale * (self.field_matrix @ (prior - _gain(self.forward, error)))
        pairs = np.stack([away.T, -away.T], axis=1).reshape(2 * n_pair, *self.mean.shape)
        return np.exp(self.mean + pairs)


def linear_posterior(
    problem: Problem, prior_field: Refinement, *, length: float, slope: float, scale: float, offset: float
) -> LinearPosterior:
    """The exact posterior for given hyperparameters where fluctuations are small.

    Parameters
    ----------
    problem : Problem
    prior_field : Refinement
        On the problem's grid; its matrix is made dense, so a few thousand cells at most.
    length : float, kpc
    slope, scale, offset : float
        With ``exp(offset + scale s)`` taken as ``exp(offset) (1 + scale s)``: wrong by scale^2 s^2 / 2 of itself.

    Returns
    -------
    LinearPosterior
    """
    matrix = field_matrix(prior_field, length, slope)
    used, level = problem.used, np.exp(offset)
    weight = level * scale / problem.sigma[used]
    per_cell = problem.response[used][:, :, None] * matrix.reshape(*problem.response.shape, -1)[used]
    forward = weight[:, None] * per_cell.sum(axis=1)
    data = (problem.sky[used] - level * problem.response[used].sum(axis=1)) / problem.sigma[used]
    mean = matrix @ _gain(forward, data[:, None])[:, 0]
    lost = matrix @ _gain(forward, forward)
    variance = np.einsum("ce,ce->c", matrix, matrix) - np.einsum("ce,ce->c", matrix, lost)
    shape = problem.response.shape
    std = scale * np.sqrt(np.maximum(variance, 0.0)).reshape(shape)
    return LinearPosterior(offset + scale * mean.reshape(shape), std, offset, scale, matrix, forward)


def field_matrix(prior_field: Refinement, length: float, slope: float) -> Float:
    """The refinement as a dense matrix, (n_cell, n_excitation)."""
    return np.asarray(_compiled(prior_field).dense(length, slope), dtype=np.float64)


class _Compiled(NamedTuple):
    """Functions of a refinement that stay compiled from one sky to the next."""

    draw: Callable[..., Any]
    dense: Callable[..., Any]


@lru_cache(maxsize=4)
def _compiled(prior_field: Refinement) -> _Compiled:
    import jax
    import jax.numpy as jnp

    ends = np.cumsum([math.prod(shape) for shape in prior_field.shapes])[:-1]

    def draw(length: jax.Array, slope: jax.Array, excitations: tuple[jax.Array, ...]) -> jax.Array:
        return prior_field.apply(prior_field.matrices(length, slope), excitations)

    def dense(length: jax.Array, slope: jax.Array) -> Any:
        matrices = prior_field.matrices(length, slope)

        def column(at: jax.Array) -> jax.Array:
            flat = jnp.zeros(prior_field.n_excitation, prior_field.dtype).at[at].set(1.0)
            parts = jnp.split(flat, ends)
            shaped = (part.reshape(shape) for part, shape in zip(parts, prior_field.shapes, strict=True))
            return prior_field.apply(matrices, tuple(shaped)).ravel()

        return jax.lax.map(column, jnp.arange(prior_field.n_excitation), batch_size=64).T

    return _Compiled(jax.jit(draw), jax.jit(dense))


def _gain(forward: Float, data: Float) -> Float:
    """Excitations that data in units of their noise imply, in the space of the data."""
    return np.asarray(forward.T @ np.linalg.solve(forward @ forward.T + np.eye(len(forward)), data))
