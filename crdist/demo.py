"""The demonstration: a synthetic galaxy goes the whole way from a published file to a figure.

Like the command line, this module ties the stages together; nothing else in the core knows them.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from crdist.errors import DependencyError, StoreExistsError

if TYPE_CHECKING:
    from crdist_postproc.plan import Workers

__all__ = ["run_demo"]

MARK = ".crdist-demo"


def run_demo(folder: Path, workers: Workers) -> Path:
    """Write a synthetic map in a published layout, import it, compute the default recipe and draw the overview.

    Parameters
    ----------
    folder : Path
        Folder to create; that of an earlier demonstration is replaced.
    workers : Workers
        Threads and memory to use.

    Returns
    -------
    Path
        The figure.

    Raises
    ------
    DependencyError
        If matplotlib, which draws the figure, is not installed.
    StoreExistsError
        If the folder exists and is not one of an earlier demonstration.
    """
    if find_spec("matplotlib") is None:
        raise DependencyError("the demo's figure needs matplotlib; install crdist with its extra 'dashboards'")
    from crdist.importers import import_map
    from crdist.progress import reporting
    from crdist_cluster import local_client
    from crdist_dashboards.overview import overview_figure
    from crdist_inference.synthetic import write_published_gas
    from crdist_postproc.plan import plan_run
    from crdist_postproc.recipe import Recipe
    from crdist_postproc.run import Step, execute

    if folder.exists():
        if not (folder / MARK).exists() and any(folder.iterdir()):
            raise StoreExistsError(f"{folder}: exists and is no earlier demo; choose another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()

    published, posterior, products = folder / "gas.fits", folder / "gas.zarr", folder / "products.zarr"
    print("1/4  a synthetic galaxy's gas (a model, not data), in the layout of a published map")
    write_published_gas(published)
    print(f"2/4  crdist import {published} {posterior}")
    with reporting("import") as update:
        import_map(published, posterior, progress=update)
    print(f"3/4  crdist post {posterior} {products}")
    plan = plan_run(str(posterior), Recipe.default())
    plan.check(workers)
    with (
        reporting("post") as update,
        local_client(workers.processes, workers.threads, workers.process_bytes) as client,
    ):

        def progress(step: Step) -> None:
            update(step.done, step.total, f"block {step.blocks_done} of {step.n_block}, {step.product}")

        execute(plan, products, client=client, progress=progress)
    print("4/4  the overview")
    return overview_figure(products, folder / "overview.png")
