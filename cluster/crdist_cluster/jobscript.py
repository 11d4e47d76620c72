"""Job scripts: what a recipe says, in the words of each batch system, through the classes of dask-jobqueue."""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import DependencyError, RunError
from crdist_cluster.local import PINNED_THREADS, WORKER_SETTINGS
from crdist_cluster.recipe import ClusterRecipe, JobKind, JobSpec, Scheduler, walltime_text

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["cluster_arguments", "command_script", "recorded_cluster_class", "worker_script"]

CLASSES: dict[Scheduler, str] = {
    "slurm": "SLURM",
    "pbs": "PBS",
    "sge": "SGE",
    "lsf": "LSF",
    "oar": "OAR",
    "htcondor": "HTCondor",
}
"""Names of dask-jobqueue's classes: SLURMCluster, SLURMJob and so on."""

COMMAND_SECONDS = 110.0
"""Time for one submission; Slurm's commands wait for a silent controller for up to 100 s."""

DEATH_SECONDS = 60
SHORT_DEATH_SECONDS = 15
SHORT_WALLTIME_SECONDS = 600
"""A worker whose driver is gone ends after DEATH_SECONDS, in jobs shorter than this after SHORT_DEATH_SECONDS."""

SHOWN_FOLDER = "RUN_FOLDER/cluster"
SHOWN_ADDRESS = "DRIVER:PORT"


class _CommandFailed(RuntimeError):
    """A command of the batch system that failed; a RuntimeError, as dask-jobqueue's own."""

    def __init__(self, command: str, stderr: str) -> None:
        super().__init__(f"command: {command}; stderr: {stderr}")
        self.command, self.stderr = command, stderr


def recorded_cluster_class(
    scheduler: Scheduler, submitted: Callable[[str], None], failed: Callable[[str, str], None]
) -> Any:
    """The cluster class of dask-jobqueue for a batch system, whose jobs report what became of their submission.

    Parameters
    ----------
    scheduler : str
        The batch system.
    submitted : callable
        Is given the id of each job, as soon as the batch system has taken it.
    failed : callable
        Is given command and stderr of each submission that failed, before its error is raised.

    Raises
    ------
    DependencyError
        If dask-jobqueue is not installed.
    """
    base = _class(scheduler, "Job")

    class RecordedJob(base):  # type: ignore[misc, valid-type]
        """A job that tells whether the batch system took it."""

        async def start(self) -> None:
            from distributed.core import Status

            try:
                await super().start()
            except BaseException as error:
                # a job in any other state makes closing the cluster an AssertionError
                self.status = Status.failed
                if isinstance(error, _CommandFailed):
                    failed(error.command, error.stderr)
                elif isinstance(error, Exception):
                    # the script could not be written, or the answer holds no id
                    failed(str(self.submit_command), " ".join(str(error).split()))
                raise

        def _job_id_from_submit_output(self, out: str) -> str:
            job_id = str(super()._job_id_from_submit_output(out))
            submitted(job_id)
            return job_id

        async def _submit_job(self, script_filename: str) -> str:
            if scheduler == "lsf":
                # dask-jobqueue sends bsub's stderr to /dev/null
                return await self._call([f"{self.submit_command} < {shlex.quote(script_filename)}"], shell=True)
            return str(await super()._submit_job(script_filename))

        async def close(self) -> None:
            from distributed.core import Status

            try:
                await super().close()
            finally:
                self.status = Status.closed

        @staticmethod
        async def _call(cmd: Sequence[str], *, shell: bool = False) -> str:
            words = ["/bin/sh", "-c", *cmd] if shell else list(cmd)
            # in a session of its own, a Ctrl-C at the driver's terminal does not cut a submission short
            process = await asyncio.create_subprocess_exec(
                *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True
            )
            text = " ".join(cmd)
            try:
                out, err = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
            except TimeoutError as error:
                raise _CommandFailed(text, f"no answer in {COMMAND_SECONDS:.0f} s") from error
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
            if process.returncode:
                said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
                raise _CommandFailed(text, said or f"nothing, exit code {process.returncode}")
            return out.decode(errors="replace")

    RecordedJob.__name__ = base.__name__
    cluster = _class(scheduler, "Cluster")
    return type(cluster.__name__, (cluster,), {"job_cls": RecordedJob})


def cluster_arguments(
    recipe: ClusterRecipe,
    kind: JobKind,
    logs: Path,
    *,
    security: Security | None = None,
    tls_folder: Path | None = None,
    name: str,
) -> dict[str, Any]:
    """What the class of `recorded_cluster_class` is made with.

    Parameters
    ----------
    recipe : ClusterRecipe
        What a job asks for.
    kind : str
        Which of its jobs.
    logs : Path
        Folder of the jobs' stdout and stderr, on a disk that the nodes share.
    security : distributed.Security, optional
        Keys for TLS.
    tls_folder : Path, optional
        Where keys that are not in files yet are written, on a disk that the nodes share.
    name : str
        Of the jobs in the queue; begins the workers' names.

    Raises
    ------
    RunError
        If a folder has a name that no batch system takes.
    """
    arguments = _job_arguments(recipe, recipe.job(kind), logs, name)
    options: dict[str, Any] = {"dashboard_address": "127.0.0.1:0"}
    if recipe.interface is not None:
        options["interface"] = recipe.interface
    arguments |= {"name": name, "scheduler_options": options}
    if security is not None:
        arguments["security"] = security
        if tls_folder is not None:
            arguments["shared_temp_directory"] = str(_plain_path(tls_folder))
    return arguments


def worker_script(recipe: ClusterRecipe, kind: JobKind) -> str:
    """The script of a worker's job; what only a run can know stands in capitals. Nothing is submitted or written."""
    security, scheme = None, "tcp"
    if recipe.tls:
        from distributed import Security

        key, certificate = f"{SHOWN_FOLDER}/tls/key.pem", f"{SHOWN_FOLDER}/tls/certificate.pem"
        security = Security(tls_ca_file=certificate, tls_worker_key=key, tls_worker_cert=certificate)
        scheme = "tls"
    more = {"security": security, "protocol": f"{scheme}://" if recipe.tls else None}
    return _with_shown_logs(lambda logs: _job(recipe, kind, logs, f"{scheme}://{SHOWN_ADDRESS}", more).job_script())


def command_script(recipe: ClusterRecipe, kind: JobKind, command: Sequence[str], logs: Path | None = None) -> str:
    """The script of a job that runs a command where it is submitted, asking for the same as a worker of this kind.

    Parameters
    ----------
    recipe : ClusterRecipe
        What the job asks for.
    kind : str
        Which of its jobs.
    command : sequence of str
        Program and arguments.
    logs : Path, optional
        Folder of the job's stdout and stderr; without it the script is only for looking at.

    Raises
    ------
    RunError
        If the folder has a name that no batch system takes.
    """

    def script(folder: Path) -> str:
        job = _job(recipe, kind, folder, None, {})
        line = f"exec {shlex.join(command)}"
        # some batch systems start jobs in the home folder
        lines = [f"cd {shlex.quote(str(Path.cwd()))}", *_prologue(recipe.job(kind), with_worker=False)]
        job._job_script_prologue = lines
        # htcondor has no lines before its command
        job._command_template = "; ".join([*lines, line]) if recipe.scheduler == "htcondor" else line
        return str(job.job_script())

    return _with_shown_logs(script) if logs is None else script(_plain_path(logs))


def _with_shown_logs(script: Callable[[Path], str]) -> str:
    # dask-jobqueue makes the folder of the logs where a job is only looked at
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        return script(logs).replace(str(logs), f"{SHOWN_FOLDER}/logs")


def _job(recipe: ClusterRecipe, kind: JobKind, logs: Path, address: str | None, more: dict[str, Any]) -> Any:
    """A job of dask-jobqueue that is not going to be submitted."""
    name = f"crdist-{kind}"
    arguments = _job_arguments(recipe, recipe.job(kind), logs, name)
    return _class(recipe.scheduler, "Job")(scheduler=address, name=name, **arguments, **more)


def _job_arguments(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    """What all of dask-jobqueue's job classes are made with, and what this batch system's is."""
    short = spec.walltime_seconds < SHORT_WALLTIME_SECONDS
    common: dict[str, Any] = {
        "cores": spec.cores,
        "memory": f"{spec.memory_bytes} B",
        # with more than one, jobs that are lost are not replaced
        "processes": 1,
        "nanny": True,
        "interface": spec.interface,
        # the worker becomes the job's process: the batch system's signals reach it
        "python": f"exec {shlex.quote(spec.python)}",
        "death_timeout": SHORT_DEATH_SECONDS if short else DEATH_SECONDS,
        "local_directory": '"$CRDIST_SCRATCH"',
        "log_directory": str(_plain_path(logs)),
        "worker_extra_args": _worker_arguments(spec),
        "job_script_prologue": _prologue(spec),
        "job_name": name,
    }
    return common | _WORDS[recipe.scheduler](recipe, spec, logs, name)


def _worker_arguments(spec: JobSpec) -> list[str]:
    # Each worker's diagnostic page would else be open to everybody on the network.
    arguments = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    lifetime = spec.walltime_seconds - spec.margin_seconds
    if spec.kind == "gpu":
        # The task itself ends its program when the margin begins; the worker must outlive that.
        lifetime += spec.margin_seconds // 2
        arguments += ["--resources", "GPU=1"]
    # Workers that started together shall not end together.
    stagger = max(1, spec.margin_seconds // 10)
    return [*arguments, "--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]


def _prologue(spec: JobSpec, *, with_worker: bool = True) -> list[str]:
    # A block is one thread's work: libraries must not start threads of their own. The inference is one program.
    threads = spec.cores if spec.kind == "gpu" else 1
    lines = [*spec.setup, *(f"export {variable}={threads}" for variable in PINNED_THREADS)]
    if with_worker:
        # on another machine nothing is known of the driver's settings
        lines += [f"export DASK_{key.upper().replace('.', '__')}={value}" for key, value in WORKER_SETTINGS.items()]
        # a variable that the node lacks would put the workers' files into the folder of the submission
        folder = re.sub(r"\$(\{)?([A-Za-z_]\w*)(?(1)\})", r"${\2:?is not set on this node}", spec.scratch)
        lines.append(f'export CRDIST_SCRATCH="{folder}"')
    return lines


def _plain_path(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    if re.search(r"[\s'\"\\$`%,;#&|<>()]", str(path)):
        raise RunError(f"{path}: has a character that batch systems do not take in a path; choose another folder")
    return path


def _slurm(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    gpus = [f"--gres=gpu:{spec.gpus}"] if spec.gpus else []
    return {
        "queue": spec.queue,
        "account": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        # dask-jobqueue rounds up to whole GiB, which a node may not have
        "job_mem": f"{math.ceil(spec.memory_bytes / 1024**2)}M",
        # the driver replaces what is lost
        "job_extra_directives": ["--no-requeue", *gpus, *spec.directives],
    }


def _pbs(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    memory = math.ceil(spec.memory_bytes / 1024**2)
    gpus = f":ngpus={spec.gpus}" if spec.gpus else ""
    return {
        "queue": spec.queue,
        "account": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        "resource_spec": f"select=1:ncpus={spec.cores}:mem={memory}mb{gpus}",
        "job_extra_directives": ["-r n", *spec.directives],
    }


def _sge(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    # Resources are counted per core.
    memory = math.ceil(spec.memory_bytes / 1024**2 / spec.cores)
    resources = [f"{recipe.memory_resource}={memory}M"] if recipe.memory_resource else []
    resources += [f"gpu={spec.gpus}"] if spec.gpus else []
    cores = [f"-pe {recipe.parallel_environment} {spec.cores}"] if recipe.parallel_environment else []
    return {
        "queue": spec.queue,
        "project": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        "resource_spec": ",".join(resources) or None,
        # Grid Engine does not heed the script's first line
        "job_extra_directives": ["-S /bin/bash", "-r n", *cores, *spec.directives],
    }


def _lsf(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    minutes = math.ceil(spec.walltime_seconds / 60)
    gpus = [f'-gpu "num={spec.gpus}"'] if spec.gpus else []
    return {
        "queue": spec.queue,
        "project": spec.account,
        "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}",
        "ncpus": spec.cores,
        "mem": spec.memory_bytes,
        "use_stdin": True,
        "job_extra_directives": ["-rn", *gpus, *spec.directives],
    }


def _oar(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    # the cores of a GPU come with it
    resources = f"/nodes=1/gpu={spec.gpus}" if spec.gpus else f"/nodes=1/core={spec.cores}"
    folder = _plain_path(logs)
    return {
        "queue": spec.queue,
        "project": spec.account,
        "walltime": walltime_text(spec.walltime_seconds),
        "resource_spec": resources,
        "memory_per_core_property_name": recipe.memory_resource or "not_applicable",
        "job_extra_directives": [
            f"-O {folder}/{name}-%jobid%.out",
            f"-E {folder}/{name}-%jobid%.err",
            *spec.directives,
        ],
    }


def _htcondor(recipe: ClusterRecipe, spec: JobSpec, logs: Path, name: str) -> dict[str, Any]:
    further: dict[str, str] = {}
    if spec.account is not None:
        further["accounting_group"] = spec.account
    if spec.gpus:
        further["request_gpus"] = str(spec.gpus)
    # HTCondor knows no walltime: the job says itself when it has run (JobStatus 2) for too long.
    further["periodic_remove"] = f"(JobStatus == 2) && ((time() - EnteredCurrentStatus) > {spec.walltime_seconds})"
    for line in spec.directives:
        key, _, value = line.partition("=")
        further[key.strip()] = value.strip()
    return {"disk": recipe.disk, "job_extra_directives": further}


_WORDS: dict[Scheduler, Callable[[ClusterRecipe, JobSpec, Path, str], dict[str, Any]]] = {
    "slurm": _slurm,
    "pbs": _pbs,
    "sge": _sge,
    "lsf": _lsf,
    "oar": _oar,
    "htcondor": _htcondor,
}
"""The keys of dask-jobqueue's classes that differ from one batch system to the other."""


def _class(scheduler: Scheduler, what: str) -> Any:
    """A class of dask-jobqueue."""
    import dask
    import distributed  # noqa: F401  its own settings file, written on import, is not ours to prevent

    # Importing dask_jobqueue leaves a file in ~/.config/dask behind.
    ensure_file = dask.config.ensure_file
    dask.config.ensure_file = lambda *_, **__: None
    try:
        module = importlib.import_module(f"dask_jobqueue.{scheduler}")
    except ImportError as error:
        raise DependencyError("batch systems need dask-jobqueue; install crdist with its extra 'cluster'") from error
    finally:
        dask.config.ensure_file = ensure_file
    return getattr(module, f"{CLASSES[scheduler]}{what}")
