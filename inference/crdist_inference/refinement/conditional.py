"""What some points of a Gaussian process are, given others: the matrices of a window, and their derivatives.

Derivatives of a whole Cholesky factor take several times the operations of the factor. Here they are needed for a few
points only, so they are written out; and as one chain of steps, of which no two can run at the same time.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

__all__ = ["conditional"]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def conditional(covariance: jax.Array, n_last: int) -> tuple[jax.Array, jax.Array]:
    """The last points as a linear function of the first ones and of independent excitations.

    Parameters
    ----------
    covariance : Array, shape (n_batch, n_point, n_point)
        Positive definite.
    n_last : int
        Number of points that depend on the others.

    Returns
    -------
    predict : Array, shape (n_batch, n_last, n_point - n_last)
        Takes the first points to the mean of the last ones.
    spread : Array, shape (n_batch, n_last, n_last)
        Lower Cholesky factor of the last points' covariance about that mean.
    """
    return _factors(covariance, n_last)[1:]


@conditional.defjvp
def _(
    n_last: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    corner, predict, spread = _factors(primals[0], n_last)
    n_first = corner.shape[-1]
    change = tangents[0]
    below = change[:, n_first:, :n_first]
    missed = below - _product(predict, change[:, :n_first, :n_first])
    half = _solve(corner, missed, transpose_a=True)
    by_missed = _product(missed, predict.mT)
    about = change[:, n_first:, n_first:] - by_missed - _product(predict, below.mT)
    inner = _forward(spread, _forward(spread, about).mT)
    return (predict, spread), (_solve(corner, half), _change(spread, inner))


def _factors(covariance: jax.Array, n_last: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    whole = jax.lax.linalg.cholesky(covariance, symmetrize_input=False)
    n_first = covariance.shape[-1] - n_last
    corner, below = whole[:, :n_first, :n_first], whole[:, n_first:, :n_first]
    # below = predict corner
    return corner, _solve(corner, below), whole[:, n_first:, n_first:]


def _change(lower: jax.Array, inner: jax.Array) -> jax.Array:
    """Change of a factor, from the change of its product in the coordinates in which that is the unit matrix."""
    return _product(lower, jnp.tril(inner) - 0.5 * inner * jnp.eye(inner.shape[-1]))


def _solve(lower: jax.Array, right: jax.Array, *, transpose_a: bool = False) -> jax.Array:
    return jax.lax.linalg.triangular_solve(lower, right, left_side=False, lower=True, transpose_a=transpose_a)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision="highest")


def _forward(lower: jax.Array, right: jax.Array) -> jax.Array:
    """The solution of a few triangular equations, row by row."""
    rows: list[jax.Array] = []
    for i in range(lower.shape[-1]):
        known = sum((lower[:, i, j, None] * row for j, row in enumerate(rows)), start=jnp.zeros(()))
        rows.append((right[:, i] - known) / lower[:, i, i, None])
    return jnp.stack(rows, axis=1)
