"""The batch system's own commands: what is in the queue, submitting, cancelling, and what would be refused."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from crdist.errors import RecipeError, RunError
from crdist.settings_text import suggestion
from crdist_cluster.jobscript import recorded_cluster_class
from crdist_cluster.queue_limits import MEBIBYTE, against_largest, against_limit, clock_seconds, slurm_seconds
from crdist_cluster.queue_output import (
    JobState,
    QueuedJob,
    read_bjobs,
    read_condor_q,
    read_oarstat,
    read_pbs_records,
    read_qstat_pbs,
    read_qstat_sge,
    read_squeue,
)
from crdist_cluster.recipe import ClusterRecipe, JobKind, JobSpec, Scheduler, walltime_text

__all__ = ["BatchSystem", "JobState", "QueuedJob", "batch_system", "check_recipe"]

COMMAND_SECONDS = 60.0
IDS_TOGETHER = 100
"""So many job ids fit on a command line of any batch system."""


class BatchSystem:
    """The commands of one batch system, each bounded in time. A command that fails is a `RunError` with its words."""

    scheduler: Scheduler
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
                    raise RunError(f"jobs {', '.join(staying)} could not be cancelled: {_said(done)}")

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
            raise RunError(f"the job was not submitted; command: {shlex.join(done.args)}; stderr: {_said(done)}")
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
                raise RunError(f"{shlex.join(words)}: {_said(done)}")
        return done.stdout

    def _parsed(
        self, words: Sequence[str], read: Callable[[str], dict[str, QueuedJob]], harmless: str = r"(?!)"
    ) -> dict[str, QueuedJob]:
        out = self._output(words, harmless)
        try:
            return read(out)
        except ValueError as error:
            raise RunError(f"{shlex.join(words)}: its output cannot be read ({error})") from error


class _Slurm(BatchSystem):
    scheduler = "slurm"
    commands = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
    cancel_command = "scancel"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        # asked for by id, it fails where one of them is gone
        words = ["squeue", "--noheader", "--all", f"--user={os.getuid()}", "--format=%i|%T|%N|%r"]
        return self._parsed(words, read_squeue)

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["sbatch", "--parsable", str(script)])

    def refusals(self, spec: JobSpec) -> list[str]:
        known = re.findall(
            r"PartitionName=(\S+)", self._output(["scontrol", "--all", "--oneliner", "show", "partition"])
        )
        if spec.queue is not None:
            unknown = [name for name in spec.queue.split(",") if name not in known]
            if unknown:
                return [f"queue: no partition {unknown[0]!r}{suggestion(unknown[0], known)}"]
        found = self._against_nodes(spec)
        return found or self._tried(spec)

    def _against_nodes(self, spec: JobSpec) -> list[str]:
        words = ["sinfo", "--noheader", "--Node", "--exact", "--format=%c|%m|%l|%P"]
        words += [f"--partition={spec.queue}"] if spec.queue else []
        lines = [line.split("|") for line in self._output(words).splitlines()]
        rows = [
            (int(cores), int(memory) * MEBIBYTE, slurm_seconds(limit))
            for cores, memory, limit, name in lines
            # the default partition bears a star; a job that names none goes there
            if (spec.queue is not None or name.strip().endswith("*")) and cores.isdigit() and memory.isdigit()
        ]
        if not rows:
            return []
        where = f"partition {spec.queue!r}" if spec.queue else "the default partition"
        found = against_largest(spec, [(cores, memory) for cores, memory, _ in rows], f"node of {where}")
        limit = max(seconds for *_, seconds in rows)
        return found + against_limit(spec, limit, where)

    def _tried(self, spec: JobSpec) -> list[str]:
        """What Slurm says of such a job where it is only asked."""
        words = ["sbatch", "--test-only", "--ntasks=1", f"--cpus-per-task={spec.cores}"]
        words += [f"--mem={math.ceil(spec.memory_bytes / MEBIBYTE)}M", f"--time={walltime_text(spec.walltime_seconds)}"]
        words += [f"--partition={spec.queue}"] if spec.queue else []
        words += [f"--account={spec.account}"] if spec.account else []
        words += [f"--gres=gpu:{spec.gpus}"] if spec.gpus else []
        words += [word for line in spec.directives for word in shlex.split(line)]
        done = self._run([*words, "--wrap=true"])
        # nodes that are down or taken may come back: such a job waits
        passing = r"(?i)down, drained|busy|contact slurm|timed out|try again|temporar"
        if done.returncode == 0 or re.search(passing, done.stderr):
            return []
        if "node configuration is not available" in done.stderr and self._some_are_down(spec):
            return []
        return [f"{_said(done)} (asked by {shlex.join(words[:2])})"]

    def _some_are_down(self, spec: JobSpec) -> bool:
        words = ["sinfo", "--noheader", "--responding", "--states=idle,alloc,mix,comp", "--format=%D"]
        queue = [f"--partition={spec.queue}"] if spec.queue else []
        able = sum(int(number) for number in self._output([*words, *queue]).split())
        return able < sum(
            int(number) for number in self._output(["sinfo", "--noheader", "--format=%D", *queue]).split()
        )


class _Pbs(BatchSystem):
    scheduler = "pbs"
    commands = ("qsub", "qstat", "qdel")
    cancel_command = "qdel"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        return self._parsed(["qstat", "-f", *job_ids], read_qstat_pbs, r"(?i)unknown job|has finished")

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["qsub", str(script)])

    def refusals(self, spec: JobSpec) -> list[str]:
        if spec.queue is None:
            return []
        queues = read_pbs_records(self._output(["qstat", "-Q", "-f"]), "Queue")
        if spec.queue not in queues:
            return [f"queue: no queue {spec.queue!r}{suggestion(spec.queue, queues)}"]
        most = {key: value for key, value in queues[spec.queue].items() if key.startswith("resources_max.")}
        found = []
        if re.fullmatch(r"[0-9:]+", most.get("resources_max.walltime", "")):
            limit = clock_seconds(most["resources_max.walltime"])
            found += against_limit(spec, limit, f"queue {spec.queue!r}")
        if most.get("resources_max.ncpus", "").isdigit() and spec.cores > int(most["resources_max.ncpus"]):
            found.append(f"cores: queue {spec.queue!r} allows {most['resources_max.ncpus']} a job, got {spec.cores}")
        return found


class _Sge(BatchSystem):
    scheduler = "sge"
    commands = ("qsub", "qstat", "qdel")
    cancel_command = "qdel"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        return self._parsed(["qstat", "-xml", "-u", _user()], read_qstat_sge)

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["qsub", "-terse", str(script)])

    def refusals(self, spec: JobSpec) -> list[str]:
        if spec.queue is None or shutil.which("qconf") is None:
            return []
        known = self._output(["qconf", "-sql"]).split()
        name = spec.queue.partition("@")[0]
        if name not in known:
            return [f"queue: no queue {name!r}{suggestion(name, known)}"]
        limit = re.search(r"^h_rt\s+([0-9:]+)\s*$", self._output(["qconf", "-sq", name]), re.MULTILINE)
        return against_limit(spec, clock_seconds(limit[1]), f"queue {name!r}") if limit else []


class _Lsf(BatchSystem):
    scheduler = "lsf"
    commands = ("bsub", "bjobs", "bkill")
    cancel_command = "bkill"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        words = ["bjobs", "-noheader", "-o", "jobid stat exec_host pend_reason delimiter='|'", *job_ids]
        return self._parsed(words, read_bjobs, r"(?i)is not found|no matching job|no unfinished job")

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["bsub"], stdin=script.read_text())

    def refusals(self, spec: JobSpec) -> list[str]:
        if spec.queue is None or shutil.which("bqueues") is None:
            return []
        known = [line.split()[0] for line in self._output(["bqueues", "-w"]).splitlines()[1:] if line.strip()]
        return [] if spec.queue in known else [f"queue: no queue {spec.queue!r}{suggestion(spec.queue, known)}"]


class _Oar(BatchSystem):
    scheduler = "oar"
    commands = ("oarsub", "oarstat", "oardel")
    cancel_command = "oardel"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        return self._parsed(["oarstat", "--json", "--user", _user()], read_oarstat)

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        # OAR reads the script when the job starts, by when it may be gone: it is handed over as a command
        lines = script.read_text().splitlines()
        options = [line.removeprefix("#OAR ") for line in lines if line.startswith("#OAR ")]
        body = "\n".join(line for line in lines if not line.startswith("#"))
        return self._run(["oarsub", *(word for option in options for word in shlex.split(option)), body])

    def _job_id(self, out: str) -> str | None:
        match = re.search(r"OAR_JOB_ID=(\d+)", out)
        return match[1] if match else None


class _Htcondor(BatchSystem):
    scheduler = "htcondor"
    commands = ("condor_submit", "condor_q", "condor_rm")
    cancel_command = "condor_rm"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        names = ("ClusterId", "ProcId", "JobStatus", "RemoteHost", "HoldReason")
        return self._parsed(["condor_q", *job_ids, "-af:t", *names], read_condor_q)

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["condor_submit", str(script)])

    def _job_id(self, out: str) -> str | None:
        match = re.search(r"submitted to cluster (\d+)", out)
        return f"{match[1]}.0" if match else None

    def refusals(self, spec: JobSpec) -> list[str]:
        if shutil.which("condor_status") is None:
            return []
        lines = [
            line.split()
            for line in self._output(["condor_status", "-af", "TotalSlotCpus", "TotalSlotMemory"]).splitlines()
        ]
        slots = [
            (int(line[0]), int(line[1]) * MEBIBYTE) for line in lines if len(line) == 2 and all(map(str.isdigit, line))
        ]
        return against_largest(spec, slots, "slot of the pool") if slots else []


_SYSTEMS: dict[str, type[BatchSystem]] = {
    system.scheduler: system for system in (_Slurm, _Pbs, _Sge, _Lsf, _Oar, _Htcondor)
}


def batch_system(scheduler: str) -> BatchSystem:
    """The commands of a batch system; whether this machine has them is seen when they are used.

    Raises
    ------
    RunError
        If there is none of this name.
    """
    if scheduler not in _SYSTEMS:
        raise RunError(f"no batch system {scheduler!r}{suggestion(scheduler, _SYSTEMS)}")
    return _SYSTEMS[scheduler]()


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


def _batches(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (job_ids[start : start + IDS_TOGETHER] for start in range(0, len(job_ids), IDS_TOGETHER))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command complained of, on one line."""
    return " ".join((done.stderr.strip() or done.stdout.strip()).split()) or f"nothing, exit code {done.returncode}"


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
