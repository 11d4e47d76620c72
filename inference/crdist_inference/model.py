"""The forward model in JAX: latent position to density to masked sky, and its likelihood for NIFTy.

The only modules that know NIFTy are this one and ``geovi``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import nifty8.re as jft
import numpy as np
from nifty8.re.model import NoValue

from .prior import Prior
from .problem import Problem
from .records import Hyperparameters, Start
from .refinement import Matrices, Refinement

__all__ = ["Mode", "SkyModel", "hoisted_cg", "hyperparameters", "likelihood", "position", "without_callbacks"]

Mode = Literal["evidence", "joint"]
"""``evidence``: length and slope are fixed in a run of geoVI; ``joint``: they are part of the latent position."""

Position = dict[str, Any]

CHECKS = ("conditional_raise", "conditional_call")
"""NIFTy's functions that look at values of a compiled function on the host."""


class SkyModel(jft.Model):  # type: ignore[misc]
    """Latent position to the sky on used pixels, in units of m-2 s-1 sr-1.

    The latent position is a mapping of standard normal parameters: ``excitations`` of the field, ``scale`` and
    ``offset``, and in the joint mode ``length`` and ``slope``.

    Parameters
    ----------
    problem : Problem
    field : Refinement
    fixed : (float, float) or None
        Length [kpc] and slope; None for the joint mode.
    """

    matrices: Matrices | None = field(metadata={"static": False})
    response: jax.Array = field(metadata={"static": False})
    used: jax.Array = field(metadata={"static": False})

    def __init__(self, problem: Problem, field: Refinement, fixed: tuple[float, float] | None) -> None:
        self.field = field
        self.prior = problem.prior
        self.matrices = None if fixed is None else jax.jit(field.matrices)(*fixed)
        self.response = jnp.asarray(problem.response[problem.used], dtype=field.dtype)
        self.used = jnp.asarray(np.flatnonzero(problem.used))
        scalars = ("scale", "offset") if fixed is not None else ("scale", "offset", "length", "slope")
        domain: Position = {name: jax.ShapeDtypeStruct((), field.dtype) for name in scalars}
        domain["excitations"] = tuple(jax.ShapeDtypeStruct(shape, field.dtype) for shape in field.shapes)
        super().__init__(domain=domain)

    def log_density(self, position: Position) -> jax.Array:
        """ln(density / cm-3), shape (n_pixel, n_shell)."""
        matrices = self.matrices
        if matrices is None:
            length, slope = _length_and_slope(self.prior, position)
            matrices = _matrices(self.field, length, slope)
        correlated = self.field.apply(matrices, position["excitations"])
        scale = self.prior.scale.value(position["scale"])
        offset = self.prior.offset_mean + self.prior.offset_std * position["offset"]
        return jnp.asarray(scale * correlated + offset)

    def __call__(self, position: Position) -> jax.Array:
        """The sky on used pixels, m-2 s-1 sr-1."""
        density = jnp.exp(self.log_density(_plain(position)))
        return jnp.sum(density[self.used] * self.response, axis=1)


def likelihood(problem: Problem, model: SkyModel) -> Any:
    """Gaussian likelihood of the used pixels."""
    dtype = model.field.dtype
    weight = jnp.asarray(1.0 / problem.sigma[problem.used], dtype=dtype)
    sky = jnp.asarray(problem.sky[problem.used], dtype=dtype)
    # whitened, so that nothing in single precision is as small as a variance of the sky
    return jft.Gaussian(sky * weight, _one, _one).amend(_Whitened(model, weight))


class _Whitened(jft.Model):  # type: ignore[misc]
    """The model's sky in units of sigma."""

    model: SkyModel = field(metadata={"static": False})
    weight: jax.Array = field(metadata={"static": False})

    def __init__(self, model: SkyModel, weight: jax.Array) -> None:
        self.model, self.weight = model, weight
        super().__init__(domain=model.domain)

    @property
    def init(self) -> Any:
        """None: a start is made by ``position``, and an initialiser would keep models from sharing compiled code."""
        return NoValue

    def __call__(self, position: Position) -> jax.Array:
        return self.model(position) * self.weight


def _one(values: Any) -> Any:
    return values


def position(problem: Problem, model: SkyModel, start: Start) -> Position:
    """The latent position of a start without structure."""
    prior, dtype = problem.prior, model.field.dtype
    offset = start.offset
    if offset is None:
        measured = float(np.sum(problem.sky[problem.used]))
        at_one = float(np.sum(problem.response[problem.used]))
        offset = np.log(measured / at_one) if measured > 0 and at_one > 0 else prior.offset_mean
    scale = prior.scale.median if start.scale is None else start.scale
    at: Position = {
        "excitations": tuple(jnp.zeros(shape, dtype) for shape in model.field.shapes),
        "scale": jnp.asarray(prior.scale.excitation(scale), dtype),
        "offset": jnp.asarray((offset - prior.offset_mean) / prior.offset_std, dtype),
    }
    if model.matrices is None:
        at["length"] = jnp.asarray(prior.length.excitation(start.length), dtype)
        at["slope"] = jnp.asarray(prior.slope.excitation(start.slope), dtype)
    return at


def hyperparameters(prior: Prior, at: Position, fixed: tuple[float, float] | None) -> Hyperparameters:
    """The scalars of a latent position."""
    length, slope = fixed if fixed is not None else map(float, _length_and_slope(prior, at))
    return Hyperparameters(
        length=length,
        slope=slope,
        scale=float(prior.scale.value(at["scale"])),
        offset=prior.offset_mean + prior.offset_std * float(at["offset"]),
    )


def hoisted_cg(metric: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
    """NIFTy's conjugate gradient, with all that depends on the expansion point computed before the loop."""
    _, linear = jax.linearize(metric, jax.tree_util.tree_map(jnp.zeros_like, target))
    return jft.conjugate_gradient._static_cg(linear, target, *args, **kwargs)


@contextmanager
def without_callbacks() -> Iterator[None]:
    """While a function is traced: leave out NIFTy's own checks, each of which calls back to the host.

    JAX cannot keep a function with callbacks for the next process, and compiling takes longer than a small inference.
    What the checks look for (numbers that are none, solvers that stop early) is looked for once an iteration instead.
    """
    at = [(module, name) for module in (jft.optimize, jft.evi) for name in CHECKS if hasattr(module, name)]
    before = [getattr(module, name) for module, name in at]
    for module, name in at:
        setattr(module, name, lambda *args, **kwargs: None)
    try:
        yield
    finally:
        for (module, name), own in zip(at, before, strict=True):
            setattr(module, name, own)


def _length_and_slope(prior: Prior, at: Position) -> tuple[jax.Array, jax.Array]:
    return prior.length.value(at["length"]), prior.slope.value(at["slope"])


def _matrices(refinement: Refinement, length: jax.Array, slope: jax.Array) -> Matrices:
    """Matrices whose two tangents are computed once per expansion point, not once per step of a solver."""

    @jax.custom_jvp
    def matrices(length: jax.Array, slope: jax.Array) -> Matrices:
        return refinement.matrices(length, slope)

    @matrices.defjvp
    def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[Matrices, Matrices]:
        def along(direction: jax.Array) -> tuple[Matrices, Matrices]:
            own = tuple(part.astype(primal.dtype) for part, primal in zip(direction, primals, strict=True))
            value, tangent = jax.jvp(refinement.matrices, primals, own)
            return value, tangent

        # Both at once, they share the factorisations; side by side they could wait for each other, see ``matrices``.
        value, both = jax.vmap(along, out_axes=(None, 0))(jnp.eye(2))
        tangent = jax.tree_util.tree_map(lambda own: own[0] * tangents[0] + own[1] * tangents[1], both)
        return value, tangent

    return matrices(length, slope)


def _plain(at: Any) -> Position:
    """NIFTy hands over its vectors; the model reads mappings."""
    tree = at.tree if isinstance(at, jft.Vector) else at
    return dict(tree)
