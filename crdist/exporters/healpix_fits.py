"""HEALPix tables: what healpy and Aladin read, and, of all shells with their samples, the layout that crdist imports.

One table a shell with R_INNER and R_OUTER in kpc, or one table of a shell or of an integral along the line of sight.
Its columns are the mean, the standard deviation and the significance over samples, or the samples. Of products: their
maps of the sky.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.errors import RecipeError
from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.fitsfile import (
    MAX_COLUMNS,
    FitsPart,
    HealpixTable,
    about_samples,
    healpix_table,
    primary,
    write_parts,
)
from crdist.exporters.product_fits import sky_part, write_product_parts
from crdist.exporters.products import MAP_ARRAYS, is_posterior, open_products_for_export
from crdist.exporters.provenance import comments_of, provenance_of
from crdist.exporters.samples import Samples, SkyMap, open_samples, significance, statistics_of

__all__ = ["HEALPIX"]


def write_healpix(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write the shells of a posterior, a map made of it, or the sky maps of products.

    Raises
    ------
    RecipeError
        If the options do not fit, or there are more samples than a table can have columns.
    SchemaError
        If the store is not one of crdist, or has no such quantity or product.
    """
    if not is_posterior(source):
        return _write_products(source, target, options, tell)
    samples = open_samples(source, options.quantity)
    chosen = SkyMap.chosen(samples, options)
    if options.values == "samples" and samples.n_sample > MAX_COLUMNS:
        raise RecipeError(
            f"{source}: {samples.n_sample} samples, but a FITS table has at most {MAX_COLUMNS} columns; export the "
            "statistics, or the samples as 'edenhofer' or 'xdggs'"
        )
    if chosen is not None:
        return _write_map(chosen, target, options, tell)
    return _write_shells(samples, target, options, tell)


def _write_shells(samples: Samples, target: Path, options: ExportOptions, tell: Tell) -> str:
    grid = samples.header.grid
    parts = [primary({**about_samples(samples), **_n_shell(samples)}, provenance_of(samples), comments_of(samples))]
    for shell in range(grid.n_shell):
        cards = {**_distances(grid.edges_kpc[shell], grid.edges_kpc[shell + 1]), **_n_shell(samples)}
        parts.append(_table(f"SHELL_{shell:04d}", samples, samples.quantity.units, options, cards))
    with write_parts(target, parts) as (_, *arrays):
        tables = [HealpixTable(array) for array in arrays]
        regions = samples.regions()
        for done, region in enumerate(regions, 1):
            here = tables[region.shells]
            if options.values == "samples":
                for some, values in samples.parts(region):
                    for i, table in enumerate(here):
                        table.write(region.pixels, some, values[:, i])
            else:
                mean, std = samples.statistics(region)
                for i, table in enumerate(here):
                    table.write(region.pixels, slice(0, 3), _statistics(mean[:, i], std[:, i]))
            tell(done, len(regions))
    return f"{samples.quantity.name} [{samples.quantity.units}] in {grid.n_shell} HEALPix tables, one a shell"


def _write_map(chosen: SkyMap, target: Path, options: ExportOptions, tell: Tell) -> str:
    samples = chosen.samples
    near, far = chosen.limits_kpc
    if chosen.shell is not None:
        name, cards = f"SHELL_{chosen.shell:04d}", _distances(near, far)
    else:
        name = "SIGHTLINE"
        cards = {"D_NEAR": (near, "[kpc] integrated from"), "D_FAR": (far, "[kpc] integrated to")}
    parts = [
        primary(about_samples(samples, chosen.long_name), provenance_of(samples), comments_of(samples)),
        _table(name, samples, chosen.units, options, cards, chosen.long_name, with_coverage=chosen.shell is None),
    ]
    with write_parts(target, parts) as (_, array):
        table = HealpixTable(array)
        for done, (pixels, values, coverage) in enumerate(chosen.pieces(), 1):
            if options.values == "samples":
                table.write(pixels, slice(0, samples.n_sample), values)
            else:
                columns = _statistics(*statistics_of(values))
                if chosen.shell is None:
                    columns = np.column_stack([columns, coverage])
                table.write(pixels, slice(0, columns.shape[1]), columns)
            tell(done, chosen.n_piece())
    return f"{chosen.long_name} [{chosen.units}] as a HEALPix table"


def _write_products(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    store = open_products_for_export(source, ("sky",), options)
    columns = MAP_ARRAYS if options.values != "samples" else ("per_sample",)
    parts = [sky_part(product, columns) for product in store.products]
    return write_product_parts(store, parts, target, tell)


def _table(
    name: str,
    samples: Samples,
    units: str,
    options: ExportOptions,
    cards: dict[str, tuple[Any, str]],
    long_name: str | None = None,
    *,
    with_coverage: bool = False,
) -> FitsPart:
    grid = samples.header.grid
    if options.values == "samples":
        columns = [(f"SAMPLE_{i}", units) for i in range(samples.n_sample)]
        statistic = "each sample"
    else:
        columns = [("MEAN", units), ("STD", units), ("SIGNIFICANCE", "")]
        statistic = "mean, std (ddof=1), mean / std" + ", coverage" * with_coverage
        if with_coverage:
            columns.append(("COVERAGE", ""))
    cards = {**cards, "STATIST": (statistic, ""), **about_samples(samples, long_name)}
    return healpix_table(name, grid.nside, grid.ordering, columns, cards)


def _statistics(mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack([mean, std, significance(mean, std)])


def _distances(near: float, far: float) -> dict[str, tuple[Any, str]]:
    return {"R_INNER": (near, "[kpc] inner edge"), "R_OUTER": (far, "[kpc] outer edge")}


def _n_shell(samples: Samples) -> dict[str, tuple[Any, str]]:
    return {"NSHELL": (samples.header.grid.n_shell, "shells of the whole map")}


HEALPIX = Exporter(
    name="healpix",
    reads=("posterior", "products"),
    suffixes=(".fits",),
    options=frozenset({"quantity", "products", "values", "shell", "distance_kpc", "inner"}),
    summary="HEALPix FITS: all shells, one shell, an integral, or sky products; healpy, Aladin, crdist import",
    write=write_healpix,
)
