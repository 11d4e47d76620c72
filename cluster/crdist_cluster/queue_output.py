"""What the commands of batch systems print, read into records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from xml.etree import ElementTree

__all__ = [
    "JobState",
    "QueuedJob",
    "read_bjobs",
    "read_condor_q",
    "read_oarstat",
    "read_pbs_records",
    "read_qstat_pbs",
    "read_qstat_sge",
    "read_squeue",
]


class JobState(StrEnum):
    """Where a job stands, in the same words for all batch systems."""

    pending = "pending"
    running = "running"
    ending = "ending"
    held = "held"
    """Waits for somebody to release or resume it."""
    gone = "gone"
    """Not in the queue any more."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job as the queue shows it."""

    id: str
    state: JobState
    reason: str = ""
    """Why it waits, in the batch system's words."""
    node: str = ""
    """Where it runs."""


_SLURM = {
    "PENDING": JobState.pending,
    "CONFIGURING": JobState.pending,
    "REQUEUED": JobState.pending,
    "REQUEUE_FED": JobState.pending,
    "RESV_DEL_HOLD": JobState.held,
    "REQUEUE_HOLD": JobState.held,
    "SPECIAL_EXIT": JobState.held,
    "SUSPENDED": JobState.held,
    "STOPPED": JobState.held,
    "RUNNING": JobState.running,
    "RESIZING": JobState.running,
    "SIGNALING": JobState.running,
    "COMPLETING": JobState.ending,
    "STAGE_OUT": JobState.ending,
}
_PBS = {
    "Q": JobState.pending,
    "W": JobState.pending,
    "T": JobState.pending,
    "H": JobState.held,
    "S": JobState.held,
    "U": JobState.held,
    "R": JobState.running,
    "B": JobState.running,
    "E": JobState.ending,
}
_LSF = {
    "PEND": JobState.pending,
    "WAIT": JobState.pending,
    "PROV": JobState.pending,
    "PSUSP": JobState.held,
    "USUSP": JobState.held,
    "SSUSP": JobState.held,
    "RUN": JobState.running,
    # its node does not answer: it may run still
    "UNKWN": JobState.running,
}
_OAR = {
    "Waiting": JobState.pending,
    "toLaunch": JobState.pending,
    "toAckReservation": JobState.pending,
    "Launching": JobState.pending,
    "Hold": JobState.held,
    "Suspended": JobState.held,
    "Running": JobState.running,
    "Resuming": JobState.running,
    "Finishing": JobState.ending,
}
_HTCONDOR = {
    "1": JobState.pending,
    "2": JobState.running,
    "5": JobState.held,
    "6": JobState.ending,
    "7": JobState.held,
}
# A state that is not listed, such as COMPLETED, F, DONE or Terminated, is one after the job's end.


def _lines(text: str, n_fields: int, separator: str) -> Iterator[list[str]]:
    """The fields of each line that has so many; the last one may hold the separator."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(separator, n_fields - 1)]
        if len(fields) == n_fields:
            yield fields


def read_squeue(text: str) -> dict[str, QueuedJob]:
    """Jobs in the output of Slurm's ``squeue --noheader --format='%i|%T|%N|%r'``, by id."""
    jobs = {}
    for job_id, word, node, reason in _lines(text, 4, "|"):
        state = _SLURM.get(word, JobState.gone)
        if state is JobState.pending and reason.startswith("JobHeld"):
            state = JobState.held
        waits = state in (JobState.pending, JobState.held)
        jobs[job_id] = QueuedJob(job_id, state, reason if waits and reason != "None" else "", node)
    return jobs


def read_pbs_records(text: str, title: str) -> dict[str, dict[str, str]]:
    """Attributes in the output of PBS's ``qstat -f`` (title ``Job Id``) or ``qstat -Q -f`` (title ``Queue``), by name.

    A line that starts with a tab goes on with the one before.
    """
    records: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in re.sub(r"\n\t", "", text).splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == title:
            current = records.setdefault(value.strip(), {})
        elif " = " in line:
            key, _, value = line.partition(" = ")
            current[key.strip()] = value.strip()
    return records


def read_qstat_pbs(text: str) -> dict[str, QueuedJob]:
    """Jobs in the output of PBS's ``qstat -f``, by the number in their id."""
    jobs = {}
    for full_id, record in read_pbs_records(text, "Job Id").items():
        job_id = full_id.partition(".")[0]
        state = _PBS.get(record.get("job_state", ""), JobState.gone)
        waits = state in (JobState.pending, JobState.held)
        # "n1/0*4+n1/1": node, slot, cores
        node = re.split(r"[/+]", record.get("exec_host", ""))[0]
        jobs[job_id] = QueuedJob(job_id, state, record.get("comment", "") if waits else "", node)
    return jobs


def read_qstat_sge(text: str) -> dict[str, QueuedJob]:
    """Jobs in the output of Grid Engine's ``qstat -xml``, by id.

    Raises
    ------
    ValueError
        If it is not XML.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"qstat -xml did not print XML ({error})") from error
    jobs = {}
    for item in root.iter("job_list"):
        job_id = (item.findtext("JB_job_number") or "").strip()
        letters = (item.findtext("state") or "").strip()
        reason = ""
        if "d" in letters:
            state = JobState.ending
        elif "E" in letters:
            state, reason = JobState.held, f"error state {letters}"
        elif set(letters) & set("hsST"):
            state, reason = JobState.held, f"state {letters}"
        elif set(letters) & set("rt"):
            state = JobState.running
        else:
            state = JobState.pending
        node = (item.findtext("queue_name") or "").partition("@")[2]
        jobs[job_id] = QueuedJob(job_id, state, reason, node)
    return jobs


def read_bjobs(text: str) -> dict[str, QueuedJob]:
    """Jobs in the output of LSF's ``bjobs -noheader -o "jobid stat exec_host pend_reason delimiter='|'"``, by id."""
    jobs = {}
    for job_id, word, hosts, reason in _lines(text, 4, "|"):
        state = _LSF.get(word, JobState.gone)
        # "16*n1" or "n1:n1"; "-" stands for nothing
        node = "" if hosts == "-" else hosts.partition(":")[0].rpartition("*")[2]
        waits = state in (JobState.pending, JobState.held)
        jobs[job_id] = QueuedJob(job_id, state, reason if waits and reason != "-" else "", node)
    return jobs


def read_oarstat(text: str) -> dict[str, QueuedJob]:
    """Jobs in the output of OAR's ``oarstat --json``, by id.

    Raises
    ------
    ValueError
        If it is not a JSON mapping.
    """
    content = json.loads(text) if text.strip() else {}
    if not isinstance(content, dict):
        raise ValueError("oarstat --json did not print a mapping")
    jobs = {}
    for job_id, record in content.items():
        if not isinstance(record, Mapping):
            continue
        state = _OAR.get(str(record.get("state")), JobState.gone)
        nodes = record.get("assigned_network_address") or [""]
        waits = state in (JobState.pending, JobState.held)
        reason = str(record.get("message") or "") if waits else ""
        jobs[str(job_id)] = QueuedJob(str(job_id), state, reason, str(nodes[0] if isinstance(nodes, list) else nodes))
    return jobs


def read_condor_q(text: str) -> dict[str, QueuedJob]:
    """Jobs in the output of HTCondor's ``condor_q -af:t ClusterId ProcId JobStatus RemoteHost HoldReason``, by id."""
    jobs = {}
    for cluster, process, number, host, reason in _lines(text, 5, "\t"):
        job_id = f"{cluster}.{process}"
        state = _HTCONDOR.get(number, JobState.gone)
        # "slot1_1@n1"
        node = "" if host == "undefined" else host.rpartition("@")[2]
        jobs[job_id] = QueuedJob(job_id, state, "" if reason == "undefined" else reason, node)
    return jobs
