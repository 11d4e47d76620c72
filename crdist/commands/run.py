"""A whole run: inference, then the products of its recipe, driven from here or from a batch job of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crdist.commands.infer import infer_at, prepare, read_run_file, resume_command
from crdist.commands.interrupts import way_on
from crdist.commands.options import RESUME, RUN_FILE, RUN_FOLDER, RUN_SETTINGS, counted
from crdist.commands.relay import SCRIPT, relayed, submit_driver
from crdist.commands.where import Cluster, compute_products, place_of, workers_of
from crdist.errors import RecipeError, RunError

if TYPE_CHECKING:
    from crdist_cluster.recipe import ClusterRecipe
    from crdist_inference.runfile import RunFile
    from crdist_postproc.recipe import Recipe

__all__ = ["run_"]


def run_(
    run_file: Annotated[Path, RUN_FILE],
    folder: Annotated[Path | None, RUN_FOLDER] = None,
    settings: Annotated[list[str] | None, RUN_SETTINGS] = None,
    cluster: Cluster = "local",
    submit: Annotated[
        bool, typer.Option("--submit", help="Drive the run from a batch job of its own: you may log out.")
    ] = False,
    resume: Annotated[bool, RESUME] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for the products here; default: all cores.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory for the products here; default: 80 % of what there is.")
    ] = None,
    relay: Annotated[bool, typer.Option("--relay", hidden=True)] = False,
) -> None:
    """Infer, then compute the products of the run file's recipe, in one folder. --resume goes on with either part."""
    from crdist_postproc.plan import plan_run

    run = read_run_file(run_file, settings)
    # a recipe that cannot be followed is better known before the inference than after it
    recipe = _product_recipe(run)
    place = place_of(cluster)
    workers = workers_of(place, None, threads, memory)
    path = folder or Path(run_file.stem)
    if submit and place.recipe is None:
        raise RecipeError(f"--submit needs a batch system to submit to: give --cluster RECIPE.yaml, not {cluster}")
    if place.recipe is not None:
        from crdist_cluster.queue import check_recipe

        check_recipe(place.recipe, ["gpu", "cpu", "driver"] if submit else ["gpu", "cpu"])
        if submit:
            _submit(place.recipe, run, path, resume)
            return
    with ExitStack() as stack:
        stack.enter_context(way_on(resume_command()))
        stack.enter_context(_told_when_over(path))
        if relay and place.recipe is not None:
            stack.enter_context(relayed(place.recipe, path))
        done = infer_at(place, run, path, resume)
        plan = plan_run(done.posterior, recipe, done.products)
        report = compute_products(plan, done.products, place, workers, path)
        found = f" ({report.blocks_found} found done)" if report.blocks_found else ""
        print(f"{report.path}: {counted(report.blocks_computed, 'block')}{found} in {report.seconds:.1f} s")


@contextmanager
def _told_when_over(path: Path) -> Iterator[None]:
    """Where this is the job that drives the run, put down that it ends: nobody else could."""
    from crdist_cluster.batch import JOB_ID_VARIABLES
    from crdist_cluster.ledger import JobLedger

    own = {os.environ[name] for name in JOB_ID_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        ledger = JobLedger(path)
        for job in ledger.open_jobs():
            if job.kind == "driver" and job.id in own:
                ledger.ended(job.id)


def _product_recipe(run: RunFile) -> Recipe:
    from crdist_postproc.recipe import Recipe

    products = run.products
    recipe = Recipe.default() if products.recipe == "default" else Recipe.from_yaml(products.recipe)
    return recipe.with_overrides(products.set) if products.set else recipe


def _submit(recipe: ClusterRecipe, run: RunFile, path: Path, resume: bool) -> None:
    """Submit a job that drives the run."""
    from crdist.durable import make_folder, write_durably
    from crdist.run_guard import locked
    from crdist_cluster.jobscript import command_script
    from crdist_cluster.ledger import JobLedger, cluster_folder
    from crdist_cluster.queue import JobState, batch_system

    system = batch_system(recipe.scheduler)
    drivers = [job.id for job in JobLedger(path).open_jobs() if job.kind == "driver"]
    alive = [job.id for job in system.states(drivers).values() if job.state is not JobState.gone]
    if alive:
        raise RunError(
            f"{path}: job {alive[0]} drives it already; wait for that, or end it with 'crdist cancel {path}'"
        )
    folder = prepare(run, path, resume)
    here = cluster_folder(folder.path)
    logs = here / "logs"
    make_folder(logs)
    with locked(here, path):
        # a copy: what is changed in the recipe later is not for this run
        copy = here / "recipe.yaml"
        write_durably(copy, recipe.to_yaml().encode())
        python = recipe.job("driver").python
        command = [python, "-m", "crdist.cli", "run", str(folder.settings), str(folder.path)]
        command += ["--cluster", str(copy), "--resume", "--relay"]
        write_durably(here / SCRIPT, command_script(recipe, "driver", command, logs).encode())
        job = submit_driver(recipe, folder.path)
    print(f"{path}: job {job} drives the run; see 'crdist status {path}', end it with 'crdist cancel {path}'")
    print(f"its words: {logs}", file=sys.stderr)
