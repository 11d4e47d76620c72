"""Figures for a paper, from products stores and a posterior: drawn, with their numbers and captions beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from crdist.errors import CrdistError, RecipeError, SchemaError

__all__ = ["FORMATS", "STYLES", "figures"]

FORMATS = ("pdf", "png", "svg")
STYLES = ("aa",)


def figures(
    products: str | Path,
    out: str | Path,
    *,
    posterior: str | Path | None = None,
    gas: str | Path | None = None,
    emission: str | Path | None = None,
    magellanic: str | Path | None = None,
    literature: str | Path | None = None,
    style: str = "aa",
    formats: Sequence[str] = ("pdf", "png"),
    only: Sequence[str] = (),
    dpi: int | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw the figures of a paper, as far as the stores hold what they show.

    Parameters
    ----------
    products : path
        Products of the cosmic rays: figures 5 to 8, 11 and 12.
    out : path
        Folder for the figures; files of the same names are replaced.
    posterior : path, optional
        Posterior store of the inference: figures 1 and 2, and, of a synthetic sky, 3 and 4.
    gas : path, optional
        Products of the gas in the same frame: figure 9.
    emission : path, optional
        Products of the gamma-ray source density in the same frame: figure 10, which needs the gas as well.
    magellanic : path, optional
        Products of an inference that masked the Magellanic Clouds alone: figures A1 and A2.
    literature : path, optional
        CSV of points that add to or replace the published ones of figure 11, see `literature.read_points`.
    style : {"aa"}
        Sizes of the journal: Astronomy & Astrophysics.
    formats : sequence of {"pdf", "png", "svg"}
    only : sequence of str
        Numbers of the figures to draw, such as ``5`` or ``A1``; default all.
    dpi : int, optional
        Of PNG files; default: the style's.
    say : callable, optional
        Called with a line for each figure that is left out: why, and what to compute. Default: a warning in the log.

    Returns
    -------
    list of Path
        What was written: each figure in every format, its data (FITS of maps, ECSV of profiles) and its text.

    Raises
    ------
    RecipeError
        If a style, format or number is unknown.
    SchemaError
        If a store is none, or nothing at all can be drawn.
    InputFileError
        If the literature cannot be read.
    """
    from crdist_dashboards.figures.data import write_data, write_text
    from crdist_dashboards.figures.layout import lay_out
    from crdist_dashboards.figures.paper import FIGURES, Stores
    from crdist_dashboards.literature import published, read_points
    from crdist_dashboards.products import ProductsSource
    from crdist_dashboards.render.matplotlib import AA, print_settings
    from crdist_dashboards.views.inference import InferenceSource

    _check_names("style", [style], STYLES)
    _check_names("format", formats, FORMATS)
    _check_names("figure", only, [number for number, _ in FIGURES])

    def source(path: str | Path | None) -> ProductsSource | None:
        return None if path is None else ProductsSource(path)

    stores = Stores(
        products=ProductsSource(products),
        posterior=None if posterior is None else InferenceSource(posterior),
        gas=source(gas),
        emission=source(emission),
        magellanic=source(magellanic),
        literature=True if literature is None else published().with_(read_points(literature)),
    )
    widths = {"column": AA.column_mm, "middle": AA.middle_mm, "page": AA.page_mm}
    tell = say or logging.getLogger("crdist").warning
    folder, written, left_out = Path(out), [], []
    for number, make in FIGURES:
        if only and number not in only:
            continue
        try:
            figure = make(stores)
        except CrdistError as error:
            left_out.append(f"figure {number} is left out: {error}")
            tell(left_out[-1])
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with print_settings(AA):
            page = lay_out(figure.rows, widths[figure.width], AA)
            for name in formats:
                path = folder / f"{figure.stem}.{name}"
                # no time of day in the file: the same stores give the same bytes
                metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(name)
                page.savefig(path, dpi=dpi or AA.dpi, metadata=metadata)
                written.append(path)
        written += [*write_data(figure, folder), write_text(figure, folder)]
    if not written:
        why = f" ({left_out[0]})" if len(left_out) == 1 else ""
        raise SchemaError(f"{products}: holds nothing that any of the figures shows{why}")
    return written


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise RecipeError(f"a {what} is one of {', '.join(known)}, got {name!r}")
