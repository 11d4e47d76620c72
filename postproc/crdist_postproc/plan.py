"""What a run will do and cost, before it does anything."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crdist.errors import PlanTooLargeError, RecipeError
from crdist.grids import CartesianGrid, SphericalGrid
from crdist.schema import PosteriorHeader, read_posterior_header
from crdist_postproc.memory import least_memory, overhead_bytes, share_memory
from crdist_postproc.output import samples_begun_with
from crdist_postproc.products import Job, build_jobs
from crdist_postproc.recipe import Recipe
from crdist_postproc.source import InParts, Source, field_bytes

__all__ = ["ProductPlan", "RunPlan", "Workers", "format_bytes", "parse_bytes", "plan_run"]

PROCESS_BYTES = 400 * 1024**2
"""Memory of a worker process with its libraries and compiled kernels, before it reads anything (measured: 290 MiB)."""

DRIVER_BYTES = 400 * 1024**2
"""Memory of the process that drives a run, with the scheduler in it (measured: 260 MiB)."""

MUCH_WORK = 10**12
"""Voxel-samples from which on a run is asked about before it starts: half an hour of a core, or more."""

MUCH_WRITTEN = 10**12
"""Bytes of products, the same."""

WORK_PER_CORE_HOUR = 10**12
"""Voxel-samples, about: 300 million a second."""


WRITTEN_A_SECOND = 2 * 10**8
"""Bytes that a thread encodes and flushes, about."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Where a run computes."""

    processes: int
    threads: int
    memory_bytes: int
    """For the whole run on this machine, or of each worker where the workers are elsewhere."""
    """0: no limit."""
    local: bool = True
    memory_setting: str = "--memory {}"
    """How a user gives a run the memory that is to stand in the braces."""
    threads_setting: str = "--threads"

    @property
    def process_bytes(self) -> int:
        """Memory that one worker process may take."""
        if not self.local:
            return self.memory_bytes
        return max(0, self.memory_bytes - DRIVER_BYTES) // self.processes


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """Cost of one product."""

    name: str
    kind: str
    shape: tuple[int, ...]
    n_block: int
    work: int
    """Voxel-samples."""
    bytes_written: int
    block_bytes: int
    """Upper bound on the memory of one block beside the source."""
    inside: float | None
    """Part of the voxels that lies inside the data, about; None where the product has no voxels."""

    @property
    def block_seconds(self) -> float:
        """Time that a block takes in one thread, very roughly: good enough to tell long ones from short ones."""
        core_seconds = 3600 * self.work / WORK_PER_CORE_HOUR + self.bytes_written / WRITTEN_A_SECOND
        return core_seconds / self.n_block


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Everything a run will do: plain data, made without computing."""

    header: PosteriorHeader
    recipe: Recipe
    jobs: tuple[Job, ...]
    products: tuple[ProductPlan, ...]
    source_bytes: int
    """Memory of the sources in each worker process."""
    bytes_read: int
    """Read from the posterior by each worker process; of sources that are read part by part, once."""

    @property
    def sources(self) -> frozenset[Source]:
        """All that is read."""
        return frozenset(source for job in self.jobs for source in (job.source, job.weight) if source is not None)

    @property
    def n_block(self) -> int:
        """Number of blocks of all products."""
        return sum(product.n_block for product in self.products)

    @property
    def n_task(self) -> int:
        """Number of tasks: the blocks, and a last step for each product."""
        return self.n_block + len(self.products)

    @property
    def work(self) -> int:
        """Voxel-samples of all products."""
        return sum(product.work for product in self.products)

    @property
    def bytes_written(self) -> int:
        """Size of the products."""
        return sum(product.bytes_written for product in self.products)

    def peak_bytes(self, threads: int) -> int:
        """Upper bound on the memory of one worker process."""
        return PROCESS_BYTES + self.source_bytes + threads * self.largest_task[1]

    @property
    def largest_task(self) -> tuple[str, int]:
        """The products whose blocks, computed together, take most memory, and how much that is."""
        tasks: dict[Hashable, list[ProductPlan]] = {}
        for job, planned in zip(self.jobs, self.products, strict=True):
            key = job.product.together(job.product.blocks()[0].kind)
            tasks.setdefault(planned.name if key is None else (job.source, key), []).append(planned)
        largest = max(tasks.values(), key=lambda task: sum(planned.block_bytes for planned in task))
        return " + ".join(planned.name for planned in largest), sum(planned.block_bytes for planned in largest)

    @property
    def in_parts(self) -> bool:
        """Whether a source is read part by part, as it does not fit in memory."""
        return any(source.in_parts is not None for source in self.sources)

    def within(self, workers: Workers) -> RunPlan:
        """The same plan, with sources that do not fit in the workers' memory read part by part.

        Raises
        ------
        PlanTooLargeError
            If a worker needs more memory even so; the message names the least that works.
        """
        have = workers.process_bytes
        if self.peak_bytes(workers.threads) <= have or (not workers.local and workers.memory_bytes == 0):
            return self
        headers = {
            source: self.header if source.path == self.header.path.absolute() else read_posterior_header(source.path)
            for source in self.sources
        }
        threads = workers.threads
        whole = {source: field_bytes(headers[source], source) for source in self.sources}
        readers = {source: [job for job in self.jobs if source in (job.source, job.weight)] for source in self.sources}
        least = {source: least_memory(headers[source], source, readers[source], threads) for source in self.sources}
        extra = {source: overhead_bytes(headers[source], source, readers[source], threads) for source in self.sources}
        others = self.peak_bytes(threads) - self.source_bytes
        shares = share_memory(whole, least, have - others - sum(extra.values()), threads)
        if shares is None:
            small = {source: memory for source, memory in least.items() if memory.bytes + extra[source] < whole[source]}
            plan = self._with_parts({**dict.fromkeys(self.sources), **small}, whole, extra)
            plan.check(workers)
            return plan
        return self._with_parts(shares, whole, extra)

    def _with_parts(
        self, shares: Mapping[Source, InParts | None], whole: Mapping[Source, int], extra: Mapping[Source, int]
    ) -> RunPlan:
        memory = sum(
            whole[source] if parts is None else parts.bytes + extra[source] for source, parts in shares.items()
        )
        new = {source: replace(source, in_parts=parts) for source, parts in shares.items()}
        jobs = tuple(
            replace(job, source=new[job.source], weight=None if job.weight is None else new[job.weight])
            for job in self.jobs
        )
        return replace(self, jobs=jobs, source_bytes=memory)

    def check_cost(self) -> None:
        """Refuse what takes very long, or much of a disk, unless somebody wants it.

        Raises
        ------
        PlanTooLargeError
            If there is that much work, or that much to write; the message says how much.
        """
        if self.work >= MUCH_WORK or self.bytes_written >= MUCH_WRITTEN:
            raise PlanTooLargeError(
                f"{self.work:.1e} voxel-samples take about {self.work / WORK_PER_CORE_HOUR:,.0f} core hours, or more "
                f"where voxels are split, and write up to {format_bytes(self.bytes_written)}: see --plan, choose "
                "larger voxels, or begin with --yes"
            )

    def check_disk(self, products: Path) -> None:
        """Refuse a new store that its disk may have no room for.

        Raises
        ------
        PlanTooLargeError
            If the products, uncompressed, take more than what is free.
        """
        folder = products.absolute()
        if folder.exists():
            # part of it is written already
            return
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if self.bytes_written > free:
            raise PlanTooLargeError(
                f"{products}: the products take up to {format_bytes(self.bytes_written)}, but its disk has "
                f"{format_bytes(free)} left; choose larger voxels, a smaller box or another disk, or begin with --yes: "
                "compressed they may take less"
            )

    def check(self, workers: Workers) -> None:
        """Refuse what cannot fit.

        Raises
        ------
        PlanTooLargeError
            If a worker may need more memory than it has; the message names the settings that would change that.
        """
        peak, have = self.peak_bytes(workers.threads), workers.process_bytes
        if peak <= have or (not workers.local and workers.memory_bytes == 0):
            return
        names, block_bytes = self.largest_task
        parts = (
            f"libraries {format_bytes(PROCESS_BYTES)} + source {format_bytes(self.source_bytes)} + {workers.threads} x "
            f"{format_bytes(block_bytes)} a block of {names!r}"
        )
        need = peak * workers.processes + DRIVER_BYTES if workers.local else peak
        ways = [f"give at least {workers.memory_setting.format(format_bytes(need, up=True))}"]
        if workers.local and workers.processes > 1:
            ways.append("use --workers 1 with more --threads (threads share the source)")
        if self.peak_bytes(1) <= have and workers.threads > 1:
            ways.append(f"use fewer {workers.threads_setting}")
        share = f" ({format_bytes(workers.memory_bytes)} less {format_bytes(DRIVER_BYTES)} for the driver"
        share += f", over {workers.processes} workers)" if workers.processes > 1 else ")"
        raise PlanTooLargeError(
            f"a worker needs {format_bytes(peak)} ({parts}), but has {format_bytes(have)}"
            f"{share if workers.local else ''}; {', or '.join(ways)}"
        )

    def to_dict(self, workers: Workers | None = None) -> dict[str, Any]:
        """The plan as plain data; with what the workers make of it, if they are given."""
        on_workers = {}
        if workers is not None:
            on_workers = {
                "peak_bytes_per_worker": self.peak_bytes(workers.threads),
                "memory_bytes_per_worker": workers.process_bytes,
                "workers": workers.processes,
                "threads": workers.threads,
            }
        return {
            "posterior": str(self.header.path),
            "quantity": self.jobs[0].source.quantity,
            "n_sample": self.header.n_sample,
            "blocks": self.n_block,
            "tasks": self.n_task,
            "voxel_samples": self.work,
            "bytes_read_per_worker": self.bytes_read,
            "source_in_parts": self.in_parts,
            "bytes_written": self.bytes_written,
            **on_workers,
            "products": [
                {
                    "name": product.name,
                    "kind": product.kind,
                    "shape": list(product.shape),
                    "blocks": product.n_block,
                    "voxel_samples": product.work,
                    "bytes_written": product.bytes_written,
                    "block_bytes": product.block_bytes,
                    "inside_data": product.inside,
                }
                for product in self.products
            ],
        }


def plan_run(posterior: str | Path, recipe: Recipe, products: str | Path | None = None) -> RunPlan:
    """Plan the products of a recipe over a posterior; nothing is computed and no sample is read.

    Parameters
    ----------
    posterior : path
    recipe : Recipe
    products : path, optional
        The store that the run will write. If it is there and not complete, its run is continued with the samples that
        it began with, though the posterior may have grown.

    Raises
    ------
    RecipeError
        If the recipe does not fit the data.
    SchemaError
        If the posterior cannot be used.
    """
    header = read_posterior_header(posterior)
    if header.n_sample == 0:
        raise RecipeError(f"{header.path}: holds no sample yet; wait for the first")
    begun_with = None if products is None else samples_begun_with(Path(products))
    if header.layout == "appended" and begun_with is not None and begun_with < header.n_sample:
        header = replace(header, n_sample=begun_with)
    jobs = build_jobs(recipe, header)
    planned = []
    for job in jobs:
        blocks = job.product.blocks()
        arrays = job.product.arrays()
        n_bytes = 0
        for spec in arrays:
            # chunks at the end of an axis are as long as the others
            pieces = spec.inner_chunks or spec.chunks
            held = [-(-n // size) * size for n, size in zip(spec.shape, pieces, strict=True)]
            n_bytes += math.prod(held) * np.dtype(spec.dtype).itemsize
        planned.append(
            ProductPlan(
                job.product.name,
                job.product.kind,
                arrays[0].shape,
                len(blocks),
                sum(job.product.work(block) for block in blocks),
                n_bytes,
                job.product.block_bytes(),
                _part_inside(job, header.grid),
            )
        )
    memory = read = 0
    for source in {source for job in jobs for source in (job.source, job.weight) if source is not None}:
        of = header if source.path == header.path.absolute() else read_posterior_header(source.path)
        memory += field_bytes(of, source)
        terms = len(of.resolve(source.quantity).terms)
        read += 4 * of.grid.n_pixel * of.grid.n_shell * source.n_sample * terms
    return RunPlan(header, recipe, jobs, tuple(planned), memory, read)


def _part_inside(job: Job, native: SphericalGrid) -> float | None:
    grid = getattr(job.product, "grid", None)
    if not isinstance(grid, CartesianGrid):
        return None
    # at most 24 places along each axis tell enough
    axes = [axis.centres[:: max(1, axis.n // 24)] for axis in grid.axes]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    distances = np.linalg.norm(grid.frame.to_heliocentric(places), axis=-1)
    return round(float(np.mean(distances <= native.edges_kpc[-1])), 4)


def parse_bytes(text: str) -> int:
    """A number of bytes from text such as ``4GiB``, ``500 MB`` or ``1e9``.

    Raises
    ------
    RecipeError
        If it is not one.

    Examples
    --------
    >>> parse_bytes("4GiB"), parse_bytes("500 MB")
    (4294967296, 500000000)
    """
    units = {"": 1, "B": 1}
    units |= {f"{prefix}B": 1000 ** (i + 1) for i, prefix in enumerate("KMGT")}
    units |= {f"{prefix}IB": 1024 ** (i + 1) for i, prefix in enumerate("KMGT")}
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        if match is not None and match[2].upper() in units and float(match[1]) > 0:
            return int(float(match[1]) * units[match[2].upper()])
    except ValueError:
        pass
    raise RecipeError(f"memory {text!r} cannot be read; write it as 4GiB or 500MB")


def format_bytes(n: float, *, up: bool = False) -> str:
    """A number of bytes to read; rounded up where it is a need.

    Examples
    --------
    >>> format_bytes(3 * 1024**3 + 5), format_bytes(3 * 1024**3 + 5, up=True)
    ('3.0GiB', '3.1GiB')
    """
    for prefix in ("", "Ki", "Mi", "Gi"):
        if n < 1024 or prefix == "Gi":
            break
        n /= 1024
    tenths = -(-n * 10 // 1) if up else round(n * 10)
    return f"{tenths / 10:.1f}{prefix}B" if prefix else f"{n:.0f}B"
