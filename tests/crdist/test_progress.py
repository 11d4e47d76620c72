"""Progress in a file, for those who look on from elsewhere."""

import json
import time

from hypothesis import given
from hypothesis import strategies as st

from crdist import progress
from crdist.progress import ProgressFile, RecordedProgress, read_progress, reporting


def test_what_is_told_can_be_read(tmp_path):
    file = ProgressFile(tmp_path / "progress.json")
    file.begin("iterations", 3, 10)
    seen = read_progress(tmp_path / "progress.json")
    assert (seen.part, seen.done, seen.total, seen.before) == ("iterations", 3, 10, 3)
    assert seen.seconds_left(time.time() + 10) is None


def test_the_file_is_written_seldom_but_the_last_step_always(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(progress, "FILE_SECONDS", 0.3)
    monkeypatch.setattr(progress, "write_durably", lambda path, data: written.append(json.loads(data)["done"]))
    file = ProgressFile(tmp_path / "progress.json")
    for done in range(1, 10):
        file.tell("points", done, 12)
    assert len(written) < 9
    deadline = time.monotonic() + 20
    while written[-1] != 9 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert written[0] == 1
    assert written[-1] == 9
    file.tell("points", 12, 12)
    assert written[-1] == 12


def test_the_longest_step_is_known(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    file, path = ProgressFile(tmp_path / "progress.json"), tmp_path / "progress.json"
    for done, seconds in enumerate([5.0, 2.0, 7.5, 3.0], start=1):
        now[0] += seconds
        file.tell("points", done, 4)
    assert read_progress(path).longest_seconds == 7.5
    assert read_progress(path).updated == 1017.5


def test_each_stage_has_a_time_of_its_own(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with reporting("infer") as update:
        for done in range(0, 5):
            update(done, 4, "points")
            now[0] += 70.0
        update(0, 10, "iterations")
        now[0] += 80.0
        update(4, 10, "iterations")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "infer: 25% after 70 s, 210 s left  points"
    assert lines[-1] == "infer: 40% after 80 s, 120 s left  iterations"


def test_a_new_part_counts_anew(tmp_path):
    file, path = ProgressFile(tmp_path / "progress.json"), tmp_path / "progress.json"
    file.tell("points", 16, 16)
    file.tell("iterations", 1, 5)
    assert (read_progress(path).part, read_progress(path).total) == ("iterations", 5)


@given(
    before=st.integers(0, 50),
    more=st.integers(1, 50),
    left=st.integers(0, 50),
    seconds=st.floats(0.01, 1e6),
)
def test_the_time_left_is_that_of_this_process_speed(before, more, left, seconds):
    done = before + more
    seen = RecordedProgress("points", done, done + left, before, 0.0, seconds, 0.0)
    assert abs(seen.seconds_left(seconds) - left * seconds / more) <= 1e-9 * (1 + left * seconds / more)


def test_no_file_and_a_damaged_one_say_nothing(tmp_path):
    assert read_progress(tmp_path / "none.json") is None
    for text in ("", "{", "[]", '{"part": "points"}'):
        (tmp_path / "p.json").write_text(text)
        assert read_progress(tmp_path / "p.json") is None
