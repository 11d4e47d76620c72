"""What a queue allows against what a job asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from crdist_cluster.job_spec import JobSpec, walltime_text

__all__ = ["MEBIBYTE", "against_largest", "against_limit", "clock_seconds", "slurm_seconds"]

MEBIBYTE = 1024**2


def against_largest(spec: JobSpec, sizes: Sequence[tuple[int, int]], what: str) -> list[str]:
    """Which of cores and memory is more than there is.

    Parameters
    ----------
    spec : JobSpec
        What a job asks for.
    sizes : sequence of (int, int)
        Cores and memory [byte] of each node; one at least.
    what : str
        What they are, for messages.
    """
    cores, memory = max(size[0] for size in sizes), max(size[1] for size in sizes)
    found = []
    if spec.cores > cores:
        found.append(f"cores: no {what} has {spec.cores}; the largest has {cores}")
    if spec.memory_bytes > memory:
        found.append(f"memory: no {what} has {_mebibytes(spec.memory_bytes)}; the largest has {_mebibytes(memory)}")
    if not found and not any(spec.cores <= size[0] and spec.memory_bytes <= size[1] for size in sizes):
        found.append(f"cores and memory: no {what} has both {spec.cores} and {_mebibytes(spec.memory_bytes)}")
    return found


def against_limit(spec: JobSpec, limit: float, where: str) -> list[str]:
    """Whether the walltime is above a limit [s]."""
    if spec.walltime_seconds <= limit:
        return []
    return [f"walltime: {where} allows {walltime_text(int(limit))}, got {walltime_text(spec.walltime_seconds)}"]


def _mebibytes(n_bytes: int) -> str:
    return f"{math.ceil(n_bytes / MEBIBYTE)} MiB"


def slurm_seconds(text: str) -> float:
    """A time limit as sinfo prints it: ``infinite``, ``1-00:00:00``, ``10:00``.

    Examples
    --------
    >>> [slurm_seconds(text) for text in ("infinite", "1-00:00:00", "10:00")]
    [inf, 86400, 600]
    """
    days, dash, clock = text.strip().rpartition("-")
    if not re.fullmatch(r"[0-9:]+", clock) or (dash and not days.isdigit()):
        return math.inf
    return (int(days) * 86400 if dash else 0) + clock_seconds(clock)


def clock_seconds(text: str) -> int:
    """Seconds of ``HH:MM:SS``, ``MM:SS`` or ``SS``."""
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part or 0)
    return total
