"""The folder of a run: what lies where in it, whose it is, and one process at a time in it.

It holds ``posterior.zarr``, and beside it ``run.yaml`` (every setting), ``run.json`` (what a resumed run must agree
with), ``evidence.json``, ``checkpoint/`` and ``run.log``; for a synthetic sky also its files (``input/``) and
``validation.json``.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crdist import run_guard
from crdist.durable import write_durably
from crdist.errors import CheckpointError, StoreExistsError
from crdist.settings_text import differences
from crdist_inference.runfile import RunFile

__all__ = ["RunFolder", "explained", "identify", "locked", "logged", "refuse_other"]

SHOWN_DIFFERENCES = 4


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a run."""

    path: Path

    @property
    def posterior(self) -> Path:
        """The posterior store."""
        return self.path / "posterior.zarr"

    @property
    def products(self) -> Path:
        """The products store that 'crdist run' makes of it."""
        return self.path / "products.zarr"

    @property
    def checkpoint(self) -> Path:
        """Folder of the inference's checkpoints."""
        return self.path / "checkpoint"

    @property
    def settings(self) -> Path:
        """The run file with every key."""
        return self.path / "run.yaml"

    @property
    def identity(self) -> Path:
        """What a resumed run must agree with."""
        return self.path / "run.json"

    @property
    def evidence(self) -> Path:
        """The evidence grid and the draws from it."""
        return self.path / "evidence.json"

    @property
    def validation(self) -> Path:
        """How the samples compare with the truth of a synthetic sky."""
        return self.path / "validation.json"

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "run.log"


def refuse_other(folder: RunFolder, run: RunFile, resume: bool) -> None:
    """Raise where the folder is not one that this run may work in; before anything is read.

    Raises
    ------
    StoreExistsError
        If it exists and ``resume`` is not set, or is none of a run.
    CheckpointError
        If its run has other settings.
    """
    path = folder.path
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir() or not folder.settings.exists():
        raise StoreExistsError(f"{path}: exists and is no folder of a run; choose another name")
    if not resume:
        raise StoreExistsError(f"{path}: exists already; go on with --resume, choose another name, or remove it")
    if folder.identity.exists():
        _check_same(folder, _read_identity(folder).get("run"), run.deciding(), "settings")


def identify(folder: RunFolder, fingerprint: Mapping[str, Any]) -> None:
    """Record what the run is, or check that it is what was recorded.

    Raises
    ------
    CheckpointError
        If it is another.
    """
    now = json.loads(json.dumps(fingerprint))
    if folder.identity.exists():
        _check_same(folder, _read_identity(folder), now, "inputs or version")
    else:
        write_durably(folder.identity, json.dumps(now, indent=1).encode())


def _check_same(folder: RunFolder, there: Any, now: Any, what: str) -> None:
    changed = differences(there, json.loads(json.dumps(now)))
    if changed:
        shown = "; ".join(changed[:SHOWN_DIFFERENCES]) + ("; ..." if len(changed) > SHOWN_DIFFERENCES else "")
        raise CheckpointError(
            f"{folder.path}: was begun with other {what} ({shown}); choose another folder, or remove it to start anew"
        )


def _read_identity(folder: RunFolder) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(folder.identity.read_text())
    except ValueError as error:
        raise CheckpointError(
            f"{folder.identity}: is damaged ({error}); start the run anew in another folder"
        ) from error
    return content


def locked(folder: RunFolder) -> AbstractContextManager[None]:
    """Let one process at a time run it; see `crdist.run_guard.locked`."""
    return run_guard.locked(folder.path, folder.path)


def logged(folder: RunFolder) -> AbstractContextManager[None]:
    """Send the run's messages to its log; see `crdist.run_guard.logged`."""
    return run_guard.logged(folder.log)


def explained(folder: RunFolder) -> AbstractContextManager[None]:
    """Turn what a disk says into a line that tells what to do; see `crdist.run_guard.explained`."""
    # a path that leads through a file, or through nothing, is the user's choice as well
    refused = (*run_guard.REFUSED, errno.ENOENT, errno.ENOTDIR)
    return run_guard.explained(folder.path, "go on with --resume", refused)
