"""Kinds of clusters: recipes and batch systems, built in and of installed packages."""

import time

import pytest
import yaml

import plugged
from command import crdist
from crdist.errors import DependencyError, RecipeError, RunError
from crdist_cluster.batch_commands import Slurm
from crdist_cluster.jobscript import command_script, worker_script
from crdist_cluster.kinds import CLUSTER_KINDS, SCHEDULERS, find_scheduler, shipped_recipes
from crdist_cluster.queue import JobState, batch_system, check_recipe
from crdist_cluster.recipe import ClusterRecipe

SITE = """
from crdist_cluster.kinds import SCHEDULERS, ClusterKind, Scheduler
SITE = ClusterKind("hill", {{"scheduler": "pbs", "queue": "day", "cores": 8, "memory": "30GB", "walltime": "12:00:00"}})
BAD = ClusterKind("bad", {{"scheduler": "pbs", "coers": 8}})
LATE = ClusterKind("late", None, Scheduler(SCHEDULERS["pbs"].commands, {cluster!r}, SCHEDULERS["pbs"].words))
NOTHING = 3
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    with plugged.site(tmp_path / "site", monkeypatch) as site:
        yield site


@pytest.fixture
def example(site):
    plugged.install_example(site.folder)


@pytest.fixture
def hills(site):
    def install(**names):
        source = SITE.format(cluster=names.pop("cluster", "hills:Missing"))
        entries = {name: f"hills:{attribute}" for name, attribute in names.items()}
        site.add("hills", "2.0", {"crdist.clusters": entries}, source)

    return install


def test_built_in_kinds_are_their_recipes_and_batch_systems():
    assert {name for name, kind in CLUSTER_KINDS.builtin.items() if kind.scheduler is not None} == set(SCHEDULERS)
    assert {name: kind.recipe for name, kind in CLUSTER_KINDS.builtin.items()} == shipped_recipes()
    for name, scheduler in SCHEDULERS.items():
        assert scheduler.commands.scheduler == name
        assert find_scheduler(name) is scheduler


@pytest.mark.usefixtures("example")
def test_a_package_adds_a_batch_system(tmp_path):
    recipe = ClusterRecipe.from_yaml("whole-nodes")
    assert recipe.scheduler == "whole-nodes"
    assert recipe.job("cpu").cores == 64
    assert ClusterRecipe.from_mapping(yaml.safe_load(recipe.to_yaml())) == recipe
    plain = ClusterRecipe.from_mapping({**recipe.to_dict(), "scheduler": "slurm"})
    own, usual = (worker_script(one, "cpu").splitlines() for one in (recipe, plain))
    assert sorted(set(own) - set(usual)) == ["#SBATCH --exclusive", "#SBATCH --mem=0"]
    assert sorted(set(usual) - set(own)) == ["#SBATCH --mem=228882M"]
    assert isinstance(batch_system("whole-nodes"), Slurm)


@pytest.mark.usefixtures("example")
def test_a_job_of_a_packages_batch_system_runs(slurm, tmp_path):
    recipe = ClusterRecipe.from_mapping(
        {"scheduler": "whole-nodes", "queue": "normal", "cores": 1, "memory": "500MB", "walltime": "00:05:00"}
    )
    check_recipe(recipe, ["cpu"])
    system = batch_system(recipe.scheduler)
    script = tmp_path / "job.sh"
    script.write_text(command_script(recipe, "cpu", ["sleep", "60"], tmp_path / "logs"))
    job = system.submit(script)
    deadline = time.monotonic() + 20
    while system.states([job])[job].state is not JobState.running:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    shown = slurm.command("scontrol", "--oneliner", "show", "job", job)
    # one core was asked for, the whole node is given
    assert "OverSubscribe=NO" in shown
    assert "NumCPUs=4 " in shown
    system.cancel([job])


@pytest.mark.usefixtures("example")
def test_a_batch_system_of_a_package_on_the_command_line(tmp_path):
    listed = crdist("cluster", "list")
    assert listed.returncode == 0
    line = next(line for line in listed.stdout.splitlines() if line.startswith("whole-nodes"))
    assert line.split() == "whole-nodes whole-nodes 64 cores, 240GB, 24:00:00 [crdist-example 1.0]".split()
    (tmp_path / "ours.yaml").write_text("scheduler: whole-nodse\ncores: 1\nmemory: 1GB\nwalltime: 01:00:00\n")
    shown = crdist("cluster", "show", "ours.yaml", cwd=tmp_path)
    assert shown.returncode == 1
    assert "scheduler: no batch system 'whole-nodse'; did you mean 'whole-nodes'? known: slurm, pbs, " in shown.stderr


def test_a_package_adds_a_recipe(hills):
    hills(hill="SITE")
    recipe = ClusterRecipe.from_yaml("hill")
    assert (recipe.scheduler, recipe.queue) == ("pbs", "day")
    assert "#PBS -q day" in worker_script(recipe, "cpu")
    # a kind without a batch system of its own is none
    with pytest.raises(RecipeError, match="no batch system 'hill'; known: slurm, pbs, sge, lsf, oar, htcondor"):
        ClusterRecipe.from_mapping({**recipe.to_dict(), "scheduler": "hill"})
    with pytest.raises(RunError, match="no batch system 'hill'"):
        batch_system("hill")
    with pytest.raises(RecipeError, match=r"'hil': no such file, and none of this name comes .*did you mean 'hill'\?"):
        ClusterRecipe.from_yaml("hil")


def test_broken_packages_harm_only_who_asks_for_them(hills):
    hills(hill="SITE", bad="BAD", nothing="NOTHING", gone="GONE")
    listed = crdist("cluster", "list")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == sorted([*shipped_recipes(), "hill"])
    assert sorted(listed.stderr.splitlines()) == [
        "crdist: 'bad' of hills 2.0 (crdist.clusters: hills:BAD): cluster recipe 'bad': coers: unknown key 'coers'; "
        f"did you mean 'cores'? known: {', '.join(ClusterRecipe.model_fields)} (and 3 more faults); update or remove "
        "that package",
        "crdist: 'gone' of hills 2.0 (crdist.clusters: hills:GONE): cannot be loaded (AttributeError: module 'hills' "
        "has no attribute 'GONE'); update or remove that package",
        "crdist: 'nothing' of hills 2.0 (crdist.clusters: hills:NOTHING): is a int, expected a ClusterKind; update or "
        "remove that package",
    ]
    with pytest.raises(DependencyError, match=r"^'gone' of hills 2\.0 .*has no attribute 'GONE'\); update or remove"):
        ClusterRecipe.from_yaml("gone")
    with pytest.raises(DependencyError, match=r"^'nothing' of hills 2\.0 .*expected a ClusterKind"):
        ClusterRecipe.from_mapping({"scheduler": "nothing", "cores": 1, "memory": "1GB", "walltime": "01:00:00"})


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ("hills:Missing", "AttributeError: module 'hills' has no attribute 'Missing'"),
        ("hills_no:Cluster", "ModuleNotFoundError: No module named 'hills_no'"),
    ],
)
def test_a_batch_system_whose_class_is_missing(cluster, words, hills):
    hills(late="LATE", cluster=cluster)
    recipe = ClusterRecipe.from_mapping({"scheduler": "late", "cores": 1, "memory": "1GB", "walltime": "01:00:00"})
    with pytest.raises(DependencyError) as caught:
        worker_script(recipe, "cpu")
    assert str(caught.value) == (
        f"'late' of hills 2.0 (crdist.clusters: hills:LATE): its class {cluster} cannot be loaded ({words}); update or "
        "remove that package"
    )


def test_built_in_names_cannot_be_taken_over(site):
    site.add("thief", "6.6", {"crdist.clusters": {"slurm": "thief:X"}}, "raise SystemExit('taken over')\n")
    assert ClusterRecipe.from_yaml("slurm").scheduler == "slurm"
    assert isinstance(batch_system("slurm"), Slurm)
