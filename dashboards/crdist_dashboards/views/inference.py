"""What an inference did: the sky it fitted, how well, its course, its evidence; and slices on its own grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import CrdistError, SchemaError
from crdist.schema import (
    INFERENCE_GROUP,
    INFERENCE_VARIABLES,
    POSTERIOR_SCHEMA,
    PosteriorHeader,
    open_group,
    read_posterior_header,
)
from crdist_dashboards.records import MapView, ProfileView, SkyView
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, ScaleKind, colour_scale
from crdist_dashboards.views.course import COURSES, course_view
from crdist_dashboards.views.evidence import evidence_view
from crdist_dashboards.views.sky import N_ROW, Projection, sky_view

__all__ = ["HYPERPARAMETERS", "InferenceSource"]

Array = npt.NDArray[Any]
SkyName = Literal["data", "prediction", "residual"]

HYPERPARAMETERS = ("length", "slope", "scale", "offset")

MINUS = "\N{MINUS SIGN}"

RESIDUAL_SIGMA = 3.0
"""Ends of the scale of residuals."""

N_TRY = 5
"""How often a store that changes while it is opened is opened again."""


class InferenceSource:
    """The group ``inference`` of a posterior store, which may still grow.

    Parameters
    ----------
    path : path
        A posterior store that an inference wrote.

    Raises
    ------
    SchemaError
        If it is none, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        for _ in range(N_TRY):
            self._version = self._stamp()
            self.header: PosteriorHeader = read_posterior_header(self.path)
            # through the root, whose copy of the metadata is one moment's
            self._root = open_group(self.path, POSTERIOR_SCHEMA)
            # a sample that came in between would be in one of them alone
            if self._stamp() == self._version:
                break
        group = self._root.get(INFERENCE_GROUP)
        if not isinstance(group, zarr.Group):
            raise SchemaError(
                f"{self.path}: has no group {INFERENCE_GROUP!r}; its samples do not come from an inference"
            )
        self._group = group
        self._arrays: dict[str, Array] = {}

    def _stamp(self) -> int:
        try:
            return (self.path / "zarr.json").stat().st_mtime_ns
        except OSError as error:
            raise SchemaError(f"{self.path}: no such store") from error

    @property
    def version(self) -> tuple[Path, int]:
        """Changes when samples were added."""
        return self.path.absolute(), self._version

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the group: status, warnings, settings, validation."""
        return self._group.attrs.asdict()

    @property
    def status(self) -> str:
        """``running`` or ``complete``."""
        return str(self.attrs.get("status", ""))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of each view must know."""
        return () if self.status == "complete" else ("unfinished inference",)

    @property
    def n_sample(self) -> int:
        """Samples that are there by now."""
        return self.header.n_sample

    @property
    def is_synthetic(self) -> bool:
        """Whether the density that made the sky is known."""
        return self.has("truth")

    def has(self, name: str) -> bool:
        """Whether the group holds a variable."""
        return name in self._group

    def refresh(self) -> bool:
        """Look whether samples were added, or the store was made anew."""
        if self._stamp() == self._version:
            return False
        self._open()
        return True

    def read(self, name: str) -> Array:
        """A variable of the group, whole; kept until the store changes.

        Raises
        ------
        SchemaError
            If there is no such variable, or it cannot be read.
        """
        if name not in self._arrays:
            self._arrays[name] = _read(self._group.get(name), f"{self.path}: {INFERENCE_GROUP}/{name}")
        return self._arrays[name]

    def sky_view(
        self,
        what: SkyName,
        *,
        scale: ScaleKind | ColourScale = "auto",
        projection: Projection = "mollweide",
        centre: tuple[float, float] = (0.0, 0.0),
        size_deg: float = 30.0,
        n_row: int = N_ROW,
    ) -> SkyView:
        """The measured sky, the one that the samples predict on average, or what is between them.

        Parameters
        ----------
        what : {"data", "prediction", "residual"}
            The residual is the mean over samples of (prediction - data) / sigma, where a pixel was fitted. The data
            are shown where they were fitted, the prediction everywhere.
        scale, projection, centre, size_deg, n_row
            As for `crdist_dashboards.views.sky.sky_view`; prediction and data have the scale of the data by default.

        Raises
        ------
        SchemaError
            If the group lacks the data, or there is no sample yet to predict anything.
        """
        used = np.asarray(self.read("used"), dtype=bool)
        data = np.where(used, self.read("data"), np.nan)
        units = INFERENCE_VARIABLES["data"].units
        statistic, quantity, colours = "measured", "gamma-ray intensity", COLOUR_MAPS["mean"]
        if what == "data":
            values = data
        else:
            values = self._prediction()
            statistic, quantity = f"mean of {self.n_sample} samples", "predicted gamma-ray intensity"
        if what == "residual":
            values = (values - data) / self.read("sigma")
            statistic, units, colours = f"mean of {self.n_sample} samples", "", COLOUR_MAPS["residual"]
            quantity = f"(prediction {MINUS} data) / standard deviation"
        if not isinstance(scale, ColourScale):
            scale = _residual_scale(values) if what == "residual" else colour_scale(data, scale)
        notes = [f"{int((~used).sum())} of {used.size} pixels masked"]
        if what == "residual":
            notes.append(f"root mean square {float(np.sqrt(np.nanmean(values**2))):.3g}")
        return sky_view(
            values,
            _read(self._root.get("cell_ids"), f"{self.path}: cell_ids"),
            self.header.grid.level,
            self.header.grid.ordering,
            statistic=statistic,
            title={"data": "Data", "prediction": "Prediction", "residual": "Residual"}[what],
            quantity=quantity,
            units=units,
            colours=colours,
            scale=scale,
            projection=projection,
            centre=centre,
            size_deg=size_deg,
            mask=~used,
            notes=[*notes, *self.notes],
            n_row=n_row,
        )

    def sky_views(
        self,
        *,
        scale: ScaleKind | ColourScale = "auto",
        projection: Projection = "mollweide",
        centre: tuple[float, float] = (0.0, 0.0),
        size_deg: float = 30.0,
        n_row: int = N_ROW,
    ) -> tuple[SkyView, ...]:
        """Data and prediction on one scale, and the residual; the data alone while there is no sample.

        Parameters
        ----------
        scale, projection, centre, size_deg, n_row
            As for `sky_view`.
        """
        names: tuple[SkyName, ...] = ("data", "prediction", "residual") if self.n_sample else ("data",)
        return tuple(
            self.sky_view(
                name,
                scale="auto" if name == "residual" else scale,
                projection=projection,
                centre=centre,
                size_deg=size_deg,
                n_row=n_row,
            )
            for name in names
        )

    def course(self) -> tuple[ProfileView, ...]:
        """Energy, reduced chi^2 and hyperparameters against the iteration, interrupted between draws.

        Returns
        -------
        tuple of ProfileView
            Those that are stored; hyperparameters with a band of their standard deviation over samples, and the truth
            of a synthetic sky.

        Raises
        ------
        SchemaError
            If no iteration is finished yet.
        """
        if not self.has("iteration_energy") or not self.read("iteration_energy").size:
            raise SchemaError(f"{self.path}: no iteration is stored yet")
        return tuple(course_view(self, name) for name, (variable, _) in COURSES.items() if self.has(variable))

    def evidence(self) -> MapView:
        """The logarithm of the posterior density of correlation length and slope, relative to its maximum.

        Returns
        -------
        MapView
            See `evidence_view`.

        Raises
        ------
        SchemaError
            If the inference has no grid of evidence: it ran in another mode.
        """
        return evidence_view(self)

    def summary(self) -> tuple[tuple[str, str], ...]:
        """What a reader asks first, as pairs of words: status, samples, hyperparameters, fit, time, warnings."""
        attrs, truth = self.attrs, self.attrs.get("truth_hyperparameters") or {}
        rows = [("status", self.status)]
        draws = np.unique(self.read("draw")).size if self.has("draw") and self.n_sample else 0
        rows.append(("samples", f"{self.n_sample}" + (f" in {draws} draws" if draws > 1 else "")))
        for name in HYPERPARAMETERS:
            if not self.has(name) or not self.n_sample:
                continue
            values = np.asarray(self.read(name), dtype=np.float64)
            spread = f" ± {values.std(ddof=1):.2g}" if values.size > 1 else ""
            meant = f" (truth {truth[name]:g})" if name in truth else ""
            unit = f" {INFERENCE_VARIABLES[name].units}".rstrip()
            text = f"{values.mean():.3g}{spread}{unit}{meant}".replace("-", MINUS)
            rows.append((INFERENCE_VARIABLES[name].long_name, text))
        if self.has("used"):
            used = np.asarray(self.read("used"), dtype=bool)
            rows.append(("fitted pixels", f"{int(used.sum())} of {used.size} (nside {self.header.grid.nside})"))
            if self.n_sample and self.has("sky"):
                rows.append(("χ² per fitted pixel", self._chi2(used)))
        if self.has("iteration_seconds") and (seconds := self.read("iteration_seconds")).size:
            rows.append(("iterations", f"{seconds.size} in {_duration(float(np.nansum(seconds)))}"))
        checks = attrs.get("validation") or {}
        if "passed" in checks:
            rows.append(("validation against the truth", "passed" if checks["passed"] else "FAILED"))
        for key in ("warnings", "notes"):
            said = attrs.get(key) or []
            rows += [(key.rstrip("s"), str(text)) for text in said] or [(key, "none")]
        return tuple(rows)

    def _prediction(self) -> Array:
        if not self.n_sample or not self.has("sky"):
            raise SchemaError(f"{self.path}: holds no sample yet; the inference is {self.status or 'running'}")
        return np.asarray(np.mean(self.read("sky"), axis=1, dtype=np.float64))

    def _chi2(self, used: Array) -> str:
        data, sigma = self.read("data")[used], self.read("sigma")[used]
        sky = np.asarray(self.read("sky"), dtype=np.float64)[used]
        of_samples = np.mean(((sky - data[:, None]) / sigma[:, None]) ** 2)
        of_mean = np.mean(((sky.mean(axis=1) - data) / sigma) ** 2)
        return f"{of_samples:.3g} mean over samples, {of_mean:.3g} of their mean"


def _read(array: Any, what: str) -> Array:
    if not isinstance(array, zarr.Array):
        raise SchemaError(f"{what} is missing; it is not from an inference of this schema, or damaged")
    try:
        return np.asarray(array[...])
    except CrdistError:
        raise
    except Exception as error:  # zarr and its codecs raise many kinds for a chunk that is damaged
        text = " ".join(str(error).split()) or type(error).__name__
        raise SchemaError(f"{what} cannot be read: {text[:160]}") from error


def _residual_scale(values: Array) -> ColourScale:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise SchemaError("a map without a finite value has no colour scale")
    below, above = bool((finite < -RESIDUAL_SIGMA).any()), bool((finite > RESIDUAL_SIGMA).any())
    extend: Literal["neither", "min", "max", "both"] = (
        "both" if below and above else "min" if below else "max" if above else "neither"
    )
    return ColourScale(-RESIDUAL_SIGMA, RESIDUAL_SIGMA, "linear", 0, extend)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
