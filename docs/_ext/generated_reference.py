"""Reference pages from the code: directives for commands, keys of settings files and errors; docstrings as prose.

``crdist-commands`` lists the commands and their options as the command line declares them, ``crdist-settings`` the
keys of a pydantic model, ``crdist-products`` those of each kind of product, ``crdist-errors`` the classes of
`crdist.errors`.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import yaml
from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

NAMES = {"str": "text", "float": "number", "int": "whole number", "bool": "true or false", "dict": "mapping"}
"""What a reader of YAML calls a type."""

COLUMNS = ("key", "value", "default", "meaning")


class _Generated(SphinxDirective):
    """Parses Markdown that it makes itself.

    Where there are headings, all of it stands under one: MyST puts sections into the page at once, and what else there
    is behind them.
    """

    def run(self) -> list[nodes.Node]:
        lines = list(self._lines())
        headings = any(line.startswith("#") for line in lines)
        return self.parse_text_to_nodes("\n".join(lines) + "\n", allow_section_headings=headings)

    def _lines(self) -> Iterator[str]:
        raise NotImplementedError


class Commands(_Generated):
    """Every command with its arguments and options."""

    def _lines(self) -> Iterator[str]:
        from typer.main import get_command

        from crdist.cli import app

        root = get_command(app)
        yield from ("## `crdist`", "", "Options of all commands, given before the command's name.", "")
        yield from _options(root)
        yield from _commands(root, "crdist")


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        whole = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, whole)
            continue
        yield from ("", f"## `{whole}`", "", *(command.help or "").splitlines(), "")
        words = [word.metavar or word.name.upper() for word in _parameters(command, "argument")]
        yield from ("```text", " ".join([whole, "[OPTIONS]", *words]), "```", "")
        yield from _options(command)


def _parameters(command: Any, kind: str) -> list[Any]:
    return [one for one in command.params if one.param_type_name == kind and not getattr(one, "hidden", False)]


def _options(command: Any) -> Iterator[str]:
    rows = []
    for argument in _parameters(command, "argument"):
        rows.append((f"`{argument.metavar or argument.name.upper()}`", "", argument.help or ""))
    for option in _parameters(command, "option"):
        flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
        given = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
        rows.append((flags, f"`{option.default}`" if given else "", option.help or ""))
    yield from _table(("argument or option", "default", "what"), rows)


class Settings(_Generated):
    """Every key of a settings file, section by section: ``crdist-settings`` takes a model as ``module:Class``."""

    required_arguments = 1

    def _lines(self) -> Iterator[str]:
        model = _model(self.arguments[0])
        sections = {name: inner for name, field in model.model_fields.items() if (inner := _inner(field.annotation))}
        outside = list(_keys(model, "", only=set(model.model_fields) - set(sections)))
        if outside and sections:
            yield from ("## Outside the sections", "")
        yield from _table(COLUMNS, outside)
        for name, inner in sections.items():
            field = model.model_fields[name]
            left_out = " Left out unless wanted." if field.default is None else ""
            yield from ("", f"## `{name}`", "", f"{field.description or ''}.{left_out}".strip(), "")
            yield from _table(COLUMNS, list(_keys(inner, "")))


class Products(_Generated):
    """The keys of each kind of product, but those that all share."""

    def _lines(self) -> Iterator[str]:
        from crdist_postproc.product_kinds import PRODUCT_KINDS

        # what other packages add to this machine is not crdist's to document
        models = [kind.settings for kind in PRODUCT_KINDS.builtin.values()]
        shared = set.intersection(*(set(model.model_fields) for model in models)) - {"kind"}
        yield from ("### Every kind", "")
        yield from _table(COLUMNS, list(_keys(models[0], "", only=shared)))
        for kind, model in zip(PRODUCT_KINDS.builtin, models, strict=True):
            own = set(model.model_fields) - shared - {"kind"}
            yield from ("", f"### `kind: {kind}`", "", inspect.getdoc(model) or "", "")
            if own:
                yield from _table(COLUMNS, list(_keys(model, "", only=own)))


class Errors(_Generated):
    """The classes of `crdist.errors`."""

    def _lines(self) -> Iterator[str]:
        import crdist.errors as errors

        rows = []
        for name in errors.__all__:
            kind = getattr(errors, name)
            also = ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if base is not errors.CrdistError)
            rows.append((f"`{name}`", also, (inspect.getdoc(kind) or "").splitlines()[0]))
        yield from _table(("class", "is also", "when"), rows)


def _model(place: str) -> type[BaseModel]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def _keys(model: type[BaseModel], prefix: str, only: set[str] | None = None) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        key = f"{prefix}{name}"
        inner = _inner(field.annotation)
        meaning = field.description or ""
        if inner is None:
            yield f"`{key}`", _type(field.annotation), _default(field), meaning
            continue
        yield f"`{key}`", "keys below", "left out" if field.default is None else "", meaning
        yield from _keys(inner, f"{key}.")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, tuple):
        default = list(default)
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    if default is None:
        return ""
    text = yaml.safe_dump(default, default_flow_style=True, width=10**6).strip()
    return f"`{text.removesuffix('...').strip()}`"


def _type(annotation: Any) -> str:
    """The type of a value in a reader's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{yaml.safe_dump(word).strip().removesuffix('...').strip()}`" for word in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in arguments if one is not type(None)))
    if origin in (tuple, list):
        inner = [one for one in arguments if one is not Ellipsis]
        many = Ellipsis in arguments or origin is list
        return f"list of {_type(inner[0])}" if many else f"[{', '.join(_type(one) for one in inner)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return NAMES.get(name, name.lower())


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The one model that a key holds, if it does."""
    try:
        return _model_in(annotation) if _is_one(annotation) else None
    except LookupError:
        return None


def _is_one(annotation: Any) -> bool:
    """Whether a key holds a mapping of its own, and not a choice between one and something else, or a list of them."""
    if isinstance(annotation, type):
        return issubclass(annotation, BaseModel)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _is_one(arguments[0])
    if origin in (typing.Union, types.UnionType):
        others = [one for one in arguments if one is not type(None)]
        return len(others) == 1 and _is_one(others[0])
    return False


def _model_in(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        try:
            return _model_in(argument)
        except LookupError:
            continue
    raise LookupError(f"no model in {annotation}")


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}")
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _bars_are_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep |z| from being read as a substitution."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[i] = "".join(parts)


def _words_are_no_names(app: Sphinx, doctree: nodes.document) -> None:
    """The types of docstrings are prose: 'path' there is no attribute of that name."""
    for reference in list(doctree.findall(addnodes.pending_xref)):
        target = reference.get("reftarget", "")
        if reference.get("refdomain") == "py" and target.islower() and "." not in target:
            reference.replace_self(reference.children)


def setup(app: Sphinx) -> Mapping[str, Any]:
    """Register the directives."""
    app.add_directive("crdist-commands", Commands)
    app.add_directive("crdist-settings", Settings)
    app.add_directive("crdist-products", Products)
    app.add_directive("crdist-errors", Errors)
    app.connect("autodoc-process-docstring", _bars_are_text)
    app.connect("doctree-read", _words_are_no_names)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
