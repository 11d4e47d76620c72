"""The ledger of jobs survives what a driver does not."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdist_cluster.ledger import ClusterStatus, JobLedger, cluster_folder


def test_a_ledger_that_is_not_there_has_no_jobs(tmp_path):
    assert JobLedger(tmp_path).open_ids() == []
    assert not cluster_folder(tmp_path).exists()


def test_jobs_are_open_until_they_end(tmp_path):
    ledger = JobLedger(tmp_path)
    ledger.add("7", "cpu", "slurm", "crdist-1")
    ledger.add("8", "gpu", "slurm", "crdist-2")
    ledger.ended("7")
    # what was written is what another process reads
    (job,) = JobLedger(tmp_path).open_jobs()
    assert (job.id, job.kind, job.scheduler, job.name) == ("8", "gpu", "slurm", "crdist-2")
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [line.keys() >= {"id", "submitted"} for line in lines] == [True, True, False]
    assert "ended" in lines[2]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"))))
def test_any_history_leaves_the_jobs_that_have_not_ended(tmp_path_factory, history):
    ledger = JobLedger(tmp_path_factory.mktemp("ledger"))
    expected = []
    for added, job_id in history:
        if job_id in expected:
            expected.remove(job_id) if not added else None
        elif added:
            expected.append(job_id)
        if added:
            ledger.add(job_id, "cpu", "slurm", "w")
        else:
            ledger.ended(job_id)
    assert ledger.open_ids() == expected


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_line_that_a_crash_cut_short_costs_no_other(tmp_path, cut):
    ledger = JobLedger(tmp_path)
    ledger.add("1", "cpu", "slurm", "w-1")
    ledger.add("2", "cpu", "slurm", "w-2")
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    ledger.add("3", "cpu", "slurm", "w-3")
    # without its newline alone the line still says all
    assert ledger.open_ids() == (["1", "2", "3"] if cut == 1 else ["1", "3"])


WRITER = """
import sys
from pathlib import Path
from crdist_cluster.ledger import JobLedger

ledger = JobLedger(Path(sys.argv[1]))
for i in range(50):
    ledger.add(str(int(sys.argv[2]) + i), "cpu", "slurm", f"w-{i}")
"""


def test_several_processes_may_write_at_a_time(tmp_path):
    JobLedger(tmp_path).add("first", "cpu", "slurm", "w")
    # a fork would copy the threads' locks of libraries that other tests use
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(100 * i)]) for i in range(3)]
    assert [writer.wait(timeout=100) for writer in writers] == [0, 0, 0]
    expected = {"first"} | {str(100 * i + k) for i in range(3) for k in range(50)}
    assert set(JobLedger(tmp_path).open_ids()) == expected


def test_a_state_is_read_as_it_was_written(tmp_path):
    status = ClusterStatus(
        stage="post",
        done=3.0,
        total=10.0,
        text="block 3 of 10, sky",
        eta_seconds=12.5,
        state="2 workers of 2 at work",
        jobs=[{"id": "7", "state": "running", "reason": "", "node": "n1", "name": "crdist-1"}],
        driver={"host": "login1", "pid": 12, "job_id": None},
        updated=1.7e9,
    )
    status.write(tmp_path)
    assert ClusterStatus.read(tmp_path) == status


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "post"}', "null"])
def test_a_state_that_is_none_is_not_taken_for_one(tmp_path, content):
    assert ClusterStatus.read(tmp_path) is None
    path = ClusterStatus.path(tmp_path)
    path.parent.mkdir()
    path.write_text(content)
    assert ClusterStatus.read(tmp_path) is None


def test_a_state_of_a_later_version_is_read_for_what_is_known(tmp_path):
    status = ClusterStatus("post", 0.0, 0.0, "", None, "starting")
    status.write(tmp_path)
    path = ClusterStatus.path(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "moon": "full"}))
    assert ClusterStatus.read(tmp_path) == ClusterStatus("post", 0.0, 0.0, "", None, "starting", [], {})
