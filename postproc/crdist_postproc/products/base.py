"""What a product is to a run: arrays to create, blocks to compute, and a last step that joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist.frames import Frame
from crdist.grids import Axis
from crdist_postproc.parts import Samples
from crdist_postproc.reach import Lattice
from crdist_postproc.statistics import STATISTICS, summarise

__all__ = ["ArraySpec", "Block", "BlockResult", "Coordinate", "Product", "Quantity", "axis_coordinate"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Quantity:
    """The quantity that a product is made of."""

    name: str
    units: str
    long_name: str
    n_sample: int
    degrees_of_freedom: int | None = None
    """Of the variance over samples, where it is not one less than their number."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance over samples."""
        return self.n_sample - 1 if self.degrees_of_freedom is None else self.degrees_of_freedom


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array of a product's group."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of what one block writes: one file."""
    units: str
    long_name: str
    inner_chunks: tuple[int, ...] | None = None
    """Shape of the pieces that can be read alone, where a block is a shard of several."""
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A coordinate of a product's group."""

    name: str
    dims: tuple[str, ...]
    values: Array
    attrs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a product that one task computes."""

    product: str
    index: int
    """Place in the product's list of blocks; sums over blocks are taken in this order."""
    bounds: tuple[tuple[int, int], ...]
    """Start and stop along the axes that the product is cut along."""
    kind: str = "tile"
    """``tile`` of the output; ``native``, a range of pixels of the source; ``columns`` of voxels, which leave sums
    across them; or ``strip`` of the output, which the last step makes of those."""

    @property
    def name(self) -> str:
        """The block's name in messages and records."""
        return f"{self.product}-{self.index:05d}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of elements along each of the axes."""
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def region(self) -> tuple[slice, ...]:
        """The block as slices."""
        return tuple(slice(*bound) for bound in self.bounds)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block gives."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    """Name of an array and the values of its region."""
    partial: Mapping[str, Array] = field(default_factory=dict)
    """What the last step needs of this block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product(ABC):
    """A product of a run: plain data, cheap to build, that travels to the workers.

    Subclasses are frozen records too; `blocks` and `arrays` follow from them alone.
    """

    name: str
    quantity: Quantity
    frame: Frame
    quantiles: tuple[float, ...] = ()
    per_sample: bool = True

    kind = ""

    @property
    @abstractmethod
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""

    @abstractmethod
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create."""

    @abstractmethod
    def coordinates(self) -> tuple[Coordinate, ...]:
        """The coordinates to write."""

    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, none of which writes where another does."""

    def blocks_write(self, block: Block) -> bool:
        """Whether a block writes its part of the arrays along `dims`; if not, it only leaves sums to the last step."""
        return True

    @abstractmethod
    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """Compute one block."""

    def together(self, kind: str) -> Hashable:
        """What its blocks of a kind have in common with other products': of those for which it is the same, the blocks
        with the same bounds are computed in one pass through the samples, by `compute_together` of any of them. None:
        each is computed alone."""
        return None

    def compute_together(self, parts: Sequence[tuple[Any, Block]], samples: Samples) -> list[BlockResult]:
        """Compute blocks of this and other products, given with each; the results in the same order."""
        raise NotImplementedError

    def place(self, block: Block) -> tuple[Any, ...]:
        """Where a block lies among those of all products of a run: neighbours read the same samples."""
        if block.kind == "native":
            return 0, *block.bounds, self.name
        return 2, self.name, block.index

    def smallest_parts(self) -> tuple[list[Lattice], bool]:
        """Points around the Sun, each alone, and whether whole voxels around them are read: what reads most at once."""
        return [], False

    def pixel_chunks_at_once(self) -> int:
        """Chunks along pixel that are read over all shells at once, at least, where native pixels are gone through."""
        return 1

    def in_parts_bytes(self) -> int:
        """Memory that a block takes besides where the samples are read part by part, bytes."""
        return 0

    @abstractmethod
    def work(self, block: Block) -> int:
        """Voxel-samples of a block."""

    @abstractmethod
    def block_bytes(self) -> int:
        """Upper bound on the memory that one block takes beside the source, bytes."""

    def finish(self, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Arrays that need all blocks, from what the blocks left, in the order of the blocks."""
        return {}

    def left_bytes(self, block: Block) -> int:
        """Size of what a block leaves for `join`, bytes, which is removed once the last step is done."""
        return 0

    def strips(self) -> tuple[Block, ...]:
        """Parts of the output that the last step writes one after the other, as `blocks` are cut; most have none."""
        return ()

    def join(self, strip: Block, partials: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The arrays of a strip, from what the blocks left, in the order of the blocks."""
        raise NotImplementedError

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {}

    # What products of every kind share

    def statistics_arrays(
        self,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        units: str,
        what: str,
        inner_chunks: tuple[int, ...] | None = None,
    ) -> tuple[ArraySpec, ...]:
        """The arrays of `summarise`, with ``coverage`` and, where asked for, ``quantiles`` and ``per_sample``."""
        n_sample = self.quantity.n_sample
        few = self.quantity.freedom != n_sample - 1
        freedom = f" with {self.quantity.freedom} degrees of freedom" if few else ""
        named = (
            ("mean", units, f"{what}, mean over {n_sample} samples"),
            ("std", units, f"{what}, standard deviation over {n_sample} samples (ddof=1)"),
            ("significance", "", f"{what}, mean / std over {n_sample} samples"),
            ("significance_error", "", f"{what}, standard error of mean / std for {n_sample} samples{freedom}"),
            ("coverage", "", f"{what}, part of the integral or value that lies inside the source grid"),
        )
        specs = [ArraySpec(name, self.dims, shape, chunks, unit, text, inner_chunks) for name, unit, text in named]

        def with_last(name: str, dim: str, size: int, text: str) -> ArraySpec:
            inner = None if inner_chunks is None else (*inner_chunks, size)
            return ArraySpec(name, (*self.dims, dim), (*shape, size), (*chunks, size), units, text, inner)

        if self.quantiles:
            specs.append(with_last("quantiles", "quantile", len(self.quantiles), f"{what}, quantiles over samples"))
        if self.per_sample:
            specs.append(with_last("per_sample", "sample", n_sample, f"{what}, each sample"))
        return tuple(specs)

    def sample_coordinates(self) -> tuple[Coordinate, ...]:
        """Coordinates ``quantile`` and ``sample`` where the arrays have them."""
        found = []
        if self.quantiles:
            levels = np.array(self.quantiles)
            found.append(Coordinate("quantile", ("quantile",), levels, {"units": "", "long_name": "probability"}))
        if any("sample" in spec.dims for spec in self.arrays()):
            labels = np.arange(self.quantity.n_sample)
            found.append(Coordinate("sample", ("sample",), labels, {"long_name": "posterior sample"}))
        return tuple(found)

    def summary(self, samples: Array, coverage: Array) -> dict[str, Array]:
        """The arrays of `statistics_arrays` from the product of each sample."""
        arrays: dict[str, Array] = {**summarise(samples, self.quantiles, self.quantity.freedom), "coverage": coverage}
        if self.per_sample:
            arrays["per_sample"] = samples
        return arrays

    def statistics_bytes(self, n_values: int) -> int:
        """Memory of `summary` for a number of places, with its float64 copies."""
        n_sample = self.quantity.n_sample
        return n_values * (8 * n_sample * 3 + 8 * (len(STATISTICS) + 2 + 2 * len(self.quantiles)))


def axis_coordinate(name: str, axis: Axis, frame: Frame) -> Coordinate:
    """Voxel centres along an axis."""
    text = f"{frame.name} {name}, voxel centres"
    return Coordinate(name, (name,), axis.centres, {"units": "kpc", "long_name": text, "axis": name.upper()})
