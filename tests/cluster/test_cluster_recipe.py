"""The cluster recipe: five lines are enough, every key is documented, mistakes are one line."""

import re
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crdist.errors import RecipeError
from crdist_cluster.recipe import ClusterRecipe, JobSettings, shipped_recipes, walltime_text

FIVE = {"scheduler": "slurm", "queue": "normal", "cores": 4, "memory": "2GiB", "walltime": "01:00:00"}


def recipe_of(**keys):
    return ClusterRecipe.from_mapping({**FIVE, **keys})


def fault(**keys):
    with pytest.raises(RecipeError) as caught:
        recipe_of(**keys)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_five_lines_are_enough():
    spec = recipe_of().job("cpu")
    assert (spec.queue, spec.account, spec.cores, spec.memory_bytes) == ("normal", None, 4, 2 * 1024**3)
    assert (spec.walltime_seconds, spec.margin_seconds, spec.gpus) == (3600, 300, 0)
    assert spec.python == sys.executable
    assert recipe_of().n_jobs == (1, 1)
    assert recipe_of().tls


@pytest.mark.parametrize("model", [ClusterRecipe, JobSettings])
def test_every_key_is_documented(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_the_explanation_shows_every_key_and_default():
    text = ClusterRecipe.explained()
    told = yaml.safe_load(text)
    assert set(told) == set(ClusterRecipe.model_fields) - {"gpu", "driver"}
    known = recipe_of().to_dict()
    for key in set(told) - set(FIVE):
        assert told[key] == known[key]
    # with its comments' marks removed, it shows the sections' keys too
    sections = yaml.safe_load(re.sub(r"(?m)^# (gpu:|driver:|  [a-z]+:)", r"\1", text))
    assert set(sections["gpu"]) == set(sections["driver"]) == set(JobSettings.model_fields)


def test_what_a_section_leaves_out_is_the_recipes():
    recipe = recipe_of(
        account="a", directives=["--x=1"], setup=["module load gcc"], gpu={"queue": "gpu", "cores": 2}, driver={}
    )
    cpu, gpu, driver = recipe.job("cpu"), recipe.job("gpu"), recipe.job("driver")
    assert (gpu.queue, gpu.cores, gpu.memory_bytes, gpu.account) == ("gpu", 2, cpu.memory_bytes, "a")
    assert gpu.directives == driver.directives == ("--x=1",)
    assert gpu.setup == ("module load gcc",)
    assert (driver.queue, driver.cores, driver.memory_bytes) == ("normal", 1, 4 * 10**9)
    assert recipe_of().job("driver") == recipe_of(driver={}).job("driver")


@pytest.mark.parametrize(
    ("keys", "gpus"),
    [
        ({}, 0),
        ({"gpu": {}}, 1),
        ({"gpu": {"gpus": 4}}, 4),
        ({"gpu": {"gpus": 0}}, 0),
        ({"gpu": {"directives": ["--gres=gpu:a100:1"]}}, 0),
        ({"gpus": 2}, 2),
        ({"gpus": 2, "gpu": {}}, 2),
    ],
)
def test_gpus_of_an_inference_job(keys, gpus):
    assert recipe_of(**keys).job("gpu").gpus == gpus
    assert recipe_of(**keys).job("driver").gpus == 0


@given(st.integers(6, 10**7))
def test_a_walltime_reads_back_as_it_was(seconds):
    spec = recipe_of(walltime=walltime_text(seconds)).job("cpu")
    assert spec.walltime_seconds == seconds
    assert 5 <= spec.margin_seconds <= min(300, max(5, seconds // 10))


@pytest.mark.parametrize(
    ("walltime", "seconds", "margin"),
    [("1-02:03:04", 93784, 300), ("00:01:00", 60, 6), ("00:00:20", 20, 5), ("100:00:00", 360000, 300)],
)
def test_walltimes_and_their_margins(walltime, seconds, margin):
    spec = recipe_of(walltime=walltime).job("cpu")
    assert (spec.walltime_seconds, spec.margin_seconds) == (seconds, margin)
    assert recipe_of(walltime=walltime, margin="00:00:07").job("cpu").margin_seconds == 7


def test_a_walltime_needs_no_quotes(tmp_path):
    # to YAML 1.1 these are numbers
    for text, seconds in [("12:00:00", 43200), ("01:00:00", 3600), ("2-00:00:00", 172800)]:
        path = tmp_path / "r.yaml"
        path.write_text(f"scheduler: slurm\ncores: 1\nmemory: 1GB\nwalltime: {text}\n")
        assert ClusterRecipe.from_yaml(path).job("cpu").walltime_seconds == seconds


@pytest.mark.parametrize(
    ("memory", "n_bytes"),
    [("120GB", 120 * 10**9), ("4GiB", 4 * 1024**3), ("1.5 TB", 15 * 10**11), ("500mb", 5 * 10**8)],
)
def test_memory_has_a_unit(memory, n_bytes):
    assert recipe_of(memory=memory).job("cpu").memory_bytes == n_bytes


def test_jobs_are_a_number_or_a_range():
    assert recipe_of(jobs=3).n_jobs == (3, 3)
    assert recipe_of(jobs={"min": 0, "max": 8}).n_jobs == (0, 8)


def test_patience_is_in_seconds():
    recipe = recipe_of(queue_patience="2-00:00:00", stall_patience="00:00:30")
    assert (recipe.queue_patience_seconds, recipe.stall_patience_seconds) == (172800, 30)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"queuee": "a"}, "queuee: unknown key 'queuee'; did you mean 'queue'? known: scheduler, queue, account"),
        ({"gpu": {"coers": 1}}, "gpu.coers: unknown key 'coers'; did you mean 'cores'? known: queue, account"),
        ({"scheduler": "slrum"}, "scheduler: no batch system 'slrum'; did you mean 'slurm'? known: slurm, pbs, sge, "),
        ({"memory": "120"}, 'memory: must be memory with its unit, such as 120GB or 4GiB, got "120"'),
        ({"memory": "0GB"}, "memory: must be memory with its unit"),
        ({"walltime": "8h"}, 'walltime: must be HH:MM:SS or D-HH:MM:SS and more than none, got "8h"'),
        ({"walltime": "1-30:00:00"}, "walltime: must be HH:MM:SS"),
        ({"walltime": "00:00:00"}, "walltime: must be HH:MM:SS or D-HH:MM:SS and more than none"),
        ({"walltime": 3600}, "walltime: must be a valid string, got 3600 (longest time"),
        ({"walltime": "00:00:04"}, "walltime of cpu jobs, 00:00:04, is not longer than the margin, 00:00:05"),
        ({"gpu": {"walltime": "00:05:00"}, "margin": "00:10:00"}, "walltime of gpu jobs, 00:05:00, is not longer"),
        ({"cores": True}, "cores: must be a number, got true"),
        ({"cores": 0}, "cores: must be greater than or equal to 1, got 0"),
        ({"jobs": 0}, "jobs: must be a number of jobs, 1 or more, or {min: 0 or more, max: 1 or more}"),
        ({"jobs": {"min": 3, "max": 2}}, 'with min <= max, got {"min": 3, "max": 2}'),
        ({"setup": "module load gcc"}, 'setup: must be a list, got "module load gcc"'),
        ({"setup": ["a\nb"]}, "setup.0: must be one line of text"),
        ({"queue": "a b"}, "queue: must be one word without quotes"),
        ({"scratch": "/my disk"}, "scratch: must be a path without blanks or quotes"),
        ({"python": "python -O"}, "python: must be the path of one program"),
        ({"gpu": 3}, "gpu: must be a mapping with the keys queue, account, cores"),
        ({"memory_resource": "h_vmem"}, "memory_resource: has no meaning for slurm, only for sge and oar; drop it"),
        ({"scheduler": "htcondor"}, "queue: htcondor has none; drop it, or give requirements in directives"),
        (
            {"scheduler": "htcondor", "queue": None, "gpu": {"directives": ["x"]}},
            "gpu.directives: must be lines 'key = value' for htcondor",
        ),
        ({"scheduler": "htcondor", "queue": None, "setup": ["a $(b)"]}, "setup: htcondor reads $( itself"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(keys, message):
    text = fault(**keys)
    assert text.startswith("cluster recipe: ")
    assert message in text


def test_what_is_missing_is_said():
    with pytest.raises(
        RecipeError, match=r"r\.yaml: cores: is missing; give it \(cores of a job.*\(and 2 more faults\)$"
    ):
        ClusterRecipe.from_mapping({"scheduler": "sge"}, source="r.yaml")
    with pytest.raises(RecipeError, match="must be a mapping of keys such as 'scheduler' and 'cores', got nothing"):
        ClusterRecipe.from_mapping(None)


def test_the_recipes_that_come_with_crdist_can_be_followed():
    shipped = shipped_recipes()
    assert set(shipped) == {"slurm", "pbs", "sge", "lsf", "oar", "htcondor", "mpcdf-raven"}
    for name in shipped:
        recipe = ClusterRecipe.from_yaml(name)
        assert recipe.scheduler == ("slurm" if name == "mpcdf-raven" else name)
        assert ClusterRecipe.from_mapping(yaml.safe_load(recipe.to_yaml())) == recipe
        assert recipe.job("gpu").gpus == 1 or "--gres=gpu:a100:1" in recipe.job("gpu").directives
    assert "from public documentation, check with your site" in shipped["mpcdf-raven"].read_text()


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"'slrum': no such file, and none of this name comes .*did you mean 'slurm'"):
        ClusterRecipe.from_yaml("slrum")
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read \(No such file .*path of the cluster recipe"):
        ClusterRecipe.from_yaml(tmp_path / "none.yaml")


def test_a_file_goes_before_a_shipped_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").write_text(yaml.safe_dump({**FIVE, "cores": 3}))
    assert ClusterRecipe.from_yaml("slurm").cores == 3
