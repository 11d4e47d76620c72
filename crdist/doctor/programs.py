"""Other programs, which may hang or crash, run so that neither harms this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Done", "run_bounded", "run_python"]

KILL_SECONDS = 2.0
MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    code: int | None
    """Exit status; None where it did not end in time or could not be started."""
    out: str
    how: str
    """In words that follow its name, such as ``did not end in 20 s``."""


def run_bounded(words: Sequence[str], seconds: float) -> Done:
    """Run a program that may hang; when the time is over it is killed with its children.

    Parameters
    ----------
    words : sequence of str
        Program and arguments.
    seconds : float
        Time that it may take.
    """
    try:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        return Done(None, "", f"cannot be run ({error.strerror or error})")
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        return Done(None, "", f"did not end in {seconds:g} s")
    except BaseException:
        _kill(process)
        raise
    text = out.decode(errors="replace")
    if process.returncode < 0:
        return Done(process.returncode, text, f"was ended by signal {-process.returncode}")
    return Done(process.returncode, text, f"failed ({_complaint(err, process.returncode)})")


def run_python(program: str, seconds: float, *arguments: str) -> Done:
    """Run lines of Python in a process of their own, as `run_bounded`."""
    return run_bounded([sys.executable, "-c", program, *arguments], seconds)


def _complaint(err: bytes, code: int) -> str:
    lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
    # the last line of a traceback names the error
    return " ".join(lines[-1].split())[:MOST_CHARACTERS] if lines else f"exit status {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    # a process that hangs in a driver does not even die of a kill
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)
