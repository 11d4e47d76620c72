"""Job scripts: what a recipe says, in the words of each batch system, through the classes of dask-jobqueue."""

from __future__ import annotations

import asyncio
import importlib
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crdist.errors import DependencyError
from crdist_cluster.batch_commands import Htcondor, Lsf
from crdist_cluster.directives import plain_path
from crdist_cluster.job_spec import JobKind, JobSpec
from crdist_cluster.kinds import CLUSTER_KINDS, find_scheduler
from crdist_cluster.local import PINNED_THREADS, WORKER_SETTINGS
from crdist_cluster.recipe import ClusterRecipe

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["cluster_arguments", "command_script", "recorded_cluster_class", "worker_script"]

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


def recorded_cluster_class(scheduler: str, submitted: Callable[[str], None], failed: Callable[[str, str], None]) -> Any:
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
    cluster = _cluster_class(scheduler)
    base = cluster.job_cls

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
            if issubclass(find_scheduler(scheduler).commands, Lsf):
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
            arguments["shared_temp_directory"] = str(plain_path(tls_folder))
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
        bare = issubclass(find_scheduler(recipe.scheduler).commands, Htcondor)
        job._command_template = "; ".join([*lines, line]) if bare else line
        return str(job.job_script())

    return _with_shown_logs(script) if logs is None else script(plain_path(logs))


def _with_shown_logs(script: Callable[[Path], str]) -> str:
    # dask-jobqueue makes the folder of the logs where a job is only looked at
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        return script(logs).replace(str(logs), f"{SHOWN_FOLDER}/logs")


def _job(recipe: ClusterRecipe, kind: JobKind, logs: Path, address: str | None, more: dict[str, Any]) -> Any:
    """A job of dask-jobqueue that is not going to be submitted."""
    name = f"crdist-{kind}"
    arguments = _job_arguments(recipe, recipe.job(kind), logs, name)
    return _cluster_class(recipe.scheduler).job_cls(scheduler=address, name=name, **arguments, **more)


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
        "log_directory": str(plain_path(logs)),
        "worker_extra_args": _worker_arguments(spec),
        "job_script_prologue": _prologue(spec),
        "job_name": name,
    }
    return common | find_scheduler(recipe.scheduler).words(recipe, spec, logs, name)


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


def _cluster_class(scheduler: str) -> Any:
    """The class of dask-jobqueue for a batch system; its ``job_cls`` makes the jobs."""
    import dask
    import distributed  # noqa: F401  its own settings file, written on import, is not ours to prevent

    place = find_scheduler(scheduler).cluster
    module, _, name = place.partition(":")
    # Importing dask_jobqueue leaves a file in ~/.config/dask behind.
    ensure_file = dask.config.ensure_file
    dask.config.ensure_file = lambda *_, **__: None
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        if isinstance(error, ImportError) and (error.name or "").startswith("dask_jobqueue"):
            raise DependencyError(
                "batch systems need dask-jobqueue; install crdist with its extra 'cluster'"
            ) from error
        plugin = CLUSTER_KINDS.plugin(scheduler)
        if plugin is None:
            raise
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise DependencyError(
            f"{plugin}: its class {place} cannot be loaded ({words}); update or remove that package"
        ) from error
    finally:
        dask.config.ensure_file = ensure_file
