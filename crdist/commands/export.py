"""Export: what a store holds, in the files and stores that other tools open."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from crdist.commands.interrupts import whole_or_nothing

__all__ = ["export"]


class Values(StrEnum):
    """What of the samples is written."""

    statistics = "statistics"
    samples = "samples"


class Inner(StrEnum):
    """What lies inside the first shell's edge."""

    extend = "extend"
    exclude = "exclude"


def _print_kinds(wanted: bool) -> None:
    if not wanted:
        return
    from crdist.exporters import EXPORTERS

    known, faults = EXPORTERS.working()
    for name, exporter in known.items():
        plugin = EXPORTERS.plugin(name)
        by = f" [{plugin.package}]" if plugin is not None else ""
        print(f"{name:<10} from {' or '.join(exporter.reads)}: {exporter.summary}{by}")
    for fault in faults:
        print(f"crdist: {fault}", file=sys.stderr)
    raise typer.Exit


def export(
    store: Annotated[Path, typer.Argument(help="A posterior or products store.")],
    out: Annotated[Path, typer.Argument(help="File or folder to create; its ending tells the form where it can.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="Form. Posterior: edenhofer, healpix, xdggs or arviz. Products: fits-cube, vtk, ecsv or healpix.",
            metavar="KIND",
        ),
    ] = None,
    quantity: Annotated[
        str | None, typer.Option(help="Quantity of a posterior; default: its main one.", metavar="NAME")
    ] = None,
    product: Annotated[
        list[str] | None,
        typer.Option(help="A product; may be repeated. Default: all that the form can hold.", metavar="NAME"),
    ] = None,
    values: Annotated[
        Values | None, typer.Option(help="Statistics over the samples (default), or each sample.")
    ] = None,
    shell: Annotated[
        int | None, typer.Option(help="One shell of a posterior, counted from 0 at the Sun.", metavar="I")
    ] = None,
    distance: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Integral of a posterior along the line of sight between two distances, in kpc.", metavar="NEAR FAR"
        ),
    ] = None,
    inner: Annotated[
        Inner | None,
        typer.Option(help="Inside the first shell in integrals: its values reach to the Sun (default), or nothing."),
    ] = None,
    kinds: Annotated[
        bool, typer.Option("--list", callback=_print_kinds, is_eager=True, help="List the forms and exit.")
    ] = False,
) -> None:
    """Write a store for other tools: dustmaps, healpy, Aladin, xdggs, ArviZ, DS9, glue, ParaView, astropy."""
    from crdist.exporters import export_store
    from crdist.progress import reporting

    chosen: Literal["statistics", "samples"] | None = None
    if values is not None:
        chosen = "samples" if values is Values.samples else "statistics"
    reach: Literal["extend", "exclude"] | None = None
    if inner is not None:
        reach = "exclude" if inner is Inner.exclude else "extend"
    with whole_or_nothing(), reporting("export") as update:
        written = export_store(
            store,
            out,
            to=to,
            quantity=quantity,
            products=product or (),
            values=chosen,
            shell=shell,
            distance_kpc=distance,
            inner=reach,
            progress=update,
        )
    print(f"{out}: {written}, {_size(out) / 1e6:.3g} MB")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
