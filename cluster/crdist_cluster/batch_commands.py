"""The commands of the batch systems that crdist knows, and what each would refuse."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from crdist.settings_text import suggestion
from crdist_cluster.batch_system import BatchSystem, said
from crdist_cluster.job_spec import JobSpec, walltime_text
from crdist_cluster.queue_limits import MEBIBYTE, against_largest, against_limit, clock_seconds, slurm_seconds
from crdist_cluster.queue_output import (
    QueuedJob,
    read_bjobs,
    read_condor_q,
    read_oarstat,
    read_pbs_records,
    read_qstat_pbs,
    read_qstat_sge,
    read_squeue,
)

__all__ = ["Htcondor", "Lsf", "Oar", "Pbs", "Sge", "Slurm"]


class Slurm(BatchSystem):
    """Slurm."""

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
        """What the queue or its nodes do not allow; see `BatchSystem.refusals`."""
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
        return [f"{said(done)} (asked by {shlex.join(words[:2])})"]

    def _some_are_down(self, spec: JobSpec) -> bool:
        words = ["sinfo", "--noheader", "--responding", "--states=idle,alloc,mix,comp", "--format=%D"]
        queue = [f"--partition={spec.queue}"] if spec.queue else []
        able = sum(int(number) for number in self._output([*words, *queue]).split())
        return able < sum(
            int(number) for number in self._output(["sinfo", "--noheader", "--format=%D", *queue]).split()
        )


class Pbs(BatchSystem):
    """PBS Professional and OpenPBS."""

    scheduler = "pbs"
    commands = ("qsub", "qstat", "qdel")
    cancel_command = "qdel"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        return self._parsed(["qstat", "-f", *job_ids], read_qstat_pbs, r"(?i)unknown job|has finished")

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["qsub", str(script)])

    def refusals(self, spec: JobSpec) -> list[str]:
        """What the queue or its nodes do not allow; see `BatchSystem.refusals`."""
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


class Sge(BatchSystem):
    """Grid Engine."""

    scheduler = "sge"
    commands = ("qsub", "qstat", "qdel")
    cancel_command = "qdel"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        return self._parsed(["qstat", "-xml", "-u", _user()], read_qstat_sge)

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["qsub", "-terse", str(script)])

    def refusals(self, spec: JobSpec) -> list[str]:
        """What the queue or its nodes do not allow; see `BatchSystem.refusals`."""
        if spec.queue is None or shutil.which("qconf") is None:
            return []
        known = self._output(["qconf", "-sql"]).split()
        name = spec.queue.partition("@")[0]
        if name not in known:
            return [f"queue: no queue {name!r}{suggestion(name, known)}"]
        limit = re.search(r"^h_rt\s+([0-9:]+)\s*$", self._output(["qconf", "-sq", name]), re.MULTILINE)
        return against_limit(spec, clock_seconds(limit[1]), f"queue {name!r}") if limit else []


class Lsf(BatchSystem):
    """LSF."""

    scheduler = "lsf"
    commands = ("bsub", "bjobs", "bkill")
    cancel_command = "bkill"

    def _read(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        words = ["bjobs", "-noheader", "-o", "jobid stat exec_host pend_reason delimiter='|'", *job_ids]
        return self._parsed(words, read_bjobs, r"(?i)is not found|no matching job|no unfinished job")

    def _submit(self, script: Path) -> subprocess.CompletedProcess[str]:
        return self._run(["bsub"], stdin=script.read_text())

    def refusals(self, spec: JobSpec) -> list[str]:
        """What the queue or its nodes do not allow; see `BatchSystem.refusals`."""
        if spec.queue is None or shutil.which("bqueues") is None:
            return []
        known = [line.split()[0] for line in self._output(["bqueues", "-w"]).splitlines()[1:] if line.strip()]
        return [] if spec.queue in known else [f"queue: no queue {spec.queue!r}{suggestion(spec.queue, known)}"]


class Oar(BatchSystem):
    """OAR."""

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


class Htcondor(BatchSystem):
    """HTCondor."""

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
        """What the queue or its nodes do not allow; see `BatchSystem.refusals`."""
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


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
