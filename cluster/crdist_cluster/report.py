"""Where a run stands, from the files in its folder alone: neither its driver nor the batch system is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crdist.errors import RunError
from crdist.progress import PROGRESS_FILE, read_progress
from crdist_cluster.ledger import ClusterStatus, JobLedger, cluster_folder
from crdist_cluster.watch import span

__all__ = ["JobLine", "StatusReport", "find_run", "report_of"]

SILENT_SECONDS = 60.0
"""A driver writes its state every two seconds; one that has not for this long is thought dead."""

TAIL_BYTES = 65536


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job that is not known to have ended."""

    id: str
    kind: str
    state: str
    """As the driver last saw it in the queue; ``unknown`` where it has not said."""
    age_seconds: float
    """Since its submission."""
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Where a run stands."""

    folder: str
    state: str
    """``submitted``, ``running``, ``done``, ``stopped``, ``silent`` (the driver seems dead) or ``local`` (no jobs)."""
    words: str
    """What it is at or waits for, or why it stopped."""
    stage: str
    """``infer`` or ``post``; empty where it is not known."""
    done: float
    total: float
    """0 while it is not known."""
    part: str
    """What `done` counts, in words."""
    seconds_left: float | None
    driver: Mapping[str, Any]
    updated_seconds_ago: float | None
    jobs: Sequence[JobLine]
    log: str
    log_lines: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text."""
        return [self._headline(), *self._about_driver(), *self._about_jobs(), *self._about_log()]

    def _headline(self) -> str:
        parts = [self.state if self.state != "silent" else "the driver seems dead"]
        if self.total:
            share = f" ({self.done / self.total:.0%})"
            # voxel-samples say nobody anything
            count = f"{self.done:.0f} of {self.total:.0f} " if self.stage == "infer" else ""
            parts.append(f"{self.stage}: {count}{self.part}{share}")
        elif self.stage:
            parts.append(self.stage)
        if self.seconds_left is not None and self.state == "running" and self.done < self.total:
            parts.append(f"about {span(self.seconds_left)} left")
        return f"{self.folder}: {', '.join(parts)}"

    def _about_driver(self) -> list[str]:
        lines = [f"  {self.words}"] if self.words else []
        if self.driver:
            job = f", job {self.driver['job_id']}" if self.driver.get("job_id") else ""
            ago = f", last heard of {span(self.updated_seconds_ago)} ago" if self.updated_seconds_ago else ""
            lines.append(f"  driver: process {self.driver.get('pid')} on {self.driver.get('host')}{job}{ago}")
        return lines

    def _about_jobs(self) -> list[str]:
        if not self.jobs:
            return []
        rows = [("job", "kind", "state", "age", "node", "reason")]
        rows += [(job.id, job.kind, job.state, span(job.age_seconds), job.node, job.reason) for job in self.jobs]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

    def _about_log(self) -> list[str]:
        return [f"  {self.log}:", *(f"    {line}" for line in self.log_lines)] if self.log_lines else []


def find_run(path: Path) -> Path:
    """The folder of a run: the path itself, or what lies beside a products store of this name.

    Raises
    ------
    RunError
        If there is no run.
    """
    for folder in (path, path.with_name(path.name + ".run")):
        if any((folder / name).exists() for name in ("cluster", "run.log", PROGRESS_FILE)):
            return folder
    what = "holds no run" if path.is_dir() else "no such folder"
    raise RunError(f"{path}: {what}; give the folder of a 'crdist run', or the products store of a 'crdist post'")


def report_of(path: Path, n_lines: int = 5) -> StatusReport:
    """Where the run in a folder stands.

    Parameters
    ----------
    path : Path
        Folder of a run, or a products store.
    n_lines : int
        Lines of the log to show.

    Raises
    ------
    RunError
        If there is no run.
    """
    folder = find_run(path)
    now = time.time()
    status = ClusterStatus.read(folder)
    jobs = _job_lines(folder, status, now)
    progress = read_progress(folder / PROGRESS_FILE)
    logs = [folder / "run.log", *sorted(folder.glob("*.run/run.log"))]
    log = _newest(logs) or _newest([cluster_folder(folder) / "driver.log"])
    state, words = _state(status, jobs, now)
    stage, done, total, part, left = "", 0.0, 0.0, "", None
    if status is not None:
        stage, done, total, part, left = status.stage, status.done, status.total, status.text, status.eta_seconds
    heard = None if status is None else status.updated
    if progress is not None and (status is None or stage == "infer"):
        stage, done, total, part = "infer", progress.done, progress.total, progress.part
        left = progress.seconds_left(now)
        heard = max(heard or 0.0, progress.updated)
    return StatusReport(
        folder=str(path),
        state=state,
        words=words,
        stage=stage,
        done=done,
        total=total,
        part=part,
        seconds_left=left,
        driver={} if status is None else dict(status.driver),
        updated_seconds_ago=None if heard is None else max(0.0, now - heard),
        jobs=jobs,
        log="" if log is None else str(log),
        log_lines=() if log is None else tuple(_tail(log, n_lines)),
    )


def _state(status: ClusterStatus | None, jobs: Sequence[JobLine], now: float) -> tuple[str, str]:
    driver = next((job for job in jobs if job.kind == "driver"), None)
    submitted = None if driver is None else now - driver.age_seconds
    if driver is not None and submitted is not None and (status is None or status.updated < submitted):
        return "submitted", f"job {driver.id} is to drive it, and has not begun or not said anything yet"
    if status is None:
        return "local", "on this machine or a Dask cluster, without jobs: the log says how it goes"
    if status.error is not None:
        return "stopped", status.error
    if status.finished and driver is not None and status.stage == "infer":
        return "running", "the inference is done, its products are next"
    if status.finished:
        return "done", "" if status.state == "done" else status.state
    silent = now - status.updated
    if silent > SILENT_SECONDS:
        return "silent", (
            f"nothing from it for {span(silent)}; run the same command again (with --resume, for a 'crdist run'), "
            "which goes on from what is finished"
        )
    return "running", status.state


def _job_lines(folder: Path, status: ClusterStatus | None, now: float) -> list[JobLine]:
    seen = {str(job.get("id")): job for job in status.jobs} if status is not None else {}
    driver = None if status is None else status.driver.get("job_id")
    lines = []
    for job in JobLedger(folder).open_jobs():
        last = seen.get(job.id, {})
        state = "running" if job.id == driver else str(last.get("state") or "unknown")
        node, reason = str(last.get("node") or ""), str(last.get("reason") or "")
        # the queue shows no reason for what runs but a word for none
        reason = "" if reason in ("None", "none") else reason
        lines.append(JobLine(job.id, job.kind, state, max(0.0, now - job.submitted), node, reason))
    return lines


def _newest(paths: Sequence[Path]) -> Path | None:
    there = [(path.stat().st_mtime, path) for path in paths if path.is_file()]
    return max(there)[1] if there else None


def _tail(path: Path, n_lines: int) -> list[str]:
    if n_lines < 1:
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-n_lines:]
