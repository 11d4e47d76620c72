"""Fields computed from those of posterior stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crdist.commands.interrupts import whole_or_nothing

if TYPE_CHECKING:
    import xarray as xr

    from crdist.frames import Frame

__all__ = ["derive"]

_FIELD = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<store>.+?)(:(?P<variable>[A-Za-z_]\w*))?")


def derive(
    out: Annotated[Path, typer.Argument(help="Posterior store to create.")],
    expression: Annotated[
        str, typer.Argument(help="What to compute, such as 'k * c * n', from the names given below.")
    ],
    field: Annotated[
        list[str],
        typer.Option(help="A name and its samples: c=posterior.zarr (the main quantity) or n=gas.zarr:n_h; repeated."),
    ],
    constant: Annotated[
        list[str] | None, typer.Option(help="A name and a number with its unit: k='6.8e-18 cm3 s-1'; may be repeated.")
    ] = None,
    emissivity: Annotated[
        str | None,
        typer.Option(help="Preset of gamma rays from hadrons, paper or consistent: k is then K f_N, cm3 s-1."),
    ] = None,
    mean: Annotated[
        list[str] | None, typer.Option(help="Name of a field of which the mean over samples is taken; may be repeated.")
    ] = None,
    on_grid_of: Annotated[
        str | None, typer.Option(help="Name of the field on whose native grid all others are averaged first.")
    ] = None,
    pairing: Annotated[
        str | None,
        typer.Option(
            help="Where samples of different stores meet: 'joint', the same index is one draw of both; 'independent', "
            "the stores know nothing of each other and are paired by index."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the result.")] = "derived",
    long_name: Annotated[
        str | None, typer.Option(help="What the result is, in words; default: the expression.")
    ] = None,
    units: Annotated[str | None, typer.Option(help="Unit of the result; default: what follows.")] = None,
) -> None:
    """Compute a field from others, sample by sample, and write it as a posterior store; shard by shard.

    Correlations stay: what comes from one store is computed from each of its samples.
    """
    from crdist.errors import GridError, RecipeError, StoreExistsError
    from crdist_postproc.analysis.derived import derive as derive_field
    from crdist_postproc.analysis.saving import save

    if out.exists():
        raise StoreExistsError(f"{out}: exists already; choose another name or remove it")
    fields: dict[str, Any] = {}
    frames: dict[str, Frame] = {}
    parents: dict[str, Any] = {}
    for text in field:
        key, array, frame, parent = _field(text)
        if key in fields:
            raise RecipeError(f"--field {text}: {key} is given twice")
        fields[key], frames[key], parents[key] = array, frame, parent
    for key in mean or []:
        fields[key] = _named(fields, key, "--mean").crdist.mean()
        parents[key]["statistic"] = "mean over samples"
    different = next((key for key, frame in frames.items() if frame != next(iter(frames.values()))), None)
    if different is not None:
        first = next(iter(frames))
        raise RecipeError(
            f"{first} and {different} come from stores in different frames: {frames[first]}, {frames[different]}"
        )
    if on_grid_of is not None:
        from crdist_postproc.analysis.native_regrid import on_grid_of as at_cells

        target = _named(fields, on_grid_of, "--on-grid-of")
        fields = {key: at_cells(array, target) for key, array in fields.items()}
    if emissivity is not None:
        from astropy import units as u

        from crdist.emission import Emissivity

        if "k" in fields:
            raise RecipeError("--emissivity gives the name k a meaning; call the field k something else")
        chosen = Emissivity.preset(emissivity)
        fields["k"] = chosen.source_coefficient * u.cm**3 / u.s
        parents["k"] = {"emissivity": chosen.to_dict()}
    for text in constant or []:
        key, value = _constant(text)
        if key in fields:
            raise RecipeError(f"--constant {text}: {key} has a meaning already")
        fields[key] = value
    try:
        made = derive_field(
            expression,
            fields,
            units=units,
            name=name,
            long_name=long_name,
            pairing=pairing,  # type: ignore[arg-type]
        )
    except GridError as error:
        raise RecipeError(f"{str(error).partition(';')[0]}; say on which with --on-grid-of NAME") from error
    with whole_or_nothing():
        header = save(made, out, frame=next(iter(frames.values())), provenance={"parents": parents})
    variable = header.variables[0]
    print(f"{out}: {header.n_sample} samples of {variable.name} [{variable.units}], {variable.long_name}")


def _field(text: str) -> tuple[str, xr.DataArray, Frame, dict[str, Any]]:
    from crdist.errors import RecipeError
    from crdist.schema import read_posterior_header
    from crdist.store import open_posterior

    match = _FIELD.fullmatch(text)
    if match is None:
        raise RecipeError(f"--field {text}: must be NAME=STORE or NAME=STORE:VARIABLE, such as n=gas.zarr:n_h")
    store = match["store"]
    posterior = open_posterior(store)
    header = read_posterior_header(store.removeprefix("file://"))
    quantity = header.resolve(match["variable"] or "density").name
    parent = {"store": store, "quantity": quantity, "provenance": dict(header.provenance)}
    return match["name"], posterior[quantity], header.frame, parent


def _constant(text: str) -> tuple[str, Any]:
    from astropy import units as u

    from crdist.errors import RecipeError
    from crdist.units import parse_unit

    match = re.fullmatch(r"([A-Za-z_]\w*)=\s*([-+.\deE]+?)(?:\s+(\S.*))?", text)
    try:
        if match is not None:
            return match[1], u.Quantity(float(match[2]), parse_unit(match[3] or ""))
    except ValueError as error:
        raise RecipeError(f"--constant {text}: {error}") from error
    raise RecipeError(f"--constant {text}: must be NAME=NUMBER UNIT, such as k='6.8e-18 cm3 s-1'")


def _named(fields: dict[str, Any], key: str, option: str) -> xr.DataArray:
    from crdist.errors import RecipeError

    if key not in fields:
        raise RecipeError(f"{option} {key}: no field has this name; there are {', '.join(fields)}")
    return fields[key]  # type: ignore[no-any-return]
