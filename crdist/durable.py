"""Files that survive a crash: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from zarr.storage import LocalStore

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

__all__ = ["DurableStore", "remove_partial_files", "write_durably"]

PARTIAL_SUFFIX = ".partial"
"""Suffix of a file that is still being written; zarr's local store uses the same."""


class DurableStore(LocalStore):
    """A local Zarr store whose writes are on the disk when they return.

    zarr's own store renames each object into place, which a killed process cannot break; after a power cut the
    renamed file may still be empty. Here the data and the folder's entry are flushed before the write counts.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Store ``value`` under ``key``, then flush it."""
        await super().set(key, value)
        _flush(self.root / key)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is either complete or absent, whatever happens."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed writer left half-written below ``folder``."""
    for path in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
