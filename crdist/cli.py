"""The command line: one entry point, ``crdist``, for all stages."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from crdist import __version__
from crdist.errors import CrdistError, RecipeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="crdist",
    help="Posterior samples of 3D Galactic fields in, every product with correct per-sample statistics out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

REMEDY = (
    "Products: remove the named files and run the same 'crdist post' again, which computes just those blocks (where a "
    "zarr.json is damaged, remove the store). A posterior: import or pack it anew."
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Posterior samples of 3D Galactic fields in, every product with correct per-sample statistics out."""
    # main() takes --debug out of the arguments itself, wherever it stands; it is declared for the help


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A published map: FITS or .npz.")],
    store: Annotated[Path, typer.Argument(help="Posterior store to create (Zarr).")],
    layout: Annotated[str | None, typer.Option(help="Layout of the file; default: recognised.")] = None,
    units: Annotated[
        str | None, typer.Option(help="Unit of the density, where the file does not say it or says it wrongly.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the variable, where the layout leaves it open.")] = None,
) -> None:
    """Turn a published map into a posterior store, streamed: memory stays below 1 GiB."""
    from crdist.importers import import_map
    from crdist.progress import reporting

    with reporting("import") as update:
        header = import_map(file, store, layout=layout, units=units, name=name, progress=update)
    names = ", ".join(f"{variable.name} [{variable.units}]" for variable in header.variables)
    print(
        f"{store}: {header.n_sample} samples of {names} on nside {header.grid.nside} x {header.grid.n_shell} shells, "
        f"{header.grid.edges_kpc[0]:g} to {header.grid.edges_kpc[-1]:g} kpc"
    )


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(help="A posterior store, such as one that an inference appended to.")],
    target: Annotated[Path, typer.Argument(help="Posterior store to create.")],
) -> None:
    """Rewrite a posterior with all samples of a cell together, which is what a regrid reads fastest."""
    from crdist.store import pack as pack_store

    header = pack_store(source, target)
    print(f"{target}: {header.n_sample} samples packed")


@app.command()
def post(
    posterior: Annotated[Path, typer.Argument(help="Posterior store.")],
    products: Annotated[Path, typer.Argument(help="Products store to create, or to continue.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", "-r", help="Recipe (YAML); see 'crdist recipe'.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Override a key: grid.voxel=0.05; may be repeated."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; each reads the source once. Default: 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each worker; default: all cores over the workers.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of the whole run, such as 4GiB; default: 80 % of what there is."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address (tcp://...) or file of a Dask scheduler to use instead.")
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compute every product of a recipe from a posterior. Killed? Run the same command again: it continues."""
    from contextlib import ExitStack

    from crdist.progress import reporting
    from crdist_cluster import connect, local_client
    from crdist_postproc.plan import plan_run
    from crdist_postproc.recipe import Recipe
    from crdist_postproc.run import Step, execute

    wanted = Recipe.default() if recipe is None else Recipe.from_yaml(recipe)
    if settings:
        wanted = wanted.with_overrides(settings)
    plan = plan_run(posterior, wanted, products)
    if scheduler is not None and (workers, threads, memory) != (None, None, None):
        raise RecipeError(
            "--workers, --threads and --memory are of workers started here; with --scheduler its workers have their own"
        )
    with ExitStack() as stack:
        client = None
        if scheduler is not None:
            client = stack.enter_context(connect(scheduler))
            local = _remote_workers(client)
        else:
            local = _local_workers(workers or 1, threads, memory)
        if plan_only:
            _print_plan(plan, local, as_json)
            plan.check(local)
            return
        plan.check(local)
        update = stack.enter_context(reporting("post"))
        if client is None:
            client = stack.enter_context(local_client(local.processes, local.threads, local.process_bytes))

        def progress(step: Step) -> None:
            update(step.done, step.total, f"block {step.blocks_done} of {step.n_block}, {step.product}")

        report = execute(plan, products, client=client, progress=progress)
    if as_json:
        print(
            json.dumps(
                {
                    "products": str(report.path),
                    "blocks_computed": report.blocks_computed,
                    "blocks_found": report.blocks_found,
                    "seconds": round(report.seconds, 3),
                    "bytes_written": report.bytes_written,
                }
            )
        )
        return
    found = f" ({report.blocks_found} found done)" if report.blocks_found else ""
    names = ", ".join(product.name for product in plan.products)
    print(f"{products}: {names}; {report.blocks_computed} blocks{found} in {report.seconds:.1f} s")


RUN_FILE = typer.Argument(help="Run file (YAML); see 'crdist infer --explain'.", metavar="RUN.yaml")
RUN_FOLDER = typer.Argument(help="Folder of the run. Default: named like the run file, here.", metavar="FOLDER")
RUN_SETTINGS = typer.Option("--set", "-s", help="Override a key: inference.mode=joint; may be repeated.")
RESUME = typer.Option("--resume", help="Go on with the run in the folder; start one where there is none.")


@app.command()
def infer(
    run_file: Annotated[Path | None, RUN_FILE] = None,
    folder: Annotated[Path | None, RUN_FOLDER] = None,
    settings: Annotated[list[str] | None, RUN_SETTINGS] = None,
    resume: Annotated[bool, RESUME] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print every setting of a run file, and stop.")] = False,
) -> None:
    """Infer the cosmic-ray density from a gamma-ray map and a gas map: FOLDER/posterior.zarr grows sample by sample."""
    from crdist_inference.runfile import RunFile

    if explain:
        print(RunFile.explained(), end="")
        return
    if run_file is None:
        raise RecipeError("which run file? 'crdist infer RUN.yaml [FOLDER]'; --explain prints all settings")
    run = _run_file(run_file, settings)
    _infer(run, folder or Path(run_file.stem), resume)


@app.command("run")
def run_(
    run_file: Annotated[Path, RUN_FILE],
    folder: Annotated[Path | None, RUN_FOLDER] = None,
    settings: Annotated[list[str] | None, RUN_SETTINGS] = None,
    resume: Annotated[bool, RESUME] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the products; default: all cores.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory for the products; default: 80 % of what there is.")] = None,
) -> None:
    """Infer, then compute the products of the run file's recipe, in one folder. --resume goes on with either part."""
    from crdist.demo import make_products
    from crdist_postproc.recipe import Recipe

    run = _run_file(run_file, settings)
    products = run.products
    # a recipe that cannot be followed is better known before the inference than after it
    recipe = Recipe.default() if products.recipe == "default" else Recipe.from_yaml(products.recipe)
    recipe = recipe.with_overrides(products.set) if products.set else recipe
    workers = _local_workers(1, threads, memory)
    done = _infer(run, folder or Path(run_file.stem), resume)
    report = make_products(done.folder.posterior, done.folder.products, recipe, workers)
    found = f" ({report.blocks_found} found done)" if report.blocks_found else ""
    print(f"{report.path}: {report.blocks_computed} blocks{found} in {report.seconds:.1f} s")


@app.command("recipe")
def recipe_(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe to check and print in full.")] = None,
) -> None:
    """Print the default recipe with its comments, to start one's own from; or check one and print it in full."""
    from importlib import resources

    import yaml

    from crdist_postproc.recipe import Recipe

    if recipe is None:
        print((resources.files("crdist_postproc") / "recipes" / "default.yaml").read_text(), end="")
    else:
        print(
            yaml.safe_dump(Recipe.from_yaml(recipe).to_dict(), sort_keys=False, default_flow_style=None),
            end="",
        )


@app.command()
def info(store: Annotated[Path, typer.Argument(help="A posterior or products store.")], as_json: Json = False) -> None:
    """Say what a store holds."""
    from crdist.describe import describe, render

    content = describe(store)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        render(content)


@app.command()
def check(store: Annotated[Path, typer.Argument(help="A posterior or products store.")], as_json: Json = False) -> None:
    """Read a whole store: schema, checksums, completeness. Names each bad chunk."""
    from crdist.check import check_store
    from crdist.progress import reporting

    with reporting("check") as update:
        problems = check_store(store, progress=update)
    if as_json:
        print(json.dumps([str(problem) for problem in problems], indent=1))
    elif problems:
        for problem in problems:
            print(problem)
        print(f"{store}: {len(problems)} problem{'s' * (len(problems) > 1)}. {REMEDY}")
    else:
        print(f"{store}: sound")
    if problems:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")] = Path("demo"),
    gas: Annotated[
        bool, typer.Option("--gas", help="Instead of an inference, import a synthetic gas map: half a minute.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
    memory: Annotated[str, typer.Option(help="Memory of the products.")] = "3GiB",
) -> None:
    """A synthetic sky goes the whole way: inference, products, and a figure of the result. A model, not data."""
    from crdist.demo import run_demo, run_gas_demo

    workers = _local_workers(1, threads, memory)
    if gas:
        figure = run_gas_demo(folder, workers)
    else:
        with _way_on(f"crdist demo {folder}"):
            figure = run_demo(folder, workers, _Inferring())
    print(f"figure: {figure}")


def main() -> None:
    """Run the command line: an error is one line, its traceback goes to the log.

    Exit status 0: done. 1: an error, or problems found. 2: the command line itself is wrong. 128 + n: signal n.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        app(arguments)
    except _Interrupted as interrupted:
        print(f"crdist: interrupted; what is finished is kept: {_signals.way_on}", file=sys.stderr)
        sys.exit(128 + interrupted.number)
    except (CrdistError, OSError) as error:
        if debug:
            raise
        text = str(error) if isinstance(error, CrdistError) else _os_error(error)
        print(f"crdist: error: {text}", file=sys.stderr)
        _log_traceback()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        where = _log_traceback()
        print(
            f"crdist: error: this should not happen ({type(error).__name__}: {error}); "
            f"please report it with the traceback in {where}",
            file=sys.stderr,
        )
        sys.exit(1)


class _Interrupted(BaseException):
    """Ctrl-C, or a batch system's wish to end; nothing between here and ``main`` may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """What a signal does: end the command, or, where work can be brought to a good end first, ask for that."""

    asking = False
    """Whether the first signal is a question, whose answer is awaited, and the second the end."""
    number: int | None = None
    way_on = "run the same command again to go on"


_signals = _Signals()


def _interrupt(number: int, _: Any) -> None:
    if _signals.asking and _signals.number is None:
        _signals.number = number
        print("crdist: stopping after this iteration; once more to stop at once", file=sys.stderr, flush=True)
        return
    # once is enough: a second signal must not cut the tidying up short
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise _Interrupted(number)


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """While this lasts a first signal only turns the function true."""
    _signals.asking = True
    try:
        yield lambda: _signals.number is not None
    finally:
        _signals.asking = False


@contextmanager
def _way_on(command: str) -> Iterator[None]:
    """What the user is told to run after an interrupt."""
    before, _signals.way_on = _signals.way_on, f"run '{command}' to go on"
    yield
    _signals.way_on = before


def _run_file(path: Path, settings: list[str] | None) -> Any:
    from crdist_inference.runfile import RunFile

    run = RunFile.from_yaml(path)
    return run.with_overrides(settings, folder=Path.cwd()) if settings else run


def _infer(run: Any, folder: Path, resume: bool) -> Any:
    """Run an inference with its progress on the terminal."""
    words = [*(word for word in sys.argv[1:] if word not in ("--debug", "--resume")), "--resume"]
    with _way_on(f"crdist {' '.join(words)}"):
        done = _Inferring()(run, folder, resume)
    print(f"{done.folder.posterior}: {done.n_sample} samples in {done.seconds:.1f} s")
    return done


class _Inferring:
    """Runs an inference and reports it."""

    def __call__(self, run: Any, folder: Path, resume: bool) -> Any:
        from crdist.progress import reporting
        from crdist_inference.run import Listener, describe_iteration, run_inference

        with reporting("infer") as update:

            class Terminal(Listener):
                """Lines on standard error, and a bar where that is a terminal."""

                def say(self, text: str) -> None:
                    print(text, file=sys.stderr, flush=True)

                def evidence(self, done: int, total: int) -> None:
                    update(done, total, "evidence of length and slope")

                def iteration(self, report: Any, done: int, total: int) -> None:
                    self.say(describe_iteration(report))
                    update(done, total, "iterations")

                stopping = staticmethod(_stoppable)

            done = run_inference(run, folder, resume=resume, listener=Terminal())
        if not done.finished:
            raise _Interrupted(_signals.number or signal.SIGTERM)
        for line in done.validation:
            print(line)
        for warning in done.warnings:
            print(f"warning: {warning}")
        return done


def _local_workers(workers: int, threads: int | None, memory: str | None) -> Any:
    from crdist_cluster import available_cores, available_memory
    from crdist_postproc.plan import Workers, parse_bytes

    n_bytes = int(0.8 * available_memory()) if memory is None else parse_bytes(memory)
    if n_bytes > available_memory():
        raise RecipeError(
            f"--memory {memory} is more than this machine has ({available_memory() / 1024**3:.1f}GiB); give less"
        )
    return Workers(workers, threads or max(1, available_cores() // workers), n_bytes)


def _remote_workers(client: Any) -> Any:
    from crdist_postproc.plan import Workers

    found = client.scheduler_info(n_workers=-1)["workers"].values()
    return Workers(
        len(found),
        max(worker["nthreads"] for worker in found),
        min(worker["memory_limit"] for worker in found),
        local=False,
    )


def _print_plan(plan: Any, workers: Any, as_json: bool) -> None:
    data = plan.to_dict(workers)
    if as_json:
        print(json.dumps(data, indent=1))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from crdist_postproc.plan import format_bytes

    title = f"{data['quantity']} of {data['posterior']}, {data['n_sample']} samples"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("product", "kind", "shape", "inside data", "blocks", "Mvs", "written", "memory/block"):
        table.add_column(name, justify="left" if name in ("product", "kind") else "right", overflow="fold")
    for product in data["products"]:
        table.add_row(
            product["name"],
            product["kind"],
            "x".join(map(str, product["shape"])),
            "" if product["inside_data"] is None else f"{product['inside_data']:.0%}",
            str(product["blocks"]),
            f"{product['voxel_samples'] / 1e6:.1f}",
            format_bytes(product["bytes_written"]),
            format_bytes(product["block_bytes"]),
        )
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    size = {key: format_bytes(value) for key, value in data.items() if "bytes" in key}
    lines = (
        f"Mvs: million voxel-samples. {data['blocks']} blocks and {len(data['products'])} last steps",
        f"on {workers.processes} worker(s) x {workers.threads} threads;",
        f"reads {size['bytes_read_per_worker']} a worker, writes {size['bytes_written']};",
        f"peak memory {size['peak_bytes_per_worker']} a worker of {size['memory_bytes_per_worker']}",
    )
    console.print(" ".join(lines), highlight=False, soft_wrap=True)


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _log_traceback() -> Path:
    """Append the current traceback to the user's log; a run has its own log, beside its store."""
    state = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state"))
    path = state / "crdist" / "crdist.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"crdist {__version__}: {' '.join(sys.argv)}\n{traceback.format_exc()}\n")
    except OSError:
        logging.getLogger("crdist").debug("cannot write %s", path)
    return path


if __name__ == "__main__":
    main()
