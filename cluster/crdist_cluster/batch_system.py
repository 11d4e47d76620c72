"""The commands of a batch system: what is in the queue, submitting and cancelling, each bounded in time."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from crdist.errors import RunError
from crdist_cluster.job_spec import JobSpec
from crdist_cluster.queue_output import JobState, QueuedJob

__all__ = ["BatchSystem", "said"]

COMMAND_SECONDS = 60.0
IDS_TOGETHER = 100
"""So many job ids fit on a command line of any batch system."""


class BatchSystem:
    """The commands of one batch system, each bounded in time. A command that fails is a `RunError` with its words."""

    scheduler: str
    commands: tuple[str, ...]
    cancel_command: str

    def missing_commands(self) -> list[str]:
        """Those of the needed commands that this machine lacks."""
        return [name for name in self.commands if shutil.which(name) is None]

    def check_commands(self) -> None:
        """Raise `RunError` where some of the needed commands are missing."""
        missing = self.missing_commands()
        if missing:
            raise RunError(
                f"{self.scheduler}: no {', no '.join(missing)} on this machine; log in to a login node of the cluster, "
                "or compute here with --cluster local"
            )

    def states(self, job_ids: Iterable[str]) -> dict[str, QueuedJob]:
        """Each of these jobs as the queue shows it now, by id; what is not in the queue any more is gone.

        Raises
        ------
        RunError
            If the batch system does not answer, so that nothing is known.
        """
        ids = list(job_ids)
        found: dict[str, QueuedJob] = {}
        for some in _batches(ids):
            found |= self._read(some)
        return {job_id: found.get(job_id) or QueuedJob(job_id, JobState.gone) for job_id in ids}

    def cancel(self, job_ids: Iterable[str]) -> None:
        """End these jobs; those that are gone already do not matter.

        Raises
        ------
        RunError
            If some of them stay in the queue.
        """
        for some in _batches(list(job_ids)):
            done = self._run([self.cancel_command, *some])
            if done.returncode:
                over = (JobState.gone, JobState.ending)
                staying = [job.id for job in self.states(some).values() if job.state not in over]
                if staying:
                    raise RunError(f"jobs {', '.join(staying)} could not be cancelled: {said(done)}")

    def submit(self, script: Path) -> str:
        """Submit a job script; the job's id.

        Raises
        ------
        RunError
            If the batch system refuses it: command and stderr.
        """
        done = self._submit(script)
        match = None if done.returncode else self._job_id(done.stdout)
        if match is None:
            raise RunError(f"the job was not submitted; command: {shlex.join(done.args)}; stderr: {said(done)}")
        return match

    def refusals(self, spec: JobSpec) -> list[str]:
        """Why the batch system would never run such a job, as far as it can be known before it is submitted."""
        return []

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        raise NotImplementedError

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        raise NotImplementedError

    def _job_id(self, out: str) -> str | None:
        match = re.search(r"\d+", out)
        return match[0] if match else None

    def _run(self, words: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command that ran, whether it succeeded or not."""
        self.check_commands()
        try:
            return subprocess.run(
                list(words),
                input=stdin or "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                env={**os.environ, "LC_ALL": "C"},
                # a Ctrl-C at the terminal is for the driver, which may be cleaning up by this very command
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(
                f"{shlex.join(words)}: no answer in {COMMAND_SECONDS:.0f} s; is {self.scheduler} up?"
            ) from error
        except OSError as error:
            raise RunError(f"{shlex.join(words)}: cannot be run ({error.strerror})") from error

    def _output(self, words: Sequence[str], harmless: str = r"(?!)") -> str:
        """Stdout of a command that must succeed, or fail with harmless words alone."""
        done = self._run(words)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            if not lines or not all(re.search(harmless, line) for line in lines):
                raise RunError(f"{shlex.join(words)}: {said(done)}")
        return done.stdout

    def _parsed(
        self, words: Sequence[str], read: Callable[[str], dict[str, QueuedJob]], harmless: str = r"(?!)"
    ) -> dict[str, QueuedJob]:
        out = self._output(words, harmless)
        try:
            return read(out)
        except ValueError as error:
            raise RunError(f"{shlex.join(words)}: its output cannot be read ({error})") from error


def _batches(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (job_ids[start : start + IDS_TOGETHER] for start in range(0, len(job_ids), IDS_TOGETHER))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command complained of, on one line."""
    return " ".join((done.stderr.strip() or done.stdout.strip()).split()) or f"nothing, exit code {done.returncode}"
