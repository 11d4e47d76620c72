"""The inner product of a refinement: every window's small matrix times the values in the window.

Automatic transposition of these sums is some thirty times slower on a processor than the sums themselves, so the
three ways to leave one of {matrices, values, results} open are written out and declared as each other's transposes.
Samples that are mapped over cost no further pass over the matrices.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["windowed_product"]


def windowed_product(matrices: jax.Array, values: jax.Array) -> jax.Array:
    """Multiply each window by its matrix.

    Parameters
    ----------
    matrices : Array, shape (n_out, n_shell, n_pixel, n_class, n_window)
    values : Array, shape (n_pixel, n_image, n_class, n_window + n_shell - 1)
        The shells of all windows of a class, which overlap.

    Returns
    -------
    Array, shape (n_out, n_image, n_class, n_window)
        ``sum over j, k of matrices[:, j, k] * values[k, ..., j:j + n_window]``.
    """
    return _product.bind(matrices, values)  # type: ignore[no-any-return]


def _product_sums(matrices: jax.Array, values: jax.Array) -> jax.Array:
    _, n_shell, n_pixel, _, n_window = matrices.shape
    zero = jnp.zeros((), matrices.dtype)

    def one(own: jax.Array) -> jax.Array:
        # spelt out, a row's sum becomes one loop that is vectorised over shells
        terms = (own[j, k] * values[k, :, :, j : j + n_window] for j in range(n_shell) for k in range(n_pixel))
        return jnp.asarray(sum(terms, start=zero))

    # a loop over rows: to spell them out, too, is no faster and takes minutes to compile
    return jnp.asarray(jax.lax.map(one, matrices))


def _adjoint_sums(matrices: jax.Array, results: jax.Array) -> jax.Array:
    n_out, n_shell, n_pixel, _, _ = matrices.shape
    zero = jnp.zeros((), matrices.dtype)

    def one(k: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_index_in_dim(matrices, k, 2, keepdims=False)
        total = zero
        for j in range(n_shell):
            part = sum((own[o, j] * results[o] for o in range(n_out)), start=zero)
            total = total + jnp.pad(part, ((0, 0), (0, 0), (j, n_shell - 1 - j)))
        return total

    return jnp.asarray(jax.lax.map(one, jnp.arange(n_pixel)))


def _outer_sums(values: jax.Array, results: jax.Array) -> jax.Array:
    n_window = results.shape[-1]
    n_shell = values.shape[-1] - n_window + 1
    shifted = [values[..., j : j + n_window] for j in range(n_shell)]
    return jnp.stack([jnp.einsum("kgum,ogum->okum", part, results) for part in shifted], axis=1)


def _declare(name: str, sums: Any) -> Primitive:
    primitive = Primitive(name)
    compiled = jax.jit(sums)
    primitive.def_impl(compiled)
    primitive.def_abstract_eval(
        lambda *args: jax.core.ShapedArray(
            (shape := jax.eval_shape(sums, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args))).shape, shape.dtype
        )
    )
    mlir.register_lowering(primitive, mlir.lower_fun(sums, multiple_results=False))
    return primitive


_product = _declare("refinement_product", _product_sums)
_adjoint = _declare("refinement_adjoint", _adjoint_sums)
_outer = _declare("refinement_outer", _outer_sums)

ad.defbilinear(_product, lambda ct, m, v: _outer.bind(v, ct), lambda ct, m, v: _adjoint.bind(m, ct))
ad.defbilinear(_adjoint, lambda ct, m, r: _outer.bind(ct, r), lambda ct, m, r: _product.bind(m, ct))
ad.defbilinear(_outer, lambda ct, v, r: _adjoint.bind(ct, r), lambda ct, v, r: _product.bind(ct, v))


def _batch_with_shared_matrices(primitive: Primitive) -> None:
    """A mapped axis joins that of the images, which the matrices do not have."""

    def rule(args: Any, axes: Any) -> Any:
        (matrices, field), (of_matrices, of_field) = args, axes
        if of_matrices is not None:
            return _one_by_one(primitive, args, axes)
        field = jnp.moveaxis(field, of_field, 1)
        n_batch, n_image = field.shape[1:3]
        result = primitive.bind(matrices, field.reshape(field.shape[0], n_batch * n_image, *field.shape[3:]))
        return result.reshape(result.shape[0], n_batch, n_image, *result.shape[2:]), 1

    batching.primitive_batchers[primitive] = rule


def _one_by_one(primitive: Primitive, args: Any, axes: Any) -> Any:
    mapped = [axis is not None for axis in axes]
    fronts = tuple(jnp.moveaxis(a, axis, 0) for a, axis, m in zip(args, axes, mapped, strict=True) if m)

    def call(own: Any) -> Any:
        own = iter(own)
        return primitive.bind(*(next(own) if m else a for a, m in zip(args, mapped, strict=True)))

    return jax.lax.map(call, fronts), 0


_batch_with_shared_matrices(_product)
_batch_with_shared_matrices(_adjoint)
batching.primitive_batchers[_outer] = lambda args, axes: _one_by_one(_outer, args, axes)
