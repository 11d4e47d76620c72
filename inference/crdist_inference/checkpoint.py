"""Checkpoints of an inference: plain arrays and plain metadata, replaced in one rename, never unpickled."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from crdist.durable import write_durably
from crdist.errors import CheckpointError

from .records import IterationReport

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

CURRENT = "checkpoint.npz"
FORMAT = 3
"""Another number where the same excitations have come to mean another field, too."""

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where an inference is.

    Parameters
    ----------
    fingerprint : mapping
        What makes the inference this one, as JSON can hold it.
    draw : int
        Draw at work.
    iteration : int
        Iterations of that draw that are finished.
    reports : tuple of IterationReport
        Of all finished iterations.
    arrays : mapping of str to ndarray
        Mean, samples and random keys.
    """

    fingerprint: Mapping[str, Any]
    draw: int
    iteration: int
    reports: tuple[IterationReport, ...]
    arrays: Arrays

    @classmethod
    def fresh(cls, fingerprint: Mapping[str, Any]) -> Checkpoint:
        """Before the first iteration."""
        return cls(fingerprint, 0, 0, (), {})

    def finished(self, folder: Path, draw: int) -> Arrays:
        """Arrays of an earlier draw's last iteration."""
        return _read(_of_draw(folder, draw), self.fingerprint)[1]


def save_checkpoint(folder: Path, state: Checkpoint, *, last: bool) -> None:
    """Write a checkpoint; ``last`` keeps it beside the current one, as the end of its draw."""
    text = json.dumps(
        {
            "format": FORMAT,
            "fingerprint": state.fingerprint,
            "draw": state.draw,
            "iteration": state.iteration,
            "reports": [asdict(report) for report in state.reports],
        },
        sort_keys=True,
    )
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, metadata=np.frombuffer(text.encode(), dtype=np.uint8), **state.arrays)
    data = buffer.getbuffer()
    if last:
        write_durably(_of_draw(folder, state.draw), data)
    write_durably(folder / CURRENT, data)


def load_checkpoint(folder: Path, fingerprint: Mapping[str, Any]) -> Checkpoint | None:
    """The current checkpoint, or None where there is none.

    Raises
    ------
    CheckpointError
        If it cannot be read, or belongs to another inference; the message says what differs.
    """
    path = folder / CURRENT
    if not path.exists():
        return None
    metadata, arrays = _read(path, fingerprint)
    reports = tuple(_report(report) for report in metadata["reports"])
    return Checkpoint(fingerprint, metadata["draw"], metadata["iteration"], reports, arrays)


def _of_draw(folder: Path, draw: int) -> Path:
    return folder / f"draw-{draw:03d}.npz"


def _read(path: Path, fingerprint: Mapping[str, Any]) -> tuple[dict[str, Any], Arrays]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(arrays.pop("metadata").tobytes())
        found = metadata["fingerprint"]
        known = metadata["format"] == FORMAT
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); remove it to start anew") from error
    if not known:
        raise CheckpointError(f"{path}: was written by another version of crdist; remove it to start anew")
    wanted = json.loads(json.dumps(fingerprint))
    if found != wanted:
        what = "; ".join(_differences(found, wanted))
        raise CheckpointError(
            f"{path}: belongs to another inference: {what}; use another output or start anew without --resume"
        )
    return metadata, arrays


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if found == wanted else [f"{name} is {wanted!r}, it was {found!r}"]


def _report(values: dict[str, Any]) -> IterationReport:
    values["hyperparameters"] = {name: tuple(pair) for name, pair in values["hyperparameters"].items()}
    restored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return IterationReport(**restored)
