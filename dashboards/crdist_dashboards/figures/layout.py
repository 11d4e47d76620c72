"""Panels on a page of a given width, laid out in millimetres so that nothing is clipped, empty or overlaps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crdist_dashboards.records import MapView, ProfileView, SkyView
from crdist_dashboards.render.matplotlib import AA, PrintStyle, draw_map, draw_profile, draw_sky, outlined, unit_label

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
HEADING = 1.5
"""Size of a heading, in units of the text."""

PROFILE_ASPECT = 0.72
LINE = 0.3528 * 1.25
"""Height of a line of text, mm per point."""
LETTER = 0.3528 * 0.54
"""Mean width of a letter, mm per point."""
MIN_ASPECT = 0.22
"""A map flatter than this (height / width) is stretched, and says so."""
MM = 1.0 / 25.4


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the panels of a row stand."""

    margin: float
    panel: float
    """Width of one."""
    gap: float


def lay_out(
    rows: Sequence[Sequence[View]],
    width_mm: float,
    style: PrintStyle = AA,
    *,
    heading: str = "",
    notes: str = "",
    foot: str = "",
) -> Figure:
    """Draw views in rows of equally wide panels, each under its title, colour bar, statistic and unit.

    Parameters
    ----------
    rows : sequence of sequence of view
        A row holds profiles alone, or none; one with fewer panels than others ends earlier.
    width_mm : float, mm
    style : PrintStyle
    heading : str
        Above all; by default the quantity, where all panels show one and none says so itself.
    notes, foot : str
        Below the heading, and at the bottom; smaller.

    Returns
    -------
    Figure
        As high as its contents ask for.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    views = [view for row in rows for view in row]
    is_mixed = len({view.quantity for view in views}) > 1
    columns = _columns_of(rows, width_mm)
    heads = [max(_head(view, at.panel, style, is_mixed) for view in row) for row, at in zip(rows, columns, strict=True)]
    bodies = [max(at.panel * _aspect(view) for view in row) for row, at in zip(rows, columns, strict=True)]
    feet = [max(_foot(view, at.panel, style) for view in row) for row, at in zip(rows, columns, strict=True)]
    left, inner = columns[0].margin, width_mm - columns[0].margin - RIGHT
    # a profile's own axis says it
    is_said = is_mixed or all(isinstance(view, ProfileView) for view in views)
    title = [heading] if heading else [] if is_said else _wrapped(_capital(views[0].quantity), inner, style.text_pt)
    title_pt = HEADING * style.text_pt if heading else style.text_pt
    below_title, at_foot = (_wrapped(text, inner, style.small_pt) if text else [] for text in (notes, foot))
    above = TOP + len(title) * title_pt * LINE + (0.6 if title else 0.0)
    notes_at, above = above, above + (len(below_title) * style.small_pt * LINE + ROW_GAP if below_title else 0.0)
    below = BOTTOM + (len(at_foot) * style.small_pt * LINE + ROW_GAP if at_foot else 0.0)
    height = above + below + sum(heads) + sum(bodies) + sum(feet) + ROW_GAP * (len(rows) - 1)
    figure = Figure(figsize=(width_mm * MM, height * MM), facecolor="white")
    FigureCanvasAgg(figure)

    def place(left: float, bottom: float, wide: float, tall: float) -> Axes:
        return figure.add_axes((left / width_mm, bottom / height, wide / width_mm, tall / height))

    def write(lines: list[str], top: float, size_pt: float, **looks: Any) -> None:
        figure.text(left / width_mm, 1 - top / height, "\n".join(lines), fontsize=size_pt, va="top", **looks)

    if title:
        write(title, TOP, title_pt, weight="bold" if heading else "normal")
    if below_title:
        write(below_title, notes_at, style.small_pt, color="0.3")
    if at_foot:
        write(at_foot, height - below + ROW_GAP, style.small_pt, color="0.3")
    top = height - above
    for row, at, head, body, foot_height in zip(rows, columns, heads, bodies, feet, strict=True):
        n_label = max(
            (len(_label(view, at.panel, style)) for view in row if not isinstance(view, ProfileView)), default=0
        )
        for i, view in enumerate(row):
            start = at.margin + i * (at.panel + at.gap)
            tall = at.panel * _aspect(view)
            bottom = top - head - tall
            axes = place(start, bottom, at.panel, tall)
            if isinstance(view, ProfileView):
                corner = (start - LEGEND_LEFT) / width_mm, (bottom - BELOW_PROFILE) / height
                _draw_profile(figure, axes, view, style, (at.panel, tall), corner)
                words_at = bottom + tall + 1.0
            else:
                bar = place(start, bottom + tall + BAR_GAP, at.panel, BAR)
                if isinstance(view, MapView):
                    draw_map(axes, bar, view, style)
                    _note_stretch(axes, view, style)
                else:
                    draw_sky(axes, bar, view, style)
                bar.set_xlabel("\n".join(_label(view, at.panel, style)), fontsize=style.small_pt, labelpad=2.0)
                words_at = bottom + tall + BAR_GAP + BAR + TICKS + n_label * style.small_pt * LINE
            words = "\n".join(_title(view, at.panel, style, is_mixed))
            figure.text(
                start / width_mm, words_at / height, words, fontsize=style.text_pt, va="bottom", linespacing=1.15
            )
        top -= head + body + foot_height + ROW_GAP
    return figure


def _columns_of(rows: Sequence[Sequence[View]], width_mm: float) -> list[_Columns]:
    """Panels of maps stand below each other from row to row; those of profiles have columns of their own."""

    def share(views: Sequence[Sequence[View]], margin: float, gap: float) -> _Columns:
        n = max(map(len, views), default=1)
        return _Columns(margin, (width_mm - margin - RIGHT - (n - 1) * gap) / n, gap)

    is_profiles = [any(isinstance(view, ProfileView) for view in row) for row in rows]
    maps = [row for row, is_one in zip(rows, is_profiles, strict=True) if not is_one]
    are_skies = all(isinstance(view, SkyView) for row in maps for view in row)
    of_maps = share(maps, LEFT, GAP_SKY if are_skies else GAP_X)
    profiles = [row for row, is_one in zip(rows, is_profiles, strict=True) if is_one]
    of_profiles = share(profiles, LEFT_PROFILE, GAP_PROFILE)
    return [of_profiles if is_one else of_maps for is_one in is_profiles]


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
    stretch = MIN_ASPECT / _true_aspect(view)
    if stretch > 1.02:
        text = axes.text(0.99, 0.04, f"{view.up.name} stretched by {stretch:.2g}", transform=axes.transAxes)
        text.set(fontsize=style.small_pt - 1, color="white", ha="right", va="bottom", path_effects=outlined(1.2))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
