"""What guards the folder of a run: one process at a time in it, a log of it, and a disk's complaints in words."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crdist.errors import CrdistError, RunError

__all__ = ["explained", "locked", "logged"]

log = logging.getLogger("crdist.run")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def locked(folder: Path, what: Path) -> Iterator[None]:
    """Let one process at a time work in ``folder``; the lock goes with the process, however it ends.

    Raises
    ------
    RunError
        If another has it; ``what`` names the run in the message.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{what}: another process is running it; wait for that, or end it") from error
        yield


class _QuietFileHandler(logging.FileHandler):
    """A log that cannot be written, on a full disk say, must not hide the run's own message."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the line."""


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send crdist's messages to a log, tracebacks included."""
    handler = _QuietFileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("crdist")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        log.exception("the run stopped")
        raise
    except BaseException:
        # somebody's wish, and no fault: where it came is of no interest
        log.warning("interrupted; the same command goes on from here")
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


@contextmanager
def explained(path: Path, way_on: str, refused: tuple[int, ...] = REFUSED) -> Iterator[None]:
    """Turn what a disk says into a line that tells what to do.

    Parameters
    ----------
    path : Path
        What is being written.
    way_on : str
        What to do once there is room, such as ``"run the same command again"``.
    refused : tuple of int
        Error numbers that mean that the folder cannot be used.

    Raises
    ------
    RunError
        In place of an `OSError` that a user can mend; others go through.
    """
    try:
        yield
    except CrdistError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in FULL:
            raise RunError(
                f"{path}: {reason} while writing; what is finished is kept: make room and {way_on}"
            ) from error
        if error.errno in refused:
            raise RunError(f"{error.filename or path}: {reason}; choose a folder that you may write to") from error
        raise
