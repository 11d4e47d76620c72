"""A kind of cluster for crdist: Slurm where a job has its node for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from crdist_cluster.job_spec import JobSpec
from crdist_cluster.kinds import SCHEDULERS, ClusterKind
from crdist_cluster.recipe import ClusterRecipe


# begin cluster
def whole_nodes(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What is said to Slurm, in the words of `dask_jobqueue.SLURMCluster`."""
    words = SCHEDULERS["slurm"].words(recipe, spec, logs, name)
    # all of the node's memory, whatever its size
    return {**words, "job_mem": "0", "job_extra_directives": ["--exclusive", *words["job_extra_directives"]]}


KIND = ClusterKind(
    name="whole-nodes",
    recipe={
        "scheduler": "whole-nodes",
        "cores": 64,
        "memory": "240GB",
        "walltime": "24:00:00",
        "jobs": {"min": 1, "max": 4},
    },
    scheduler=replace(SCHEDULERS["slurm"], words=whole_nodes),
)
# end cluster
