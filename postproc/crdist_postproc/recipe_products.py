"""What a recipe says of the products that come with crdist, and the shorthands for the usual ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from crdist.errors import RecipeError
from crdist.grids import Axis, CartesianGrid
from crdist_postproc.recipe_fields import RECIPE_CONFIG, Bins, Distances, Extent, Levels, Name, Number, Voxel

if TYPE_CHECKING:
    from crdist_postproc.recipe import Recipe

__all__ = [
    "SHORTHANDS",
    "Box",
    "ProductSettings",
    "ProjectionProduct",
    "RadialProfile",
    "SkyProduct",
    "SliceProduct",
    "StoreWeight",
    "VerticalProfile",
    "VolumeProduct",
    "VoxelSettings",
]

AxisName = Literal["x", "y", "z"]

Sampling = Literal["adaptive", "point", "conservative"]
"""How a voxel's value is taken: the mean over parts as small as the source's cells, the value at its centre, or the
mean over all that the source's cells have in it."""


class Box(BaseModel):
    """Limits of a product along the axes, relative to a point."""

    model_config = RECIPE_CONFIG

    x: Extent | None = Field(default=None, description="limits along x, kpc; default: those of the recipe's grid")
    y: Extent | None = Field(default=None, description="limits along y, kpc; default: those of the recipe's grid")
    z: Extent | None = Field(default=None, description="limits along z, kpc; default: those of the recipe's grid")
    around: Literal["origin", "sun", "centre"] = Field(
        default="origin",
        description="point that the limits are relative to: origin of the frame, Sun or Galactic centre",
    )

    def extents(self, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """Lower and upper end along x, y and z in the recipe's frame, kpc.

        A limit that is not given is the one of the recipe's grid, wherever the box lies.
        """
        frame = recipe.frame_record
        points = {"origin": (0.0, 0.0, 0.0), "sun": frame.sun_kpc, "centre": frame.centre_kpc}
        whole = {"x": recipe.grid.x, "y": recipe.grid.y, "z": recipe.grid.z}
        extents = {}
        for name, shift in zip("xyz", points[self.around], strict=True):
            given = getattr(self, name)
            extents[name] = whole[name] if given is None else (shift + given[0], shift + given[1])
        return extents


class ProductSettings(BaseModel):
    """What every product has. A kind of product adds ``kind``, a literal with its name as default, and its own keys."""

    model_config = RECIPE_CONFIG

    name: Name = Field(description="name of the product, unique in the recipe")
    kind: str = Field(description="kind of product")
    voxel: Voxel | None = Field(
        default=None,
        description="voxel size, one number or [dx, dy, dz], kpc; default: that of the recipe's grid",
    )
    quantiles: Levels | None = Field(
        default=None,
        description="quantile levels, dimensionless, between 0 and 1; default: those of the recipe",
    )
    per_sample: bool = Field(default=True, description="whether the product of each sample is kept, true or false")

    def voxel_kpc(self, recipe: Recipe) -> tuple[float, float, float]:
        """Voxel sizes along x, y and z: the product's own or the recipe's, kpc."""
        return recipe.grid.voxel if self.voxel is None else self.voxel

    def quantile_levels(self, recipe: Recipe) -> tuple[float, ...]:
        """Quantile levels: the product's own or the recipe's."""
        return recipe.quantiles if self.quantiles is None else self.quantiles

    def check(self, recipe: Recipe) -> None:
        """Raise a `CrdistError` where the product does not fit the rest of its recipe; called when that is read."""


class VoxelSettings(ProductSettings, ABC):
    """What products of voxels have."""

    sampling: Sampling = Field(
        default="point",
        description="a voxel's value: at its centre (point), the mean over parts no larger than the source's cells "
        "(adaptive), or the mean of the cells that overlap it, by volume, which keeps the mass of each (conservative)",
    )
    parts_per_cell: Number = Field(
        default=1.0,
        gt=0,
        description="with adaptive sampling, how many parts of a voxel a cell's size holds at least, dimensionless; "
        "twice as many cost up to eight times as much",
    )
    order: Literal[1, 2] = Field(
        default=1,
        description="with conservative sampling, whether a cell has one value (1) or limited slopes (2), which is "
        "sharper where cells are large and takes twice as long",
    )

    @abstractmethod
    def grid(self, recipe: Recipe) -> CartesianGrid:
        """The voxels.

        Raises
        ------
        GridError
            If an extent is not a whole number of voxels.
        """

    def check(self, recipe: Recipe) -> None:
        """Raise `GridError` where an extent is not a whole number of voxels, `RecipeError` for means of logarithms."""
        self.grid(recipe)
        if self.sampling == "conservative" and recipe.value_space != "linear":
            raise RecipeError(
                f"conservative sampling takes means of values, not in value_space {recipe.value_space!r}; "
                "use sampling: adaptive"
            )


class SliceProduct(VoxelSettings):
    """Values in a plane across one axis."""

    kind: Literal["slice"] = Field(default="slice", description="kind of product")
    axis: AxisName = Field(description="axis that the plane lies across: x, y or z")
    at: Number = Field(default=0.0, description="place of the plane on that axis in the recipe's frame, kpc")
    box: Box | None = Field(default=None, description="limits in the plane, kpc; default: those of the recipe's grid")

    @model_validator(mode="after")
    def _plane_only(self) -> SliceProduct:
        if self.box is not None and getattr(self.box, self.axis) is not None:
            raise ValueError(f"a slice across {self.axis} has no extent along it: drop box.{self.axis}, use 'at'")
        return self

    def grid(self, recipe: Recipe) -> CartesianGrid:
        """The plane as a grid one voxel thick, centred on ``at``.

        Raises
        ------
        GridError
            If an extent in the plane is not a whole number of voxels.
        """
        half = self.voxel_kpc(recipe)["xyz".index(self.axis)] / 2
        extents = (self.box or Box()).extents(recipe)
        return _grid(recipe, {**extents, self.axis: (self.at - half, self.at + half)}, self.voxel_kpc(recipe))


class ProjectionProduct(VoxelSettings):
    """Integrals along one axis."""

    kind: Literal["projection"] = Field(default="projection", description="kind of product")
    sampling: Sampling = Field(
        default="adaptive",
        description="a voxel's value: the mean over parts no larger than the source's cells (adaptive), that at its "
        "centre (point), which misses compact objects near the Sun, or the mean of the cells that overlap it, by "
        "volume, which keeps the mass of each (conservative)",
    )
    axis: AxisName = Field(description="axis that is integrated over: x, y or z")
    box: Box | None = Field(default=None, description="limits, kpc; default: those of the recipe's grid")

    def grid(self, recipe: Recipe) -> CartesianGrid:
        """The voxels that are summed.

        Raises
        ------
        GridError
            If an extent is not a whole number of voxels.
        """
        return _grid(recipe, (self.box or Box()).extents(recipe), self.voxel_kpc(recipe))


class SkyProduct(ProductSettings):
    """Integrals along the sightlines of the native grid."""

    kind: Literal["sky"] = Field(default="sky", description="kind of product")
    distance: Distances | None = Field(
        default=None,
        description="heliocentric limits of the integral, [lower, upper], kpc; default: all shells",
    )


class StoreWeight(BaseModel):
    """A weight that is read from another posterior store."""

    model_config = RECIPE_CONFIG

    store: str = Field(min_length=1, description="path of the posterior store that holds the weight")
    quantity: str = Field(default="density", min_length=1, description="its quantity, in the unit of that store")


def _kind_of_weight(value: Any) -> str:
    # no key of a recipe reads like a tag, which keeps them apart in the place of a fault
    return "weight in a store" if isinstance(value, Mapping | StoreWeight) else "plain weight"


class RadialProfile(ProductSettings):
    """Means over rings about the Galactic centre."""

    kind: Literal["radial"] = Field(default="radial", description="kind of product")
    bins: Bins = Field(default=(0.0, 16.0, 1.0), description="Galactocentric radii, [start, stop, step], kpc")
    z_cut: Number = Field(default=0.3, gt=0, description="height above and below the mid-plane that counts, kpc")
    weight: Annotated[
        Annotated[Literal["volume"], Tag("plain weight")] | Annotated[StoreWeight, Tag("weight in a store")],
        Discriminator(_kind_of_weight),
    ] = Field(default="volume", description="weight of the mean: volume, or {store: PATH, quantity: NAME}")

    @model_validator(mode="after")
    def _radii(self) -> RadialProfile:
        if self.bins[0] < 0:
            raise ValueError(f"bins are radii and start at 0 kpc or beyond, got {self.bins[0]:g} kpc")
        return self

    @property
    def edges_kpc(self) -> npt.NDArray[np.float64]:
        """Edges of the bins, kpc, shape (n_bin + 1,)."""
        return Axis.from_voxel(*self.bins, name="bins").edges


class VerticalProfile(ProductSettings):
    """Means at heights in a ring about the Galactic centre, with a fit of the scale height."""

    kind: Literal["vertical"] = Field(default="vertical", description="kind of product")
    ring: Distances = Field(default=(8.0, 9.0), description="Galactocentric radii of the ring, [inner, outer], kpc")
    bins: Bins = Field(default=(-3.0, 3.0, 0.1), description="heights, [start, stop, step], kpc")
    fit_threshold: Number = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="least share of the mid-plane value that is fitted, dimensionless",
    )

    @property
    def edges_kpc(self) -> npt.NDArray[np.float64]:
        """Edges of the bins, kpc, shape (n_bin + 1,)."""
        return Axis.from_voxel(*self.bins, name="bins").edges


class VolumeProduct(VoxelSettings):
    """Values in every voxel."""

    kind: Literal["volume"] = Field(default="volume", description="kind of product")
    per_sample: bool = Field(
        default=False, description="whether the volume of each sample is kept, true or false; it is large"
    )
    box: Box | None = Field(default=None, description="limits, kpc; default: those of the recipe's grid")

    def grid(self, recipe: Recipe) -> CartesianGrid:
        """The voxels.

        Raises
        ------
        GridError
            If an extent is not a whole number of voxels.
        """
        return _grid(recipe, (self.box or Box()).extents(recipe), self.voxel_kpc(recipe))


# 1.25 kpc about the Sun is what the map of Edenhofer et al. 2024 (A&A 685, A82) covers.
_LOCAL = [-1.25, 1.25]

SHORTHANDS: Mapping[str, Mapping[str, Any]] = {
    "midplane": {"kind": "slice", "axis": "z", "at": 0.0},
    "projection_x": {"kind": "projection", "axis": "x"},
    "projection_y": {"kind": "projection", "axis": "y"},
    "projection_z": {"kind": "projection", "axis": "z"},
    "local_z": {
        "kind": "projection",
        "axis": "z",
        "box": {"x": _LOCAL, "y": _LOCAL, "z": _LOCAL, "around": "sun"},
        "voxel": 0.02,
    },
    "sky": {"kind": "sky"},
    "radial": {"kind": "radial"},
    "vertical": {"kind": "vertical"},
    "volume": {"kind": "volume"},
}
"""What a recipe means by a product's name alone."""


def _grid(recipe: Recipe, extents: Mapping[str, tuple[float, float]], voxel: tuple[float, ...]) -> CartesianGrid:
    return CartesianGrid.from_extent(extents["x"], extents["y"], extents["z"], voxel=voxel, frame=recipe.frame_record)
