"""What 'crdist status' reads off a run's files, with nobody there to ask."""

import json
import time

import pytest

from crdist.errors import RunError
from crdist.progress import ProgressFile
from crdist_cluster.ledger import ClusterStatus, JobLedger
from crdist_cluster.report import find_run, report_of


def state(folder, **more):
    content = {
        "stage": "post",
        "done": 30.0,
        "total": 120.0,
        "text": "block 3 of 12, sky",
        "eta_seconds": 90.0,
        "state": "1 worker of 2 at work; 1 job waiting in the queue",
        "driver": {"host": "login1", "pid": 4711, "job_id": None},
        "updated": time.time(),
    }
    ClusterStatus(**{**content, **more}).write(folder)


def test_a_run_at_work(tmp_path):
    ledger = JobLedger(tmp_path)
    for job_id in ("17", "18", "19"):
        ledger.add(job_id, "cpu", "slurm", f"crdist-{job_id}")
    ledger.ended("17")
    jobs = [
        {"id": "18", "state": "running", "reason": "None", "node": "n3"},
        {"id": "19", "state": "pending", "reason": "Resources"},
    ]
    state(tmp_path, jobs=jobs)
    (tmp_path / "run.log").write_text("".join(f"line {i}\n" for i in range(9)))
    report = report_of(tmp_path, n_lines=2)
    assert [(job.id, job.state, job.node, job.reason) for job in report.jobs] == [
        ("18", "running", "n3", ""),
        ("19", "pending", "", "Resources"),
    ]
    text = "\n".join(report.lines())
    for words in ("running", "block 3 of 12, sky (25%)", "about 90 s left", "process 4711 on login1", "Resources"):
        assert words in text
    assert report.log_lines == ("line 7", "line 8")
    assert json.loads(json.dumps(report.to_dict()))["state"] == "running"


def test_a_driver_that_says_nothing_for_a_minute_seems_dead(tmp_path):
    state(tmp_path, updated=time.time() - 55)
    assert report_of(tmp_path).state == "running"
    state(tmp_path, updated=time.time() - 61)
    report = report_of(tmp_path)
    assert report.state == "silent"
    assert "the driver seems dead" in report.lines()[0]
    assert "run the same command again" in report.words
    assert "left" not in report.lines()[0]


@pytest.mark.parametrize(
    ("more", "expected", "words"),
    [
        ({"finished": True, "state": "done"}, "done", ""),
        ({"finished": True, "state": "done; jobs 7 may still be in the queue"}, "done", "jobs 7 may still"),
        ({"error": "out: cancelled", "updated": 0.0}, "stopped", "out: cancelled"),
    ],
)
def test_how_a_run_ended(tmp_path, more, expected, words):
    state(tmp_path, **more)
    report = report_of(tmp_path)
    assert report.state == expected
    assert words in report.words


def test_a_run_whose_driver_waits_in_the_queue(tmp_path):
    # what an earlier driver wrote does not count
    state(tmp_path, finished=True, updated=time.time() - 100)
    JobLedger(tmp_path).add("21", "driver", "slurm", "driver")
    report = report_of(tmp_path)
    assert report.state == "submitted"
    assert "job 21" in report.words
    state(tmp_path, driver={"host": "n1", "pid": 3, "job_id": "21"})
    report = report_of(tmp_path)
    assert (report.state, report.jobs[0].state) == ("running", "running")
    state(tmp_path, stage="infer", finished=True, driver={"host": "n1", "pid": 3, "job_id": "21"})
    assert "its products are next" in report_of(tmp_path).words


def test_an_inference_is_as_far_as_its_own_file_says(tmp_path):
    state(tmp_path, stage="infer", done=1.0, total=8.0, text="points of the evidence")
    file = ProgressFile(tmp_path / "progress.json")
    file.begin("iterations", 2, 12)
    file.tell("iterations", 12, 12)
    report = report_of(tmp_path)
    assert (report.done, report.total, report.part) == (12, 12, "iterations")
    state(tmp_path)
    assert report_of(tmp_path).part == "block 3 of 12, sky"


def test_a_run_on_this_machine_has_its_log_and_progress(tmp_path):
    ProgressFile(tmp_path / "progress.json").begin("iterations", 3, 12)
    (tmp_path / "run.log").write_text("draw 1/2 iteration 3/6\n")
    report = report_of(tmp_path)
    assert (report.state, report.done, report.log_lines) == ("local", 3, ("draw 1/2 iteration 3/6",))


def test_a_products_store_leads_to_its_run(tmp_path):
    (tmp_path / "o.zarr").mkdir()
    (tmp_path / "o.zarr.run" / "cluster").mkdir(parents=True)
    assert find_run(tmp_path / "o.zarr") == tmp_path / "o.zarr.run"
    with pytest.raises(RunError, match="q: no such folder; give the folder"):
        find_run(tmp_path / "q")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no run"):
        find_run(tmp_path / "empty")
