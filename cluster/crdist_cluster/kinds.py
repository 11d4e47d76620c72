"""Kinds of clusters: recipes to start from and the batch systems behind them; installed packages add to both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import RecipeError
from crdist.plugins import PluginTable
from crdist.settings_text import suggestion
from crdist_cluster import directives
from crdist_cluster.batch_commands import Htcondor, Lsf, Oar, Pbs, Sge, Slurm
from crdist_cluster.batch_system import BatchSystem
from crdist_cluster.job_spec import JobSpec

if TYPE_CHECKING:
    from crdist_cluster.recipe import ClusterRecipe

__all__ = ["CLUSTER_KINDS", "SCHEDULERS", "ClusterKind", "Scheduler", "check_keys", "find_scheduler", "shipped_recipes"]


def _follows(recipe: ClusterRecipe) -> None:
    """Every recipe can be followed."""


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A batch system, in code."""

    commands: type[BatchSystem]
    """Its commands: what is in the queue, submitting, cancelling, and what it would refuse."""
    cluster: str
    """The class of dask-jobqueue, or one derived from it, ``module:Class``; imported when a job script is made."""
    words: Callable[[ClusterRecipe, JobSpec, Path, str], dict[str, Any]]
    """What that class is made with for a job, beside what all have in common: given the recipe, the job, the folder of
    its logs and its name."""
    keys: frozenset[str] = frozenset()
    """Keys of a recipe that not all batch systems understand, but this one does: ``memory_resource``."""
    refuse: Callable[[ClusterRecipe], None] = _follows
    """Raises a `RecipeError` where a recipe says what this batch system cannot follow."""


@dataclass(frozen=True, slots=True)
class ClusterKind:
    """A kind of cluster. A package adds one as an entry point of the group ``crdist.clusters``."""

    name: str
    """What ``--cluster`` takes, and ``scheduler`` in a recipe where there is code."""
    recipe: Mapping[str, Any] | Path | None
    """The recipe of such a cluster, or one to start from: its keys, or a YAML file of them."""
    scheduler: Scheduler | None = None
    """Its batch system; None where the recipe names another kind's."""


SCHEDULERS = {
    "slurm": Scheduler(Slurm, "dask_jobqueue.slurm:SLURMCluster", directives.slurm),
    "pbs": Scheduler(Pbs, "dask_jobqueue.pbs:PBSCluster", directives.pbs),
    "sge": Scheduler(Sge, "dask_jobqueue.sge:SGECluster", directives.sge, frozenset({"memory_resource"})),
    "lsf": Scheduler(Lsf, "dask_jobqueue.lsf:LSFCluster", directives.lsf),
    "oar": Scheduler(Oar, "dask_jobqueue.oar:OARCluster", directives.oar, frozenset({"memory_resource"})),
    "htcondor": Scheduler(
        Htcondor, "dask_jobqueue.htcondor:HTCondorCluster", directives.htcondor, refuse=directives.check_htcondor
    ),
}
"""The batch systems that crdist knows."""


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with crdist, by name."""
    inside = Path(str(resources.files("crdist_cluster")))
    # a wheel holds them in the package, a checkout beside it
    folders = (inside / "recipes", inside.parent / "recipes")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _builtin() -> dict[str, ClusterKind]:
    recipes = shipped_recipes()
    names = dict.fromkeys([*SCHEDULERS, *recipes])
    return {name: ClusterKind(name, recipes.get(name), SCHEDULERS.get(name)) for name in names}


CLUSTER_KINDS: PluginTable[ClusterKind] = PluginTable("crdist.clusters", ClusterKind, _builtin())
"""The known kinds, by name; installed packages add to them."""


def find_scheduler(name: str) -> Scheduler:
    """The batch system that a recipe names.

    Raises
    ------
    RecipeError
        If there is none of this name.
    DependencyError
        If it is that of an installed package and cannot be loaded.
    """
    found = CLUSTER_KINDS[name].scheduler if name in CLUSTER_KINDS else None
    if found is None:
        known = [kind.name for kind in CLUSTER_KINDS.working()[0].values() if kind.scheduler is not None]
        raise RecipeError(f"no batch system {name!r}{suggestion(name, known)}")
    return found


def check_keys(recipe: ClusterRecipe) -> None:
    """Raise `RecipeError` where a recipe has a key that means nothing to its batch system, or that it cannot follow."""
    scheduler = find_scheduler(recipe.scheduler)
    if recipe.memory_resource is not None and "memory_resource" not in scheduler.keys:
        able = [name for name, other in SCHEDULERS.items() if "memory_resource" in other.keys]
        raise RecipeError(
            f"memory_resource: has no meaning for {recipe.scheduler}, only for {' and '.join(able)}; drop it"
        )
    scheduler.refuse(recipe)
