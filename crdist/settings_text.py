"""Settings as text: strict YAML, overrides, differences, explanations, and one line for each fault of a model."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from crdist.errors import RecipeError

__all__ = [
    "SettingsFile",
    "apply_override",
    "differences",
    "explain",
    "fault_lines",
    "first_fault",
    "mapping_of",
    "read_yaml",
    "show",
    "suggestion",
    "validated",
]

M = TypeVar("M", bound=BaseModel)

SHOWN_CHARACTERS = 80
WIDTH = 118


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice in a mapping is an error; YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        # YAML 1.1 reads 12:00:00 as 43200 and 01:00:00 as text; YAML 1.2 reads both as text
        if ":" in node.value:
            return node.value
        whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def show(value: object) -> str:
    """A value as it may stand in a one-line message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]} ..."


def read_yaml(path: Path, what: str) -> Any:
    """The data of a YAML file.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it is, such as ``recipe``, for messages.

    Raises
    ------
    RecipeError
        If it cannot be read or is not YAML; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check the path of the {what}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); a {what} is a YAML text file") from error
    return _parse(text, str(path), f"a {what} is a YAML text file")


def _parse(text: str, source: str, advice: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RecipeError(f"{source}: line {line}: not valid YAML, {error.problem}; mend that line") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{source}: not valid YAML, {reason}; {advice}") from error


def suggestion(key: object, options: Iterable[str]) -> str:
    """The end of a message about an unknown name: the likely one and all that there are."""
    names = list(options)
    close = difflib.get_close_matches(str(key), names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} known: {', '.join(names) or '(nothing)'}"


def fault_lines(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    tagged: Mapping[str, type[BaseModel]] | None = None,
) -> list[str]:
    """What is wrong with the data of a model, one line a fault: dotted key, what was got, what to do.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    model : type of BaseModel
        The outermost model that the data were given to.
    data : mapping
        What it was given.
    tagged : mapping of str to type of BaseModel, optional
        The models of unions, by their tags.
    """
    lines: list[str] = []
    for fault in error.errors(include_url=False):
        at, hint = model, ""
        for part in map(str, fault["loc"]):
            field = at.model_fields.get(part)
            if field is not None:
                hint = f" ({field.description})" if field.description else hint
                at = _inner_model(field.annotation) or at
            else:
                at = (tagged or {}).get(part, at)
        key, got = _dotted(fault["loc"], data), show(fault["input"])
        last = str(fault["loc"][-1]) if fault["loc"] else ""
        message = re.sub(r"^(Input|String) should", "must", fault["msg"])
        match fault["type"]:
            case "value_error":
                # a fault of a whole section names its keys itself
                text = f"{fault['ctx']['error']}{hint if last in at.model_fields else ''}"
            case "extra_forbidden":
                text = f"unknown key {last!r}{suggestion(last, at.model_fields)}"
            case "missing":
                key = f"{key}.{last}".lstrip(".")
                text = f"is missing; give it{hint}"
            case "literal_error":
                choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
                close = difflib.get_close_matches(str(fault["input"]), choices, n=1)
                text = f"{message}, got {got}" + (f"; did you mean {close[0]!r}?" if close else hint)
            case "model_type" | "model_attributes_type":
                text = f"must be a mapping with the keys {', '.join(at.model_fields)}, got {got}"
            case "tuple_type":
                text = f"must be a list, got {got}{hint}"
            case "invalid_key":
                text = f"a key is a word, got {got}"
            case _:
                text = f"{message}, got {got}{hint}"
        line = f"{key}: {text}" if key else text
        if line not in lines:
            lines.append(line)
    # a misspelt key is often why another is missing: it comes first
    return sorted(lines, key=lambda line: "unknown key" not in line)


def first_fault(lines: Sequence[str]) -> str:
    """The first of several faults, and how many more there are."""
    more = f" (and {len(lines) - 1} more fault{'s' * (len(lines) > 2)})" if len(lines) > 1 else ""
    return f"{lines[0]}{more}"


def _dotted(place: Sequence[int | str], data: Any) -> str:
    """The key of a fault as an override addresses it: an item of a list by its name, without the tags of unions."""
    parts: list[str] = []
    for part in place:
        if isinstance(data, Mapping) and part in data:
            parts.append(str(part))
            data = data[part]
        elif isinstance(part, int) and isinstance(data, Sequence) and not isinstance(data, str) and part < len(data):
            data = data[part]
            name = data.get("name") if isinstance(data, Mapping) else None
            parts.append(name if isinstance(name, str) else str(part))
    return ".".join(parts)


def apply_override(data: dict[str, Any], override: str, example: str) -> None:
    """Set one value in plain settings, in place.

    Parameters
    ----------
    data : dict
        With every key.
    override : str
        ``key.key=value``, the value as YAML, an item of a list by its name or place. A mapping that replaces an item
        of a list keeps the item's name.
    example : str
        A good one, for the message.

    Raises
    ------
    RecipeError
        If it has no ``=``, its value is not YAML, or no such key exists.
    """
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override {override!r}: must read key=value, such as {example}")
    value = _parse(text, f"override {override!r}", "give the value as YAML")
    node: Any = data
    for depth, part in enumerate(parts):
        if not isinstance(node, dict | list):
            whole = ".".join(parts[:depth])
            raise RecipeError(f"override {override!r}: {whole} is {show(node)}, no keys inside; set {whole} as a whole")
        key = _locate(node, part, parts[:depth], override)
        if depth == len(parts) - 1:
            named = isinstance(node, list) and isinstance(node[key], dict) and "name" in node[key]
            node[key] = {"name": node[key]["name"], **value} if named and isinstance(value, dict) else value
        else:
            if isinstance(node, dict) and node.get(key) is None:
                # an optional mapping that the settings do not have yet
                node[key] = {}
            node = node[key]


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
        # what an empty mapping may hold is for its model to say
        if part in names or not names:
            return part
    inside = f" in {'.'.join(before)}" if before else ""
    raise RecipeError(f"override {override!r}: no key {part!r}{inside}{suggestion(part, names)}")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else show(value)


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], text: Callable[[object], str] = _plain
) -> list[str]:
    """What differs between plain data, one line a key.

    Parameters
    ----------
    before, after : mapping
        Plain data.
    text : callable
        Gives a value as it stands in a line.

    Examples
    --------
    >>> differences({"grid": {"nside": 8}}, {"grid": {"nside": 16, "ends": "open"}})
    ['grid.nside: 8 -> 16', 'grid.ends: (none) -> open']
    """
    return list(_differences(before, after, text, ""))


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], text: Callable[[object], str], prefix: str
) -> Iterator[str]:
    for key in [*before, *(key for key in after if key not in before)]:
        name = f"{prefix}{key}"
        if key not in after:
            yield f"{name}: {text(before[key])} -> (none)"
        elif key not in before:
            yield f"{name}: (none) -> {text(after[key])}"
        elif isinstance(before[key], Mapping) and isinstance(after[key], Mapping):
            yield from _differences(before[key], after[key], text, f"{name}.")
        elif before[key] != after[key]:
            yield f"{name}: {text(before[key])} -> {text(after[key])}"


def explain(model: type[BaseModel]) -> str:
    """Every field of a model with its default, its meaning and unit, as YAML with comments."""
    return "\n".join(_explained(model, "")) + "\n"


def _explained(model: type[BaseModel], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = _inner_model(field.annotation)
        if indent == "":
            yield ""
        yield from _comment(field.description or "", indent)
        if inner is not None:
            optional = field.default is None
            yield f"{indent}{'# ' if optional else ''}{name}:{'   # left out unless wanted' if optional else ''}"
            yield from _explained(inner, f"{indent}{'# ' if optional else ''}  ")
            continue
        if field.is_required():
            only = typing.get_args(field.annotation)
            yield f"{indent}{name}: {only[0] if len(only) == 1 else ''}".rstrip() + "   # must be given"
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, tuple):
            default = list(default)
        text = yaml.safe_dump(default, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()
        yield f"{indent}{name}: {text}"


def _comment(text: str, indent: str) -> Iterator[str]:
    line = f"{indent}#"
    for word in text.split():
        if len(line) + 1 + len(word) > WIDTH:
            yield line
            line = f"{indent}#"
        line += f" {word}"
    if line != f"{indent}#":
        yield line


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType, typing.Annotated):
        return None
    return next((model for model in map(_inner_model, typing.get_args(annotation)) if model is not None), None)


class SettingsFile(BaseModel):
    """A model that is a whole file of settings."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data with every key, which `from_mapping` reads back."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The settings as a file with every key."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, allow_unicode=True)


def mapping_of(data: Any, source: str, such_as: str) -> Mapping[Any, Any]:
    """The data, if they are a mapping.

    Raises
    ------
    RecipeError
        If they are not; ``such_as`` names keys that there may be.
    """
    if not isinstance(data, Mapping):
        got = "nothing" if data is None else show(data)
        raise RecipeError(f"{source}: must be a mapping of keys such as {such_as}, got {got}")
    return data


def validated(model: type[M], data: Mapping[Any, Any], source: str) -> M:
    """The model of plain data.

    Raises
    ------
    RecipeError
        If they cannot be followed; the first fault, and how many more there are.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise RecipeError(f"{source}: {first_fault(fault_lines(error, model, data))}") from error
