"""What a driver concludes from what it sees."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdist_cluster.watch import LOSSES_A_BLOCK, Patience, Sight, Watch, backoff_seconds

PATIENCE = Patience(queue_seconds=1000.0, stall_seconds=500.0, attempts=3, losses=2)
AT_WORK = Sight(now=0.0, done=0.0, wanted=2, workers=2, running=2)
IN_QUEUE = Sight(now=0.0, done=0.0, wanted=2, workers=0, pending=2, reasons=("Resources",))


def looks(sight, seconds, step=5.0, watch=None):
    """The verdicts on a sight that stays the same, but for the clock, up to the first that gives up."""
    watch = Watch(PATIENCE) if watch is None else watch
    now = sight.now
    while now <= sight.now + seconds:
        verdict = watch.look(replace(sight, now=now))
        yield now - sight.now, verdict
        if verdict.error is not None:
            return
        now += step


def gives_up(sight, seconds=5000.0, **more):
    """When the watch gives up, and its words; None where it does not."""
    return next(((at, verdict.error) for at, verdict in looks(sight, seconds, **more) if verdict.error), None)


def test_a_run_that_gets_on_is_working_for_ever():
    watch = Watch(PATIENCE)
    for i in range(1000):
        verdict = watch.look(replace(AT_WORK, now=60.0 * i, done=float(i)))
        assert (verdict.state, verdict.error) == ("working", None)
    assert verdict.words == "2 workers of 2 at work"


def test_waiting_in_the_queue_is_told_from_being_stuck():
    *_, (_, waiting) = looks(IN_QUEUE, 200.0)
    assert (waiting.state, waiting.error) == ("waiting", None)
    assert waiting.words == "2 jobs waiting in the queue for 3.3 min (Resources)"
    *_, (_, stuck) = looks(AT_WORK, 200.0)
    assert (stuck.state, stuck.error) == ("stuck", None)
    assert stuck.words == "2 workers of 2 at work; nothing finished for 3.3 min"


def test_the_queue_has_its_own_patience():
    at, words = gives_up(IN_QUEUE)
    assert at == PATIENCE.queue_seconds
    assert "no worker for 16.7 min: 2 jobs waiting in the queue (Resources)" in words
    assert "'queue_patience'" in words


def test_workers_that_finish_nothing_are_given_up():
    at, words = gives_up(AT_WORK)
    assert at == PATIENCE.stall_seconds
    assert words.startswith("stuck: nothing was finished for 8.3 min with 2 workers there; ")
    assert "'stall_patience'" in words


def test_paused_workers_are_suspicious_at_once_and_named_in_the_end():
    paused = replace(AT_WORK, paused=2)
    (_, first), *_ = looks(paused, 1.0)
    assert (first.state, first.error) == ("stuck", None)
    assert "2 workers paused: memory or scratch is full" in first.words
    assert "2 of them paused" in gives_up(paused)[1]


def test_time_in_the_queue_does_not_count_as_being_stuck():
    watch = Watch(PATIENCE)
    assert gives_up(replace(IN_QUEUE), 900.0, watch=watch) is None
    at, words = gives_up(replace(AT_WORK, now=905.0), watch=watch)
    assert at >= PATIENCE.stall_seconds - 5
    assert words.startswith("stuck")


def test_workers_that_come_and_go_and_finish_nothing_count_as_one_that_stays():
    watch = Watch(PATIENCE)
    for i in range(300):
        sight = AT_WORK if i % 4 else IN_QUEUE
        verdict = watch.look(replace(sight, now=5.0 * i))
        if verdict.error:
            break
    assert verdict.error.startswith("stuck")
    assert PATIENCE.stall_seconds < 5.0 * i < 2 * PATIENCE.stall_seconds


def test_time_in_which_the_driver_itself_stood_still_does_not_count():
    watch = Watch(PATIENCE)
    watch.look(AT_WORK)
    assert watch.look(replace(AT_WORK, now=1e6)).error is None


def test_failed_submissions_are_shown_and_given_up_after_some():
    failing = Sight(now=0.0, done=0.0, wanted=1, workers=0, submit_failures=2, failure="command: sbatch x; stderr: no")
    (_, verdict), *_ = looks(failing, 1.0)
    assert (verdict.state, verdict.error) == ("failing", None)
    assert verdict.words == "2 submissions failed: command: sbatch x; stderr: no"
    at, words = gives_up(replace(failing, submit_failures=3))
    assert at == 0
    assert "no job could be submitted, 3 attempts failed: command: sbatch x; stderr: no" in words


@pytest.mark.parametrize("there", [{"workers": 1}, {"pending": 1}, {"running": 1}])
def test_failed_submissions_do_not_end_a_run_that_still_has_a_job(there):
    sight = Sight(now=0.0, done=0.0, wanted=4, **{"workers": 0, **there}, submit_failures=9, failure="stderr: no")
    watch = Watch(PATIENCE)
    for i in range(100):
        assert watch.look(replace(sight, now=float(i), done=float(i))).error is None


def test_jobs_that_never_bring_up_a_worker_are_given_up_with_their_last_words():
    sight = Sight(now=0.0, done=0.0, wanted=1, workers=0, pending=1, barren=2, barren_log="last line of x.err: no dask")
    assert gives_up(sight, 100.0) is None
    at, words = gives_up(replace(sight, barren=3))
    assert at == 0
    assert "3 jobs in a row ended before their worker answered: last line of x.err: no dask" in words


def test_losses_count_from_the_last_progress_on():
    watch = Watch(PATIENCE)
    most = LOSSES_A_BLOCK * (PATIENCE.losses + 1) * AT_WORK.wanted
    assert watch.look(replace(AT_WORK, lost=most - 1)).error is None
    assert watch.look(replace(AT_WORK, now=1.0, lost=2 * most, done=1.0)).error is None
    assert watch.look(replace(AT_WORK, now=2.0, lost=3 * most - 1, done=1.0)).error is None
    error = watch.look(replace(AT_WORK, now=3.0, lost=3 * most, done=1.0)).error
    assert f"{most} workers were lost since something was last finished; is the walltime shorter" in error


def test_held_jobs_are_no_waiting_jobs():
    held = replace(IN_QUEUE, pending=0, held=2, reasons=())
    (_, verdict), *_ = looks(held, 1.0)
    assert verdict.state == "waiting"
    assert verdict.words == "2 jobs held by the batch system: release or cancel them"
    assert "2 jobs held" in gives_up(held)[1]


def test_a_queue_that_cannot_be_read_is_mentioned_and_changes_nothing_else():
    (_, verdict), *_ = looks(replace(AT_WORK, queue_error="squeue: no answer"), 1.0)
    assert (verdict.state, verdict.error) == ("working", None)
    assert verdict.words == "2 workers of 2 at work; the queue cannot be read: squeue: no answer"


def test_a_run_that_wants_no_job_is_idle_for_as_long_as_it_likes():
    idle = Sight(now=0.0, done=0.0, wanted=0, workers=0)
    *_, (_, verdict) = looks(idle, 5000.0)
    assert (verdict.state, verdict.words, verdict.error) == ("idle", "no job needed just now", None)


def test_a_job_that_runs_without_a_worker_is_starting():
    (_, verdict), *_ = looks(Sight(now=0.0, done=0.0, wanted=1, workers=0, running=1), 1.0)
    assert (verdict.state, verdict.words) == ("starting", "1 job started, no worker has answered yet")


sights = st.builds(
    Sight,
    now=st.just(0.0),
    done=st.just(0.0),
    wanted=st.integers(0, 5),
    **dict.fromkeys(
        ("workers", "paused", "pending", "held", "running", "submit_failures", "barren"), st.integers(0, 5)
    ),
)


@given(sights)
def test_every_verdict_is_one_line_and_nothing_that_wants_jobs_lasts_for_ever(sight):
    first, *_ = looks(sight, 1.0)
    assert first[1].words
    assert "\n" not in first[1].words
    given_up = gives_up(sight, 2000.0, step=25.0)
    assert (given_up is None) == (not sight.wanted and not sight.workers and not _at_once(sight))
    assert given_up is None or "\n" not in given_up[1]


def _at_once(sight):
    """Whether submissions or jobs have failed too often already, wanted or not."""
    jobs = sight.pending or sight.running or sight.held
    return sight.barren >= PATIENCE.attempts or (sight.submit_failures >= PATIENCE.attempts and not jobs)


@given(st.integers(1, 10**6))
def test_the_time_between_submissions_grows_to_a_minute(failures):
    assert 2.0 <= backoff_seconds(failures) <= backoff_seconds(failures + 1) <= 60.0
