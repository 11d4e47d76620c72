"""Export a store in a form that another tool reads, in pieces and whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from crdist.errors import CrdistError, RecipeError, RunError
from crdist.exporters.arviz import ARVIZ
from crdist.exporters.ecsv import ECSV
from crdist.exporters.edenhofer import EDENHOFER
from crdist.exporters.exporter import Exporter, ExportOptions
from crdist.exporters.fits_cube import FITS_CUBE
from crdist.exporters.healpix_fits import HEALPIX
from crdist.exporters.products import is_posterior
from crdist.exporters.target import new_target
from crdist.exporters.vtk_image import VTK
from crdist.exporters.xdggs import XDGGS
from crdist.plugins import PluginTable

__all__ = ["EXPORTERS", "export_store"]

EXPORTERS: PluginTable[Exporter] = PluginTable(
    "crdist.exporters",
    Exporter,
    {exporter.name: exporter for exporter in (EDENHOFER, HEALPIX, XDGGS, ARVIZ, FITS_CUBE, VTK, ECSV)},
)
"""The forms in which a store can be exported, by name; installed packages add to them."""


def export_store(
    source: str | Path,
    target: str | Path,
    *,
    to: str | None = None,
    quantity: str | None = None,
    products: Sequence[str] = (),
    values: Literal["statistics", "samples"] | None = None,
    shell: int | None = None,
    distance_kpc: tuple[float, float] | None = None,
    inner: Literal["extend", "exclude"] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Export a posterior or products store.

    The store is read in pieces, so that any size fits in a few hundred MiB of memory. The target appears when it is
    complete; after an error or a kill there is none.

    Parameters
    ----------
    source : path
        A posterior or products store.
    target : path
        File or folder to create; it must not exist.
    to : str, optional
        One of `EXPORTERS`; by default the one form in which such a store can have the target's ending.
    quantity : str, optional
        Variable or derived quantity of a posterior; by default its main one.
    products : sequence of str
        Names of products; by default all that the form can hold.
    values : {"statistics", "samples"}, optional
        Statistics over the samples, the default, or each sample.
    shell : int, optional
        One shell of a posterior, counted from 0 at the Sun.
    distance_kpc : (float, float), optional
        The integral of a posterior along each line of sight between two distances, kpc.
    inner : {"extend", "exclude"}, optional
        Whether in integrals the first shell's values reach to the Sun, the default, or nothing does.
    progress : callable, optional
        Called with the number of pieces written and their total.

    Returns
    -------
    str
        What was written, in some words.

    Raises
    ------
    SchemaError
        If the source is not a store of crdist, not complete, or has no such quantity.
    RecipeError
        If an option does not fit.
    StoreExistsError
        If the target exists.
    DependencyError
        If an optional package that writes the form is not installed.
    RunError
        If the target cannot be written.
    """
    store, place = Path(source), Path(target)
    kind: Literal["posterior", "products"] = "posterior" if is_posterior(store) else "products"
    exporter = _exporter(store, place, kind, to)
    if store.resolve() in place.resolve().parents:
        raise RecipeError(f"{place}: lies inside the store that is exported; choose a place outside it")
    options = ExportOptions(
        quantity=quantity,
        products=tuple(products),
        values=values,
        shell=shell,
        distance_kpc=distance_kpc,
        inner=inner,
        suffix=_suffix(exporter, place),
    )
    _check_options(exporter, kind, options)
    try:
        with new_target(place) as aside:
            return exporter.write(store, aside, options, progress or _silent)
    except CrdistError:
        raise
    except OSError as error:
        raise RunError(f"{place}: cannot be written ({error.strerror or error}); nothing was kept") from error


def _exporter(store: Path, target: Path, kind: str, to: str | None) -> Exporter:
    holds = "posterior samples" if kind == "posterior" else "products"
    if to is not None:
        if to not in EXPORTERS:
            raise RecipeError(f"an export is one of {', '.join(EXPORTERS)}, got {to!r}")
        if kind in EXPORTERS[to].reads:
            return EXPORTERS[to]
    known, faults = EXPORTERS.working()
    fitting = [exporter for exporter in known.values() if kind in exporter.reads]
    names = ", ".join(exporter.name for exporter in fitting)
    if to is not None:
        raise RecipeError(f"{store}: holds {holds}, which {to!r} does not read; choose one of {names}")
    ending = [exporter for exporter in fitting if exporter.reads[0] == kind and target.suffix in exporter.suffixes]
    if len(ending) == 1:
        return ending[0]
    if ending:
        several = " or ".join(exporter.name for exporter in ending)
        raise RecipeError(f"{target}: {holds} can be {several} there; say which with --to")
    unusable = "".join(f" (not looked at: {fault})" for fault in faults)
    raise RecipeError(
        f"{target}: its ending does not tell what {holds} should become; give --to, one of {names}{unusable}"
    )


def _suffix(exporter: Exporter, target: Path) -> str:
    if target.suffix in exporter.suffixes:
        return target.suffix
    expected = " or ".join(suffix or "nothing (a folder)" for suffix in exporter.suffixes)
    raise RecipeError(f"{target}: the name of {exporter.name!r} ends in {expected}")


def _check_options(exporter: Exporter, kind: str, options: ExportOptions) -> None:
    # one option each that only one kind of store has
    foreign = {"posterior": {"products"}, "products": {"quantity", "shell", "distance_kpc", "inner"}}[kind]
    unused = sorted(options.given - (exporter.options - foreign))
    if unused:
        words = " and ".join(_spoken(name) for name in unused)
        raise RecipeError(
            f"{exporter.name!r} of a {kind} store has no use for {words}; "
            f"it heeds {', '.join(_spoken(name) for name in sorted(exporter.options - foreign))}"
        )
    for name, known in (("values", ("statistics", "samples")), ("inner", ("extend", "exclude"))):
        chosen = getattr(options, name)
        if chosen is not None and chosen not in known:
            raise RecipeError(f"{_spoken(name)} is {' or '.join(known)}, got {chosen!r}")


def _spoken(name: str) -> str:
    """The option as the command line calls it."""
    return "--" + {"products": "product", "distance_kpc": "distance"}.get(name, name)


def _silent(done: int, total: int) -> None:
    """Tell nobody."""
