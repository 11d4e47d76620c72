"""Figures for a paper, and one page of them for a collaborator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from crdist.commands.options import Json
from crdist.errors import DependencyError

__all__ = ["figures", "report"]


def figures(
    products: Annotated[Path, typer.Argument(help="Products store of the cosmic rays: figures 5 to 8, 11 and 12.")],
    out: Annotated[Path, typer.Argument(help="Folder for the figures; files of the same names are replaced.")],
    posterior: Annotated[
        Path | None, typer.Option(help="Posterior of the inference: figures 1 and 2; of a synthetic sky, 3 and 4.")
    ] = None,
    gas: Annotated[Path | None, typer.Option(help="Products of the gas in the same frame: figure 9.")] = None,
    emission: Annotated[
        Path | None, typer.Option(help="Products of the gamma-ray source density: figure 10, with --gas.")
    ] = None,
    magellanic: Annotated[
        Path | None, typer.Option(help="Products with the Magellanic Clouds alone masked: figures A1 and A2.")
    ] = None,
    literature: Annotated[
        Path | None, typer.Option(help="CSV of points that add to or replace the published ones of figure 11.")
    ] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pdf, png or svg; may be repeated. Default: pdf and png.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Number of a figure, such as 5 or A1; may be repeated.")
    ] = None,
    style: Annotated[str, typer.Option(help="Sizes of a journal: aa.")] = "aa",
    as_json: Json = False,
) -> None:
    """Draw the figures of a paper from products, with their data (FITS, ECSV) and captions beside them."""
    _draw_without_windows()
    from crdist_dashboards.figures import figures as draw

    left_out: list[str] = []

    def say(line: str) -> None:
        left_out.append(line)
        print(line, file=sys.stderr)

    written = draw(
        products,
        out,
        posterior=posterior,
        gas=gas,
        emission=emission,
        magellanic=magellanic,
        literature=literature,
        style=style,
        formats=formats or ("pdf", "png"),
        only=only or (),
        say=say,
    )
    if as_json:
        print(json.dumps({"written": [str(path) for path in written], "left_out": left_out}))
        return
    n_figure = sum(path.suffix == ".txt" for path in written)
    print(f"{out}: {n_figure} figure{'s' * (n_figure != 1)}, {len(written)} files")


def report(
    products: Annotated[Path, typer.Argument(help="Products store.")],
    out: Annotated[Path, typer.Argument(help="Page to write, .html.")],
    posterior: Annotated[Path | None, typer.Option(help="Posterior of the inference: adds its figures.")] = None,
    gas: Annotated[Path | None, typer.Option(help="Products of the gas in the same frame: adds its contours.")] = None,
) -> None:
    """Write one self-contained page: figures, numbers, provenance and a volume to turn around. Needs no internet."""
    _draw_without_windows()
    from crdist_dashboards.report import write_report

    path = write_report(products, out, posterior=posterior, gas=gas)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _draw_without_windows() -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError(
            "figures are drawn by matplotlib, which is not installed; install crdist with its extra 'dashboards'"
        ) from error
    # whatever the user's settings say
    matplotlib.use("agg")
