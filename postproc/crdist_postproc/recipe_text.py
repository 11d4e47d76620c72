"""What recipes have beyond other settings: shorthands of products, and products that go by their names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from crdist.errors import RecipeError
from crdist.settings_text import differences, show, suggestion
from crdist_postproc.product_kinds import PRODUCT_KINDS
from crdist_postproc.recipe_products import SHORTHANDS

__all__ = ["expand_product", "recipe_differences"]


def expand_product(item: Any, place: int) -> dict[str, Any]:
    """A product of a recipe as a mapping with name and kind.

    Parameters
    ----------
    item : str or mapping
        A shorthand, a shorthand's name with keys that differ from it, or a product with its kind.
    place : int
        Its place in the list, for the message.

    Raises
    ------
    RecipeError
        If it is none of these; the message lacks the name of the file.
    DependencyError
        If its kind is that of an installed package and cannot be loaded.
    """
    if isinstance(item, str):
        meant = _shorthand(item)
        if meant is None:
            raise RecipeError(f"products.{place}: unknown product {item!r}{suggestion(item, _shorthands())}")
        return {"name": item, **meant}
    if not isinstance(item, Mapping):
        raise RecipeError(
            f"products.{place}: must be a name such as 'midplane' or a mapping with a kind, got {show(item)}"
        )
    product = dict(item)
    name, kind = product.get("name"), product.get("kind")
    key = f"products.{name if isinstance(name, str) else place}"
    if kind is None:
        product.pop("kind", None)
        meant = _shorthand(name) if isinstance(name, str) else None
        if meant is None:
            raise RecipeError(
                f"{key}.kind: is missing; give one of {', '.join(PRODUCT_KINDS)}, "
                f"or a name that stands for one: {', '.join(_shorthands())}"
            )
        return {**meant, **product}
    if not (isinstance(kind, str) and kind in PRODUCT_KINDS):
        raise RecipeError(f"{key}.kind: unknown kind {show(kind)}{suggestion(kind, PRODUCT_KINDS)}")
    # a package that is broken is told of here, by its own name
    PRODUCT_KINDS[kind]
    if name is None:
        axis = product.get("axis")
        product["name"] = f"{kind}_{axis}" if axis in ("x", "y", "z") else kind
    return product


def _shorthand(name: str) -> dict[str, Any] | None:
    """What a product's name alone means, if it means anything: kinds of installed packages go by their own names."""
    if name in SHORTHANDS:
        return copy.deepcopy(dict(SHORTHANDS[name]))
    return None if PRODUCT_KINDS.plugin(name) is None else {"kind": PRODUCT_KINDS[name].name}


def _shorthands() -> list[str]:
    return list(dict.fromkeys([*SHORTHANDS, *(name for name in PRODUCT_KINDS if name not in PRODUCT_KINDS.builtin)]))


def recipe_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between the canonical data of two recipes, one line a key.

    The order of the products does not count.

    Examples
    --------
    >>> recipe_differences({"grid": {"voxel": 0.1}}, {"grid": {"voxel": 0.05}})
    ['grid.voxel: 0.1 -> 0.05']
    """
    return differences(_by_name(before), _by_name(after), _plain)


def _by_name(data: Mapping[str, Any]) -> dict[str, Any]:
    products = data.get("products")
    if not isinstance(products, Sequence):
        return dict(data)
    return {**data, "products": {product["name"]: product for product in products}}


def _plain(value: object) -> str:
    if isinstance(value, Mapping) and "kind" in value:
        return f"a {value['kind']} product"
    return value if isinstance(value, str) else show(value)
