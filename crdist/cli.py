"""The command line: one entry point, ``crdist``, for all stages."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from crdist import __version__
from crdist.commands import cluster, compare, derive, doctor, export, figures, infer, jobs, post, run, serve, stores
from crdist.commands.interrupts import Interrupted, catch_signals, way_on_text
from crdist.errors import CrdistError

__all__ = ["app", "main"]

app = typer.Typer(
    name="crdist",
    help="Posterior samples of 3D Galactic fields in, every product with correct per-sample statistics out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.command("import")(stores.import_)
app.command()(stores.pack)
app.command()(export.export)
app.command()(compare.compare)
app.command()(derive.derive)
app.command()(post.post)
app.command()(infer.infer)
app.command("run")(run.run_)
app.command()(jobs.status)
app.command()(jobs.cancel)
app.add_typer(cluster.app, name="cluster")
app.command()(serve.serve)
app.command()(figures.figures)
app.command()(figures.report)
app.command("recipe")(stores.recipe_)
app.command()(stores.info)
app.command()(stores.check)
app.command()(infer.demo)
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line: an error is one line, its traceback goes to the log.

    Exit status 0: done. 1: an error, or problems found. 2: the command line itself is wrong. 128 + n: signal n.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    catch_signals()
    try:
        app(arguments)
    except Interrupted as interrupted:
        print(f"crdist: interrupted; {way_on_text()}", file=sys.stderr)
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
