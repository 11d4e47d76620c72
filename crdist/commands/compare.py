"""Compare two posteriors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crdist.commands.options import Json

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["compare"]

COLUMNS = ("rms", "mean", "within_1", "within_2", "ratio", "known")
KINDS = {"distance": "distance from the Sun", "radius": "Galactocentric radius", "height": "|z|", "all": "all"}


def compare(
    first: Annotated[str, typer.Argument(help="A posterior store, or its URL.")],
    second: Annotated[str, typer.Argument(help="Another, of a field with the same kind of unit.")],
    quantity: Annotated[
        str, typer.Option(help="Quantity of both: density (each store's main one), or a variable by name.")
    ] = "density",
    other_quantity: Annotated[
        str | None, typer.Option(help="Quantity of the second, where it is called differently.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Compare on the grid of a recipe (YAML), in its frame; default: in the cells of the first store.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Override a key of the (default) recipe: grid.voxel=0.5; may be repeated."),
    ] = None,
    distance: Annotated[
        list[float] | None,
        typer.Option(help="Edge of a range of distance from the Sun, kpc; twice or more. Default: several ranges."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write both means and stds and the difference here, as a Zarr store.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two posteriors in standard deviations, by region; their samples are taken for independent."""
    from crdist.errors import RecipeError, StoreExistsError

    if distance is not None and len(distance) < 2:
        raise RecipeError(f"--distance is given twice or more, for the edges of ranges, got {distance[0]:g} alone")
    if out is not None and out.exists():
        raise StoreExistsError(f"{out}: exists already; choose another name or remove it")
    names = (quantity, other_quantity or quantity)
    one, other = (_quantity(place, name) for place, name in zip((first, second), names, strict=True))
    on_grid = recipe is not None or bool(settings)
    compared, rows = (
        _on_grid(one, other, recipe, settings or [], distance) if on_grid else _in_cells(one, other, distance)
    )
    sides = {
        "first": {"store": first, "quantity": str(one.name), "samples": one.sizes["sample"]},
        "second": {"store": second, "quantity": str(other.name), "samples": other.sizes["sample"]},
    }
    if out is not None:
        from crdist_postproc.analysis.common_grid import write_comparison

        write_comparison(compared, out, {**sides, "settings": settings or [], "summary": rows})
    if as_json:
        print(json.dumps({**sides, "frame": compared.attrs.get("frame"), "regions": rows}, indent=1))
        return
    for side, array in zip(sides.values(), (one, other), strict=True):
        print(f"{side['store']}: {side['quantity']} [{array.attrs['units']}], {side['samples']} samples")
    if (one.name, one.attrs.get("long_name")) != (other.name, other.attrs.get("long_name")):
        print(f"note: {one.name!r} and {other.name!r} may be different quantities; --other-quantity chooses another")
    print("(mean - mean) / sqrt(std^2 + std^2), in standard deviations, each volume counted alike;")
    print("known: the part of the volume where both have values, which differ from sample to sample\n")
    print(f"{'region [kpc]':<38}{'rms':>7}{'mean':>8}{'<1':>8}{'<2':>8}{'ratio of means':>16}{'known':>8}")
    for row in rows:
        span = "" if row["kind"] == "all" else f" {row['from_kpc']:.3g} to {row['to_kpc']:.3g}"
        numbers = [
            f"{_shown(row[name], form):>{width}}" for name, form, width in zip(COLUMNS, FORMS, WIDTHS, strict=True)
        ]
        print(f"{KINDS[row['kind']] + span:<38}{''.join(numbers)}")
    if out is not None:
        print(f"\n{out}: written")


FORMS, WIDTHS = (".2f", "+.2f", ".1%", ".1%", ".4g", ".1%"), (7, 8, 8, 8, 16, 8)


def _shown(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def _quantity(place: str, name: str) -> xr.DataArray:
    from crdist.schema import read_posterior_header
    from crdist.store import open_posterior

    posterior = open_posterior(place)
    return posterior[read_posterior_header(place.removeprefix("file://")).resolve(name).name]


def _in_cells(
    one: xr.DataArray, other: xr.DataArray, distance: list[float] | None
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    from crdist_postproc.analysis.comparison import compare as compare_samples
    from crdist_postproc.analysis.comparison import summary_of

    compared = compare_samples(one, other)
    table = summary_of(compared, distance)
    # all cells are the last range there
    order = [table.sizes["range"] - 1, *range(table.sizes["range"] - 1)]
    rows = [_row(table, "range", k, "distance" if place else "all") for place, k in enumerate(order)]
    return compared, rows


def _on_grid(
    one: xr.DataArray, other: xr.DataArray, recipe: Path | None, settings: list[str], distance: list[float] | None
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    from crdist_postproc.analysis.common_grid import REGIONS, compare_on_grid, summary_by_region
    from crdist_postproc.recipe import Recipe

    wanted = Recipe.default() if recipe is None else Recipe.from_yaml(recipe)
    if settings:
        wanted = wanted.with_overrides(settings)
    grid = wanted.grid_record
    options: dict[str, Any] = {"method": wanted.method, "value_space": wanted.value_space, "inner": wanted.inner}
    compared = compare_on_grid(one, other, grid, **options)
    regions = dict(REGIONS) if distance is None else {**REGIONS, "distance": tuple(distance)}
    table = summary_by_region(compared, grid, regions)
    return compared, [_row(table, "region", k, str(table["kind"].values[k])) for k in range(table.sizes["region"])]


def _row(table: xr.Dataset, dim: str, k: int, kind: str) -> dict[str, Any]:
    """One region as plain data; what is not a number, such as the ratio of nothing, is null."""
    line = table.isel({dim: k})
    row: dict[str, Any] = {"kind": kind}
    if kind != "all":
        row |= {"from_kpc": float(line["lower"]), "to_kpc": float(line["upper"])}
    for name in COLUMNS:
        number = float(line[name])
        row[name] = number if math.isfinite(number) else None
    return row
