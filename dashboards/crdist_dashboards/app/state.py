"""What a page shows, as parameters that a link can carry. No plots here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import param

from crdist_dashboards.overlays import ALL
from crdist_dashboards.products import ProductInfo, ProductsSource

__all__ = ["SEVERAL_STORES", "TABS", "State", "from_query", "offer", "to_query"]

TABS = ("slices", "projections", "sky", "profiles", "samples", "compare", "beside", "run")
SEVERAL_STORES = ("compare", "beside")
"""Tabs that two stores are needed for."""

MAPS = ("slice", "projection", "volume")


class State(param.Parameterized):  # type: ignore[misc]
    """The state of one page."""

    store = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Products store that is shown, by its name."
    )
    tab = param.Selector(default=TABS[0], objects=list(TABS), doc="Tab that is open.")
    scale = param.Selector(default="auto", objects=["auto", "linear", "log"], doc="Colour scale of maps.")
    overlays = param.ListSelector(default=list(ALL), objects=list(ALL), doc="What is drawn over maps.")
    contours = param.Boolean(default=True, doc="Whether the gas column is drawn over projections, if there is one.")
    slice = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Slice or volume in the tab of slices."
    )
    axis = param.Selector(default="z", objects=["x", "y", "z"], doc="Axis that planes of a volume lie across.")
    at = param.Number(default=0.0, bounds=(-1e3, 1e3), doc="Place of the plane of a volume on its axis, kpc.")
    projection = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Product in the tab of projections."
    )
    x = param.Number(default=None, bounds=(-1e3, 1e3), allow_None=True, doc="Crosshair: first coordinate, kpc.")
    y = param.Number(default=None, bounds=(-1e3, 1e3), allow_None=True, doc="Crosshair: second coordinate, kpc.")
    sky = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Product in the tab of the sky."
    )
    projected = param.Selector(default="mollweide", objects=["mollweide", "gnomonic"], doc="Projection of the sky.")
    longitude = param.Number(default=0.0, bounds=(-180.0, 360.0), doc="Galactic l of the middle, degree.")
    latitude = param.Number(default=0.0, bounds=(-90.0, 90.0), doc="Galactic b of the middle, degree.")
    size = param.Number(default=30.0, bounds=(1.0, 120.0), doc="Width of a gnomonic map, degree.")
    profile = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Product in the tab of profiles."
    )
    literature = param.Boolean(default=True, doc="Whether measured points are drawn over profiles.")
    sampled = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Product in the tab of samples."
    )
    sample = param.Integer(default=0, bounds=(0, 100_000), doc="Sample that is shown, counted from 0.")
    difference = param.Boolean(default=False, doc="Whether samples are shown as differences to their mean.")
    other = param.Selector(
        default=None,
        objects=[],
        check_on_set=True,
        allow_None=True,
        doc="Products store that is compared with the first.",
    )
    statistic = param.Selector(
        default="mean", objects=["mean", "std", "significance"], doc="What is shown of two stores side by side."
    )
    compared = param.Selector(
        default=None, objects=[], check_on_set=True, allow_None=True, doc="Product in the tab of comparisons."
    )


def offer(state: State, source: ProductsSource, other: ProductsSource | None = None) -> None:
    """Let a state choose among the products of a store; what it has chosen stays if that is there, too."""
    products = source.products
    maps = [item for item in products if item.kind in MAPS]
    _choose(state, "slice", [item.name for item in sorted(maps, key=_slices_first) if item.kind != "projection"])
    _choose(state, "projection", [item.name for item in sorted(maps, key=_face_on_first) if item.kind == "projection"])
    _choose(state, "sky", [item.name for item in products if item.kind == "sky"])
    _choose(state, "profile", [item.name for item in products if item.kind in ("radial", "vertical")])
    _choose(state, "sampled", [item.name for item in sorted(maps, key=_face_on_first) if item.has_samples])
    theirs = {item.name for item in other.products} if other is not None else set()
    _choose(state, "compared", [item.name for item in sorted(maps, key=_face_on_first) if item.name in theirs])


def from_query(state: State, search: str) -> list[str]:
    """Take over what a link says.

    Parameters
    ----------
    state : State
    search : str
        The query of a URL. Names that are none of the state's are left alone.

    Returns
    -------
    list of str
        A line for each value that cannot be; the default stands.
    """
    notices = []
    for name, text in parse_qsl(search.lstrip("?"), keep_blank_values=True):
        if name not in state.param or name == "name":
            continue
        try:
            setattr(state, name, _parsed(state.param[name], text))
        except (ValueError, TypeError):
            stands = getattr(state, name)
            notices.append(f"the link asks for {name} = {text[:40]!r}, which cannot be shown; {stands!r} is")
    return notices


def to_query(state: State, keep: Mapping[str, str] | None = None) -> str:
    """The query of a link that opens the same view.

    Parameters
    ----------
    state : State
    keep : mapping, optional
        Other arguments, such as the theme.

    Returns
    -------
    str
        ``?...``, with what differs from the first view only; empty if nothing does.
    """
    arguments = dict(keep or {})
    for name in state.param:
        value = getattr(state, name)
        if name == "name" or value is None or value == _first(state, name):
            continue
        arguments[name] = _text(value)
    return "?" + urlencode(arguments) if arguments else ""


def _choose(state: State, name: str, names: Sequence[str]) -> None:
    parameter = state.param[name]
    parameter.objects = list(names)
    if getattr(state, name) not in names:
        parameter.default = None
        setattr(state, name, names[0] if names else None)


def _first(state: State, name: str) -> Any:
    """What a page shows at first."""
    parameter = state.param[name]
    if isinstance(parameter, param.Selector) and not isinstance(parameter, param.ListSelector):
        return parameter.default if parameter.default is not None else next(iter(parameter.objects), None)
    return parameter.default


def _parsed(parameter: param.Parameter[Any], text: str) -> Any:
    if isinstance(parameter, param.Boolean):
        return {"1": True, "0": False}[text] if text in ("0", "1") else int("none")
    if isinstance(parameter, param.Integer):
        return int(text)
    if isinstance(parameter, param.Number):
        return float(text) + 0.0
    if isinstance(parameter, param.ListSelector):
        return [item for item in text.split(",") if item]
    return text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _slices_first(item: ProductInfo) -> tuple[bool, float]:
    return item.kind == "volume", abs(item.at_kpc or 0.0)


def _face_on_first(item: ProductInfo) -> tuple[bool, float]:
    return item.axis != "z", -_length(item)


def _length(item: ProductInfo) -> float:
    return sum(high - low for low, high in item.extents.values())
