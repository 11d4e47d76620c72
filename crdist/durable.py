"""Files and stores that survive a crash: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import asyncio
import glob
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore

from crdist.errors import StoreExistsError

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

__all__ = [
    "DurableStore",
    "flush_folder",
    "flush_tree",
    "make_folder",
    "new_store",
    "remove_partial_files",
    "write_durably",
]

PARTIAL_SUFFIX = ".partial"
"""Suffix of a file that is still being written; zarr's local store uses the same."""


FLUSHED_AT_ONCE = 8


class DurableStore(LocalStore):
    """A local Zarr store whose writes are on the disk when they return.

    zarr's own store renames each object into place, which a killed process cannot break; after a power cut the
    renamed file may still be empty. Here the data are flushed before the rename, and the folders' entries after it.
    """

    async def _open(self, *args: Any, **kwargs: Any) -> None:
        # zarr would make the root, but not flush it
        if not self.read_only:
            make_folder(self.root)
        await super()._open(*args, **kwargs)

    async def set(self, key: str, value: Buffer) -> None:
        """Store ``value`` under ``key``, flushed."""
        await self._ensure_open()
        self._check_writable()
        await asyncio.to_thread(write_durably, self.root / key, value.as_numpy_array().data)


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write a file that is either complete or absent, whatever happens; folders above it are made where missing."""
    make_folder(path.parent)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_store(path: str | Path) -> Iterator[Path]:
    """A folder beside ``path`` to build a store in; it takes its name when the block ends without an error.

    After an error nothing is left, nor folders that had to be made above the store. What a process of this host was
    building there when it was killed is removed; other hosts may be at work on a shared disk, and theirs stays.

    Raises
    ------
    StoreExistsError
        If ``path`` exists.
    """
    target = Path(path)
    if target.exists():
        raise StoreExistsError(f"{target}: exists already; choose another name or remove it")
    new = _missing_folders(target.parent)
    prefix, host = f".{target.name}.building-", platform.node()
    folder = target.parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}@{host}"
    try:
        make_folder(target.parent)
        for left in target.parent.glob(f"{glob.escape(prefix)}*@{glob.escape(host)}"):
            pid = left.name.removeprefix(prefix).partition("-")[0]
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left, ignore_errors=True)
        yield folder
        os.rename(folder, target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new:
            # fails, as it should, where something lies in it: the store itself, or what others put there meanwhile
            with suppress(OSError):
                parent.rmdir()


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed writer left half-written below ``folder``."""
    # a store may have millions of files: Path.rglob takes ten times as long
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(PARTIAL_SUFFIX):
                Path(place, name).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where missing, and put their names on the disk."""
    new = _missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for made in new:
        flush_folder(made.parent)


def flush_folder(folder: Path) -> None:
    """Put the entries of a folder on the disk: names that were made, renamed or removed in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Put all of a folder on the disk that was written without: sooner done than file by file, as many go at once."""
    with ThreadPoolExecutor(FLUSHED_AT_ONCE) as pool:
        for place, _, names in os.walk(folder):
            # one that is not a folder can be flushed through a descriptor to read, too
            list(pool.map(_flush, [place, *(os.path.join(place, name) for name in names)]))


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing_folders(folder: Path) -> list[Path]:
    """A folder and those above it that do not exist, deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing
