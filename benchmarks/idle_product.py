"""Products whose blocks take a given time and leave their record alone: what a run costs beside its work.

A module of its own, so that workers can import it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from crdist_postproc.parts import Samples
from crdist_postproc.products.base import ArraySpec, Block, BlockResult, Coordinate, Product

__all__ = ["IdleProduct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleProduct(Product):
    """A product of blocks that wait, and write no array: each leaves its record, flushed to the disk."""

    n_block: int
    seconds: float = 0.0
    """Time that a block waits."""

    kind = "idle"

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return ("block",)

    def arrays(self) -> tuple[ArraySpec, ...]:
        """None is written: a block is its record."""
        return ()

    def coordinates(self) -> tuple[Coordinate, ...]:
        """None."""
        return ()

    def blocks(self) -> tuple[Block, ...]:
        """As many as asked for."""
        return tuple(Block(self.name, index, ((index, index + 1),)) for index in range(self.n_block))

    def blocks_write(self, block: Block) -> bool:
        """Blocks write nothing."""
        return False

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Wait."""
        if self.seconds:
            time.sleep(self.seconds)
        return BlockResult()

    def work(self, block: Block) -> int:
        """One a block."""
        return 1

    def block_bytes(self) -> int:
        """Nothing."""
        return 0
