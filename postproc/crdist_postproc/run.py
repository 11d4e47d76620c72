"""Run a plan: every block once, on Dask or in this process, resumable after any kill."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crdist.durable import write_durably
from crdist.errors import CrdistError, RunError, SchemaError, StoreExistsError
from crdist.schema import versions
from crdist_postproc.output import (
    RunFolder,
    create_products,
    declare_complete,
    finished_blocks,
    read_attributes,
    read_partial,
    write_block,
    write_last_step,
)
from crdist_postproc.plan import RunPlan, Workers, plan_run
from crdist_postproc.products import Job
from crdist_postproc.products.base import Block
from crdist_postproc.recipe import Recipe, differences
from crdist_postproc.source import Source, drop_fields, load_field

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Progress", "RunReport", "Step", "execute", "run_products"]

log = logging.getLogger("crdist.run")


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a run, after each block."""

    done: int
    """Voxel-samples done, in this run and before."""
    total: int
    blocks_done: int
    n_block: int
    product: str


Progress = Callable[[Step], None]


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


@dataclass(frozen=True, slots=True)
class _Token:
    """What a task tells the driver: results stay on the disk."""

    product: str
    index: int
    seconds: float
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
        Memory and threads that the plan must fit into; default: not checked.
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
        plan.check(workers)
    return execute(plan, Path(products), client=client, progress=progress)


def execute(plan: RunPlan, path: Path, *, client: Client | None = None, progress: Progress | None = None) -> RunReport:
    """Run a plan; see `run_products`."""
    started = time.monotonic()
    attributes = _attributes(plan)
    folder = RunFolder(path.absolute(), _key(attributes))
    with _explained(path):
        _refuse_another(attributes, path)
        folder.prepare()
        with _locked(folder), _logged(folder):
            # again, for a run that ended between the look and the lock
            _refuse_another(attributes, path)
            _begin(plan, folder, attributes)
            found = {job.product.name: finished_blocks(folder, job.product) for job in plan.jobs}
            state = _State(plan, folder, found, progress)
            log.info(
                "%d of %d blocks to compute, %d found done",
                state.n_missing,
                plan.n_block,
                plan.n_block - state.n_missing,
            )
            try:
                if client is None:
                    _run_here(state)
                else:
                    _run_on_dask(state, client)
            finally:
                drop_fields()
            # a worker that was lost and replaced may have left a file half-written
            folder.clean()
            if read_attributes(folder.store)["status"] != "complete":
                declare_complete(folder.store)
            report = RunReport(
                path,
                state.computed,
                plan.n_block - state.n_missing,
                time.monotonic() - started,
                state.seconds,
                state.bytes_written,
            )
            _write_timings(folder, report)
            log.info("complete after %.1f s", report.seconds)
            return report


def run_block(folder: RunFolder, job: Job, block: Block, sources: frozenset[Source]) -> _Token:
    """The task of one block: read (once in a process and run), compute, write, record."""
    started = time.monotonic()
    samples = load_field(job.source, sources)
    weight = None if job.weight is None else load_field(job.weight, sources)
    result = job.product.compute(block, samples, weight)
    n_bytes = write_block(folder, job.product, block, result)
    return _Token(job.product.name, block.index, time.monotonic() - started, n_bytes)


class _State:
    """What is left to do and what was done, kept by the driver."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        found: Mapping[str, tuple[set[int], bool]],
        progress: Progress | None,
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.jobs = {job.product.name: job for job in plan.jobs}
        self.sources = plan.sources
        self.left = {
            name: {block.index for block in job.product.blocks()} - found[name][0] for name, job in self.jobs.items()
        }
        self.missing = [
            (job, block)
            for job in plan.jobs
            for block in job.product.blocks()
            if block.index in self.left[job.product.name]
        ]
        self.n_missing = len(self.missing)
        self.n_block = plan.n_block
        self.total = plan.work
        self.done = plan.work - sum(job.product.work(block) for job, block in self.missing)
        self.computed = 0
        self.bytes_written = 0
        self.seconds = dict.fromkeys(self.jobs, 0.0)
        for name, job in self.jobs.items():
            if not self.left[name] and not found[name][1]:
                self._last_step(job)

    def take(self, token: _Token, block: Block) -> None:
        """Count a finished block; after a product's last one, join them."""
        job = self.jobs[token.product]
        self.computed += 1
        self.bytes_written += token.bytes_written
        self.seconds[token.product] += token.seconds
        self.done += job.product.work(block)
        self.left[token.product].discard(token.index)
        log.info("block %s done in %.2f s", block.name, token.seconds)
        if not self.left[token.product]:
            self._last_step(job)
        if self.progress is not None:
            blocks_done = self.n_block - sum(map(len, self.left.values()))
            self.progress(Step(self.done, self.total, blocks_done, self.n_block, token.product))

    def _last_step(self, job: Job) -> None:
        product = job.product
        partials = [read_partial(self.folder, product, block) for block in product.blocks()]
        write_last_step(self.folder, product, product.finish(partials))


def _run_here(state: _State) -> None:
    for job, block in state.missing:
        state.take(run_block(state.folder, job, block, state.sources), block)


def _run_on_dask(state: _State, client: Client) -> None:
    """Keep every thread of the cluster busy, with few tasks waiting and none remembered."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    _check_shared(state.folder, client)
    waiting = iter(state.missing)
    sent: dict[Any, Block] = {}

    def send() -> Any:
        for job, block in waiting:
            key = f"{block.name}-{os.urandom(4).hex()}"
            future = client.submit(run_block, state.folder, job, block, state.sources, key=key, pure=False)
            sent[future] = block
            return future
        return None

    ahead = max(2, 2 * sum(client.nthreads().values()))
    futures = [future for future in (send() for _ in range(ahead)) if future is not None]
    if not futures:
        return
    queue = as_completed(futures, loop=client.loop)
    try:
        for future in queue:
            block = sent.pop(future)
            try:
                token = future.result()
            except KilledWorker as error:
                raise RunError(
                    f"block {block.name} ended the worker that computed it, several times (out of memory?); finished "
                    "blocks are kept: run the same command again with more --memory or fewer --threads"
                ) from error
            except (CrdistError, OSError):
                raise
            except Exception as error:
                raise RunError(
                    f"block {block.name} could not be computed ({type(error).__name__}: {error}); finished blocks are "
                    f"kept; the traceback is in {state.folder.log}"
                ) from error
            future.release()
            state.take(token, block)
            following = send()
            if following is not None:
                queue.add(following)
    finally:
        client.cancel(list(sent))
        if client.status == "running":
            client.run(drop_fields, on_error="ignore")


def _check_shared(folder: RunFolder, client: Client) -> None:
    """Raise where a worker does not see the store: it would write into the void of another machine."""
    blind = [worker for worker, sees in client.run(os.path.exists, str(folder.store / "zarr.json")).items() if not sees]
    if blind:
        raise RunError(
            f"{folder.store}: worker {blind[0]} does not see it (and {len(blind) - 1} more); put the stores on a disk "
            "that all workers share"
        )


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
    return {
        "quantity": {"name": quantity.name, "units": quantity.units, "long_name": quantity.long_name},
        "n_sample": quantity.n_sample,
        "frame": plan.recipe.frame_record.to_dict(),
        "recipe": plan.recipe.to_dict(),
        "provenance": {
            "versions": versions(),
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
    provenance = attributes["provenance"]["source"]
    deciding = [attributes["recipe"], attributes["n_sample"], provenance["digest"], provenance["weights"]]
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
    made_by = attributes["provenance"]["versions"]["crdist"]
    if attributes["status"] != "complete" and made_by != versions()["crdist"]:
        raise StoreExistsError(
            f"{path}: was begun by crdist {made_by}, this is {versions()['crdist']}; finish it there or start anew"
        )


def _short(digest: Any) -> str:
    return digest[:12] if isinstance(digest, str) else ", ".join(f"{k}={v[:12]}" for k, v in digest.items()) or "none"


@contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """Let one process at a time drive the run; the lock goes with the process, however it ends."""
    with (folder.path / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder.store}: another process is running it; wait for that, or end it") from error
        yield


class _QuietFileHandler(logging.FileHandler):
    """A log that cannot be written, on a full disk say, must not hide the run's own message."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the line."""


@contextmanager
def _logged(folder: RunFolder) -> Iterator[None]:
    """Send the run's messages to its log, tracebacks included."""
    handler = _QuietFileHandler(folder.log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("crdist")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        log.exception("the run stopped")
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what a disk or a worker says into a line that tells what to do."""
    try:
        yield
    except CrdistError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(
                f"{path}: {os.strerror(error.errno)} while writing; what is finished is kept: make room and run "
                f"the same "
                "command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            where = error.filename or path
            raise RunError(f"{where}: {os.strerror(error.errno)}; choose a folder that you may write to") from error
        raise


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
