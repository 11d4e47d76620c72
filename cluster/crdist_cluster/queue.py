"""The batch system of a recipe: its commands, and what can be known before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterable

from crdist.errors import RecipeError, RunError
from crdist.settings_text import suggestion
from crdist_cluster.batch_system import BatchSystem
from crdist_cluster.job_spec import JobKind
from crdist_cluster.jobscript import recorded_cluster_class
from crdist_cluster.kinds import find_scheduler
from crdist_cluster.queue_output import JobState, QueuedJob
from crdist_cluster.recipe import ClusterRecipe

__all__ = ["BatchSystem", "JobState", "QueuedJob", "batch_system", "check_recipe"]


def batch_system(scheduler: str) -> BatchSystem:
    """The commands of a batch system; whether this machine has them is seen when they are used.

    Raises
    ------
    RunError
        If there is none of this name.
    DependencyError
        If it is that of an installed package and cannot be loaded.
    """
    try:
        found = find_scheduler(scheduler)
    except RecipeError as error:
        raise RunError(str(error)) from error
    return found.commands()


def check_recipe(recipe: ClusterRecipe, kinds: Iterable[JobKind]) -> None:
    """Find out what can be known before anything is submitted.

    Parameters
    ----------
    recipe : ClusterRecipe
        What the jobs ask for.
    kinds : iterable of str
        Which of its jobs are going to be submitted.

    Raises
    ------
    RunError
        If this machine lacks the batch system's commands, or they do not answer.
    DependencyError
        If dask-jobqueue is not installed.
    RecipeError
        If the network interface does not exist, or a job would be refused: all reasons, in one line.
    """
    system = batch_system(recipe.scheduler)
    system.check_commands()
    recorded_cluster_class(recipe.scheduler, lambda _: None, lambda _, __: None)
    if recipe.interface is not None:
        _check_interface(recipe.interface)
    for kind in kinds:
        refusals = system.refusals(recipe.job(kind))
        if refusals:
            raise RecipeError(f"{recipe.scheduler} would not run a {kind} job: {'; '.join(refusals)}")


def _check_interface(name: str) -> None:
    import socket

    from distributed.utils import get_ip_interface

    known = [interface for _, interface in socket.if_nameindex()]
    if name not in known:
        raise RecipeError(f"interface: no network interface {name!r} on this machine{suggestion(name, known)}")
    try:
        get_ip_interface(name)
    except ValueError as error:
        raise RecipeError(f"interface: network interface {name!r} has no IPv4 address; give another") from error
