"""The evidence of an inference: how probable each correlation length and slope is, given the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.records import AxisLabel, MapView, Mark
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale

if TYPE_CHECKING:
    from crdist_dashboards.views.inference import InferenceSource

__all__ = ["evidence_view"]

Array = npt.NDArray[Any]

DEPTH = 12.5
"""What lies farther below the maximum of the log evidence has the lowest colour: five standard deviations."""


def evidence_view(source: InferenceSource) -> MapView:
    """The logarithm of the posterior density of (ln length, ln slope), relative to its maximum.

    Parameters
    ----------
    source : InferenceSource

    Returns
    -------
    MapView
        Its axes are natural logarithms, in which the grid is even; the draws and, of a synthetic sky, the truth
        are marked.

    Raises
    ------
    SchemaError
        If the inference has no grid of evidence, or one that is not even.
    """
    if not source.has("evidence"):
        raise SchemaError(f"{source.path}: holds no evidence grid; the inference did not run in the evidence mode")
    length, slope = np.log(source.read("evidence_length")), np.log(source.read("evidence_slope"))
    values = np.asarray(source.read("evidence"), dtype=np.float64)
    if not np.isfinite(values).any():
        raise SchemaError(f"{source.path}: the evidence grid has no finite value")
    values = values - np.nanmax(values)
    marks, what = _marks(source)
    low = max(float(np.nanmin(values)), -DEPTH)
    below = bool(np.nanmin(values) < low)
    i, j = np.unravel_index(int(np.nanargmax(values)), values.shape)
    best = f"highest at length {np.exp(length[i]):.3g} kpc, slope {np.exp(slope[j]):.3g}"
    return MapView(
        title="Evidence of length and slope",
        statistic="relative to its maximum",
        quantity="logarithm of the posterior density of (ln length, ln slope)",
        values=values.T.astype(np.float32),
        extent=(*_outer(length, source.path), *_outer(slope, source.path)),
        across=AxisLabel("ln_length", "ln(correlation length / kpc)", ""),
        up=AxisLabel("ln_slope", "ln(slope of the spectrum)", ""),
        units="",
        colours=COLOUR_MAPS["std"],
        scale=ColourScale(low if low < 0 else -1.0, 0.0, "linear", 0, "min" if below else "neither"),
        marks=marks,
        notes=(best, *what, *source.notes),
    )


def _marks(source: InferenceSource) -> tuple[tuple[Mark, ...], list[str]]:
    """The places that the samples were drawn at and the truth of a synthetic sky, and what they are, in words."""
    marks: list[Mark] = []
    what = []
    if source.has("draw") and source.n_sample:
        draws, first = np.unique(source.read("draw"), return_index=True)
        what.append(f"{draws.size} draws of length and slope")
        for draw, i in zip(draws, first, strict=True):
            place = np.log(source.read("length")[i]), np.log(source.read("slope")[i])
            marks.append(Mark("source", float(place[0]), float(place[1]), f"draw {draw}"))
    truth = source.attrs.get("truth_hyperparameters") or {}
    if {"length", "slope"} <= set(truth):
        what.append("the truth")
        marks.append(Mark("source", float(np.log(truth["length"])), float(np.log(truth["slope"])), "truth"))
    return tuple(marks), [f"marked: {' and '.join(what)}"] if what else []


def _outer(centres: Array, path: Path) -> tuple[float, float]:
    """Outer edges of an even grid."""
    steps = np.diff(centres)
    if not steps.size or not np.allclose(steps, steps.mean(), rtol=1e-3):
        raise SchemaError(f"{path}: the evidence grid is not even in the logarithm; it cannot be drawn as a map")
    half = float(steps.mean()) / 2
    return float(centres[0]) - half, float(centres[-1]) + half
