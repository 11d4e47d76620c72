"""What one job of a batch system asks for, in plain units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["JobKind", "JobSpec", "walltime_text"]

JobKind = Literal["cpu", "gpu", "driver"]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What one job of a recipe asks for, in plain units."""

    kind: JobKind
    queue: str | None
    account: str | None
    cores: int
    memory_bytes: int
    walltime_seconds: int
    margin_seconds: int
    """A worker ends this long before its walltime."""
    gpus: int
    setup: tuple[str, ...]
    directives: tuple[str, ...]
    scratch: str
    """Folder on the node; may hold shell variables."""
    python: str
    """Path of the interpreter."""
    interface: str | None


def walltime_text(seconds: int) -> str:
    """A duration as batch systems read it, ``HH:MM:SS``, the hours of days included.

    Examples
    --------
    >>> walltime_text(90061)
    '25:01:01'
    """
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
