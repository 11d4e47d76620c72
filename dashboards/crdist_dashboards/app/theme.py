"""Colours of the page and its figures, on light and dark ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

__all__ = ["DARK", "LIGHT", "Theme", "style_figure", "style_of_choices"]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of text, ground and data that are not a map."""

    name: str
    ground: str
    panel: str
    text: str
    faint: str
    grid: str
    accent: str
    mean: str
    sample: str
    fit: str
    points: tuple[str, ...]


LIGHT = Theme(
    "default",
    ground="#ffffff",
    panel="#f4f5f7",
    text="#1d2330",
    faint="#5d6678",
    grid="#e3e6eb",
    accent="#1f4e9c",
    mean="#1f3b73",
    sample="#4c72b0",
    fit="#c2334d",
    points=("#b5521b", "#2b7a4b", "#6b3fa0", "#7a6a00"),
)
DARK = Theme(
    "dark",
    ground="#14171d",
    panel="#1d222b",
    text="#e2e6ee",
    faint="#98a2b5",
    grid="#2b313c",
    accent="#7fb0ff",
    mean="#cfe0ff",
    sample="#6f9be0",
    fit="#ff7d92",
    points=("#ffab70", "#7fdca4", "#c9a5ff", "#e6d36a"),
)


def style_of_choices(theme: Theme) -> list[str]:
    """Style sheets of tabs and of buttons to choose by: what is chosen can be told on both grounds."""
    chosen = f"color: {theme.text} !important; box-shadow: inset 0 -3px 0 {theme.accent} !important;"
    return [f":host .bk-tab.bk-active, :host .bk-btn.bk-active {{ {chosen} }}"]


def style_figure(figure: Figure, theme: Theme, *, size: str = "11px") -> None:
    """Colours and letters of a figure, its axes, its title and its legend."""
    figure.background_fill_color = theme.ground
    figure.border_fill_color = theme.ground
    figure.outline_line_color = theme.grid
    if figure.title is not None:
        figure.title.text_color = theme.text
        figure.title.text_font_size = "12px"
        figure.title.text_font_style = "normal"
        figure.title.text_line_height = 1.15
    for axis in figure.axis:
        axis.axis_label_text_color = theme.text
        axis.axis_label_text_font_size = size
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_standoff = 4
        axis.major_label_text_color = theme.text
        axis.major_label_text_font_size = size
        axis.axis_line_color = theme.faint
        axis.major_tick_line_color = theme.faint
        axis.minor_tick_line_color = None
    figure.grid.grid_line_color = theme.grid
