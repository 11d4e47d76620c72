"""A kind of product for crdist: the integral over spheres about a point, such as the mass of a cloud."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import healpy
import numpy as np
from pydantic import Field, field_validator

from crdist.units import integral_unit
from crdist_postproc.parts import Samples
from crdist_postproc.products import (
    ArraySpec,
    Block,
    BlockResult,
    Coordinate,
    Job,
    Product,
    ProductKind,
    ProductRequest,
    ProductSettings,
)
from crdist_postproc.recipe_fields import Number
from crdist_postproc.rows import fill_rows


# begin settings
class SphereSettings(ProductSettings):
    """The integral over spheres about a point, such as the mass of a cloud."""

    kind: Literal["sphere"] = Field(default="sphere", description="kind of product")
    centre: tuple[Number, Number, Number] = Field(description="centre of the spheres in the recipe's frame, kpc")
    radii: tuple[Number, ...] = Field(min_length=1, description="radii of the spheres, increasing, kpc")

    @field_validator("radii")
    @classmethod
    def _increase(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if any(near >= far for near, far in itertools.pairwise((0.0, *radii))):
            raise ValueError(f"must be positive and increase, got {list(radii)} kpc")
        return radii


# end settings


# begin product
@dataclass(frozen=True, slots=True, kw_only=True)
class SphereTotal(Product):
    """Integrals over spheres. They are cut into thin shells, one block each."""

    kind = "sphere"

    centre_kpc: tuple[float, float, float]
    """In the frame of the products."""
    radii_kpc: tuple[float, ...]
    spacing_kpc: float
    """Largest distance between points."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return ("radius",)

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays to create: mean, std, ... of the spheres, all written by the last step."""
        n = len(self.radii_kpc)
        units, _ = integral_unit(self.quantity.units, power=3)
        specs = self.statistics_arrays((n,), (n,), units, f"{self.quantity.long_name} integrated over a sphere")
        # in cm a volume of the Galaxy is beyond single precision
        return tuple(replace(spec, dtype="float64") for spec in specs)

    def coordinates(self) -> tuple[Coordinate, ...]:
        """The radii."""
        attrs = {"units": "kpc", "long_name": "radius of the sphere"}
        return (Coordinate("radius", ("radius",), np.array(self.radii_kpc), attrs), *self.sample_coordinates())

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return {"centre_kpc": list(self.centre_kpc)}

    def blocks(self) -> tuple[Block, ...]:
        """One for each shell."""
        return tuple(Block(self.name, index, ((index, index + 1),)) for index in range(len(self._shells())))

    def blocks_write(self, block: Block) -> bool:
        """Blocks leave sums; the last step writes."""
        return False

    def compute(self, block: Block, samples: Samples, weight: Samples | None) -> BlockResult:
        """The integral of each sample over a shell, and the part of the shell that lies inside the data."""
        near, far = self._shells()[block.index]
        # half of the shell's volume lies inside this radius
        radius = ((near**3 + far**3) / 2) ** (1 / 3)
        nside = self._nside(far)
        directions = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1)
        points = self.frame.to_heliocentric(np.array(self.centre_kpc) + radius * directions)
        # rows of one point each; NaN outside the data
        values = fill_rows(samples, points, np.zeros(3), 1)[:, 0]
        volume = 4 / 3 * math.pi * (far**3 - near**3)
        total = np.nansum(values, axis=0, dtype=np.float64)
        inside = np.count_nonzero(~np.isnan(values[:, 0]))
        each = volume / len(points)
        return BlockResult(partial={"total": np.asarray(total * each), "inside": np.array(inside * each)})

    def finish(self, partials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Statistics over the samples' own integrals."""
        outer = np.array([far for _, far in self._shells()])
        # the shells end at the radii
        last = np.searchsorted(outer, np.array(self.radii_kpc) * (1 - 1e-12))
        total = np.cumsum([partial["total"] for partial in partials], axis=0)[last]
        inside = np.cumsum([partial["inside"] for partial in partials])[last]
        total[inside == 0] = np.nan
        _, factor = integral_unit(self.quantity.units, power=3)
        coverage = np.minimum(inside / (4 / 3 * math.pi * np.array(self.radii_kpc) ** 3), 1.0)
        return self.summary(total * factor, coverage)

    def work(self, block: Block) -> int:
        """Point-samples of a block."""
        return 12 * self._nside(self._shells()[block.index][1]) ** 2 * self.quantity.n_sample

    def block_bytes(self) -> int:
        """Upper bound on the memory of one block."""
        return 12 * self._nside(self.radii_kpc[-1]) ** 2 * (12 * self.quantity.n_sample + 120)

    def _shells(self) -> list[tuple[float, float]]:
        shells: list[tuple[float, float]] = []
        for near, far in itertools.pairwise((0.0, *self.radii_kpc)):
            n = max(4, math.ceil((far - near) / self.spacing_kpc - 1e-9))
            shells += itertools.pairwise(np.linspace(near, far, n + 1).tolist())
        return shells

    def _nside(self, radius: float) -> int:
        """HEALPix resolution whose pixels are no larger than the spacing at a radius; 4 at least."""
        return 1 << max(2, math.ceil(math.log2(math.sqrt(math.pi / 3) * radius / self.spacing_kpc)))


# end product


# begin kind
def sphere_job(settings: SphereSettings, request: ProductRequest) -> Job:
    """What a run makes of a sphere in a recipe."""
    product = SphereTotal(
        **request.common(settings),
        centre_kpc=settings.centre,
        radii_kpc=settings.radii,
        spacing_kpc=min(settings.voxel_kpc(request.recipe)),
    )
    return Job(product, request.source)


KIND = ProductKind("sphere", SphereSettings, sphere_job)
# end kind
