"""The recipe: what to compute from a posterior, on which grid, in which frame."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from crdist.errors import CrdistError, RecipeError
from crdist.frames import R0_KPC, Frame
from crdist.grids import CartesianGrid
from crdist.settings_text import apply_override, fault_lines, first_fault, mapping_of, read_yaml
from crdist_postproc.product_kinds import PRODUCT_KINDS, AnyProduct
from crdist_postproc.recipe_fields import RECIPE_CONFIG, Extent, Levels, Number, Voxel
from crdist_postproc.recipe_products import (
    Box,
    ProductSettings,
    ProjectionProduct,
    RadialProfile,
    SkyProduct,
    SliceProduct,
    StoreWeight,
    VerticalProfile,
    VolumeProduct,
)
from crdist_postproc.recipe_text import expand_product, recipe_differences

__all__ = [
    "Box",
    "FrameSettings",
    "GridSettings",
    "ProductSettings",
    "ProjectionProduct",
    "RadialProfile",
    "Recipe",
    "SkyProduct",
    "SliceProduct",
    "StoreWeight",
    "VerticalProfile",
    "VolumeProduct",
    "differences",
]

differences = recipe_differences


class FrameSettings(BaseModel):
    """The Cartesian frame of the products."""

    model_config = RECIPE_CONFIG

    name: Literal["galactocentric", "heliocentric"] = Field(
        default="galactocentric",
        description="which origin, galactocentric (the centre) or heliocentric (the Sun)",
    )
    r0: Number = Field(default=R0_KPC, description="distance from the Sun to the Galactic centre, kpc")
    z_sun: Number = Field(default=0.0, description="height of the Sun above the mid-plane, kpc")
    roll: Number = Field(default=0.0, description="rotation about the line from the Sun to the centre, degree")

    @model_validator(mode="after")
    def _is_a_frame(self) -> FrameSettings:
        self.record()
        return self

    def record(self) -> Frame:
        """The frame as crdist's record."""
        return Frame(self.name, self.r0, self.z_sun, self.roll)


class GridSettings(BaseModel):
    """The voxels of the products."""

    model_config = RECIPE_CONFIG

    x: Extent = Field(default=(-20.0, 20.0), description="extent along x in the frame, [lower, upper], kpc")
    y: Extent = Field(default=(-20.0, 20.0), description="extent along y in the frame, [lower, upper], kpc")
    z: Extent = Field(default=(-3.0, 3.0), description="extent along z in the frame, [lower, upper], kpc")
    voxel: Voxel = Field(default=(0.1, 0.1, 0.1), description="voxel size, one number or [dx, dy, dz], kpc")

    @model_validator(mode="after")
    def _is_a_grid(self) -> GridSettings:
        CartesianGrid.from_extent(self.x, self.y, self.z, voxel=self.voxel)
        return self


class Recipe(BaseModel):
    """What to compute from a posterior.

    Made with `from_yaml`, `from_mapping` or `default`: these take shorthands and raise `RecipeError`.

    Examples
    --------
    >>> recipe = Recipe.from_mapping({"products": ["midplane", {"name": "radial", "z_cut": 0.5}]})
    >>> [product.kind for product in recipe.products]
    ['slice', 'radial']
    >>> recipe.with_overrides(["products.radial.z_cut=0.2"]).products[1].z_cut
    0.2
    >>> Recipe.from_mapping({"method": "liner", "products": ["midplane"]})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    crdist.errors.RecipeError: recipe: method: must be 'linear' or 'nearest', got "liner"; did you mean ...
    """

    model_config = RECIPE_CONFIG

    quantity: str = Field(
        default="density",
        min_length=1,
        description="density (the store's main quantity) or a variable, in its unit",
    )
    frame: FrameSettings = Field(
        default=FrameSettings(), description="frame of the products, lengths in kpc, angles in degree"
    )
    grid: GridSettings = Field(default=GridSettings(), description="voxels of the products, kpc")
    method: Literal["linear", "nearest"] = Field(default="linear", description="interpolation: linear or nearest")
    value_space: Literal["linear", "log"] = Field(
        default="linear", description="interpolate the values (linear) or their logarithm (log)"
    )
    inner: Literal["extend", "exclude"] = Field(
        default="extend", description="inside the first shell: extend its values to the Sun, or exclude it"
    )
    quantiles: Levels = Field(default=(), description="quantile levels over samples, dimensionless, between 0 and 1")
    products: tuple[AnyProduct, ...] = Field(description="what to compute, a list of products")

    @model_validator(mode="after")
    def _products_fit(self) -> Recipe:
        if not self.products:
            raise ValueError("products: is empty; name at least one product")
        names = [product.name for product in self.products]
        for place, name in enumerate(names):
            first = names.index(name)
            if first != place:
                raise ValueError(
                    f"products.{place}.name: product {first} is called {name!r} too; give one another name"
                )
        for product in self.products:
            try:
                product.check(self)
            except CrdistError as error:
                raise ValueError(f"products.{product.name}: {error}") from error
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> Recipe:
        """Read a recipe file.

        Raises
        ------
        RecipeError
            If it cannot be read or followed: file, key or line, what was got, what to do.
        """
        return cls.from_mapping(read_yaml(Path(path), "recipe"), source=str(path))

    @classmethod
    def from_mapping(cls, data: Any, *, source: str = "recipe") -> Recipe:
        """The recipe that plain data describe, shorthands included.

        Parameters
        ----------
        data : mapping
            Keys as in a recipe file. Anything else is refused.
        source : str
            Where the data come from, for messages.

        Raises
        ------
        RecipeError
            If the data cannot be followed; the first fault, and how many more there are.
        DependencyError
            If a kind of product is that of an installed package and cannot be loaded.
        """
        data = mapping_of(data, source, "'grid' and 'products'")
        faults: list[str] = []
        expanded = dict(data)
        products: list[dict[str, Any]] = []
        given = data.get("products")
        if isinstance(given, Sequence) and not isinstance(given, str):
            expanded["products"] = products
            for place, item in enumerate(given):
                try:
                    products.append(expand_product(item, place))
                except RecipeError as error:
                    faults.append(str(error))
        recipe = None
        try:
            recipe = cls.model_validate(expanded)
        except ValidationError as error:
            kinds = {product["kind"]: PRODUCT_KINDS[product["kind"]].settings for product in products}
            lines = fault_lines(error, cls, expanded, kinds)
            # products that could not be expanded may leave an empty list, which is no further fault
            faults += [line for line in lines if not (faults and line.startswith("products: "))]
        if recipe is None or faults:
            raise RecipeError(f"{source}: {first_fault(faults)}")
        return recipe

    @classmethod
    def default(cls) -> Recipe:
        """The recipe that a run without one follows."""
        with resources.as_file(resources.files("crdist_postproc") / "recipes" / "default.yaml") as path:
            return cls.from_yaml(path)

    def with_overrides(self, overrides: Sequence[str]) -> Recipe:
        """The recipe with some values set anew.

        Parameters
        ----------
        overrides : sequence of str
            Each ``key.key=value``, the value as YAML, a product by its name or place:
            ``grid.voxel=0.05``, ``products.radial.z_cut=0.5``, ``products=[midplane]``.

        Raises
        ------
        RecipeError
            If a key does not exist or the recipe cannot be followed any more.
        """
        data = self.to_dict()
        for override in overrides:
            apply_override(data, override, "grid.voxel=0.05")
            if _PRODUCTS.match(override):
                # whole products were set: the data may hold shorthands and lack keys now
                data = Recipe.from_mapping(data, source="overrides").to_dict()
        return Recipe.from_mapping(data, source="overrides")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data with every key, which `from_mapping` reads back.

        A product's ``voxel`` or ``quantiles`` that follow the recipe's are None.
        """
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's meaning, hexadecimal: the order of products and shorthands do not count."""
        data = self.to_dict()
        data["products"].sort(key=lambda product: product["name"])
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def frame_record(self) -> Frame:
        """The frame as crdist's record."""
        return self.frame.record()

    @property
    def grid_record(self) -> CartesianGrid:
        """The recipe's own grid, in its frame."""
        grid = self.grid
        return CartesianGrid.from_extent(grid.x, grid.y, grid.z, voxel=grid.voxel, frame=self.frame_record)


_PRODUCTS = re.compile(r"\s*products(\.[^.=]+)?\s*=")
"""Overrides of all products or of one as a whole."""
