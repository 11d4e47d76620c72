"""The cluster recipe: which batch system runs the workers, and what one of its jobs asks for."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from crdist.errors import RecipeError
from crdist.settings_text import SettingsFile, explain, mapping_of, read_yaml, show, suggestion, validated
from crdist_cluster.job_spec import JobKind, JobSpec, walltime_text
from crdist_cluster.kinds import CLUSTER_KINDS, check_keys, find_scheduler, shipped_recipes

__all__ = ["ClusterRecipe", "JobKind", "JobSettings", "JobSpec", "shipped_recipes", "walltime_text"]

CONFIG = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

LEAST_MARGIN_SECONDS = 5
MOST_MARGIN_SECONDS = 300
DRIVER_CORES = 1
DRIVER_MEMORY = "4GB"
MEMORY_UNITS = {
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}


def _memory_bytes(text: str) -> int:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?b)\s*", text, re.IGNORECASE)
    n_bytes = float(match[1]) * MEMORY_UNITS[match[2].lower()] if match else 0.0
    if n_bytes < 1:
        raise ValueError(f"must be memory with its unit, such as 120GB or 4GiB, got {show(text)}")
    return int(n_bytes)


def _duration_seconds(text: str) -> int:
    match = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+):([0-5][0-9]):([0-5][0-9])", text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not total or (days and hours > 23):
        raise ValueError(f"must be HH:MM:SS or D-HH:MM:SS and more than none, got {show(text)}")
    return total


def _is_memory(text: str) -> str:
    _memory_bytes(text)
    return text


def _is_duration(text: str) -> str:
    _duration_seconds(text)
    return text


def _no_truth_value(value: object) -> object:
    # YAML reads yes as true, which is no number
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {show(value)}")
    return value


def _jobs(value: object) -> object:
    expected = "must be a number of jobs, 1 or more, or {min: 0 or more, max: 1 or more} with min <= max"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, Mapping) and set(value) == {"min", "max"}:
        low, high = value["min"], value["max"]
        whole = all(isinstance(end, int) and not isinstance(end, bool) for end in (low, high))
        if whole and 0 <= low <= high and high >= 1:
            return {"min": low, "max": high}
    raise ValueError(f"{expected}, got {show(value)}")


def _one_line(text: str) -> str:
    if not text.strip() or "\n" in text:
        raise ValueError(f"must be one line of text, got {show(text)}")
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[^\s#'\"`;|&<>]+", text):
        raise ValueError(f"must be one word without quotes, got {show(text)}")
    return text


def _folder(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_./~+@%:,=${}-]+", text):
        raise ValueError(
            f"must be a path without blanks or quotes, variables such as $TMPDIR allowed, got {show(text)}"
        )
    return text


def _interpreter(text: str) -> str:
    if not re.fullmatch(r"[^\s'\"`;|&<>]+", text):
        raise ValueError(f"must be the path of one program, without options, blanks or quotes, got {show(text)}")
    return text


def _batch_system(name: str) -> str:
    find_scheduler(name)
    return name


Memory = Annotated[str, AfterValidator(_is_memory)]
Duration = Annotated[str, AfterValidator(_is_duration)]
Cores = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=0)]
Word = Annotated[str, AfterValidator(_word)]
Lines = tuple[Annotated[str, AfterValidator(_one_line)], ...]


class JobSettings(BaseModel):
    """What jobs of one kind ask for where it differs from the others."""

    model_config = CONFIG

    queue: Word | None = Field(default=None, description="queue or partition; null: as above")
    account: Word | None = Field(default=None, description="account or project that is charged; null: as above")
    cores: Cores | None = Field(default=None, description="cores of a job; null: as above, 1 for the driver")
    memory: Memory | None = Field(
        default=None, description="memory of a job with its unit; null: as above, 4GB for the driver"
    )
    walltime: Duration | None = Field(
        default=None, description="longest time a job may run, HH:MM:SS or D-HH:MM:SS; null: as above"
    )
    gpus: Count | None = Field(
        default=None,
        description="GPUs of a job; null: 1 for gpu, unless directives are given for it, which then ask for them; "
        "0 for the driver",
    )
    setup: Lines | None = Field(default=None, description="shell lines that a job runs first; null: as above")
    directives: Lines | None = Field(default=None, description="further directives of the batch system; null: as above")


class ClusterRecipe(SettingsFile):
    """Where the jobs of a run go. Made with `from_yaml` or `from_mapping`, which raise `RecipeError`.

    Examples
    --------
    >>> data = {"scheduler": "slurm", "queue": "long", "cores": 16, "memory": "60GB", "walltime": "1-00:00:00"}
    >>> recipe = ClusterRecipe.from_mapping(data)
    >>> recipe.job("cpu").walltime_seconds, recipe.job("driver").cores, recipe.n_jobs
    (86400, 1, (1, 1))
    >>> ClusterRecipe.from_mapping({**data, "queuee": "short"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    crdist.errors.RecipeError: cluster recipe: queuee: unknown key 'queuee'; did you mean 'queue'? known: scheduler, ...
    """

    model_config = CONFIG

    scheduler: Annotated[str, AfterValidator(_batch_system)] = Field(
        description="batch system: slurm, pbs, sge, lsf, oar, htcondor, or one that an installed package adds"
    )
    queue: Word | None = Field(default=None, description="queue or partition; null: the batch system's default")
    account: Word | None = Field(
        default=None, description="account or project that is charged; null: the batch system's default"
    )
    cores: Cores = Field(description="cores of a job, which is one worker with as many threads")
    memory: Memory = Field(description="memory of a job with its unit, such as 120GB or 4GiB")
    walltime: Duration = Field(description="longest time a job may run, HH:MM:SS or D-HH:MM:SS")
    jobs: Annotated[int | dict[str, int], BeforeValidator(_jobs)] = Field(
        default=1, description="how many jobs at a time: a number, or {min: 1, max: 8} to follow the work that waits"
    )
    interface: Word | None = Field(
        default=None,
        description="network interface by which driver and workers reach each other, such as ib0; null: any",
    )
    scratch: Annotated[str, AfterValidator(_folder)] = Field(
        default="/tmp", description="folder on the node's own disk for workers; may hold variables such as $TMPDIR"
    )
    setup: Lines = Field(default=(), description="shell lines that a job runs first, such as 'module load gcc'")
    directives: Lines = Field(
        default=(),
        description="further directives of the batch system, without its prefix (#SBATCH, #PBS, ...); for htcondor "
        "lines 'key = value'",
    )
    python: Annotated[str, AfterValidator(_interpreter)] | None = Field(
        default=None, description="path of the Python interpreter on the nodes; null: the one that submits the jobs"
    )
    tls: bool = Field(
        default=True, description="encrypt what driver and workers say to each other, and let nobody else in"
    )
    margin: Duration | None = Field(
        default=None,
        description="workers end this long before their walltime, HH:MM:SS; null: a tenth of the walltime, "
        "5 s to 5 min",
    )
    allowed_losses: Count = Field(
        default=10, description="a block whose worker was lost more often than this is put aside, number of times"
    )
    queue_patience: Duration = Field(
        default="24:00:00",
        description="give up after this long without any worker while jobs wait in the queue, HH:MM:SS",
    )
    stall_patience: Duration = Field(
        default="01:00:00",
        description="give up after this long in which workers were there and no block ended, HH:MM:SS",
    )
    submit_attempts: Cores = Field(
        default=5, description="give up after this many failed submissions in a row, number of times"
    )
    gpus: Count = Field(default=0, description="GPUs of a job; 0: none are asked for")
    parallel_environment: Word | None = Field(
        default="smp", description="sge: environment that keeps the cores of a job on one node; null: none is asked for"
    )
    memory_resource: Word | None = Field(
        default=None,
        description="sge: name of the resource that stands for memory, per core, such as h_vmem; oar: name of the "
        "property, MiB per core, such as memcore; null: the job's memory is not asked for",
    )
    disk: Memory = Field(default="10GB", description="htcondor: disk of a job with its unit")
    gpu: JobSettings | None = Field(default=None, description="jobs that run the inference")
    driver: JobSettings | None = Field(
        default=None, description="the job that runs the driver, with 'crdist run --submit': 1 core and 4GB unless set"
    )

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        check_keys(self)
        for kind in ("cpu", "gpu", "driver"):
            spec = self.job(kind)
            if spec.margin_seconds >= spec.walltime_seconds:
                raise ValueError(
                    f"walltime of {kind} jobs, {walltime_text(spec.walltime_seconds)}, is not longer than the margin, "
                    f"{walltime_text(spec.margin_seconds)}, by which workers end earlier; raise one or lower the other"
                )
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> ClusterRecipe:
        """Read a recipe file, or the one of this name that comes with crdist or an installed package.

        Parameters
        ----------
        path : str or Path
            A file, or a name such as ``slurm`` or ``mpcdf-raven``.

        Raises
        ------
        RecipeError
            If it cannot be read or followed: file, key or line, what was got, what to do.
        DependencyError
            If its kind of cluster is that of an installed package and cannot be loaded.
        """
        file = Path(path)
        if not file.is_file() and file.name == str(path) and not file.suffix:
            return cls.of_kind(str(path))
        return cls.from_mapping(read_yaml(file, "cluster recipe"), source=str(file))

    @classmethod
    def of_kind(cls, name: str) -> ClusterRecipe:
        """The recipe of a kind of cluster, which comes with crdist or an installed package.

        Raises
        ------
        RecipeError
            If there is none, or it cannot be followed.
        DependencyError
            If it is that of an installed package and cannot be loaded.
        """
        recipe = CLUSTER_KINDS[name].recipe if name in CLUSTER_KINDS else None
        if recipe is None:
            raise RecipeError(
                f"cluster recipe {name!r}: no such file, and none of this name comes with crdist or with a package"
                f"{suggestion(name, CLUSTER_KINDS)}"
            )
        if isinstance(recipe, Path):
            return cls.from_mapping(read_yaml(recipe, "cluster recipe"), source=str(recipe))
        return cls.from_mapping(recipe, source=f"cluster recipe {name!r}")

    @classmethod
    def from_mapping(cls, data: Any, *, source: str = "cluster recipe") -> ClusterRecipe:
        """The recipe that plain data describe.

        Parameters
        ----------
        data : mapping
            Keys as in a recipe file. Anything else is refused.
        source : str
            Where the data come from, for messages.

        Raises
        ------
        RecipeError
            If the data cannot be followed; the first fault, and how many more there are.
        """
        return validated(cls, mapping_of(data, source, "'scheduler' and 'cores'"), source)

    @classmethod
    def explained(cls) -> str:
        """Every key with its default, meaning and unit, as YAML."""
        return f"# Every key of a cluster recipe.\n{explain(cls)}"

    def job(self, kind: JobKind) -> JobSpec:
        """What a job of this kind asks for, what its section leaves out taken from the recipe."""
        section = {"cpu": None, "gpu": self.gpu, "driver": self.driver}[kind] or JobSettings()
        driver = kind == "driver"
        own_directives = section.directives is not None
        default_gpus = 0 if driver else self.gpus or int(kind == "gpu" and self.gpu is not None and not own_directives)
        memory = section.memory or (DRIVER_MEMORY if driver else self.memory)
        walltime = _duration_seconds(section.walltime or self.walltime)
        tenth = min(max(walltime // 10, LEAST_MARGIN_SECONDS), MOST_MARGIN_SECONDS)
        return JobSpec(
            kind=kind,
            queue=section.queue or self.queue,
            account=section.account or self.account,
            cores=section.cores or (DRIVER_CORES if driver else self.cores),
            memory_bytes=_memory_bytes(memory),
            walltime_seconds=walltime,
            margin_seconds=_duration_seconds(self.margin) if self.margin else tenth,
            gpus=default_gpus if section.gpus is None else section.gpus,
            setup=self.setup if section.setup is None else section.setup,
            directives=self.directives if section.directives is None else section.directives,
            scratch=self.scratch,
            python=self.python or sys.executable,
            interface=self.interface,
        )

    @property
    def n_jobs(self) -> tuple[int, int]:
        """Least and largest number of jobs at a time."""
        return (self.jobs, self.jobs) if isinstance(self.jobs, int) else (self.jobs["min"], self.jobs["max"])

    @property
    def queue_patience_seconds(self) -> int:
        """How long a run waits without any worker while jobs wait in the queue."""
        return _duration_seconds(self.queue_patience)

    @property
    def stall_patience_seconds(self) -> int:
        """How long a run waits for a block to end while there are workers."""
        return _duration_seconds(self.stall_patience)
