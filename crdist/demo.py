"""The demonstration: a synthetic sky, or a synthetic gas map, goes the whole way from published files to a figure.

Like the command line, this module ties the stages together; nothing else in the core knows them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.commands.where import Place, compute_products
from crdist.errors import DependencyError, StoreExistsError

if TYPE_CHECKING:
    from crdist_postproc.plan import Workers

__all__ = ["run_demo", "run_gas_demo"]

MARK = ".crdist-demo"

SYNTHETIC = "synthetic (a model, not data)"

PACKAGES = {"matplotlib": "dashboards", "jax": "inference", "nifty8": "inference", "h5py": "inference"}
"""What a demonstration needs beside the core, and the extra that has it."""


def run_demo(folder: Path, workers: Workers, infer: Callable[[Any, Path, bool], Any]) -> Path:
    """Make a synthetic sky in the published layouts, infer the density, compute its products and draw the overview.

    Parameters
    ----------
    folder : Path
        Folder to create; that of an earlier demonstration of the same kind is replaced, one that was interrupted is
        continued.
    workers : Workers
        Threads and memory for the products.
    infer : callable
        ``(run file, folder, resume)``: runs the inference and reports it.

    Returns
    -------
    Path
        The figure.

    Raises
    ------
    DependencyError
        If a package that it needs is not installed.
    StoreExistsError
        If the folder exists and is not one of an earlier demonstration.
    """
    _need("matplotlib", "jax", "nifty8", "h5py")
    from crdist_dashboards.overview import overview_figure
    from crdist_inference.runfile import RunFile, packaged_run_file
    from crdist_postproc.plan import plan_run
    from crdist_postproc.recipe import Recipe

    figure = folder / "overview.png"
    _take(folder, "inference", keep=not figure.exists())
    source = packaged_run_file("demo")
    run = RunFile.from_yaml(source)
    print(f"1/3  crdist infer {source.name}: a synthetic sky (a model, not data) in the published layouts, and geoVI")
    done = infer(run, folder / "run", True)
    recipe = Recipe.default().with_overrides(run.products.set)
    print(f"2/3  crdist post {done.folder.posterior}")
    plan = plan_run(done.folder.posterior, recipe, done.folder.products)
    compute_products(plan, done.folder.products, Place(), workers)
    print("3/3  the overview")
    return overview_figure(done.folder.products, figure, note=SYNTHETIC)


def run_gas_demo(folder: Path, workers: Workers) -> Path:
    """Write a synthetic map in a published layout, import it, compute the default recipe and draw the overview.

    Parameters, result and errors are those of `run_demo`; no inference takes part.
    """
    _need("matplotlib")
    from crdist.importers import import_map
    from crdist.progress import reporting
    from crdist_dashboards.overview import overview_figure
    from crdist_inference.synthetic import write_published_gas
    from crdist_postproc.plan import plan_run
    from crdist_postproc.recipe import Recipe

    _take(folder, "gas", keep=False)
    published, posterior, products = folder / "gas.fits", folder / "gas.zarr", folder / "products.zarr"
    print("1/4  a synthetic galaxy's gas (a model, not data), in the layout of a published map")
    write_published_gas(published)
    print(f"2/4  crdist import {published} {posterior}")
    with reporting("import") as update:
        import_map(published, posterior, progress=update)
    print(f"3/4  crdist post {posterior} {products}")
    compute_products(plan_run(posterior, Recipe.default(), products), products, Place(), workers)
    print("4/4  the overview")
    return overview_figure(products, folder / "overview.png", note=SYNTHETIC)


def _need(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise DependencyError(f"the demo needs {package}; install crdist with its extra {PACKAGES[package]!r}")


def _take(folder: Path, kind: str, *, keep: bool) -> None:
    """Make the folder of a demonstration, or take over that of an earlier one of the same kind."""
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()):
        if not mark.exists():
            raise StoreExistsError(f"{folder}: exists and is no earlier demo; choose another folder")
        if mark.read_text() != kind:
            raise StoreExistsError(f"{folder}: holds the other demo; choose another folder, such as {folder}-{kind}")
        if not (keep and (folder / "run").exists()):
            print(f"{folder}: an earlier demo is replaced")
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(kind)
