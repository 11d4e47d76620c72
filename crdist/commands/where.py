"""Where a run computes: what ``--cluster`` says, and the workers that stand behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crdist.errors import RecipeError

if TYPE_CHECKING:
    from crdist_cluster.batch import Batch
    from crdist_cluster.recipe import ClusterRecipe
    from crdist_postproc.plan import RunPlan, Workers
    from crdist_postproc.run import RunReport

__all__ = [
    "Cluster",
    "Place",
    "batch_of",
    "compute_products",
    "local_workers",
    "place_of",
    "remote_workers",
    "workers_of",
]

Cluster = Annotated[
    str,
    typer.Option(
        "--cluster",
        help="Where to compute: local, the address (tcp://...) or file of a Dask scheduler, or a cluster recipe "
        "(RECIPE.yaml, or a name of 'crdist cluster list').",
    ),
]


@dataclass(frozen=True)
class Place:
    """Where a run computes: on this machine, unless one of these is set."""

    address: str | None = None
    """Address, or scheduler file, of a Dask cluster that is there already."""
    recipe: ClusterRecipe | None = None
    """How to submit jobs to a batch system."""

    @property
    def local(self) -> bool:
        """Whether it is this machine."""
        return self.address is None and self.recipe is None


def place_of(cluster: str) -> Place:
    """What the value of ``--cluster`` means.

    Raises
    ------
    RecipeError
        If it names a cluster recipe that cannot be read or followed.
    """
    if cluster == "local":
        return Place()
    if "://" in cluster or _is_scheduler_file(Path(cluster)):
        return Place(address=cluster)
    from crdist_cluster.recipe import ClusterRecipe

    return Place(recipe=ClusterRecipe.from_yaml(cluster))


def _is_scheduler_file(path: Path) -> bool:
    """Dask's scheduler files are JSON, cluster recipes YAML."""
    if path.suffix == ".json":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"{")


def local_workers(workers: int, threads: int | None, memory: str | None) -> Workers:
    """Workers on this machine.

    Raises
    ------
    RecipeError
        If the memory cannot be read, or is more than there is.
    """
    from crdist_cluster import available_cores, available_memory
    from crdist_postproc.plan import Workers, parse_bytes

    n_bytes = int(0.8 * available_memory()) if memory is None else parse_bytes(memory)
    if n_bytes > available_memory():
        raise RecipeError(
            f"--memory {memory} is more than this machine has ({available_memory() / 1024**3:.1f}GiB); give less"
        )
    return Workers(workers, threads or max(1, available_cores() // workers), n_bytes)


def workers_of(place: Place, workers: int | None, threads: int | None, memory: str | None) -> Workers | None:
    """The workers that a plan must fit into; None where only a cluster that is there already can say it.

    Raises
    ------
    RecipeError
        If options do not go with the place.
    """
    if place.local:
        return local_workers(workers or 1, threads, memory)
    if (workers, threads, memory) != (None, None, None):
        raise RecipeError(
            "--workers, --threads and --memory are of workers started on this machine; with --cluster "
            f"{'the recipe says' if place.recipe else 'its workers have'} what there is"
        )
    if place.recipe is None:
        return None
    from crdist_postproc.plan import Workers

    spec = place.recipe.job("cpu")
    return Workers(
        place.recipe.n_jobs[1],
        spec.cores,
        spec.memory_bytes,
        local=False,
        memory_setting="'memory: {}' in the cluster recipe",
        threads_setting="'cores' there",
    )


def remote_workers(client: Any) -> Workers:
    """The workers of a cluster that is there already."""
    from crdist_postproc.plan import Workers

    found = client.scheduler_info(n_workers=-1)["workers"].values()
    return Workers(
        len(found),
        max(worker["nthreads"] for worker in found),
        min(worker["memory_limit"] for worker in found),
        local=False,
        memory_setting="dask worker --memory-limit {}",
        threads_setting="dask worker --nthreads",
    )


@contextmanager
def batch_of(recipe: ClusterRecipe, folder: Path, kind: Literal["cpu", "gpu"]) -> Iterator[Batch]:
    """The batch jobs of a run, driven by one process at a time.

    Parameters
    ----------
    recipe : ClusterRecipe
    folder : Path
        Folder of the run.
    kind : {"cpu", "gpu"}

    Raises
    ------
    RunError
        If another process drives the run, or no job can be submitted here.
    """
    from crdist.durable import make_folder
    from crdist.run_guard import locked, logged
    from crdist_cluster.batch import batch_client
    from crdist_cluster.ledger import cluster_folder

    here = cluster_folder(folder)
    make_folder(here)
    # a second driver would end the first one's jobs as left over from one that died
    with locked(here, folder), logged(here / "driver.log"), batch_client(recipe, folder, kind=kind) as batch:
        yield batch


def compute_products(
    plan: RunPlan, products: Path, place: Place, workers: Workers | None, folder: Path | None = None
) -> RunReport:
    """Compute a plan's products where a run is to compute, with progress on standard error.

    Parameters
    ----------
    plan : RunPlan
    products : Path
        Products store.
    place : Place
    workers : Workers, optional
        What the plan must fit into; default: the workers of the cluster that is there already.
    folder : Path, optional
        Folder of the run, for what is kept of batch jobs. Default: beside the products.

    Raises
    ------
    PlanTooLargeError, StoreExistsError, RunError
        As `crdist_postproc.run.run_products`.
    """
    from crdist.progress import reporting
    from crdist_cluster import connect, local_client
    from crdist_cluster.queue import check_recipe
    from crdist_postproc.output import RunFolder
    from crdist_postproc.run import Step, execute

    if workers is not None:
        plan = plan.within(workers)
    with ExitStack() as stack:
        watch: Callable[[int, int], None] | None = None
        told: Callable[[float, float, str], None] | None = None
        if place.recipe is not None:
            check_recipe(place.recipe, ["cpu"])
            batch = stack.enter_context(batch_of(place.recipe, folder or RunFolder(products.absolute()).path, "cpu"))
            client, watch, told = batch.client, batch.watch, batch.report
        elif place.address is not None:
            client = stack.enter_context(connect(place.address))
            plan = plan.within(remote_workers(client))
        else:
            here = workers or local_workers(1, None, None)
            client = stack.enter_context(local_client(here.processes, here.threads, here.process_bytes))
        update = stack.enter_context(reporting("post"))

        def progress(step: Step) -> None:
            text = f"block {step.blocks_done} of {step.n_block}, {step.product}"
            update(step.done, step.total, text)
            if told is not None:
                told(step.done, step.total, text)

        return execute(plan, products, client=client, progress=progress, watch=watch)
