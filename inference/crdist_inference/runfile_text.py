"""Run files as text: reading YAML, overrides, the settings explained, and one line for each fault."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from crdist.errors import RecipeError

__all__ = ["apply_override", "differences", "explain", "fault_lines", "read_yaml", "show", "suggestion"]

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


def show(value: object) -> str:
    """A value as it may stand in a one-line message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]} ..."


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
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check the path of the run file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); a run file is a YAML text file") from error
    return _parse(text, str(path))


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RecipeError(f"{source}: line {line}: not valid YAML, {error.problem}; mend that line") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{source}: not valid YAML, {reason}; a run file is a YAML text file") from error


def suggestion(key: object, options: Iterable[str]) -> str:
    """The end of a message about an unknown name: the likely one and all that there are."""
    names = list(options)
    close = difflib.get_close_matches(str(key), names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} known: {', '.join(names) or '(nothing)'}"


def fault_lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """What is wrong with the data of a model, one line a fault: dotted key, what was got, what to do.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    model : type of BaseModel
        The outermost model that the data were given to.
    """
    lines = []
    for fault in error.errors(include_url=False):
        at, key, hint = model, "", ""
        for part in fault["loc"]:
            field = at.model_fields.get(str(part))
            if field is None and str(part) != str(fault["loc"][-1]):
                # the tag of a union, or a place in a list
                continue
            key = f"{key}.{part}".lstrip(".") if field is not None or fault["type"] == "extra_forbidden" else key
            if field is not None:
                hint = f" ({field.description})" if field.description else hint
                at = _inner_model(field.annotation) or at
        got, last = show(fault["input"]), str(fault["loc"][-1]) if fault["loc"] else ""
        message = re.sub(r"^(Input|String) should", "must", fault["msg"])
        match fault["type"]:
            case "value_error":
                text = str(fault["ctx"]["error"])
            case "extra_forbidden":
                text = f"unknown key {last!r}{suggestion(last, at.model_fields)}"
            case "missing":
                text = f"is missing; give it{hint}"
            case "literal_error":
                choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
                close = difflib.get_close_matches(str(fault["input"]), choices, n=1)
                text = f"{message}, got {got}" + (f"; did you mean {close[0]!r}?" if close else hint)
            case "model_type" | "model_attributes_type":
                text = f"must be a mapping with the keys {', '.join(at.model_fields)}, got {got}"
            case _:
                text = f"{message}, got {got}{hint}"
        line = f"{key}: {text}" if key else text
        if line not in lines:
            lines.append(line)
    # a misspelt key is often why another is missing: it comes first
    return sorted(lines, key=lambda line: "unknown key" not in line)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one value in the data of a run file, in place.

    Parameters
    ----------
    data : dict
        With every key.
    override : str
        ``key.key=value``, the value as YAML.

    Raises
    ------
    RecipeError
        If it has no ``=``, its value is not YAML, or no such key exists.
    """
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override {override!r}: must read key=value, such as inference.samples=12")
    node: Any = data
    for depth, part in enumerate(parts):
        if not isinstance(node, dict):
            whole = ".".join(parts[:depth])
            raise RecipeError(f"override {override!r}: {whole} is {show(node)}, no keys inside; set {whole} as a whole")
        if node and part not in node:
            inside = f" in {'.'.join(parts[:depth])}" if depth else ""
            raise RecipeError(f"override {override!r}: no key {part!r}{inside}{suggestion(part, node)}")
        if depth == len(parts) - 1:
            node[part] = _parse(text, f"override {override!r}")
        else:
            if node.get(part) is None:
                # an optional mapping that the run file does not have yet
                node[part] = {}
            node = node[part]


def differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    """What differs between plain data, one line a key.

    Examples
    --------
    >>> differences({"grid": {"nside": 8}}, {"grid": {"nside": 16}})
    ['grid.nside: 8 -> 16']
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in keys
            for line in differences(before.get(key), after.get(key), f"{prefix}.{key}" if prefix else str(key))
        ]
    return [] if before == after else [f"{prefix}: {show(before)} -> {show(after)}"]


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
    parts: Sequence[Any] = (annotation,)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        parts = typing.get_args(annotation)
    for part in parts:
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None
