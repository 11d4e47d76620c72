"""The figures of a paper on one reconstruction: what each shows, from which stores, and its caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crdist.errors import SchemaError
from crdist_dashboards.figures.layout import View
from crdist_dashboards.literature import Literature
from crdist_dashboards.overlays import ALL, ARMS_REFERENCE
from crdist_dashboards.products import ProductInfo, ProductsSource
from crdist_dashboards.records import MapView, ProfileView
from crdist_dashboards.views.inference import InferenceSource
from crdist_dashboards.views.maps import projection_view, slice_view
from crdist_dashboards.views.native import native_slice
from crdist_dashboards.views.profiles import profile_view
from crdist_dashboards.views.sky import product_sky

__all__ = ["FIGURES", "PaperFigure", "Stores"]

STATISTICS = ("mean", "std", "significance")
PRINT_ROWS = 700
"""Height of a raster of the sky in print."""

LOCAL_PART = 0.25
"""A projection is one of the solar neighbourhood if it covers at most this part of the largest one's area."""

COLUMN, MIDDLE, PAGE = "column", "middle", "page"


@dataclass(frozen=True, slots=True)
class Stores:
    """What the figures are made from."""

    products: ProductsSource
    posterior: InferenceSource | None = None
    gas: ProductsSource | None = None
    """Products of the gas, in the same frame."""
    emission: ProductsSource | None = None
    """Products of the gamma-ray source density, in the same frame."""
    magellanic: ProductsSource | None = None
    """Products of an inference that masked the Magellanic Clouds alone."""
    literature: bool | Literature = True


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """One figure."""

    number: str
    name: str
    title: str
    caption: str
    rows: tuple[tuple[View, ...], ...]
    width: str
    """``column``, ``middle`` or ``page``."""
    sources: tuple[ProductsSource | InferenceSource, ...]

    @property
    def stem(self) -> str:
        """Name of its files, without the suffix."""
        number = self.number.zfill(2) if self.number.isdigit() else self.number
        return f"figure_{number}_{self.name}"

    @property
    def views(self) -> tuple[View, ...]:
        """All panels, row by row."""
        return tuple(view for row in self.rows for view in row)


def _gamma_sky(stores: Stores) -> PaperFigure:
    source = _posterior(stores)
    view = source.sky_view("data", scale="log", n_row=PRINT_ROWS)
    text = "Gamma-ray intensity that was fitted, in Galactic coordinates; grey: masked."
    return PaperFigure("1", "gamma_sky", "Masked gamma-ray map", _caption(text, [view]), ((view,),), COLUMN, (source,))


def _gas_slice(stores: Stores) -> PaperFigure:
    source = _posterior(stores)
    view = native_slice(source, "gas", scale="log")
    text = "Hydrogen density in the mid-plane, at the resolution of the inference."
    return PaperFigure(
        "2", "gas_midplane", "Gas in the mid-plane", _caption(text, [view]), ((view,),), COLUMN, (source,)
    )


def _synthetic(stores: Stores) -> PaperFigure:
    source = _synthetic_posterior(stores)
    truth = native_slice(source, "truth")
    mean = native_slice(source, "mean", scale=truth.scale)
    data = source.sky_view("data", scale="log", n_row=PRINT_ROWS)
    prediction = source.sky_view("prediction", scale=data.scale, n_row=PRINT_ROWS)
    rows = (truth, mean), (data, prediction)
    text = (
        "Validation on a synthetic sky. Top: true density in the mid-plane and its posterior mean, on one scale. "
        "Bottom: synthetic gamma-ray data and the posterior mean of their prediction, on one scale."
    )
    views: list[View] = [truth, mean, data, prediction]
    return PaperFigure("3", "synthetic", "Synthetic validation", _caption(text, views), rows, MIDDLE, (source,))


def _synthetic_uncertainty(stores: Stores) -> PaperFigure:
    source = _synthetic_posterior(stores)
    mean, std, significance, difference = (
        native_slice(source, name) for name in ("mean", "std", "significance", "difference")
    )
    rows = (mean, std), (significance, difference)
    text = (
        "Reconstruction of the synthetic sky in the mid-plane: posterior mean, standard deviation, their ratio, and "
        "the difference to the truth in standard deviations."
    )
    caption = _caption(text, [mean, std, significance, difference])
    return PaperFigure("4", "synthetic_uncertainty", "Uncertainty of the validation", caption, rows, MIDDLE, (source,))


def _midplane(stores: Stores) -> PaperFigure:
    return _slices(stores.products, "5", "midplane", "Mid-plane")


def _projections(stores: Stores) -> PaperFigure:
    return _three_axes(stores.products, "6", "projections", "Projections along the axes")


def _local(stores: Stores) -> PaperFigure:
    source = stores.products
    largest = _largest(source, "z")
    small = [info for info in _of_kind(source, "projection", "z") if _area(info) <= LOCAL_PART * _area(largest)]
    if not small:
        raise _missing(source, "no projection along z of the solar neighbourhood", "a projection with a small box")
    info = min(small, key=_area)
    views = tuple(projection_view(source, info.name, name) for name in STATISTICS)
    text = f"Solar neighbourhood: {source.quantity.long_name}, integrated along z within the box."
    caption = _caption(text, views)
    return PaperFigure("7", "local", "Solar neighbourhood", caption, (views,), PAGE, (source,))


def _line_of_sight(stores: Stores) -> PaperFigure:
    source = stores.products
    skies = _of_kind(source, "sky")
    if not skies:
        raise _missing(source, "no sky", "{kind: sky}")
    views = tuple(product_sky(source, skies[0].name, name, n_row=PRINT_ROWS) for name in STATISTICS[:2])
    text = f"{_capital(source.quantity.long_name)}, integrated along the line of sight, in Galactic coordinates."
    return PaperFigure("8", "sky", "Line of sight", _caption(text, views), (views,), PAGE, (source,))


def _with_gas(stores: Stores) -> PaperFigure:
    source, gas = stores.products, stores.gas
    if gas is None:
        raise SchemaError("needs a products store of the gas in the same frame: compute one and give --gas")
    info = _largest(source, "z")
    view = projection_view(source, info.name, contours=gas, overlays=("sun", "centre"))
    levels = ", ".join(curve.label for curve in view.curves if curve.kind == "contour")
    text = f"{_capital(source.quantity.long_name)}, integrated along z. Contours: {gas.quantity.long_name} at {levels}."
    return PaperFigure(
        "9", "gas_contours", "Cosmic rays and gas", _caption(text, [view]), ((view,),), COLUMN, (source, gas)
    )


def _emission(stores: Stores) -> PaperFigure:
    emission, gas = stores.emission, stores.gas
    if emission is None or gas is None:
        raise SchemaError(
            "needs products stores of the gamma-ray source density and of the gas: compute them and give --emission "
            "and --gas"
        )
    rows = tuple(
        tuple(projection_view(source, _largest(source, axis).name) for source in (emission, gas)) for axis in "zyx"
    )
    text = f"Left: {emission.quantity.long_name}; right: {gas.quantity.long_name}; integrated along z, y and x."
    views = [view for row in rows for view in row]
    return PaperFigure("10", "emission", "Emission and gas", _caption(text, views), rows, MIDDLE, (emission, gas))


def _radial(stores: Stores) -> PaperFigure:
    source = stores.products
    view = _profile(stores, "radial", "{kind: radial}")
    text = f"Radial profile of {source.quantity.long_name}: mean, every posterior sample, and the 68 and 95 % of them."
    return PaperFigure("11", "radial", "Radial profile", _caption(text, [view]), ((view,),), COLUMN, (source,))


def _vertical(stores: Stores) -> PaperFigure:
    source = stores.products
    view = _profile(stores, "vertical", "{kind: vertical}")
    text = (
        f"Vertical profile of {source.quantity.long_name}: mean, every posterior sample, and the 68 and 95 % of them."
    )
    return PaperFigure("12", "vertical", "Vertical profile", _caption(text, [view]), ((view,),), COLUMN, (source,))


def _midplane_magellanic(stores: Stores) -> PaperFigure:
    return _slices(_magellanic(stores), "A1", "midplane_magellanic", "Mid-plane, Magellanic Clouds alone masked")


def _projections_magellanic(stores: Stores) -> PaperFigure:
    title = "Projections, Magellanic Clouds alone masked"
    return _three_axes(_magellanic(stores), "A2", "projections_magellanic", title)


def _evidence(stores: Stores) -> PaperFigure:
    source = _posterior(stores)
    view = source.evidence()
    # draws may lie close together: the one that is named is the truth
    marks = tuple(mark if mark.label == "truth" else replace(mark, label="") for mark in view.marks)
    view = replace(view, marks=marks)
    text = "Logarithm of the posterior density of (ln length, ln slope), relative to its maximum."
    title = "Evidence of length and slope"
    return PaperFigure("A3", "evidence", title, _caption(text, [view]), ((view,),), COLUMN, (source,))


FIGURES: tuple[tuple[str, Callable[[Stores], PaperFigure]], ...] = (
    ("1", _gamma_sky),
    ("2", _gas_slice),
    ("3", _synthetic),
    ("4", _synthetic_uncertainty),
    ("5", _midplane),
    ("6", _projections),
    ("7", _local),
    ("8", _line_of_sight),
    ("9", _with_gas),
    ("10", _emission),
    ("11", _radial),
    ("12", _vertical),
    ("A1", _midplane_magellanic),
    ("A2", _projections_magellanic),
    ("A3", _evidence),
)
"""Number of each figure and what makes it; it raises a `SchemaError` that says what is missing."""


def _slices(source: ProductsSource, number: str, name: str, title: str) -> PaperFigure:
    slices = _of_kind(source, "slice", "z")
    if not slices:
        raise _missing(source, "no slice across z", "{kind: slice, axis: z}")
    info = min(slices, key=lambda item: abs(item.at_kpc or 0.0))
    views = tuple(slice_view(source, info.name, statistic) for statistic in STATISTICS[:2])
    place = f"z = {info.at_kpc or 0.0:g} kpc"
    text = f"{title}: {source.quantity.long_name} at {place}, posterior mean and standard deviation."
    return PaperFigure(number, name, title, _caption(text, views), (views,), PAGE, (source,))


def _three_axes(source: ProductsSource, number: str, name: str, title: str) -> PaperFigure:
    rows = tuple(
        tuple(
            projection_view(source, _largest(source, axis).name, statistic, overlays=ALL if axis == "z" else ALL[:2])
            for statistic in STATISTICS
        )
        for axis in "zyx"
    )
    text = (
        f"{title}: {source.quantity.long_name}, integrated along z, y and x (rows): posterior mean, standard deviation "
        "and their ratio (columns). Each sample is integrated first; the statistics are taken last."
    )
    return PaperFigure(
        number, name, title, _caption(text, [view for row in rows for view in row]), rows, PAGE, (source,)
    )


def _profile(stores: Stores, kind: str, recipe: str) -> ProfileView:
    found = _of_kind(stores.products, kind)
    if not found:
        raise _missing(stores.products, f"no {kind} profile", recipe)
    return profile_view(stores.products, found[0].name, literature=stores.literature)


def _posterior(stores: Stores) -> InferenceSource:
    if stores.posterior is None:
        raise SchemaError("needs what an inference stored beside its samples: give --posterior")
    return stores.posterior


def _synthetic_posterior(stores: Stores) -> InferenceSource:
    if stores.posterior is None:
        raise SchemaError("needs an inference on a synthetic sky, such as that of 'crdist demo': give --posterior")
    if not stores.posterior.is_synthetic:
        raise SchemaError(f"{stores.posterior.path}: holds no truth; it needs an inference on a synthetic sky")
    return stores.posterior


def _magellanic(stores: Stores) -> ProductsSource:
    if stores.magellanic is None:
        raise SchemaError(
            "needs the products of an inference with the mask 'magellanic': compute them, give --magellanic"
        )
    return stores.magellanic


def _of_kind(source: ProductsSource, kind: str, axis: str | None = None) -> list[ProductInfo]:
    return [info for info in source.products if info.kind == kind and (axis is None or info.axis == axis)]


def _largest(source: ProductsSource, axis: str) -> ProductInfo:
    found = _of_kind(source, "projection", axis)
    if not found:
        raise _missing(source, f"no projection along {axis}", f"{{kind: projection, axis: {axis}}}")
    return max(found, key=_area)


def _area(info: ProductInfo) -> float:
    first, second = info.axes
    return (first.upper - first.lower) * (second.upper - second.lower)


def _missing(source: ProductsSource, what: str, recipe: str) -> SchemaError:
    return SchemaError(f"{source.path}: has {what}; add {recipe} to the recipe's products and run 'crdist post' again")


def _caption(text: str, views: Sequence[View]) -> str:
    sentences = [text]
    maps = [view for view in views if isinstance(view, MapView)]
    kinds = {mark.kind for view in maps for mark in view.marks}
    curves = {curve.kind for view in maps for curve in view.curves}
    named = [words for kind, words in (("sun", "☉: Sun"), ("centre", "+: Galactic centre")) if kind in kinds]
    named += ["dashed: solar circle"] if "solar circle" in curves else []
    if any((view.values != view.values).any() for view in maps):
        named.append("grey: no value")
    if named:
        sentences.append("; ".join(named) + ".")
    notes = list(dict.fromkeys(note for view in views for note in view.notes))
    if "spiral arm" in curves and ARMS_REFERENCE not in notes:
        notes.append(ARMS_REFERENCE)
    sentences += [f"{_capital(note)}." for note in notes]
    return " ".join(sentences)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
