"""The layout of the 3D dust map of Edenhofer et al. 2024, A&A 685, A82, which dustmaps reads.

Images (shell, pixel) of the mean and the standard deviation, or one (sample, shell, pixel); what lies between the Sun
and the first shell's inner edge, integrated; shell centres and edges in pc. The published file has an inner part of its
own; here it is the first shell's density reaching to the Sun, or it is left out. dustmaps integrates over pc: of a
density that is not per pc, its integrals are in that density's unit times pc.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.fitsfile import FitsPart, about_samples, column_table, image, primary, write_parts
from crdist.exporters.provenance import comments_of, provenance_of
from crdist.exporters.samples import Samples, open_samples
from crdist.exporters.target import ArrayInFile
from crdist.units import integral_unit

__all__ = ["EDENHOFER"]


def write_edenhofer(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write one quantity of a posterior in this layout.

    Raises
    ------
    SchemaError
        If the store is no posterior, or has no such quantity.
    """
    samples = open_samples(source, options.quantity)
    inner = options.inner != "exclude"
    tables = [
        column_table("radial pixel centers", samples.header.grid.n_shell, "pc"),
        column_table("radial pixel boundaries", samples.header.grid.n_shell + 1, "pc"),
    ]
    if options.values == "samples":
        parts = _sample_images(samples, inner)
    else:
        parts = _statistics_images(samples, inner)
    with write_parts(target, [*parts, *tables]) as arrays:
        *images, centres, edges = arrays
        _write_distances(samples, centres, edges)
        regions = samples.regions()
        for done, region in enumerate(regions, 1):
            if options.values == "samples":
                for some, values in samples.parts(region):
                    images[0].write((some, region.shells, region.pixels), values.transpose(2, 1, 0))
                    if inner and region.shells.start == 0:
                        images[1].write((some, region.pixels), values[:, 0].T * _inner_pc(samples))
            else:
                for i, statistic in enumerate(samples.statistics(region)):
                    images[1 + i].write((region.shells, region.pixels), statistic.T)
                    if inner and region.shells.start == 0:
                        # a sample's integral is its density times a length, so this holds for the std, too
                        images[3 + i].write((region.pixels,), statistic[:, 0] * _inner_pc(samples))
            tell(done, len(regions))
    what = "samples" if options.values == "samples" else "mean and standard deviation"
    return f"{what} of {samples.quantity.name} [{samples.quantity.units}] as dustmaps reads them"


def _sample_images(samples: Samples, inner: bool) -> list[FitsPart]:
    grid = samples.header.grid
    parts = [
        image(
            None,
            (samples.n_sample, grid.n_shell, grid.n_pixel),
            _cards(samples, samples.quantity.units, "each sample"),
            provenance=provenance_of(samples),
            comments=comments_of(samples),
        )
    ]
    if inner:
        within = _within(samples)
        cards = _cards(samples, _integrated_unit(samples), "each sample", f"inner density integrated within {within}pc")
        parts.append(image(f"integrated inner {within} pc", (samples.n_sample, grid.n_pixel), cards))
    return parts


def _statistics_images(samples: Samples, inner: bool) -> list[FitsPart]:
    grid, units, within = samples.header.grid, samples.quantity.units, _within(samples)
    parts = [
        primary(about_samples(samples), provenance_of(samples), comments_of(samples)),
        image("mean", (grid.n_shell, grid.n_pixel), _cards(samples, units, "mean")),
        image("std.", (grid.n_shell, grid.n_pixel), _cards(samples, units, "standard deviation (ddof=1)")),
    ]
    if inner:
        text = f"inner density integrated within {within}pc"
        mean = _cards(samples, _integrated_unit(samples), "mean", text)
        std = _cards(samples, _integrated_unit(samples), "standard deviation (ddof=1)", f"std. of {text}")
        parts.append(image(f"mean of integrated inner {within} pc", (grid.n_pixel,), mean))
        parts.append(image(f"std. of integrated inner {within} pc", (grid.n_pixel,), std))
    return parts


def _cards(samples: Samples, units: str, statistic: str, kind: str | None = None) -> dict[str, tuple[Any, str]]:
    grid = samples.header.grid
    cards: dict[str, tuple[Any, str]] = {
        "NSIDE": (grid.nside, "HEALPix resolution"),
        "ORDERING": ("NESTED" if grid.ordering == "nested" else "RING", "HEALPix pixel order"),
        "COORDSYS": ("G", "Galactic coordinates"),
        # the published file has CUNIT, other tools look for BUNIT
        "CUNIT": (units, "unit of the values"),
        "BUNIT": (units, "unit of the values"),
        "STATIST": (statistic, "over the samples"),
    }
    if kind is not None:
        cards["CTYPE"] = (kind, "")
    return {**cards, **about_samples(samples)}


def _write_distances(samples: Samples, centres: ArrayInFile, edges: ArrayInFile) -> None:
    grid = samples.header.grid
    for array, values in ((centres, grid.centres), (edges, grid.edges)):
        array.write((slice(0, values.size), slice(0, 1)), values[:, None] * 1e3)


def _inner_pc(samples: Samples) -> np.float64:
    return np.float64(samples.header.grid.edges_kpc[0] * 1e3)


def _within(samples: Samples) -> str:
    return f"{_inner_pc(samples):.6g}"


def _integrated_unit(samples: Samples) -> str:
    """Unit of an integral over pc, the length by which dustmaps integrates."""
    units = samples.quantity.units
    whole, factor = integral_unit(units)
    # a density per pc times kpc is a thousand of its integral's units
    return whole if np.isclose(factor, 1e3, rtol=1e-12) else f"{units} pc"


EDENHOFER = Exporter(
    name="edenhofer",
    reads=("posterior",),
    suffixes=(".fits",),
    options=frozenset({"quantity", "values", "inner"}),
    summary="FITS in the layout of Edenhofer et al. 2024: mean and std, or samples; dustmaps, crdist import",
    write=write_edenhofer,
)
