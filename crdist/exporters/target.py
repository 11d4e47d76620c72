"""A new file or folder that is whole or absent, and arrays that are written into a file piece by piece."""

from __future__ import annotations

import glob
import itertools
import math
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from crdist.durable import flush_folder, make_folder
from crdist.errors import RunError, StoreExistsError

__all__ = ["ArrayInFile", "new_target", "reserve"]


@contextmanager
def new_target(path: Path) -> Iterator[Path]:
    """A name beside ``path`` under which to write a file or a folder; it takes its own when the block ends well.

    By then everything in it is on the disk. After an error nothing is left, nor folders that had to be made above
    it. What a process of this host was writing there when it was killed is removed.

    Raises
    ------
    StoreExistsError
        If ``path`` exists.
    """
    _refuse_existing(path)
    missing = list(itertools.takewhile(lambda folder: not folder.exists(), path.absolute().parents))
    prefix, host = f".{path.name}.exporting-", platform.node()
    aside = path.with_name(f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}@{host}")
    try:
        make_folder(path.parent)
        for left in path.parent.glob(f"{glob.escape(prefix)}*@{glob.escape(host)}"):
            pid = left.name.removeprefix(prefix).partition("-")[0]
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                _remove(left)
        yield aside
        _flush(aside)
        # what came to be there meanwhile is somebody else's
        _refuse_existing(path)
        aside.rename(path)
        flush_folder(path.parent)
    finally:
        _remove(aside)
        for folder in missing:
            # fails, as it should, where something lies in it
            with suppress(OSError):
                folder.rmdir()


def reserve(path: Path, n_bytes: int) -> None:
    """Make a new file of a known size, all zeros, after a look at whether the disk has room for it.

    Raises
    ------
    RunError
        If the disk has not.
    """
    free = shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise RunError(
            f"{path.parent}: the export takes {n_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free; "
            "make room or export to another disk"
        )
    with path.open("xb") as file:
        file.truncate(n_bytes)


@dataclass(frozen=True, slots=True)
class ArrayInFile:
    """An array that lies in a file in C order, to be written region by region in any order."""

    file: BinaryIO
    offset: int
    """Where it begins, byte."""
    dtype: np.dtype[Any]
    """Type in the file, with its byte order."""
    shape: tuple[int, ...]

    def write(self, region: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
        """Write the values of a region, converted to the array's type.

        Parameters
        ----------
        region : tuple of slice
            One along each axis, with start and stop.
        values : ndarray, shape of the region
        """
        shape = tuple(part.stop - part.start for part in region)
        if values.shape != shape:
            raise ValueError(f"values of shape {values.shape} do not fill a region of shape {shape}")
        stored = np.ascontiguousarray(values, dtype=self.dtype)
        # the axes behind `axis` are whole, so that a stretch of `axis` is one stretch of the file
        axis = len(shape) - 1
        while axis > 0 and shape[axis] == self.shape[axis]:
            axis -= 1
        stretches = stored.reshape(math.prod(shape[:axis]), -1).view(np.uint8)
        strides = [self.dtype.itemsize * math.prod(self.shape[i + 1 :]) for i in range(len(shape))]
        start = self.offset + region[axis].start * strides[axis]
        leading = itertools.product(*(range(part.start, part.stop) for part in region[:axis]))
        for index, stretch in zip(leading, stretches, strict=True):
            place = start + sum(i * stride for i, stride in zip(index, strides, strict=False))
            _write_at(self.file, place, stretch.data)


def _write_at(file: BinaryIO, offset: int, data: memoryview) -> None:
    while data:
        n_written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[n_written:], offset + n_written


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise StoreExistsError(f"{path}: exists already; choose another name or remove it")


def _flush(path: Path) -> None:
    """Put a file, or a folder with all that is in it, on the disk."""
    if not path.is_dir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return
    for part in path.iterdir():
        _flush(part)
    flush_folder(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
