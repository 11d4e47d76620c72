"""Recipes as text: reading YAML, expanding shorthands, overrides, and saying in one line what is wrong."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from crdist.errors import RecipeError
from crdist_postproc.recipe_fields import show
from crdist_postproc.recipe_products import PRODUCT_KINDS, SHORTHANDS

__all__ = ["apply_override", "expand_product", "fault_lines", "read_yaml", "recipe_differences", "suggestion"]


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice in a mapping is an error; YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} stands twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The data of a YAML file.

    Raises
    ------
    RecipeError
        If it cannot be read or is not YAML; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check the path of the recipe") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a YAML text file") from error
    return _parse(text, str(path))


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RecipeError(f"{source}: line {line}: not valid YAML, {error.problem}; mend that line") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{source}: not valid YAML, {reason}; a recipe is a YAML text file") from error


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


def fault_lines(error: ValidationError, data: Mapping[str, Any], models: Mapping[str, type[BaseModel]]) -> list[str]:
    """What is wrong with a recipe, one line a fault: dotted key, what was got, what to do.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    data : mapping
        What it was given, with products expanded.
    models : mapping of str to model
        The model under each key or kind; ``""`` is the recipe's.
    """
    lines = []
    for fault in error.errors(include_url=False):
        key = _dotted(fault["loc"], data)
        model, hint = models[""], ""
        for part in map(str, fault["loc"]):
            field = model.model_fields.get(part)
            if field is not None:
                hint = f" ({field.description})"
            model = models.get(part, model)
        got = show(fault["input"])
        last = str(fault["loc"][-1]) if fault["loc"] else ""
        message = re.sub(r"^(Input|String) should", "must", fault["msg"])
        match fault["type"]:
            case "value_error":
                # a fault of a whole frame, grid or product names its keys itself
                text = f"{fault['ctx']['error']}{hint if last in model.model_fields else ''}"
            case "extra_forbidden":
                text = f"unknown key {last!r}{suggestion(last, model.model_fields)}"
            case "missing":
                key = f"{key}.{last}".lstrip(".")
                text = f"is missing; give it{hint}"
            case "literal_error":
                close = _closest(fault["input"], re.findall(r"'([^']*)'", fault["ctx"]["expected"]))
                text = f"{message}, got {got}" + (f"; did you mean {close!r}?" if close else hint)
            case "model_type" | "model_attributes_type":
                text = f"must be a mapping with the keys {', '.join(model.model_fields)}, got {got}"
            case "tuple_type":
                text = f"must be a list, got {got}{hint}"
            case "invalid_key":
                text = f"a key is a word, got {got}"
            case _:
                text = f"{message}, got {got}{hint}"
        lines.append(f"{key}: {text}" if key else text)
    # a misspelt key is often why another is missing: it comes first
    return sorted(lines, key=lambda line: "unknown key" not in line)


def _dotted(place: Sequence[int | str], data: Any) -> str:
    """The key of a fault as an override addresses it: a product by its name, without the tags of unions."""
    parts: list[str] = []
    for part in place:
        if isinstance(data, Mapping) and part in data:
            parts.append(str(part))
            data = data[part]
        elif isinstance(part, int) and isinstance(data, Sequence):
            data = data[part]
            name = data.get("name") if isinstance(data, Mapping) else None
            parts.append(name if isinstance(name, str) else str(part))
    return ".".join(parts)


def suggestion(key: object, options: Iterable[str]) -> str:
    """The end of a message about an unknown name: the likely one and all that there are."""
    names = list(options)
    close = _closest(key, names)
    meant = f"; did you mean {close!r}?" if close else ";"
    return f"{meant} known: {', '.join(names) or '(nothing)'}"


def _closest(key: object, options: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(str(key), options, n=1)
    return close[0] if close else None


def apply_override(data: dict[str, Any], override: str) -> bool:
    """Set one value in the data of a recipe, in place.

    Parameters
    ----------
    data : dict
        Canonical data of a recipe, with every key.
    override : str
        ``key.key=value``: the value as YAML, a product by its name or place.

    Returns
    -------
    bool
        Whether whole products were set, so that the data may hold shorthands and lack keys now.

    Raises
    ------
    RecipeError
        If it has no ``=``, its value is not YAML, or no such key exists.
    """
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override {override!r}: must read key=value, such as grid.voxel=0.05")
    value = _parse(text, f"override {override!r}")
    node: Any = data
    for depth, part in enumerate(parts[:-1]):
        key = _locate(node, part, parts[:depth], override)
        if node[key] is None:
            # an optional mapping, such as box, that the recipe does not have yet
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict | list):
            whole = ".".join(parts[: depth + 1])
            raise RecipeError(f"override {override!r}: {whole} is {show(node)}, no keys inside; set {whole} as a whole")
    if node == {}:
        node[parts[-1]] = value
    else:
        key = _locate(node, parts[-1], parts[:-1], override)
        if node is data["products"] and isinstance(value, dict):
            value = {"name": node[key]["name"], **value}
        node[key] = value
    return parts[0] == "products" and len(parts) <= 2


def _locate(node: Any, part: str, before: Sequence[str], override: str) -> Any:
    """The key or index that one part of an override's path means."""
    if isinstance(node, list):
        names = [str(item["name"]) if isinstance(item, dict) else str(i) for i, item in enumerate(node)]
        if part.isdigit() and int(part) < len(node):
            return int(part)
        if part in names:
            return names.index(part)
    else:
        names = list(node)
        if part in names:
            return part
    inside = f" in {'.'.join(before)}" if before else ""
    raise RecipeError(f"override {override!r}: no key {part!r}{inside}{suggestion(part, names)}")


def recipe_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between the canonical data of two recipes, one line a key.

    The order of the products does not count.

    Examples
    --------
    >>> recipe_differences({"grid": {"voxel": 0.1}}, {"grid": {"voxel": 0.05}})
    ['grid.voxel: 0.1 -> 0.05']
    """
    return list(_differences(_by_name(before), _by_name(after), ""))


def _by_name(data: Mapping[str, Any]) -> dict[str, Any]:
    products = data.get("products")
    if not isinstance(products, Sequence):
        return dict(data)
    return {**data, "products": {product["name"]: product for product in products}}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for key in [*before, *(key for key in after if key not in before)]:
        name = f"{prefix}{key}"
        if key not in after:
            yield f"{name}: {_plain(before[key])} -> (none)"
        elif key not in before:
            yield f"{name}: (none) -> {_plain(after[key])}"
        elif isinstance(before[key], Mapping) and isinstance(after[key], Mapping):
            yield from _differences(before[key], after[key], f"{name}.")
        elif before[key] != after[key]:
            yield f"{name}: {_plain(before[key])} -> {_plain(after[key])}"


def _plain(value: object) -> str:
    if isinstance(value, Mapping) and "kind" in value:
        return f"a {value['kind']} product"
    return value if isinstance(value, str) else show(value)
