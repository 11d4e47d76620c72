"""One small job, to find out what a recipe leads to: queue time, software, scratch space, network, shared disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crdist.durable import make_folder
from crdist.errors import RunError
from crdist_cluster.batch import batch_client
from crdist_cluster.queue import check_recipe
from crdist_cluster.recipe import ClusterRecipe, JobKind
from crdist_cluster.versions import differing
from crdist_cluster.watch import span

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["NodeFacts", "ProbeReport", "look_at_node", "probe"]

TASK_SECONDS = 120.0
WAKE_SECONDS = 0.5
GPU_SECONDS = 20.0
SHOWN_VERSIONS = ("python", "crdist-tomography", "dask", "distributed", "numpy", "zarr")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a task finds on its node."""

    host: str
    python: str
    cores: int
    """Threads of the worker."""
    memory_bytes: int
    """Memory limit of the worker."""
    scratch: str
    """Folder for the worker's files."""
    scratch_free_bytes: int
    scratch_fault: str
    """Why nothing can be written there; empty where it can."""
    address: str
    """That the worker listens at."""
    interface: str
    """Network interface of this address."""
    sees_folder: bool
    """Whether the folder of the run is there, too."""
    gpus: tuple[str, ...]
    threads: Mapping[str, str]
    """Variables that keep libraries from starting threads of their own."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found."""

    job: str
    queue_seconds: float
    """From the submission to the worker's first word."""
    task_seconds: float
    driver_host: str
    driver_address: str
    driver_interface: str
    node: NodeFacts
    versions: Mapping[str, tuple[str, str]]
    """Of each package here and there."""
    differences: tuple[str, ...]
    faults: tuple[str, ...]
    """What would keep a run from working."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text."""
        node = self.node
        versions = (
            f"{name} {here}" if here == there else f"{name} {here} here, {there} there"
            for name, (here, there) in self.versions.items()
        )
        free = f"{node.scratch_free_bytes / 1024**3:.1f} GiB free"
        return [
            f"job       {self.job}, {span(self.queue_seconds)} until its worker answered; a task took "
            f"{1000 * self.task_seconds:.0f} ms",
            f"node      {node.host}, {node.cores} threads, {node.memory_bytes / 1024**3:.1f} GiB of memory",
            f"python    {node.python}",
            f"versions  {', '.join(versions)}",
            f"scratch   {node.scratch}, {node.scratch_fault or free}",
            f"network   {node.interface or 'unknown interface'} {node.address}, driver on {self.driver_host} "
            f"{self.driver_interface or 'unknown interface'} {self.driver_address}",
            f"disk      the node {'sees' if node.sees_folder else 'does not see'} the folder of the run",
            *([f"gpus      {'; '.join(node.gpus)}"] if node.gpus else []),
            *(f"note      {line}" for line in self.differences),
            *(f"fault     {fault}" for fault in self.faults),
            "result    " + ("this recipe does not work yet" if self.faults else "this recipe works"),
        ]


def probe(recipe: ClusterRecipe, where: Path, kind: Literal["cpu", "gpu"] = "cpu") -> ProbeReport:
    """Submit one job of a recipe, run a task on it, and end it.

    Parameters
    ----------
    recipe : ClusterRecipe
    where : Path
        A folder on a disk that the nodes share; what is written there is removed, unless the probe fails.
    kind : {"cpu", "gpu"}

    Raises
    ------
    RecipeError, RunError
        If the job cannot be submitted, or its worker does not answer within the recipe's patience.
    """
    check_recipe(recipe, [kind])
    # one job is enough, and it is to begin soon
    one = recipe.model_copy(update={"jobs": 1})
    try:
        make_folder(where)
        folder = Path(tempfile.mkdtemp(prefix="crdist-cluster-test-", dir=where)).absolute()
    except OSError as error:
        raise RunError(f"{where}: {error.strerror}; give a --folder that you may write to") from error
    try:
        with batch_client(one, folder, kind=kind) as batch:
            began = time.monotonic()
            batch.workers_needed()
            queued = time.monotonic() - began
            report = _look(batch.client, folder, kind, lambda: batch.watch(0.0, 1), queued)
    except RunError as error:
        raise RunError(f"{error} (the job's logs are kept in {folder / 'cluster' / 'logs'})") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return report


def _look(client: Client, folder: Path, kind: JobKind, watch: Any, queued: float) -> ProbeReport:
    began = time.monotonic()
    future = client.submit(look_at_node, folder, kind, pure=False)
    node: NodeFacts = _wait(client, future, watch)
    task_seconds = time.monotonic() - began
    found: Mapping[str, Any] = client.get_versions(check=False, packages=["crdist-tomography", "zarr"])
    there = next(iter(found["workers"].values()))["packages"]
    here = found["client"]["packages"]
    address = client.scheduler.address
    faults = []
    if node.scratch_fault:
        faults.append(f"scratch {node.scratch} cannot be written ({node.scratch_fault}): change 'scratch'")
    if not node.sees_folder:
        faults.append(f"the node does not see {folder}: work on a disk that the nodes share")
    if kind == "gpu" and not node.gpus:
        faults.append("a gpu job sees no GPU ('nvidia-smi -L' names none): see 'gpu' of the recipe")
    return ProbeReport(
        job=_job_of(client, folder),
        queue_seconds=queued,
        task_seconds=task_seconds,
        driver_host=socket.gethostname(),
        driver_address=address,
        driver_interface=_interface_of(address),
        node=node,
        versions={name: (_short(here.get(name)), _short(there.get(name))) for name in SHOWN_VERSIONS},
        differences=tuple(differing(client).values()),
        faults=tuple(faults),
    )


def _wait(client: Client, future: Future[NodeFacts], watch: Any) -> NodeFacts:
    from distributed import wait

    deadline = time.monotonic() + TASK_SECONDS
    while not future.done():
        if time.monotonic() > deadline:
            raise RunError(f"the worker took a task and has not done it in {span(TASK_SECONDS)}")
        with suppress(TimeoutError), client.as_current():
            wait([future], timeout=WAKE_SECONDS)
        watch()
    facts: NodeFacts = future.result()
    return facts


def look_at_node(folder: Path, kind: JobKind) -> NodeFacts:
    """The task: what there is where a worker runs.

    Parameters
    ----------
    folder : Path
        Of the run, to see whether this node has it.
    kind : str
        ``gpu`` asks for GPUs as well.
    """
    from distributed import get_worker

    worker = get_worker()
    scratch = Path(worker.local_directory)
    fault = ""
    try:
        with tempfile.NamedTemporaryFile(dir=scratch) as file:
            file.write(b"\0" * 1024**2)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(scratch).free
    except OSError as error:
        fault, free = error.strerror or str(error), 0
    return NodeFacts(
        host=socket.gethostname(),
        python=sys.executable,
        cores=worker.state.nthreads,
        memory_bytes=int(worker.memory_manager.memory_limit or 0),
        scratch=str(scratch),
        scratch_free_bytes=free,
        scratch_fault=fault,
        address=worker.address,
        interface=_interface_of(worker.address),
        sees_folder=folder.is_dir(),
        gpus=_gpus() if kind == "gpu" else (),
        threads={name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")},
    )


def _short(version: object) -> str:
    return str(version or "missing").removesuffix(".final.0")


def _gpus() -> tuple[str, ...]:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=GPU_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.partition(" (UUID")[0] for line in done.stdout.splitlines() if line.strip())


def _interface_of(address: str) -> str:
    """The network interface that has the host of an address such as ``tls://10.0.0.3:8786``."""
    import psutil  # type: ignore[import-untyped]

    host = address.rpartition("://")[2].rpartition(":")[0]
    names = (name for name, addresses in psutil.net_if_addrs().items() if any(a.address == host for a in addresses))
    return next(names, "")


def _job_of(client: Client, folder: Path) -> str:
    from crdist_cluster.ledger import JobLedger

    names = {str(worker["name"]) for worker in client.scheduler_info(n_workers=-1)["workers"].values()}
    return next((job.id for job in JobLedger(folder).open_jobs() if job.name in names), "")
