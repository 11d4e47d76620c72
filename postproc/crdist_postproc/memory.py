"""How much of each source a worker process holds: all, or parts, when that is all there is memory for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from crdist.schema import PosteriorHeader
from crdist_postproc.kernels.field import padded_samples
from crdist_postproc.products import Job
from crdist_postproc.reach import Reach
from crdist_postproc.source import InParts, Source, chunks_of
from crdist_postproc.sparse import Chunks, committed_bytes, committed_bytes_in_slabs

__all__ = ["least_memory", "overhead_bytes", "share_memory"]

ROOM = 0.85
"""Of the memory for a source in parts, the share that parts take; chunks that are kept take the rest."""

TABLE_BYTES = 48
"""Memory for each pixel to look up which chunk it is in, and to make that table."""

READING = 5
"""Of each thread that reads a chunk, memory in chunks: encoded and decoded, and what the allocator keeps of them."""


def overhead_bytes(header: PosteriorHeader, source: Source, jobs: Sequence[Job], threads: int) -> int:
    """What reading part by part takes beside the parts and the chunks that are kept; arguments as of `least_memory`."""
    waiting = max((job.product.in_parts_bytes() for job in jobs), default=0)
    return TABLE_BYTES * header.grid.n_pixel + threads * (READING * _chunk_bytes(header, source) + waiting)


def least_memory(header: PosteriorHeader, source: Source, jobs: Sequence[Job], threads: int) -> InParts:
    """The least that a source's parts take: the largest of those that cannot be cut any more, and a few chunks.

    Parameters
    ----------
    header : PosteriorHeader
        Of the source.
    source : Source
    jobs : sequence of Job
        Those that read it.
    threads : int
        Of a process.
    """
    pixels, shells = chunks_of(header, source)
    chunks = Chunks(pixels, shells)
    n_padded = padded_samples(1 if source.reduce else source.n_sample or header.n_sample)
    reach = Reach.of(header.grid, pixels, shells, method=source.method, inner=source.inner)
    # the lines of sight of pixel chunks, and the cells around a point: in a corner where eight chunks meet
    column, corner = (np.zeros(reach.shape, dtype=np.bool_) for _ in range(2))
    column[: max((job.product.pixel_chunks_at_once() for job in jobs), default=1)] = True
    corner[:4, :2] = True
    largest = max(committed_bytes(wanted, chunks, n_padded) for wanted in (column, corner))
    for job in jobs:
        points, boxes = job.product.smallest_parts()
        for point in points:
            wanted = reach.chunks(point, boxes=boxes)
            in_slabs = committed_bytes_in_slabs(wanted, chunks, n_padded, reach.chunk_of_row)
            largest = max(largest, min(committed_bytes(wanted, chunks, n_padded), in_slabs))
    room = math.ceil(1.02 * largest)
    return InParts(room, 4 * threads * _chunk_bytes(header, source))


def share_memory(
    whole: Mapping[Source, int], least: Mapping[Source, InParts], n_bytes: int, threads: int
) -> dict[Source, InParts | None] | None:
    """Decide which sources to hold whole, the smallest first, and share what is left among the others.

    Parameters
    ----------
    whole : mapping
        Memory of each source as a whole, bytes.
    least : mapping
        As `least_memory` gives it; and the same for all.
    n_bytes : int
        For all sources.
    threads : int
        Of a process.

    Returns
    -------
    dict
        None for a source that is held whole. No dict at all if there is too little memory.
    """
    sources = sorted(whole, key=lambda source: whole[source])
    for n_whole in range(len(sources) - 1, -1, -1):
        left = n_bytes - sum(whole[source] for source in sources[:n_whole])
        others: Collection[Source] = sources[n_whole:]
        each = left // len(others)
        if all(least[source].bytes <= each for source in others):
            shares = {source: _share(each, least[source], threads) for source in others}
            return {**dict.fromkeys(sources[:n_whole]), **shares}
    return None


def _share(n_bytes: int, least: InParts, threads: int) -> InParts:
    room = min(max(math.floor(ROOM * n_bytes), least.room_bytes), n_bytes - least.kept_bytes)
    return InParts(room, n_bytes - room)


def _chunk_bytes(header: PosteriorHeader, source: Source) -> int:
    pixels, shells = chunks_of(header, source)
    return 4 * pixels[0] * shells[0] * (source.n_sample or header.n_sample)
