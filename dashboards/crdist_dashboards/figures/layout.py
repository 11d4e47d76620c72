"""Panels on a page of a given width, laid out in millimetres so that nothing is clipped, empty or overlaps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crdist_dashboards.records import MapView, ProfileView, SkyView
from crdist_dashboards.render.matplotlib import AA, PrintStyle, draw_map, draw_profile, draw_sky, unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["View", "lay_out"]

View = MapView | SkyView | ProfileView

LEFT, RIGHT, TOP, BOTTOM = 11.5, 4.0, 1.5, 1.0  # mm, as all lengths here
LEFT_PROFILE = 14.5
LEGEND_LEFT, LEGEND_WIDTH = 9.0, 68.0
NARROW = 60.0
"""A panel below which a legend has one column."""
GAP_X, GAP_SKY, GAP_PROFILE = 11.5, 7.5, 19.0
BAR, BAR_GAP, TICKS = 1.9, 0.9, 3.6
BELOW_MAP, BELOW_SKY, BELOW_PROFILE = 8.0, 2.5, 8.0
ROW_GAP = 2.0
PROFILE_ASPECT = 0.72
LINE = 0.3528 * 1.25
"""Height of a line of text, mm per point."""
LETTER = 0.3528 * 0.54
"""Mean width of a letter, mm per point."""
MIN_ASPECT = 0.22
"""A map flatter than this (height / width) is stretched, and says so."""
MM = 1.0 / 25.4


def lay_out(rows: Sequence[Sequence[View]], width_mm: float, style: PrintStyle = AA) -> Figure:
    """Draw views in rows of equally wide panels, each under its title, colour bar, statistic and unit.

    Parameters
    ----------
    rows : sequence of sequence of view
    width_mm : float, mm
    style : PrintStyle

    Returns
    -------
    Figure
        As high as its contents ask for.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_column = max(map(len, rows))
    gap = GAP_SKY if all(isinstance(view, SkyView) for row in rows for view in row) else GAP_X
    views = [view for row in rows for view in row]
    has_profile = any(isinstance(view, ProfileView) for view in views)
    margin = LEFT_PROFILE if has_profile else LEFT
    gap = GAP_PROFILE if has_profile else gap
    panel = (width_mm - margin - RIGHT - (n_column - 1) * gap) / n_column
    is_mixed = len({view.quantity for view in views}) > 1
    heads = [max(_head(view, panel, style, is_mixed) for view in row) for row in rows]
    bodies = [max(panel * _aspect(view) for view in row) for row in rows]
    feet = [max(_foot(view, panel, style) for view in row) for row in rows]
    # a profile's own axis says it
    is_said = is_mixed or all(isinstance(view, ProfileView) for view in views)
    title = [] if is_said else _wrapped(_capital(views[0].quantity), width_mm - margin - RIGHT, style.text_pt)
    above = TOP + len(title) * style.text_pt * LINE + (0.6 if title else 0.0)
    height = above + BOTTOM + sum(heads) + sum(bodies) + sum(feet) + ROW_GAP * (len(rows) - 1)
    figure = Figure(figsize=(width_mm * MM, height * MM), facecolor="white")
    FigureCanvasAgg(figure)

    def place(left: float, bottom: float, wide: float, tall: float) -> Axes:
        return figure.add_axes((left / width_mm, bottom / height, wide / width_mm, tall / height))

    if title:
        figure.text(margin / width_mm, 1 - TOP / height, "\n".join(title), fontsize=style.text_pt, va="top")
    top = height - above
    for row, head, body, foot in zip(rows, heads, bodies, feet, strict=True):
        n_label = max((len(_label(view, panel, style)) for view in row if not isinstance(view, ProfileView)), default=0)
        for i, view in enumerate(row):
            left = margin + i * (panel + gap)
            tall = panel * _aspect(view)
            bottom = top - head - tall
            axes = place(left, bottom, panel, tall)
            lines = _title(view, panel, style, is_mixed)
            if isinstance(view, ProfileView):
                _draw_profile(
                    figure,
                    axes,
                    view,
                    style,
                    (panel, tall),
                    ((left - LEGEND_LEFT) / width_mm, (bottom - BELOW_PROFILE) / height),
                )
                at = bottom + tall + 1.0
            else:
                bar = place(left, bottom + tall + BAR_GAP, panel, BAR)
                if isinstance(view, MapView):
                    draw_map(axes, bar, view, style)
                    _note_stretch(axes, view, style)
                else:
                    draw_sky(axes, bar, view, style)
                label = _label(view, panel, style)
                bar.set_xlabel("\n".join(label), fontsize=style.small_pt, labelpad=2.0)
                at = bottom + tall + BAR_GAP + BAR + TICKS + n_label * style.small_pt * LINE
            words = "\n".join(lines)
            place_of = left / width_mm, at / height
            figure.text(*place_of, words, fontsize=style.text_pt, va="bottom", linespacing=1.15)
        top -= head + body + foot + ROW_GAP
    return figure


def _draw_profile(
    figure: Figure, axes: Axes, view: ProfileView, style: PrintStyle, size: tuple[float, float], at: tuple[float, float]
) -> None:
    panel, tall = size
    entries = draw_profile(axes, view, style)
    axes.set_ylabel("\n".join(_wrapped(axes.get_ylabel(), tall, style.text_pt)), fontsize=style.text_pt, labelpad=2)
    if len(entries) > 1:
        artists = [artist for artist, _ in entries]
        labels = ["\n".join(_wrapped(label, min(LEGEND_WIDTH, panel), style.small_pt)) for _, label in entries]
        figure.legend(
            artists,
            labels,
            loc="upper left",
            bbox_to_anchor=at,
            fontsize=style.small_pt,
            ncols=_columns(labels, panel),
            frameon=False,
            borderpad=0.0,
            borderaxespad=0.0,
            handlelength=1.8,
            columnspacing=1.2,
            labelspacing=0.3,
        )


def _head(view: View, panel: float, style: PrintStyle, is_mixed: bool) -> float:
    """Height of what stands above a panel."""
    title = len(_title(view, panel, style, is_mixed)) * style.text_pt * LINE + 0.4
    if isinstance(view, ProfileView):
        return title + 1.0
    return title + BAR_GAP + BAR + TICKS + len(_label(view, panel, style)) * style.small_pt * LINE


def _foot(view: View, panel: float, style: PrintStyle) -> float:
    if isinstance(view, MapView):
        return BELOW_MAP
    if isinstance(view, SkyView):
        return BELOW_SKY if view.projection == "mollweide" else BELOW_MAP
    labels = _legend_labels(view)
    lines = sum(len(_wrapped(label, min(LEGEND_WIDTH, panel), style.small_pt)) for label in labels)
    rows = -(-lines // _columns(labels, panel)) if len(labels) > 1 else 0
    return BELOW_PROFILE + rows * style.small_pt * LINE * 1.08 + 1.0


def _legend_labels(view: ProfileView) -> list[str]:
    labels = [view.statistic, *(band.label for band in view.bands)]
    labels += [f"each of {view.n_sample} samples"] if view.n_sample else []
    return [*labels, *(line.label for line in view.lines if line.label), *(item.label for item in view.points)]


def _columns(labels: Sequence[str], panel: float) -> int:
    return 1 if panel < NARROW or max(map(len, labels)) > 32 else 2


def _title(view: View, panel: float, style: PrintStyle, is_mixed: bool) -> list[str]:
    lines = _wrapped(view.title, panel, style.text_pt)
    if not is_mixed or isinstance(view, ProfileView):
        return lines
    return lines + _wrapped(_capital(view.quantity), panel, style.text_pt)


def _label(view: MapView | SkyView, panel: float, style: PrintStyle) -> list[str]:
    return _wrapped(unit_label(view.statistic, view.units, view.scale.power), panel, style.small_pt)


def _wrapped(text: str, width_mm: float, size_pt: float) -> list[str]:
    # a unit is not broken, nor a number from its sign
    bound = text.rpartition(" [")
    kept = bound[0] + bound[1] + bound[2].replace(" ", "\N{NO-BREAK SPACE}") if bound[1] else text
    kept = kept.replace("± ", "±\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")
    letters = int(width_mm / (size_pt * LETTER))
    lines = textwrap.wrap(kept, letters, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [""]


def _aspect(view: View) -> float:
    if isinstance(view, ProfileView):
        return PROFILE_ASPECT
    if isinstance(view, SkyView):
        return 0.5 if view.projection == "mollweide" else 1.0
    return max(_true_aspect(view), MIN_ASPECT)


def _true_aspect(view: MapView) -> float:
    left, right, bottom, top = view.extent
    return (top - bottom) / (right - left)


def _note_stretch(axes: Axes, view: MapView, style: PrintStyle) -> None:
    from crdist_dashboards.drawing import outlined

    stretch = MIN_ASPECT / _true_aspect(view)
    if stretch > 1.02:
        text = axes.text(0.99, 0.04, f"{view.up.name} stretched by {stretch:.2g}", transform=axes.transAxes)
        text.set(fontsize=style.small_pt - 1, color="white", ha="right", va="bottom", path_effects=outlined(1.2))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
