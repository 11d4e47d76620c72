"""The course of an inference: energy, chi^2 and hyperparameters against the iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crdist.schema import INFERENCE_VARIABLES
from crdist_dashboards.records import AxisLabel, Band, Line, ProfileView
from crdist_dashboards.scales import LOG_SPAN, power_of_ten

if TYPE_CHECKING:
    from crdist_dashboards.views.inference import InferenceSource

__all__ = ["COURSES", "course_view"]

MINUS = "\N{MINUS SIGN}"

COURSES = {
    "energy": ("iteration_energy", "variational energy"),
    "reduced chi2": ("iteration_reduced_chi2", "χ² per used pixel, mean over samples"),
    "length": ("iteration_length", "correlation length"),
    "slope": ("iteration_slope", "slope of the spectrum"),
    "scale": ("iteration_scale", "prior standard deviation of ln(density)"),
    "offset": ("iteration_offset", "prior mean of ln(density / cm⁻³)"),
}
"""Variable and words of each curve."""


def course_view(source: InferenceSource, name: str) -> ProfileView:
    """One quantity against the iteration, interrupted between draws, which are not one course.

    Parameters
    ----------
    source : InferenceSource
    name : str
        Of `COURSES`, and in the store.

    Raises
    ------
    SchemaError
        If it cannot be read.
    """
    variable, words = COURSES[name]
    values = np.asarray(source.read(variable), dtype=np.float64)
    draws = source.read("iteration_draw") if source.has("iteration_draw") else np.zeros(values.size, dtype=int)
    starts = np.flatnonzero(np.diff(draws)) + 1
    number = np.arange(1.0, values.size + 1)
    # a gap between draws: they are not one course
    x = np.insert(number, starts, number[starts] - 0.5)
    mean = np.insert(values, starts, np.nan)
    bands: tuple[Band, ...] = ()
    if source.has(f"{variable}_std"):
        std = np.insert(np.asarray(source.read(f"{variable}_std"), dtype=np.float64), starts, np.nan)
        bands = (Band(mean - std, mean + std, "± std over samples"),)
    lines = []
    truth = source.attrs.get("truth_hyperparameters") or {}
    ends = (0.5, values.size + 0.5)
    if name in truth:
        lines.append(
            Line(
                "truth",
                np.array(ends),
                np.full(2, float(truth[name])),
                f"truth {truth[name]:g}".replace("-", MINUS),
            )
        )
    if name == "reduced chi2":
        lines.append(Line("reference", np.array(ends), np.ones(2), "1"))
    parts = [mean, *(band.lower for band in bands), *(band.upper for band in bands), *(line.y for line in lines)]
    every = np.concatenate(parts)
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    is_log = low > 0 and high > LOG_SPAN * low
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    limits = (low / 1.3, high * 1.3) if is_log else (low - margin, high + margin)
    for start in starts:
        lines.append(Line("place", np.full(2, start + 0.5), np.array(limits), ""))
    n_draw = np.unique(draws).size
    return ProfileView(
        title=words if words.startswith("χ") else words[:1].upper() + words[1:],
        statistic=f"{values.size} iterations" + (f", {n_draw} draws" if n_draw > 1 else ""),
        quantity=words,
        across=AxisLabel("iteration", "iteration", ""),
        up=AxisLabel(name.replace(" ", "_"), words, INFERENCE_VARIABLES[variable].units),
        x=x,
        mean=mean,
        samples=np.empty((x.size, 0)),
        bands=bands,
        lines=tuple(lines),
        x_limits=ends,
        y_limits=limits,
        up_kind="log" if is_log else "linear",
        power=0 if is_log else power_of_ten(max(map(abs, limits))),
        notes=source.notes,
    )
