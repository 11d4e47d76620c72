"""Run a plan into a products store, resumable after any kill, and never into a store of something else."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crdist.durable import write_durably
from crdist.errors import SchemaError, StoreExistsError
from crdist.run_guard import explained, locked, logged
from crdist.schema import versions
from crdist_postproc.books import Books, Progress, Step
from crdist_postproc.driving import Watch, drive, wake
from crdist_postproc.output import (
    RunFolder,
    create_products,
    declare_complete,
    finished_blocks,
    read_attributes,
)
from crdist_postproc.plan import RunPlan, Workers, plan_run
from crdist_postproc.product_kinds import PRODUCT_KINDS
from crdist_postproc.recipe import Recipe, differences
from crdist_postproc.source import drop_fields

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Progress", "RunReport", "Step", "Watch", "execute", "run_products"]

log = logging.getLogger("crdist.run")


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    path: Path
    blocks_computed: int
    blocks_found: int
    """Done by an earlier run that was cut short."""
    seconds: float
    seconds_by_product: Mapping[str, float]
    """Time in tasks, summed over threads."""
    bytes_written: int


def run_products(
    posterior: str | Path,
    products: str | Path,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    *,
    client: Client | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Compute the products of a recipe from a posterior into one Zarr store.

    A run that was cut short is continued: call it again with the same arguments, and the store ends up the same to
    the bit.

    Parameters
    ----------
    posterior : path
        Posterior store.
    products : path
        Products store to create or to continue. ``PRODUCTS.run`` beside it holds the log, the resolved recipe, the
        plan, timings and the records of finished blocks.
    recipe : Recipe, mapping or path, optional
        Default: the recipe that ships with crdist.
    client : distributed.Client, optional
        Where to compute; default: in this process, one block after the other.
    workers : Workers, optional
        Memory and threads that the plan must fit into: a posterior that is larger is read part by part. Default: not
        checked, and all of it held.
    progress : callable, optional
        Called with a `Step` after each block.

    Returns
    -------
    RunReport

    Raises
    ------
    RecipeError, SchemaError, PlanTooLargeError
        Before anything is written.
    StoreExistsError
        If ``products`` holds something else, or comes from another recipe or source; the message says what differs.
    RunError
        If a block cannot be computed or written; what is finished is kept.
    """
    if recipe is None:
        recipe = Recipe.default()
    elif isinstance(recipe, str | Path):
        recipe = Recipe.from_yaml(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.from_mapping(recipe)
    plan = plan_run(posterior, recipe, products)
    if workers is not None:
        plan = plan.within(workers)
    return execute(plan, Path(products), client=client, progress=progress)


def execute(
    plan: RunPlan,
    path: Path,
    *,
    client: Client | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> RunReport:
    """Run a plan; see `run_products`, and `crdist_postproc.driving.drive` for ``watch``."""
    started = time.monotonic()
    if client is not None:
        wake(client)
    attributes = _attributes(plan)
    folder = RunFolder(path.absolute(), _key(attributes))
    with explained(path, "run the same command again"):
        _refuse_another(attributes, path)
        folder.prepare()
        with locked(folder.path, folder.store), logged(folder.log):
            # again, for a run that ended between the look and the lock
            _refuse_another(attributes, path)
            _begin(plan, folder, attributes)
            recorded = folder.recorded()
            found = {job.product.name: finished_blocks(folder, job.product, recorded) for job in plan.jobs}
            del recorded
            books = Books(plan, folder, found, progress)
            n_found = plan.n_block - books.n_missing
            log.info("%d of %d blocks to compute, %d found done", books.n_missing, plan.n_block, n_found)
            try:
                drive(books, client, watch)
            finally:
                drop_fields()
            # a worker that was lost and replaced may have left a file half-written
            folder.clean()
            if read_attributes(folder.store)["status"] != "complete":
                declare_complete(folder.store)
            report = RunReport(
                path, books.computed, n_found, time.monotonic() - started, books.seconds, books.bytes_written
            )
            _write_timings(folder, report)
            log.info("complete after %.1f s", report.seconds)
            return report


def _begin(plan: RunPlan, folder: RunFolder, attributes: Mapping[str, Any]) -> None:
    """Create the store, or take up the one that an earlier run left."""
    if folder.store.exists():
        folder.clean()
    else:
        folder.forget()
        create_products(folder.store, [job.product for job in plan.jobs], attributes)
    recipe = yaml.safe_dump(plan.recipe.to_dict(), sort_keys=False, default_flow_style=None)
    write_durably(folder.path / "recipe.yaml", recipe.encode())
    write_durably(folder.path / "plan.json", json.dumps(plan.to_dict(), indent=1).encode())


def _attributes(plan: RunPlan) -> dict[str, Any]:
    """Root attributes of the products: what decides the numbers, and nothing that differs from run to run."""
    job = plan.jobs[0]
    quantity = job.product.quantity
    weights = {job.product.name: job.weight.digest for job in plan.jobs if job.weight is not None}
    kinds = {job.product.kind: PRODUCT_KINDS.plugin(job.product.kind) for job in plan.jobs}
    plugins = {kind: plugin.origin() for kind, plugin in kinds.items() if plugin is not None}
    return {
        "quantity": {"name": quantity.name, "units": quantity.units, "long_name": quantity.long_name},
        "n_sample": quantity.n_sample,
        "frame": plan.recipe.frame_record.to_dict(),
        "recipe": plan.recipe.to_dict(),
        "provenance": {
            "versions": versions(),
            # packages that kinds of products are of, by kind
            **({"plugins": plugins} if plugins else {}),
            "source": {
                "name": plan.header.path.name,
                "digest": job.source.digest,
                "weights": weights,
                "provenance": dict(plan.header.provenance),
            },
        },
    }


def _key(attributes: Mapping[str, Any]) -> str:
    """A short digest of all that decides the numbers of a run."""
    source, plugins = attributes["provenance"]["source"], attributes["provenance"].get("plugins")
    deciding = [attributes["recipe"], attributes["n_sample"], source["digest"], source["weights"]]
    if plugins:
        deciding.append(plugins)
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]


def _refuse_another(wanted: Mapping[str, Any], path: Path) -> None:
    """Raise where the store on the disk is not the one that a run with these attributes makes."""
    if not path.exists():
        within = [folder for folder in path.absolute().parents if (folder / "zarr.json").exists()]
        if within:
            raise StoreExistsError(f"{path}: lies inside the store {within[0]}; choose a place outside")
        return
    try:
        attributes = read_attributes(path)
    except SchemaError as error:
        raise StoreExistsError(f"{path}: exists and is no products store ({error}); choose another name") from error
    differing = differences(attributes["recipe"], wanted["recipe"])
    if differing:
        shown = "; ".join(differing[:4]) + ("; ..." if len(differing) > 4 else "")
        raise StoreExistsError(
            f"{path}: was made with another recipe ({shown}); choose another name, or remove it to start anew"
        )
    mine, source = wanted["provenance"]["source"], attributes["provenance"]["source"]
    for key in ("digest", "weights"):
        if source[key] != mine[key]:
            raise StoreExistsError(
                f"{path}: was made from another source (there {source['name']}, {key} {_short(source[key])}; now "
                f"{mine['name']}, {key} {_short(mine[key])}); choose another name, or remove it to start anew"
            )
    before, now = (record["provenance"].get("plugins", {}) for record in (attributes, wanted))
    for kind in {**before, **now}:
        if before.get(kind) != now.get(kind):
            raise StoreExistsError(
                f"{path}: its products of kind {kind!r} are of {_package(before.get(kind))}, now they would be of "
                f"{_package(now.get(kind))}; install the former, choose another name, or remove it to start anew"
            )
    made_by = attributes["provenance"]["versions"]["crdist"]
    if attributes["status"] != "complete" and made_by != versions()["crdist"]:
        raise StoreExistsError(
            f"{path}: was begun by crdist {made_by}, this is {versions()['crdist']}; finish it there or start anew"
        )


def _package(origin: Mapping[str, str] | None) -> str:
    return "crdist" if origin is None else f"{origin['distribution']} {origin['version']} ({origin['entry_point']})"


def _short(digest: Any) -> str:
    return digest[:12] if isinstance(digest, str) else ", ".join(f"{k}={v[:12]}" for k, v in digest.items()) or "none"


def _write_timings(folder: RunFolder, report: RunReport) -> None:
    """Add this run to the list of those that worked on the store."""
    path = folder.path / "timings.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    runs.append(
        {
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(report.seconds, 3),
            "blocks_computed": report.blocks_computed,
            "blocks_found": report.blocks_found,
            "bytes_written": report.bytes_written,
            "task_seconds_by_product": {name: round(value, 3) for name, value in report.seconds_by_product.items()},
        }
    )
    write_durably(path, json.dumps(runs, indent=1).encode())
