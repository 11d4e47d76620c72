"""Views drawn by matplotlib, for print: small sans-serif letters, embedded fonts, units in unicode."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crdist_dashboards.records import Curve, MapView, Mark, ProfileView, SkyView
from crdist_dashboards.scales import COLOUR_MAPS, GREY, SUPERSCRIPT, unicode_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.image import AxesImage

__all__ = ["AA", "PrintStyle", "draw_map", "draw_profile", "draw_sky", "outlined", "print_settings", "unit_label"]

MINUS = "\N{MINUS SIGN}"

SAMPLE_COLOUR, MEAN_COLOUR, FIT_COLOUR, TRUTH_COLOUR = "#4c72b0", "#1f3b73", "#d1495b", "#2b7a4b"
POINT_STYLES = (("s", "#b5521b"), ("o", "#2b7a4b"), ("^", "#6b3fa0"), ("D", "#7a6a00"), ("v", "#444444"))
PLAIN = (0.00999, 9999.0)
"""Numbers that are written without a power of ten."""

LabelPlace = tuple[int, int, Literal["left", "right"], Literal["top", "bottom"]]
LABEL_PLACES: tuple[LabelPlace, ...] = (
    (3, 2, "left", "bottom"),
    (3, -2, "left", "top"),
    (-3, -2, "right", "top"),
    (-3, 2, "right", "bottom"),
)
"""Where the labels of marks that may be near each other go, in points."""

DIVERGING = (COLOUR_MAPS["difference"], COLOUR_MAPS["residual"])
LINE_COLOURS = ("#111111", "#888888", "#b8860b", "#556b2f")


@dataclass(frozen=True, slots=True)
class PrintStyle:
    """Sizes of a figure in print."""

    column_mm: float
    middle_mm: float
    page_mm: float
    """Width of a figure across both columns."""
    text_pt: float
    small_pt: float
    line_pt: float
    dpi: int
    """Of what is not vector graphics, and of PNG."""


AA = PrintStyle(column_mm=88.0, middle_mm=120.0, page_mm=180.0, text_pt=7.5, small_pt=6.5, line_pt=0.9, dpi=300)
"""Astronomy & Astrophysics: columns of 88 mm, 180 mm across both, 120 mm with the caption beside."""


@contextmanager
def print_settings(style: PrintStyle = AA) -> Iterator[None]:
    """Draw and save in this context: letters are embedded as letters, in a font that comes with matplotlib."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": style.text_pt,
        "axes.linewidth": 0.6,
        "axes.unicode_minus": True,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "savefig.dpi": style.dpi,
        "text.usetex": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.2,
        "ytick.major.size": 2.2,
        "xtick.major.pad": 2.0,
        "ytick.major.pad": 2.0,
        "xtick.direction": "out",
        "ytick.direction": "out",
    }
    with mpl.rc_context(settings):
        yield


def unit_label(text: str, units: str, power: int = 0) -> str:
    """A label with its unit in brackets, as in ``mean of 12 samples [10⁻¹⁰ cm⁻³]``."""
    unit = unicode_units(units, power)
    return f"{text} [{unit}]" if unit else text


def outlined(width: float, colour: str = "black") -> list[Any]:
    """Path effects that keep a mark or a text legible on any colour."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=width, foreground=colour, alpha=0.65)]


def draw_map(axes: Axes, bar: Axes, view: MapView, style: PrintStyle = AA) -> AxesImage:
    """Draw a map and, on axes of its own, its horizontal colour bar, labelled with statistic and unit.

    Parameters
    ----------
    axes, bar : Axes
        The bar's ticks and label are above it.
    view : MapView
    style : PrintStyle

    Returns
    -------
    AxesImage
        What has no value is masked, and grey.
    """
    axes.set_facecolor(GREY)
    image = _image(axes, view)
    left, right, bottom, top = view.extent
    _draw_over(axes, view, view.curves, style)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_xlabel(unit_label(view.across.label, view.across.units), fontsize=style.text_pt, labelpad=1.5)
    axes.set_ylabel(unit_label(view.up.label, view.up.units), fontsize=style.text_pt, labelpad=1.5)
    axes.tick_params(labelsize=style.small_pt)
    _few_ticks(axes)
    _draw_bar(bar, image, view, style)
    return image


def draw_sky(axes: Axes, bar: Axes, view: SkyView, style: PrintStyle = AA) -> AxesImage:
    """Draw a map of the sky with graticule, labels, outlines of masks and marks, and its colour bar.

    Parameters
    ----------
    axes, bar : Axes
    view : SkyView
    style : PrintStyle

    Returns
    -------
    AxesImage
        What lies in the sky and has no value is masked, and grey.
    """
    from matplotlib.patches import Ellipse

    image = _image(axes, view)
    left, right, bottom, top = view.extent
    is_whole = view.projection == "mollweide"
    if is_whole:
        shape: dict[str, Any] = {"xy": (0.0, 0.0), "width": 4.0, "height": 2.0}
        ground = Ellipse(**shape, facecolor=GREY, edgecolor="none", zorder=-1)
        axes.add_patch(ground)
        image.set_clip_path(ground)
        axes.add_patch(Ellipse(**shape, facecolor="none", edgecolor="0.25", linewidth=0.6, zorder=3, clip_on=False))
    else:
        axes.set_facecolor(GREY)
    _draw_over(axes, view, (*view.graticule, *view.outlines), style)
    for x, y, text in view.labels:
        _draw_label(axes, view, x, y, text, style)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    if is_whole:
        axes.set_axis_off()
    else:
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel("Galactic longitude l", fontsize=style.text_pt, labelpad=9.0)
        axes.set_ylabel("Galactic latitude b", fontsize=style.text_pt, labelpad=17.0)
    _draw_bar(bar, image, view, style)
    return image


def draw_profile(axes: Axes, view: ProfileView, style: PrintStyle = AA) -> list[tuple[Any, str]]:
    """Draw a profile: bands, every sample, the mean, lines and measured points.

    Parameters
    ----------
    axes : Axes
    view : ProfileView
    style : PrintStyle

    Returns
    -------
    list of (artist, str)
        For a legend, which the caller places.
    """
    factor = 10.0**view.power
    entries: list[tuple[Any, str]] = []
    for i, band in enumerate(view.bands):
        alpha = 0.34 if i == len(view.bands) - 1 else 0.16
        bounds = band.lower / factor, band.upper / factor
        drawn = axes.fill_between(view.x, *bounds, color=SAMPLE_COLOUR, alpha=alpha, linewidth=0, zorder=2.0 + 0.1 * i)
        entries.append((drawn, band.label))
    if view.n_sample:
        lines = axes.plot(view.x, view.samples / factor, color=SAMPLE_COLOUR, linewidth=0.35, alpha=0.7, zorder=2.5)
        entries.append((lines[0], f"each of {view.n_sample} samples"))
    marker = "." if np.isnan(view.mean).any() or view.x.size < 12 else ""
    style_of: dict[str, Any] = {
        "color": MEAN_COLOUR,
        "linewidth": 1.6 * style.line_pt,
        "marker": marker,
        "markersize": 3.0,
    }
    entries.insert(0, (axes.plot(view.x, view.mean / factor, zorder=3, **style_of)[0], view.statistic))
    n_reference = 0
    for line in view.lines:
        looks: dict[str, Any] = {"linewidth": style.line_pt, "zorder": 4, "color": FIT_COLOUR, "linestyle": (0, (5, 2))}
        if line.kind == "place":
            looks |= {"color": "0.35", "linestyle": (0, (1, 1.5)), "zorder": 1.5}
        elif line.kind == "reference":
            looks |= {"color": LINE_COLOURS[n_reference % len(LINE_COLOURS)], "linestyle": (0, (4, 1.5, 1, 1.5))}
            n_reference += 1
        elif line.kind == "truth":
            looks |= {"color": TRUTH_COLOUR, "linestyle": "-"}
        elif line.kind in ("mean", "sample"):
            looks |= {"color": MEAN_COLOUR, "linestyle": "-"}
        (drawn_line,) = axes.plot(line.x, line.y / factor, **looks)
        if line.label:
            entries.append((drawn_line, line.label))
    for points, (shape, colour) in zip(view.points, _cycled(len(view.points)), strict=True):
        bars = {
            name: np.nan_to_num(np.abs(np.stack([low, high]) - place))
            for name, place, low, high in (
                ("xerr", points.x, points.x_lower, points.x_upper),
                ("yerr", points.y / factor, points.y_lower / factor, points.y_upper / factor),
            )
            if np.isfinite(low).any()
        }
        looks = {"fmt": shape, "color": colour, "markersize": 2.6, "elinewidth": 0.6, "markeredgewidth": 0.5}
        drawn_points = axes.errorbar(points.x, points.y / factor, **bars, **looks, zorder=5)
        entries.append((drawn_points, points.label))
    axes.set_yscale(view.up_kind)
    axes.set(xlim=view.x_limits, ylim=tuple(limit / factor for limit in view.y_limits))
    axes.set_xlabel(unit_label(view.across.label, view.across.units), fontsize=style.text_pt, labelpad=1.5)
    axes.set_ylabel(unit_label(view.up.label, view.up.units, view.power), fontsize=style.text_pt, labelpad=2)
    axes.tick_params(labelsize=style.small_pt)
    if view.across.name == "iteration":
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if view.up_kind == "log":
        _log_ticks(axes.yaxis, *view.y_limits)
    axes.grid(color="0.92", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return entries


def _image(axes: Axes, view: MapView | SkyView) -> AxesImage:
    return axes.imshow(
        view.scale.drawn(view.values),
        origin="lower",
        extent=view.extent,
        aspect="auto",
        interpolation="nearest",
        cmap=view.colours,
        norm=view.scale.norm(),
    )


def _draw_bar(bar: Axes, image: AxesImage, view: MapView | SkyView, style: PrintStyle) -> None:
    figure = bar.get_figure(root=True)
    assert figure is not None
    scale = view.scale
    drawn = figure.colorbar(image, cax=bar, orientation="horizontal", extend=scale.extend, extendfrac=0.03)
    drawn.ax.xaxis.set_ticks_position("top")
    drawn.ax.xaxis.set_label_position("top")
    drawn.ax.tick_params(labelsize=style.small_pt, pad=1.0, length=1.6)
    drawn.outline.set_linewidth(0.5)
    if scale.kind == "log":
        _log_ticks(drawn.ax.xaxis, *scale.bar)
    else:
        from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

        low, high = scale.bar
        places = [
            float(place) for place in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= place <= high
        ]
        drawn.ax.xaxis.set_major_locator(FixedLocator(places))
        drawn.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    drawn.ax.minorticks_off()
    drawn.set_label(unit_label(view.statistic, view.units, scale.power), fontsize=style.small_pt, labelpad=2.0)


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    """Powers of ten, or 1, 2 and 5 times them where there are few; written without any markup."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9), tuple(np.arange(10, 100) / 10)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        places = [factor * 10.0**power for power in powers for factor in factors]
        # a place at the very end of the scale is still on it
        places = [place for place in places if low * (1 - 1e-9) <= place <= high * (1 + 1e-9)]
        if len(places) >= 3:
            break
    step = -(-len(places) // 6)
    is_short = all(PLAIN[0] <= place <= PLAIN[1] for place in places)
    axis.set_major_locator(FixedLocator(places[::step]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value, is_short)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _number(value: float, is_short: bool | None = None) -> str:
    """A number in unicode: 0.5, −20, 3×10⁻¹⁴; by default short where it is not very large or small.

    Examples
    --------
    >>> _number(1e-14), _number(3e21), _number(0.02)
    ('10⁻¹⁴', '3×10²¹', '0.02')
    """
    if is_short is None:
        is_short = value == 0 or PLAIN[0] <= abs(value) <= PLAIN[1]
    if is_short:
        return f"{value:.4g}".replace("-", MINUS)
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPT)
    mantissa = mantissa.removesuffix(".0").replace("-", MINUS)
    return power if mantissa == "1" else f"{mantissa}\N{MULTIPLICATION SIGN}{power}"


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    figure = axes.get_figure(root=True)
    assert figure is not None
    box = axes.get_position()
    width, height = (25.4 * a * b for a, b in zip(figure.get_size_inches(), (box.width, box.height), strict=True))
    axes.xaxis.set_major_locator(MaxNLocator(max(2, min(6, int(width / 9))), steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(max(2, min(6, int(height / 5))), steps=[1, 2, 5, 10]))


def _draw_over(axes: Axes, view: MapView | SkyView, curves: Sequence[Curve], style: PrintStyle) -> None:
    # the middle of a map of differences is white
    ink, around = ("black", "white") if view.colours in DIVERGING else ("white", "black")
    for curve in curves:
        _draw_curve(axes, curve, curves, ink, around)
    sources = [mark for mark in view.marks if mark.kind == "source"]
    for mark in view.marks:
        number = sources.index(mark) if mark in sources else 0
        _draw_mark(axes, mark, style, ink, around, LABEL_PLACES[number % len(LABEL_PLACES)])


def _draw_curve(axes: Axes, curve: Curve, beside: Sequence[Curve], ink: str, around: str) -> None:
    looks: dict[str, Any] = {
        "solar circle": {"color": ink, "linewidth": 0.6, "linestyle": (0, (4, 3)), "alpha": 0.9},
        "spiral arm": {"color": ink, "linewidth": 0.5, "alpha": 0.6},
        "outline": {"color": ink, "linewidth": 0.6, "path_effects": outlined(1.2, around)},
        "graticule": {"color": ink, "linewidth": 0.35, "alpha": 0.5},
    }.get(curve.kind, {})
    if curve.kind == "contour":
        # fainter levels are thinner, so that their order can be seen in print
        levels = [other for other in beside if other.kind == "contour"]
        rank = next(i for i, other in enumerate(levels) if other is curve) / max(len(levels) - 1, 1)
        looks = {"color": "#7fffd4", "linewidth": 0.35 + 0.55 * rank, "alpha": 0.6 + 0.4 * rank}
    axes.plot(curve.x, curve.y, zorder=2, **looks)


def _draw_mark(axes: Axes, mark: Mark, style: PrintStyle, ink: str, around: str, place: LabelPlace) -> None:
    effects = outlined(1.4, around)
    looks: dict[str, Any] = {"linestyle": "none", "color": ink, "path_effects": effects, "zorder": 4}
    if mark.kind == "sun":
        axes.plot(mark.x, mark.y, marker="o", markersize=4.6, markerfacecolor="none", markeredgewidth=0.8, **looks)
        axes.plot(mark.x, mark.y, marker="o", markersize=1.2, **looks)
        return
    if mark.kind == "centre":
        axes.plot(mark.x, mark.y, marker="+", markersize=5.5, markeredgewidth=0.9, **looks)
        return
    axes.plot(mark.x, mark.y, marker="x", markersize=4.0, markeredgewidth=0.8, **looks)
    across, up, side, height = place
    text = axes.annotate(mark.label, (mark.x, mark.y), (across, up), textcoords="offset points", ha=side, va=height)
    text.set(fontsize=style.small_pt, color=ink, path_effects=effects, clip_on=True, zorder=4)


def _draw_label(axes: Axes, view: SkyView, x: float, y: float, text: str, style: PrintStyle) -> None:
    left, _, bottom, _ = view.extent
    looks: dict[str, Any] = {"fontsize": style.small_pt - 1.0, "color": "0.2"}
    on_rim = view.projection == "mollweide" and math.isclose(math.hypot(x / 2.0, y), 1.0, abs_tol=0.01)
    if on_rim or (view.projection == "gnomonic" and x == left):
        up = "bottom" if on_rim and y > 0 else "top" if on_rim else "center"
        axes.annotate(text, (x, y), (-2, 0), textcoords="offset points", ha="right", va=up, **looks)
    elif view.projection == "gnomonic" and y == bottom:
        axes.annotate(text, (x, y), (0, -2), textcoords="offset points", ha="center", va="top", **looks)
    else:
        looks |= {"color": "white", "path_effects": outlined(1.2), "zorder": 4}
        axes.annotate(text, (x, y), (0, -1), textcoords="offset points", ha="center", va="top", **looks)


def _cycled(n: int) -> list[tuple[str, str]]:
    return [POINT_STYLES[i % len(POINT_STYLES)] for i in range(n)]
