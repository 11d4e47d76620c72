"""Stores: import, pack, describe and check them; and the recipe that products are made by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from crdist.commands.interrupts import whole_or_nothing
from crdist.commands.options import Json, counted

__all__ = ["check", "import_", "info", "pack", "recipe_"]

REMEDY = (
    "Products: remove the named files and run the same 'crdist post' again, which computes just those blocks (where a "
    "zarr.json is damaged, remove the store). A posterior: import or pack it anew."
)
FAR_KPC = 150.0
"""The Galaxy ends before."""

UNFINISHED = "not finished, and sound as far as it goes; run the same 'crdist post' again, which computes the rest"


def import_(
    file: Annotated[Path, typer.Argument(help="A published map: FITS or .npz.")],
    store: Annotated[Path, typer.Argument(help="Posterior store to create (Zarr).")],
    layout: Annotated[str | None, typer.Option(help="Layout of the file; default: recognised.")] = None,
    units: Annotated[
        str | None, typer.Option(help="Unit of the density, where the file does not say it or says it wrongly.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the variable, where the layout leaves it open.")] = None,
) -> None:
    """Turn a published map into a posterior store, streamed: memory stays below 1 GiB."""
    from crdist.importers import import_map
    from crdist.progress import reporting

    with whole_or_nothing(), reporting("import") as update:
        header = import_map(file, store, layout=layout, units=units, name=name, progress=update)
    names = ", ".join(f"{variable.name} [{variable.units}]" for variable in header.variables)
    print(
        f"{store}: {header.n_sample} samples of {names} on nside {header.grid.nside} x {header.grid.n_shell} shells, "
        f"{header.grid.edges_kpc[0]:g} to {header.grid.edges_kpc[-1]:g} kpc"
    )
    if header.grid.edges_kpc[-1] > FAR_KPC:
        print(
            f"note: shells reach farther than {FAR_KPC:g} kpc; see that the file's distances are what it says, not pc"
        )


def pack(
    source: Annotated[Path, typer.Argument(help="A posterior store, such as one that an inference appended to.")],
    target: Annotated[Path, typer.Argument(help="Posterior store to create.")],
) -> None:
    """Rewrite a posterior with all samples of a cell together, which is what a regrid reads fastest."""
    from crdist.store import pack as pack_store

    with whole_or_nothing():
        header = pack_store(source, target)
    print(f"{target}: {header.n_sample} samples packed")


def recipe_(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe to check and print in full.")] = None,
) -> None:
    """Print the default recipe with its comments, to start one's own from; or check one and print it in full."""
    from importlib import resources

    import yaml

    from crdist_postproc.recipe import Recipe

    if recipe is None:
        print((resources.files("crdist_postproc") / "recipes" / "default.yaml").read_text(), end="")
    else:
        print(
            yaml.safe_dump(Recipe.from_yaml(recipe).to_dict(), sort_keys=False, default_flow_style=None),
            end="",
        )


def info(store: Annotated[Path, typer.Argument(help="A posterior or products store.")], as_json: Json = False) -> None:
    """Say what a store holds."""
    from crdist.describe import describe, render

    content = describe(store)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        render(content)


def check(store: Annotated[Path, typer.Argument(help="A posterior or products store.")], as_json: Json = False) -> None:
    """Read a whole store: schema, checksums, completeness. Names each bad chunk."""
    from crdist.check import INCOMPLETE, check_store
    from crdist.progress import reporting

    with reporting("check") as update:
        problems = check_store(store, progress=update)
    if as_json:
        print(json.dumps([str(problem) for problem in problems], indent=1))
    elif problems:
        damaged = [problem for problem in problems if not problem.what.startswith(INCOMPLETE)]
        for problem in damaged or problems:
            print(problem)
        if not damaged:
            print(f"{store}: {UNFINISHED}")
        elif any(problem.array or problem.file for problem in damaged):
            print(f"{store}: {counted(len(damaged), 'problem')}. {REMEDY}")
    else:
        print(f"{store}: sound")
    if problems:
        raise typer.Exit(1)
