"""What recipes have beyond other settings: shorthands of products, and products that go by their names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from crdist.errors import RecipeError
from crdist.settings_text import differences, show, suggestion
from crdist_postproc.recipe_products import PRODUCT_KINDS, SHORTHANDS

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
    """
    if isinstance(item, str):
        if item not in SHORTHANDS:
            raise RecipeError(f"products.{place}: unknown product {item!r}{suggestion(item, SHORTHANDS)}")
        return {"name": item, **copy.deepcopy(dict(SHORTHANDS[item]))}
    if not isinstance(item, Mapping):
        raise RecipeError(
            f"products.{place}: must be a name such as 'midplane' or a mapping with a kind, got {show(item)}"
        )
    product = dict(item)
    name, kind = product.get("name"), product.get("kind")
    key = f"products.{name if isinstance(name, str) else place}"
    if kind is None:
        product.pop("kind", None)
        if not (isinstance(name, str) and name in SHORTHANDS):
            raise RecipeError(
                f"{key}.kind: is missing; give one of {', '.join(PRODUCT_KINDS)}, "
                f"or a name that stands for one: {', '.join(SHORTHANDS)}"
            )
        return {**copy.deepcopy(dict(SHORTHANDS[name])), **product}
    if not (isinstance(kind, str) and kind in PRODUCT_KINDS):
        raise RecipeError(f"{key}.kind: unknown kind {show(kind)}{suggestion(kind, PRODUCT_KINDS)}")
    if name is None:
        axis = product.get("axis")
        product["name"] = f"{kind}_{axis}" if axis in ("x", "y", "z") else kind
    return product


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
