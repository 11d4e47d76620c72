"""Arrays inside files, read piece by piece with few seeks and bounded memory.

Nothing is mapped into memory: pages of a mapped file count as the process's own, and a network disk that goes
away kills the process.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import InputFileError

__all__ = [
    "BLOCK_BYTES",
    "FileArray",
    "PixelSelection",
    "SampleImage",
    "physical_values",
    "read_items",
    "read_pieces",
    "reading",
    "shifted",
]

BLOCK_BYTES = 16 * 1024**2
"""Read at once, at most."""
PIECE_BYTES = 4 * 1024**2
"""Read at once of what is read from its beginning to its end."""
SEEK_BYTES = 16 * 1024
"""Reading this much costs about as much as a seek: shorter runs are read with what lies between them."""
WIDEN_BYTES = 64 * SEEK_BYTES
"""Unless there is more than this between them."""

AxisName = Literal["pixel", "shell", "sample"]
Index = slice | npt.NDArray[np.intp]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read: a failure that reached the writer would be taken for the target's.

    Raises
    ------
    InputFileError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_pieces(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """What is left of a file, in pieces of at most `PIECE_BYTES`.

    Raises
    ------
    InputFileError
        If it cannot be read; what goes wrong where a piece is used stays as it is.
    """
    while True:
        with reading(path):
            piece = file.read(PIECE_BYTES)
        if not piece:
            return
        yield piece


def read_items(
    file: BinaryIO, path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Items that lie side by side in a file.

    Parameters
    ----------
    file : file
        Open for reading; its position does not matter and stays.
    path : Path
        Its name, for messages.
    offset : int, byte
        Where the items begin.
    dtype : dtype
        Their type in the file, with its byte order.
    shape : tuple of int
        Shape of the result.

    Raises
    ------
    InputFileError
        If the file ends early or cannot be read.
    """
    items = np.empty(shape, dtype=dtype)
    view = memoryview(items.reshape(-1).view(np.uint8).data)
    with reading(path):
        while view:
            n_read = os.preadv(file.fileno(), [view], offset)
            if n_read == 0:
                raise InputFileError(f"{path}: ends at byte {offset}, {len(view)} bytes short; fetch it again")
            view, offset = view[n_read:], offset + n_read
    return items


def physical_values(raw: npt.NDArray[Any], scale: float, zero: float, blank: int | None) -> npt.NDArray[Any]:
    """Values of stored numbers: ``zero + scale * raw``, NaN where an integer is ``blank``."""
    if scale == 1.0 and zero == 0.0 and blank is None:
        return raw
    values = raw.astype(np.float64) * scale + zero
    if blank is not None and raw.dtype.kind in "iu":
        values[raw == blank] = np.nan
    return values


class PixelSelection:
    """Some neighbouring nested pixels, and where a file in its own pixel order has them.

    Parameters
    ----------
    nside : int
        HEALPix resolution.
    ordering : {"nested", "ring"}
        Order of the pixels in the file.
    pixels : slice
        Nested pixels.
    """

    def __init__(self, nside: int, ordering: Literal["nested", "ring"], pixels: slice) -> None:
        self.size = pixels.stop - pixels.start
        self._first = pixels.start
        self._stored: npt.NDArray[np.intp] | None = None
        if ordering == "ring":
            import healpy

            ring = healpy.nest2ring(nside, np.arange(pixels.start, pixels.stop))
            self._place = np.argsort(ring)
            self._stored = ring[self._place]

    def runs(self, gap: int) -> Iterator[slice]:
        """Stretches of the file's pixels that hold all of these, further apart than ``gap`` pixels."""
        if self._stored is None:
            yield slice(self._first, self._first + self.size)
            return
        breaks = np.flatnonzero(np.diff(self._stored) > max(gap, 1)) + 1
        for run in np.split(self._stored, breaks):
            yield slice(int(run[0]), int(run[-1]) + 1)

    def locate(self, stored: slice) -> tuple[Index, Index]:
        """Which of the file's pixels in a part of a run are meant, and their places in the selection."""
        if self._stored is None:
            return stored, slice(stored.start - self._first, stored.stop - self._first)
        lower, upper = np.searchsorted(self._stored, (stored.start, stored.stop))
        return self._stored[lower:upper], self._place[lower:upper]


@dataclass(frozen=True, slots=True)
class FileArray:
    """An array that lies in a file in C order."""

    file: BinaryIO
    path: Path
    offset: int
    """Where it begins, byte."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scale: float = 1.0
    zero: float = 0.0
    blank: int | None = None
    """The integer that stands for no value."""

    def blocks(self, region: tuple[slice, ...]) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[Any]]]:
        """Read a region in pieces of at most `BLOCK_BYTES`: where a piece lies in the array, and its values.

        A piece may reach beyond the region along the last axes, where leaving that out would cost more.
        """
        item = self.dtype.itemsize
        wide = list(region)
        for axis in reversed(range(1, len(region))):
            below = item * math.prod(self.shape[axis + 1 :])
            run = below * (wide[axis].stop - wide[axis].start)
            if run < SEEK_BYTES and below * self.shape[axis] <= WIDEN_BYTES:
                wide[axis] = slice(0, self.shape[axis])
            if wide[axis] != slice(0, self.shape[axis]):
                break
        for where in _contiguous(self.shape, tuple(wide), item):
            first = sum(index.start * math.prod(self.shape[axis + 1 :]) for axis, index in enumerate(where))
            shape = tuple(index.stop - index.start for index in where)
            raw = read_items(self.file, self.path, self.offset + item * first, self.dtype, shape)
            yield where, physical_values(raw, self.scale, self.zero, self.blank)


@dataclass(frozen=True, slots=True)
class SampleImage:
    """An array of samples on a spherical grid, in any order of its axes and either order of its pixels."""

    array: FileArray
    axes: tuple[AxisName, ...]
    """Its axes; ``sample`` is absent from a single map."""
    nside: int
    ordering: Literal["nested", "ring"]

    @property
    def n_sample(self) -> int:
        """Number of samples; 1 for a single map."""
        return self.array.shape[self.axes.index("sample")] if "sample" in self.axes else 1

    @property
    def slowest(self) -> Literal["pixel", "shell"]:
        """Which of pixel and shell comes first."""
        return "pixel" if self.axes.index("pixel") < self.axes.index("shell") else "shell"

    def read(self, pixels: slice, shells: slice) -> npt.NDArray[np.float32]:
        """All samples of some nested pixels and shells, shape (pixel, shell, sample).

        What single precision cannot hold becomes infinite. The result may be a transposed view.
        """
        selection = PixelSelection(self.nside, self.ordering, pixels)
        i_pixel = self.axes.index("pixel")
        whole = {"pixel": pixels, "shell": shells, "sample": slice(0, self.n_sample)}
        region = [whole[axis] for axis in self.axes]
        values = np.empty([index.stop - index.start for index in region], dtype=np.float32)
        pixel_bytes = self.array.dtype.itemsize * math.prod(self.array.shape[i_pixel + 1 :])
        for run in selection.runs(gap=4 * SEEK_BYTES // pixel_bytes):
            region[i_pixel] = run
            for where, block in self.array.blocks(tuple(region)):
                source: list[Index] = []
                target: list[Index] = []
                meant = [
                    slice(max(index.start, asked.start), min(index.stop, asked.stop))
                    for index, asked in zip(where, region, strict=True)
                ]
                if any(index.start >= index.stop for index in meant):
                    continue
                for axis, index in enumerate(meant):
                    taken: Index = slice(index.start - where[axis].start, index.stop - where[axis].start)
                    place: Index = slice(index.start - region[axis].start, index.stop - region[axis].start)
                    if axis == i_pixel:
                        taken, place = selection.locate(index)
                        taken = shifted(taken, -where[axis].start)
                    source.append(taken)
                    target.append(place)
                with np.errstate(over="ignore"):
                    values[tuple(target)] = block[tuple(source)]
        if "sample" not in self.axes:
            values = values[..., None]
        order = (*self.axes, "sample")
        return values.transpose([order.index(axis) for axis in ("pixel", "shell", "sample")])


def shifted(index: Index, by: int) -> Index:
    """The same places, counted from elsewhere."""
    return slice(index.start + by, index.stop + by) if isinstance(index, slice) else index + by


def _contiguous(shape: tuple[int, ...], region: tuple[slice, ...], item: int) -> Iterator[tuple[slice, ...]]:
    """Pieces of a region, each side by side in the file and at most `BLOCK_BYTES` long."""
    whole = tuple(slice(0, size) for size in shape)
    # the slowest axis below which the region is whole and small enough to be read at once
    axis = len(shape) - 1
    while axis > 0 and region[axis] == whole[axis] and item * math.prod(shape[axis:]) <= BLOCK_BYTES:
        axis -= 1
    step = max(1, BLOCK_BYTES // (item * math.prod(shape[axis + 1 :])))
    for leading in itertools.product(*(range(index.start, index.stop) for index in region[:axis])):
        for first in range(region[axis].start, region[axis].stop, step):
            piece = slice(first, min(first + step, region[axis].stop))
            yield (*(slice(i, i + 1) for i in leading), piece, *whole[axis + 1 :])
