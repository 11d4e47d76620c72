"""What a run has done and what is left, kept by its driver; the last step of a product, which joins its blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from crdist_postproc.output import Partials, RunFolder, drop_left, write_last_step, write_strip
from crdist_postproc.plan import RunPlan
from crdist_postproc.products import Job
from crdist_postproc.products.base import Block

__all__ = ["Books", "Piece", "Progress", "Step", "Token", "run_last_step"]

log = logging.getLogger("crdist.run")

FEW_BLOCKS = 1000
"""Of so many or fewer, the last ones are a part of a run that counts."""


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a run, after each block."""

    done: int
    """Voxel-samples done, in this run and before."""
    total: int
    blocks_done: int
    n_block: int
    product: str


Progress = Callable[[Step], None]

Piece = tuple[tuple[Job, Block], ...]
"""What one task computes: a block, or those of several products that go through the samples together."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a task tells the driver: results stay on the disk."""

    seconds: float
    bytes_written: int


def run_last_step(folder: RunFolder, job: Job) -> Token:
    """The task after a product's last block: join what the blocks left, write, record."""
    started = time.monotonic()
    product = job.product
    partials = Partials(folder, product)
    n_bytes = sum(write_strip(folder, product, strip, product.join(strip, partials)) for strip in product.strips())
    write_last_step(folder, product, product.finish(partials))
    drop_left(folder, product)
    return Token(time.monotonic() - started, n_bytes)


class Books:
    """What is left to do and what was done, kept by the driver."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        found: Mapping[str, tuple[set[int], bool]],
        progress: Progress | None,
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.jobs = {job.product.name: job for job in plan.jobs}
        self.sources = plan.sources
        self.left = {
            name: {block.index for block in job.product.blocks()} - found[name][0] for name, job in self.jobs.items()
        }
        self.missing = list(self._pieces(plan.jobs))
        if plan.in_parts:
            # blocks of all products that read the same samples, one after the other
            self.missing.sort(key=lambda piece: piece[0][0].product.place(piece[0][1]))
        self.block_seconds = {product.name: product.block_seconds for product in plan.products}
        self.in_parts = plan.in_parts
        self.n_missing = sum(map(len, self.missing))
        self.n_block = plan.n_block
        self.total = plan.work
        self.done = plan.work - sum(job.product.work(block) for piece in self.missing for job, block in piece)
        self.computed = 0
        self.bytes_written = 0
        self.seconds = dict.fromkeys(self.jobs, 0.0)
        for name, job in self.jobs.items():
            if not self.left[name] and not found[name][1]:
                self.join(job)

    @property
    def n_left(self) -> int:
        """Blocks that are not done."""
        return sum(map(len, self.left.values()))

    def for_threads(self) -> list[Piece]:
        """What is left, for threads side by side: long blocks first, or most wait for one that was begun late.

        Of many blocks that is a small part of the time: then products are finished in the recipe's order.
        """
        if self.in_parts or self.n_missing > FEW_BLOCKS:
            return self.missing
        return sorted(self.missing, key=lambda piece: -sum(self.block_seconds[job.product.name] for job, _ in piece))

    def _pieces(self, jobs: Sequence[Job]) -> Iterator[Piece]:
        """What is missing, in the recipe's order; blocks that go together, with the first of them."""
        groups: dict[Hashable, int] = {}
        together: dict[Hashable, list[tuple[Job, Block]]] = {}
        order: list[list[tuple[Job, Block]]] = []
        for job in jobs:
            left = self.left[job.product.name]
            # there may be a million blocks, and grids take long to compare
            kinds: dict[str, int | None] = {}
            for block in job.product.blocks():
                if block.index not in left:
                    continue
                if block.kind not in kinds:
                    shared = job.product.together(block.kind)
                    key = (job.source, block.kind == "native", shared)
                    kinds[block.kind] = None if shared is None else groups.setdefault(key, len(groups))
                group = kinds[block.kind]
                if group is None:
                    order.append([(job, block)])
                elif (group, block.bounds) in together:
                    together[group, block.bounds].append((job, block))
                else:
                    order.append(together.setdefault((group, block.bounds), [(job, block)]))
        return map(tuple, order)

    def take(self, block: Block, token: Token) -> bool:
        """Count a finished block; whether it was the last of its product, so that they can be joined."""
        job = self.jobs[block.product]
        self.computed += 1
        self.bytes_written += token.bytes_written
        self.seconds[block.product] += token.seconds
        self.done += job.product.work(block)
        self.left[block.product].discard(block.index)
        log.info("block %s done in %.2f s", block.name, token.seconds)
        if self.progress is not None:
            self.progress(Step(self.done, self.total, self.n_block - self.n_left, self.n_block, block.product))
        return not self.left[block.product]

    def join(self, job: Job, token: Token | None = None) -> None:
        """Count a product's last step, which is done here where no token says that it was done elsewhere."""
        token = token or run_last_step(self.folder, job)
        self.seconds[job.product.name] += token.seconds
        self.bytes_written += token.bytes_written
        log.info("last step of %s done in %.2f s", job.product.name, token.seconds)
