"""What a recipe says, in the words of each batch system: the keys in which dask-jobqueue's classes differ."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import RecipeError, RunError
from crdist.settings_text import show
from crdist_cluster.job_spec import JobSpec, walltime_text

if TYPE_CHECKING:
    from crdist_cluster.recipe import ClusterRecipe

__all__ = ["check_htcondor", "htcondor", "lsf", "oar", "pbs", "plain_path", "sge", "slurm"]


def plain_path(path: Path) -> Path:
    """An absolute path that every batch system takes.

    Raises
    ------
    RunError
        If it has a character that some do not.
    """
    path = Path(os.path.abspath(path))
    if re.search(r"[\s'\"\\$`%,;#&|<>()]", str(path)):
        raise RunError(f"{path}: has a character that batch systems do not take in a path; choose another folder")
    return path


def slurm(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What dask-jobqueue's class for Slurm is made with."""
    gpus = [f"--gres=gpu:{spec.gpus}"] if spec.gpus else []
    return {
        "queue": spec.queue,
        "account": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        # dask-jobqueue rounds up to whole GiB, which a node may not have
        "job_mem": f"{math.ceil(spec.memory_bytes / 1024**2)}M",
        # the driver replaces what is lost
        "job_extra_directives": ["--no-requeue", *gpus, *spec.directives],
    }


def pbs(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What dask-jobqueue's class for PBS is made with."""
    memory = math.ceil(spec.memory_bytes / 1024**2)
    gpus = f":ngpus={spec.gpus}" if spec.gpus else ""
    return {
        "queue": spec.queue,
        "account": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        "resource_spec": f"select=1:ncpus={spec.cores}:mem={memory}mb{gpus}",
        "job_extra_directives": ["-r n", *spec.directives],
    }


def sge(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What dask-jobqueue's class for Grid Engine is made with."""
    # Resources are counted per core.
    memory = math.ceil(spec.memory_bytes / 1024**2 / spec.cores)
    resources = [f"{recipe.memory_resource}={memory}M"] if recipe.memory_resource else []
    resources += [f"gpu={spec.gpus}"] if spec.gpus else []
    cores = [f"-pe {recipe.parallel_environment} {spec.cores}"] if recipe.parallel_environment else []
    return {
        "queue": spec.queue,
        "project": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        "resource_spec": ",".join(resources) or None,
        # Grid Engine does not heed the script's first line
        "job_extra_directives": ["-S /bin/bash", "-r n", *cores, *spec.directives],
    }


def lsf(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What dask-jobqueue's class for LSF is made with."""
    minutes = math.ceil(spec.walltime_seconds / 60)
    gpus = [f'-gpu "num={spec.gpus}"'] if spec.gpus else []
    return {
        "queue": spec.queue,
        "project": spec.account,
        "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}",
        "ncpus": spec.cores,
        "mem": spec.memory_bytes,
        "use_stdin": True,
        "job_extra_directives": ["-rn", *gpus, *spec.directives],
    }


def oar(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What dask-jobqueue's class for OAR is made with."""
    # the cores of a GPU come with it
    resources = f"/nodes=1/gpu={spec.gpus}" if spec.gpus else f"/nodes=1/core={spec.cores}"
    folder = plain_path(logs)
    return {
        "queue": spec.queue,
        "project": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        "resource_spec": resources,
        "memory_per_core_property_name": recipe.memory_resource or "not_applicable",
        "job_extra_directives": [
            f"-O {folder}/{name}-%jobid%.out",
            f"-E {folder}/{name}-%jobid%.err",
            *spec.directives,
        ],
    }


def htcondor(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What dask-jobqueue's class for HTCondor is made with."""
    further: dict[str, str] = {}
    if spec.account is not None:
        further["accounting_group"] = spec.account
    if spec.gpus:
        further["request_gpus"] = str(spec.gpus)
    # HTCondor knows no walltime: the job says itself when it has run (JobStatus 2) for too long.
    further["periodic_remove"] = f"(JobStatus == 2) && ((time() - EnteredCurrentStatus) > {spec.walltime_seconds})"
    for line in spec.directives:
        key, _, value = line.partition("=")
        further[key.strip()] = value.strip()
    return {"disk": recipe.disk, "job_extra_directives": further}


def check_htcondor(recipe: ClusterRecipe) -> None:
    """Raise `RecipeError` where a recipe says what HTCondor cannot follow."""
    for name, section in (("", recipe), ("gpu.", recipe.gpu), ("driver.", recipe.driver)):
        if section is None:
            continue
        if section.queue is not None:
            raise RecipeError(f"{name}queue: htcondor has none; drop it, or give requirements in directives")
        for line in section.setup or ():
            if "$(" in line:
                raise RecipeError(f"{name}setup: htcondor reads $( itself, use backquotes; got {show(line)}")
        for line in section.directives or ():
            if "=" not in line:
                raise RecipeError(f"{name}directives: must be lines 'key = value' for htcondor, got {show(line)}")
