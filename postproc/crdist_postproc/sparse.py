"""Fields of which only some chunks are there.

The kernels find a cell by its place in an array of all cells. Such an array is reserved as addresses, without memory;
memory comes, a page of 4 KiB at a time, where chunks are filled in. Kernels stay as fast as they are over a whole
field, and give the same bits. What was not filled in must not be read: `crdist_postproc.reach` tells what is.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from crdist.errors import PlanTooLargeError
from crdist_postproc.kernels.field import N_PADDED, Field, ValueSpace, normalise

__all__ = ["Chunks", "committed_bytes", "committed_bytes_in_slabs", "fill_sparsely", "reserve"]

PAGE = mmap.PAGESIZE
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Linux' own number, which Python knows by name from 3.13 on."""

Bounds = npt.NDArray[np.int64]


class Chunks:
    """Where the chunks of a source lie along pixel and shell.

    Parameters
    ----------
    pixel_chunks, shell_chunks : tuple of int
        Sizes of the chunks, as Dask gives them.
    """

    __slots__ = ("pixels", "shells")

    def __init__(self, pixel_chunks: tuple[int, ...], shell_chunks: tuple[int, ...]) -> None:
        self.pixels: Bounds = np.concatenate([[0], np.cumsum(pixel_chunks)])
        self.shells: Bounds = np.concatenate([[0], np.cumsum(shell_chunks)])

    @property
    def slab(self) -> int:
        """Shells in a slab: a chunk, where those are of one size."""
        return int(self.shells[1])

    def slabs_of(self, chunk: int) -> range:
        """The slabs that hold a chunk along shell."""
        return range(int(self.shells[chunk]) // self.slab, -(-int(self.shells[chunk + 1]) // self.slab))

    def window(self, wanted: npt.NDArray[np.bool_]) -> slice:
        """The shells from the first to the last of some chunks."""
        columns = np.flatnonzero(wanted.any(axis=0))
        if not columns.size:
            return slice(0, 0)
        return slice(int(self.shells[columns[0]]), int(self.shells[columns[-1] + 1]))


def committed_bytes(wanted: npt.NDArray[np.bool_], chunks: Chunks, n_padded: int) -> int:
    """Upper bound on the memory that `fill_sparsely` takes for some chunks, in whole pages.

    Parameters
    ----------
    wanted : ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
    chunks : Chunks
    n_padded : int
        Samples of a cell, padding included.
    """
    per_cell = 4 * n_padded
    window = chunks.window(wanted)
    whole = (window.stop - window.start) * per_cell
    shells = wanted @ np.diff(chunks.shells)
    edges = np.diff(wanted.astype(np.int8), axis=1, prepend=0)
    runs = np.count_nonzero(edges == 1, axis=1)
    # of each run of shells the first and the last page are shared with what is not filled in
    per_pixel = np.minimum(shells * per_cell + runs * PAGE, whole)
    n_pixel = np.diff(chunks.pixels)
    # so are those at both ends of each ring that a chunk has pixels on, 2 sqrt(n) of them where it is a square
    rings = np.minimum(n_pixel, 2 * np.sqrt(n_pixel)) * (runs > 0)
    # and that in which the first cell of all lies begins before it
    first_page = PAGE if np.any(runs) else 0
    return int(n_pixel @ per_pixel + rings.sum() * PAGE) + first_page


def committed_bytes_in_slabs(
    wanted: npt.NDArray[np.bool_], chunks: Chunks, n_padded: int, chunk_of_row: npt.NDArray[np.int64]
) -> int:
    """The same where shells lie in slabs, as `Chunks.slab` has them: less where most of the sky is read in few shells.

    Parameters
    ----------
    wanted, chunks, n_padded
        As for `committed_bytes`.
    chunk_of_row : ndarray of int64, shape (n_pixel,)
        Chunk along pixel that holds each pixel, in RING order.
    """
    total = 0
    per_pixel = 4 * n_padded * chunks.slab
    for shell_chunk in np.flatnonzero(wanted.any(axis=0)).tolist():
        pixels = wanted[chunk_of_row, shell_chunk]
        runs = np.count_nonzero(pixels[1:] & ~pixels[:-1]) + int(pixels[0])
        n_bytes = int(per_pixel * np.count_nonzero(pixels) + 2 * PAGE * runs)
        n_slab = len(chunks.slabs_of(shell_chunk))
        total += n_slab * min(n_bytes, per_pixel * chunk_of_row.size + PAGE)
    return total


def fill_sparsely(
    template: Field,
    wanted: npt.NDArray[np.bool_],
    chunks: Chunks,
    n_pixel: int,
    rows_of: Callable[[int], npt.NDArray[np.integer]],
    read: Callable[[int, int], npt.NDArray[np.floating]],
    value_space: ValueSpace,
    *,
    elsewhere: float | None = None,
    in_slabs: bool = False,
) -> Field:
    """A field with some chunks filled in.

    Parameters
    ----------
    template : Field
        With the tables of the interpolation.
    wanted : ndarray of bool, shape (n_pixel_chunk, n_shell_chunk)
        Chunks to fill in.
    chunks : Chunks
    n_pixel : int
        Number of pixels of the grid.
    rows_of : callable
        Of a chunk along pixel, the RING indices of its pixels.
    read : callable
        Of a chunk along pixel and one along shell, the samples, shape (pixel, shell, n_sample).
    value_space : {"linear", "log"}
    elsewhere : float, optional
        Put this where nothing is filled in, and take memory for all of it, shells that no chunk holds among them:
        NaN shows whatever reads there.
    in_slabs : bool
        Put the shells of a slab together, pixel after pixel, not all shells of a pixel.

    Raises
    ------
    PlanTooLargeError
        If the system refuses to reserve the addresses.
    GridError
        If a sample is infinite, or not positive where its logarithm is asked for.
    """
    n_padded = int(template.layout[N_PADDED])
    window = chunks.window(wanted) if elsewhere is None else slice(0, int(chunks.shells[-1]))
    if in_slabs:
        # addresses cost nothing
        window = slice(0, -(-window.stop // chunks.slab) * chunks.slab)
    n_room = max(window.stop - window.start, 1)
    # As the kernels count shells from the first one of the grid, the window begins that much behind the values' start.
    cells = reserve((n_pixel * n_room + window.start) * n_padded).reshape(-1, n_padded)
    if elsewhere is not None:
        cells[:] = elsewhere
    slab = chunks.slab if in_slabs else n_room
    inside = cells[window.start :].reshape(-1, n_pixel, slab, n_padded)
    for pixel_chunk, shell_chunk in np.argwhere(wanted).tolist():
        # a copy: what is read may be somebody's array
        part = np.array(read(pixel_chunk, shell_chunk), dtype=np.float32, order="C")
        normalise(part, template.n_sample, value_space)
        first, last = (chunks.shells[shell_chunk : shell_chunk + 2] - window.start).tolist()
        rows = rows_of(pixel_chunk)
        for number in range(first // slab, -(-last // slab)):
            start, stop = max(first, number * slab), min(last, (number + 1) * slab)
            here = inside[number, :, start - number * slab : stop - number * slab]
            here[rows, :, : template.n_sample] = part[:, start - first : stop - first]
            here[rows, :, template.n_sample :] = 0.0
    return template.over(
        cells[: n_pixel * n_room].reshape(n_pixel, n_room, n_padded), slab=chunks.slab if in_slabs else 0
    )


def reserve(n_value: int) -> npt.NDArray[np.float32]:
    """Addresses of so many float32, zero, that take memory only where they are written to.

    Raises
    ------
    PlanTooLargeError
        If the system refuses them.
    """
    n_bytes = max(4 * n_value, PAGE)
    try:
        pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        raise PlanTooLargeError(
            f"the system refuses to reserve {n_bytes / 2**30:.1f} GiB of addresses for a field ({error}); they take no "
            "memory: allow them (ulimit -v unlimited; vm.overcommit_memory other than 2), or choose a smaller box"
        ) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # a page of 2 MiB for each piece of a kilobyte would take all the memory that this saves
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype=np.float32)[:n_value]
