"""The kinds of products: what a recipe says of each, and the job that a run makes of it; packages add to them.

Importing this is quick: what computes is imported where a job is made.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializeAsAny, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator

from crdist.errors import GridError, RecipeError, SchemaError
from crdist.grids import CartesianGrid, SphericalGrid
from crdist.plugins import PluginTable
from crdist_postproc.recipe_products import (
    ProductSettings,
    ProjectionProduct,
    RadialProfile,
    SkyProduct,
    SliceProduct,
    StoreWeight,
    VerticalProfile,
    VolumeProduct,
    VoxelSettings,
)

if TYPE_CHECKING:
    from crdist.schema import PosteriorHeader
    from crdist_postproc.products.base import Product, Quantity
    from crdist_postproc.recipe import Recipe
    from crdist_postproc.source import Source

__all__ = ["PRODUCT_KINDS", "AnyProduct", "Job", "ProductKind", "ProductRequest"]


@dataclass(frozen=True, slots=True)
class Job:
    """A product and what it is computed from."""

    product: Product
    source: Source
    weight: Source | None = None


@dataclass(frozen=True, slots=True)
class ProductRequest:
    """What a product is made from, beside its own settings."""

    recipe: Recipe
    header: PosteriorHeader
    quantity: Quantity
    """The recipe's quantity, with its unit and number of samples."""
    source: Source
    """Its samples, interpolated as the recipe says."""

    @property
    def native(self) -> SphericalGrid:
        """The grid of the samples."""
        return self.header.grid

    @property
    def extend(self) -> bool:
        """Whether the first shell stands for the space inside it, too."""
        return self.recipe.inner == "extend"

    def common(self, settings: ProductSettings) -> dict[str, Any]:
        """What every `crdist_postproc.products.base.Product` is made with."""
        return {
            "name": settings.name,
            "quantity": self.quantity,
            "frame": self.recipe.frame_record,
            "quantiles": settings.quantile_levels(self.recipe),
            "per_sample": settings.per_sample,
        }


@dataclass(frozen=True, slots=True)
class ProductKind:
    """A kind of product. A package adds one as an entry point of the group ``crdist.products``.

    Raises
    ------
    TypeError
        If the settings are of another kind.
    """

    name: str
    """``kind`` in a recipe and in the attributes of the product's group."""
    settings: type[ProductSettings]
    """The keys that a recipe may give, each with its unit in the description."""
    job: Callable[[Any, ProductRequest], Job]
    """Makes the job of a product from its settings, and computes nothing; the product's class has the same ``kind``."""

    def __post_init__(self) -> None:
        if not (isinstance(self.settings, type) and issubclass(self.settings, ProductSettings)):
            raise TypeError(f"settings of {self.name!r} must be a subclass of ProductSettings, got {self.settings!r}")
        kind = self.settings.model_fields["kind"]
        if typing.get_args(kind.annotation) != (self.name,) or kind.default != self.name:
            raise TypeError(
                f"{self.settings.__name__}.kind must be of type Literal[{self.name!r}] with that as its default"
            )


def _slice(asked: SliceProduct, request: ProductRequest) -> Job:
    from crdist_postproc.products.maps import SliceMap

    return Job(SliceMap(**_voxels(asked, request), axis=asked.axis), request.source)


def _projection(asked: ProjectionProduct, request: ProductRequest) -> Job:
    from crdist_postproc.products.maps import ProjectionMap

    return Job(ProjectionMap(**_voxels(asked, request), axis=asked.axis, extend=request.extend), request.source)


def _volume(asked: VolumeProduct, request: ProductRequest) -> Job:
    from crdist_postproc.products.volume import VolumeMap

    return Job(VolumeMap(**_voxels(asked, request)), request.source)


def _sky(asked: SkyProduct, request: ProductRequest) -> Job:
    from crdist_postproc.products.sky import SkyMap

    limits, edges = asked.distance, request.native.edges_kpc
    inner, outer = (0.0 if request.extend else edges[0]), edges[-1]
    if limits is not None and (limits[0] >= outer or limits[1] <= inner):
        raise RecipeError(
            f"products.{asked.name}.distance: [{limits[0]:g}, {limits[1]:g}] kpc lies wholly outside the data, "
            f"which reach from {inner:g} to {outer:g} kpc"
        )
    product = SkyMap(**request.common(asked), native=request.native, extend=request.extend, limits_kpc=limits)
    return Job(product, request.source)


def _radial(asked: RadialProfile, request: ProductRequest) -> Job:
    from crdist_postproc.products.profiles import RadialMean

    weight = _weight(asked, request.recipe)
    radial = RadialMean(
        **request.common(asked),
        radii_kpc=tuple(asked.edges_kpc.tolist()),
        heights_kpc=(-asked.z_cut, asked.z_cut),
        voxel_kpc=asked.voxel_kpc(request.recipe),
        weighted_by="volume" if weight is None else weight.quantity,
    )
    return Job(radial, request.source, weight)


def _vertical(asked: VerticalProfile, request: ProductRequest) -> Job:
    from crdist_postproc.products.profiles import VerticalMean

    vertical = VerticalMean(
        **request.common(asked),
        radii_kpc=asked.ring,
        heights_kpc=tuple(asked.edges_kpc.tolist()),
        voxel_kpc=asked.voxel_kpc(request.recipe),
        fit_threshold=asked.fit_threshold,
    )
    return Job(vertical, request.source)


PRODUCT_KINDS: PluginTable[ProductKind] = PluginTable(
    "crdist.products",
    ProductKind,
    {
        kind.name: kind
        for kind in (
            ProductKind("slice", SliceProduct, _slice),
            ProductKind("projection", ProjectionProduct, _projection),
            ProductKind("sky", SkyProduct, _sky),
            ProductKind("radial", RadialProfile, _radial),
            ProductKind("vertical", VerticalProfile, _vertical),
            ProductKind("volume", VolumeProduct, _volume),
        )
    },
)
"""The known kinds, by name; installed packages add to them."""


def _of_any_kind(value: Any, builtin: ValidatorFunctionWrapHandler) -> Any:
    """Validate a product by the settings of its kind, whether that is built in or of an installed package."""
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    if not isinstance(kind, str) or PRODUCT_KINDS.plugin(kind) is None:
        return builtin(value)
    return _with_builtin(PRODUCT_KINDS[kind].settings).validate_python(value)


@cache
def _with_builtin(settings: type[ProductSettings]) -> TypeAdapter[Any]:
    # in a union, a fault is told with the kind in its place, as for built-in kinds
    both: Any = SliceProduct | settings
    return TypeAdapter(Annotated[both, Field(discriminator="kind")])


AnyProduct = Annotated[
    SerializeAsAny[
        Annotated[
            SliceProduct | ProjectionProduct | SkyProduct | RadialProfile | VerticalProfile | VolumeProduct,
            Field(discriminator="kind"),
        ]
    ],
    WrapValidator(_of_any_kind),
]
"""A product of a recipe: of a built-in kind, which type checkers know, or of one that a package adds."""


def _voxels(asked: VoxelSettings, request: ProductRequest) -> dict[str, Any]:
    """What products of voxels are made with."""
    grid = _reached(asked.grid(request.recipe), request.native, asked.name, request.extend)
    if asked.sampling == "conservative":
        from crdist_postproc.conservative import rays_between

        try:
            rays_between(request.native, grid, request.recipe.inner)
        except GridError as error:
            raise RecipeError(f"products.{asked.name}: {error}, or use sampling: adaptive") from error
    return {
        **request.common(asked),
        "grid": grid,
        "native": request.native,
        "parts_per_cell": asked.parts_per_cell if asked.sampling == "adaptive" else 0.0,
        "order": asked.order if asked.sampling == "conservative" else 0,
    }


def _weight(asked: RadialProfile, recipe: Recipe) -> Source | None:
    if not isinstance(asked.weight, StoreWeight):
        return None
    from crdist.schema import read_posterior_header
    from crdist_postproc.source import Source, store_digest

    try:
        header = read_posterior_header(Path(asked.weight.store))
        resolved = header.resolve(asked.weight.quantity)
        digest = store_digest(header.path, resolved.name, header.n_sample)
    except SchemaError as error:
        raise RecipeError(
            f"products.{asked.name}.weight: {error} (a relative path counts from the working folder)"
        ) from error
    return Source(
        header.path.absolute(),
        resolved.name,
        recipe.method,
        "linear",
        recipe.inner,
        reduce=True,
        n_sample=header.n_sample,
        digest=digest,
    )


def _reached(grid: CartesianGrid, native: SphericalGrid, name: str, extend: bool) -> CartesianGrid:
    """The grid, if some of it lies within the data."""
    sun = grid.frame.sun_kpc
    outer = native.edges_kpc[-1]
    # distances from the Sun to the nearest and the farthest point of the box
    gaps = [max(a.lower_kpc - s, s - a.upper_kpc, 0.0) for a, s in zip(grid.axes, sun, strict=True)]
    reaches = [max(abs(a.lower_kpc - s), abs(a.upper_kpc - s)) for a, s in zip(grid.axes, sun, strict=True)]
    box = ", ".join(f"{n} [{a.lower_kpc:g}, {a.upper_kpc:g}]" for n, a in zip("xyz", grid.axes, strict=True))
    if math.hypot(*gaps) >= outer:
        raise RecipeError(
            f"products.{name}: the box {box} kpc lies wholly outside the data, which end {outer:g} kpc from the Sun at "
            f"({sun[0]:g}, {sun[1]:g}, {sun[2]:g}) kpc; move the box"
        )
    if not extend and math.hypot(*reaches) <= native.edges_kpc[0]:
        raise RecipeError(
            f"products.{name}: the box {box} kpc lies wholly inside the first edge, {native.edges_kpc[0]:g} kpc from "
            "the Sun, where 'inner: exclude' leaves nothing; use 'inner: extend' or a larger box"
        )
    return grid
