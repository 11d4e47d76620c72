"""What a run keeps about its jobs in its folder: the ledger of submissions, and the state for those who look on.

Both are plain files: they outlive the driver, and reading them needs neither it nor the batch system.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from crdist.durable import make_folder, write_durably

__all__ = ["ClusterStatus", "JobLedger", "JobRecord", "cluster_folder"]


def cluster_folder(folder: Path) -> Path:
    """The part of a run's folder that is about its jobs."""
    return folder / "cluster"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job that was submitted."""

    id: str
    kind: str
    """``cpu``, ``gpu`` or ``driver``."""
    scheduler: str
    """The batch system, such as ``slurm``."""
    name: str
    """Name of its Dask worker, or of the job."""
    submitted: float
    """Seconds since 1970."""


class JobLedger:
    """The list of submitted jobs, only ever appended to.

    Each line is flushed to the disk before the next step: a driver that dies between a submission and its end leaves
    no job that nobody knows of.
    """

    def __init__(self, folder: Path) -> None:
        self.path = cluster_folder(folder) / "jobs.jsonl"
        self._lock = threading.Lock()

    def add(self, job_id: str, kind: str, scheduler: str, name: str) -> None:
        """Record a submission."""
        self._append(asdict(JobRecord(job_id, kind, scheduler, name, time.time())))

    def ended(self, job_id: str) -> None:
        """Record that a job is no longer in the queue."""
        self._append({"id": job_id, "ended": time.time()})

    def open_jobs(self) -> list[JobRecord]:
        """The jobs that were submitted and are not known to have ended, in the order of submission."""
        jobs: dict[str, JobRecord] = {}
        names = {item.name for item in fields(JobRecord)}
        for line in self._lines():
            if line.keys() >= names:
                jobs[line["id"]] = JobRecord(**{name: line[name] for name in names})
            elif "ended" in line:
                jobs.pop(line["id"], None)
        return list(jobs.values())

    def open_ids(self) -> list[str]:
        """The ids of `open_jobs`."""
        return [job.id for job in self.open_jobs()]

    def _append(self, line: Mapping[str, Any]) -> None:
        # A line that a crash cut short must not swallow this one. One write appends whole, also beside others'.
        data = ("" if self._ends_whole() else "\n") + json.dumps(line) + "\n"
        with self._lock:
            make_folder(self.path.parent)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, data.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _ends_whole(self) -> bool:
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                return file.read(1) == b"\n"
        return True

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        with suppress(FileNotFoundError):
            for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict) and isinstance(line.get("id"), str):
                        found.append(line)
        return found


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Where a run on a batch system stands, written by its driver every few seconds."""

    stage: str
    """``infer`` or ``post``."""
    done: float
    total: float
    """Of the same unit as `done`; 0 while it is not known."""
    text: str
    """What is done, in words, such as ``block 7 of 40, sky``."""
    eta_seconds: float | None
    state: str
    """What the run is at or waits for, in words."""
    jobs: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """Jobs as the queue last showed them: id, state, reason, node, and the name of the worker."""
    driver: Mapping[str, Any] = field(default_factory=dict)
    """Host, process id and, where the driver is a batch job itself, job id."""
    updated: float = 0.0
    """Seconds since 1970."""
    finished: bool = False
    error: str | None = None

    def write(self, folder: Path) -> None:
        """Write it into a run's folder, replacing the one before."""
        write_durably(self.path(folder), json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> ClusterStatus | None:
        """The state in a run's folder; None where none was written or the file is not one."""
        try:
            content = json.loads(cls.path(folder).read_text())
            known = {item.name for item in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    @staticmethod
    def path(folder: Path) -> Path:
        """The file."""
        return cluster_folder(folder) / "status.json"
