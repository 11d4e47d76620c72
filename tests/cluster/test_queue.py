"""The batch systems' commands: Slurm's on a private Slurm, the others' by the output that their manuals show."""

import os
import socket
import sys
import time

import pytest

from crdist.errors import RecipeError, RunError
from crdist_cluster.jobscript import command_script
from crdist_cluster.queue import JobState, QueuedJob, batch_system, check_recipe
from crdist_cluster.queue_limits import slurm_seconds
from crdist_cluster.queue_output import (
    read_bjobs,
    read_condor_q,
    read_oarstat,
    read_qstat_pbs,
    read_qstat_sge,
    read_squeue,
)
from crdist_cluster.recipe import ClusterRecipe

SMALL = {"scheduler": "slurm", "queue": "normal", "cores": 1, "memory": "500MB", "walltime": "00:05:00"}


def recipe_of(**keys):
    return ClusterRecipe.from_mapping({**SMALL, **keys})


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def submitted(tmp_path, system, recipe, *command, kind="cpu"):
    script = tmp_path / "job.sh"
    script.write_text(command_script(recipe, kind, command, tmp_path / "logs"))
    return system.submit(script)


# Slurm, the real one


def test_a_job_from_submission_to_its_end(slurm, tmp_path):
    system = batch_system("slurm")
    job_id = submitted(tmp_path, system, recipe_of(), "sleep", "60")
    assert job_id.isdigit()
    wait_for(lambda: system.states([job_id])[job_id].state is JobState.running)
    job = system.states([job_id, "999999"])
    assert job[job_id].node in slurm.nodes
    assert job["999999"] == QueuedJob("999999", JobState.gone)
    system.cancel([job_id])
    wait_for(lambda: system.states([job_id])[job_id].state is JobState.gone)
    # what is gone does not matter
    system.cancel([job_id, "999999"])
    assert slurm.completed()[job_id] == "CANCELLED"


def test_a_command_runs_as_the_job_and_its_output_is_kept(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    system = batch_system("slurm")
    recipe = recipe_of(setup=["export A=set-up"])
    code = "import os; print(os.getcwd(), os.environ['A'], os.environ['OMP_NUM_THREADS'])"
    job_id = submitted(tmp_path, system, recipe, sys.executable, "-c", code, kind="driver")
    log = tmp_path / "logs" / f"crdist-driver-{job_id}.out"
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    assert log.read_text().split() == [str(tmp_path), "set-up", "1"]


def test_why_a_job_waits_is_told(slurm, tmp_path):
    system = batch_system("slurm")
    job_id = submitted(tmp_path, system, recipe_of(directives=["--hold"]), "true")
    job = system.states([job_id])[job_id]
    assert (job.state, job.reason) == (JobState.held, "JobHeldUser")
    slurm.command("scontrol", "release", job_id)
    wait_for(lambda: system.states([job_id])[job_id].state is JobState.gone)
    later = submitted(tmp_path, system, recipe_of(directives=["--begin=now+1hour"]), "true")
    wait_for(lambda: system.states([later])[later].reason == "BeginTime")
    assert system.states([later])[later].state is JobState.pending


def test_a_refused_submission_says_command_and_stderr(slurm, tmp_path):
    with pytest.raises(
        RunError, match=r"not submitted; command: sbatch .*job\.sh; stderr: .*invalid partition"
    ) as caught:
        submitted(tmp_path, batch_system("slurm"), recipe_of(queue="gpuu"), "true")
    assert "\n" not in str(caught.value)


def test_a_job_that_can_run_is_not_refused(slurm):
    for recipe in (
        recipe_of(),
        recipe_of(queue=None),
        recipe_of(queue="gpu", gpus=4),
        recipe_of(memory="4GB", cores=4),
    ):
        check_recipe(recipe, ["cpu", "driver" if recipe.queue is None else "cpu"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"queue": "normalx"}, "queue: no partition 'normalx'; did you mean 'normal'? known: normal, short, gpu"),
        ({"queue": "normal,x"}, "queue: no partition 'x'"),
        ({"cores": 64}, "cores: no node of partition 'normal' has 64; the largest has 4"),
        ({"cores": 64, "queue": None}, "cores: no node of the default partition has 64; the largest has 4"),
        ({"memory": "1TB"}, "memory: no node of partition 'normal' has 953675 MiB; the largest has 4000 MiB"),
        ({"queue": "short", "walltime": "01:00:00"}, "walltime: partition 'short' allows 00:10:00, got 01:00:00"),
        ({"gpus": 9}, "Requested node configuration is not available (asked by sbatch --test-only)"),
        ({"directives": ["--gres=no:1"]}, "Invalid generic resource (gres) specification"),
    ],
)
def test_what_no_node_can_do_is_said_before_anything_is_submitted(slurm, keys, message):
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe_of(**keys), ["cpu"])
    text = str(caught.value)
    assert text.startswith("slurm would not run a cpu job: ")
    assert message in text
    assert "\n" not in text
    assert slurm.squeue() == {}


def test_each_kind_of_job_is_looked_at(slurm):
    recipe = recipe_of(gpu={"queue": "gpu", "cores": 5})
    check_recipe(recipe, ["cpu", "driver"])
    with pytest.raises(RecipeError, match="would not run a gpu job: cores: no node of partition 'gpu' has 5"):
        check_recipe(recipe, ["cpu", "gpu"])


def test_nodes_that_are_down_may_come_back(slurm):
    for node in slurm.nodes:
        slurm.set_node(node, "DOWN")
    check_recipe(recipe_of(), ["cpu"])


def test_an_interface_that_is_not_there(slurm):
    names = [name for _, name in socket.if_nameindex()]
    assert "lo" in names
    check_recipe(recipe_of(interface="lo"), ["cpu"])
    with pytest.raises(RecipeError, match=r"interface: no network interface 'ib7' on this machine.* known: .*lo"):
        check_recipe(recipe_of(interface="ib7"), ["cpu"])


# without the commands


def test_a_batch_system_that_nobody_knows():
    with pytest.raises(RunError, match="no batch system 'slrum'; did you mean 'slurm'"):
        batch_system("slrum")


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "sge", "lsf", "oar", "htcondor"])
def test_a_machine_without_the_commands(scheduler, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    system = batch_system(scheduler)
    missing = system.missing_commands()
    assert len(missing) >= 3
    expected = rf"{scheduler}: no {missing[0]}, no .* on this machine; log in to a login node of the cluster, or"
    for ask in (
        lambda: system.states(["1"]),
        lambda: system.cancel(["1"]),
        lambda: check_recipe(recipe_of(scheduler=scheduler, queue=None), ["cpu"]),
    ):
        with pytest.raises(RunError, match=expected):
            ask()
    # nothing is asked for where there is nothing to ask about
    assert system.states([]) == {}


# the others, by what their manuals show


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Stand-ins for a batch system's commands: shell scripts, first on the PATH, that write down their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def add(**scripts):
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/called\n{script}\n')
            path.chmod(0o755)

    add.called = lambda: (folder / "called").read_text().splitlines()
    return add


QSTAT_F = """\
Job Id: 12.server
    Job_Name = crdist
    job_state = R
    exec_host = node7/0*16
\t+node8/0*16
    comment = Job run at Sun Nov 22 at 10:00 on
\t (node7:ncpus=16)

Job Id: 13.server
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus

Job Id: 14.server
    job_state = H
Job Id: 15.server
    job_state = E
Job Id: 16.server
    job_state = F
"""


def test_pbs_jobs(commands):
    assert read_qstat_pbs(QSTAT_F) == {
        "12": QueuedJob("12", JobState.running, "", "node7"),
        "13": QueuedJob("13", JobState.pending, "Not Running: Insufficient amount of resource: ncpus"),
        "14": QueuedJob("14", JobState.held),
        "15": QueuedJob("15", JobState.ending),
        "16": QueuedJob("16", JobState.gone),
    }
    system = batch_system("pbs")
    commands(
        qsub="echo 12.server",
        qdel="exit 0",
        qstat="printf 'Job Id: 12.server\\n    job_state = Q\\n'; echo 'qstat: Unknown Job Id 99.server' >&2; exit 153",
    )
    assert {job.id: job.state for job in system.states(["12", "99"]).values()} == {"12": "pending", "99": "gone"}
    assert commands.called()[-1] == "qstat -f 12 99"
    commands(qstat="echo 'cannot connect to server pbs01 (errno=111)' >&2; exit 1")
    with pytest.raises(RunError, match=r"qstat -f 12: cannot connect to server pbs01"):
        system.states(["12"])


QSTAT_XML = """<?xml version='1.0'?>
<job_info  xmlns:xsd="http://www.w3.org/2001/XMLSchema">
  <queue_info>
    <job_list state="running">
      <JB_job_number>3</JB_job_number><JB_name>crdist</JB_name><state>r</state>
      <queue_name>all.q@node1.site</queue_name><slots>4</slots>
    </job_list>
    <job_list state="running">
      <JB_job_number>4</JB_job_number><state>dr</state><queue_name>all.q@node2</queue_name>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending"><JB_job_number>5</JB_job_number><state>qw</state><queue_name></queue_name></job_list>
    <job_list state="pending"><JB_job_number>6</JB_job_number><state>hqw</state><queue_name></queue_name></job_list>
    <job_list state="pending"><JB_job_number>7</JB_job_number><state>Eqw</state><queue_name></queue_name></job_list>
  </job_info>
</job_info>
"""


def test_grid_engine_jobs():
    assert read_qstat_sge(QSTAT_XML) == {
        "3": QueuedJob("3", JobState.running, "", "node1.site"),
        "4": QueuedJob("4", JobState.ending, "", "node2"),
        "5": QueuedJob("5", JobState.pending),
        "6": QueuedJob("6", JobState.held, "state hqw"),
        "7": QueuedJob("7", JobState.held, "error state Eqw"),
    }
    with pytest.raises(ValueError, match="did not print XML"):
        read_qstat_sge("error: commlib error")


def test_lsf_jobs(commands):
    text = (
        "101|RUN|16*hosta:16*hostb|-\n102|PEND|-|New job is waiting for scheduling;\n103|PSUSP|-|-\n104|EXIT|hosta|-\n"
    )
    assert read_bjobs(text) == {
        "101": QueuedJob("101", JobState.running, "", "hosta"),
        "102": QueuedJob("102", JobState.pending, "New job is waiting for scheduling;"),
        "103": QueuedJob("103", JobState.held),
        "104": QueuedJob("104", JobState.gone, "", "hosta"),
    }
    commands(bsub="", bkill="", bjobs="echo 'Job <7> is not found' >&2; exit 255")
    assert batch_system("lsf").states(["7"])["7"].state is JobState.gone


def test_oar_jobs():
    text = """{
      "21": {"state": "Running", "assigned_network_address": ["n1.site", "n2.site"], "message": "R=16"},
      "22": {"state": "Waiting", "assigned_network_address": [], "message": "FIFO scheduling"},
      "23": {"state": "Hold"}, "24": {"state": "Finishing"}, "25": {"state": "Terminated"}
    }"""
    assert {key: job.state for key, job in read_oarstat(text).items()} == {
        "21": "running",
        "22": "pending",
        "23": "held",
        "24": "ending",
        "25": "gone",
    }
    assert read_oarstat(text)["21"].node == "n1.site"
    assert read_oarstat(text)["22"].reason == "FIFO scheduling"
    assert read_oarstat("") == {}


def test_htcondor_jobs():
    text = (
        "31\t0\t2\tslot1_1@exec1.site\tundefined\n32\t0\t1\tundefined\tundefined\n"
        "33\t0\t5\tundefined\tError from exec2: disk full\n34\t0\t4\tundefined\tundefined\n"
    )
    assert read_condor_q(text) == {
        "31.0": QueuedJob("31.0", JobState.running, "", "exec1.site"),
        "32.0": QueuedJob("32.0", JobState.pending),
        "33.0": QueuedJob("33.0", JobState.held, "Error from exec2: disk full"),
        "34.0": QueuedJob("34.0", JobState.gone),
    }


def test_lines_that_are_none_are_passed_over():
    assert read_squeue("slurm_load_jobs warning\n\n1|RUNNING|n1|None\n") == {
        "1": QueuedJob("1", JobState.running, "", "n1")
    }
    assert read_squeue("1|TIMEOUT|n1|TimeLimit\n")["1"].state is JobState.gone


@pytest.mark.parametrize(
    ("scheduler", "names", "answer", "job_id", "call"),
    [
        ("pbs", ("qsub", "qstat", "qdel"), "echo 12.server", "12", r"qsub {script}"),
        ("sge", ("qsub", "qstat", "qdel"), "echo 13", "13", r"qsub -terse {script}"),
        ("lsf", ("bsub", "bjobs", "bkill"), "echo 'Job <14> is submitted to queue <normal>.'", "14", r"bsub "),
        (
            "htcondor",
            ("condor_submit", "condor_q", "condor_rm"),
            "echo 'Submitting job(s).'; echo '1 job(s) submitted to cluster 15.'",
            "15.0",
            r"condor_submit {script}",
        ),
    ],
)
def test_submitting_to_the_others(scheduler, names, answer, job_id, call, commands, tmp_path):
    commands(**dict.fromkeys(names, answer))
    recipe = recipe_of(scheduler=scheduler, queue=None)
    assert submitted(tmp_path, batch_system(scheduler), recipe, "true") == job_id
    assert commands.called() == [call.format(script=tmp_path / "job.sh")]
    commands(**{names[0]: "echo no such queue >&2; exit 1"})
    with pytest.raises(RunError, match="stderr: no such queue"):
        submitted(tmp_path, batch_system(scheduler), recipe, "true")


def test_oar_is_given_the_script_as_a_command(commands, tmp_path):
    commands(
        oarsub='for word; do last=$word; done; echo "$last" > "$0.body"; echo OAR_JOB_ID=16', oarstat="", oardel=""
    )
    recipe = recipe_of(scheduler="oar", queue="besteffort")
    assert submitted(tmp_path, batch_system("oar"), recipe, "true") == "16"
    assert "-q besteffort -l /nodes=1/core=1,walltime=00:05:00" in commands.called()[0]
    assert (tmp_path / "bin" / "oarsub.body").read_text().rstrip().endswith("exec true")


def test_jobs_that_stay_after_cancelling_are_named(commands):
    commands(
        condor_submit="",
        condor_rm="echo 'Permission denied to remove job 31.0' >&2; exit 1",
        condor_q="printf '31\\t0\\t2\\tslot1@e\\tundefined\\n'",
    )
    with pytest.raises(RunError, match=r"jobs 31\.0 could not be cancelled: Permission denied to remove job 31\.0"):
        batch_system("htcondor").cancel(["31.0", "32.0"])


def test_many_jobs_are_asked_for_in_parts(commands):
    commands(qsub="", qdel="", qstat="exit 0")
    ids = [str(i) for i in range(250)]
    assert list(batch_system("pbs").states(ids)) == ids
    assert [len(line.split()) for line in commands.called()] == [102, 102, 52]


def test_a_command_that_does_not_answer(commands, monkeypatch):
    monkeypatch.setattr("crdist_cluster.batch_system.COMMAND_SECONDS", 0.3)
    commands(qsub="", qdel="", qstat="exec sleep 20")
    with pytest.raises(RunError, match="qstat -f 1: no answer in 0 s; is pbs up"):
        batch_system("pbs").states(["1"])


@pytest.mark.parametrize(
    ("scheduler", "keys", "message"),
    [
        ("pbs", {"queue": "wrkq"}, "queue: no queue 'wrkq'; did you mean 'workq'? known: workq, long"),
        ("pbs", {"walltime": "30:00:00"}, "walltime: queue 'workq' allows 24:00:00, got 30:00:00"),
        ("pbs", {"cores": 64}, "cores: queue 'workq' allows 32 a job, got 64"),
        ("sge", {"queue": "al.q"}, "queue: no queue 'al.q'; did you mean 'all.q'? known: all.q, gpu.q"),
        ("sge", {"queue": "all.q", "walltime": "30:00:00"}, "walltime: queue 'all.q' allows 08:00:00"),
        ("lsf", {"queue": "nrmal"}, "queue: no queue 'nrmal'; did you mean 'normal'? known: normal, night"),
        ("htcondor", {"queue": None, "cores": 64}, "cores: no slot of the pool has 64; the largest has 16"),
        ("htcondor", {"queue": None, "cores": 16, "memory": "30GB"}, "no slot of the pool has both 16 and 28611 MiB"),
    ],
)
def test_what_the_others_would_refuse(scheduler, keys, message, commands):
    queues = (
        "Queue: workq\n    enabled = True\n    resources_max.ncpus = 32\n    resources_max.walltime = 24:00:00\n"
        "Queue: long\n    enabled = True\n"
    )
    commands(
        **dict.fromkeys(("qsub", "qdel", "bsub", "bjobs", "bkill", "condor_submit", "condor_q", "condor_rm"), "true"),
        qstat=f"printf '{queues}'".replace("\n", "\\n"),
        qconf='case $1 in -sql) printf "all.q\\ngpu.q\\n";; *) echo "h_rt                  08:00:00";; esac',
        bqueues="printf 'QUEUE_NAME PRIO STATUS\\nnormal 30 Open:Active\\nnight 40 Open:Inact\\n'",
        condor_status="printf '16 8000\\n8 64000\\nundefined 5\\n'",
    )
    recipe = recipe_of(**{"scheduler": scheduler, "queue": "workq", **keys})
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe, ["cpu"])
    assert str(caught.value).startswith(f"{scheduler} would not run a cpu job: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("infinite", float("inf")), ("1-12:00:00", 129600), ("30:00", 1800), ("n/a", float("inf"))]
)
def test_slurms_time_limits(text, seconds):
    assert slurm_seconds(text) == seconds
