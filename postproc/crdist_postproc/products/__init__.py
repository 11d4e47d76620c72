"""The products that a recipe asks for, as records that a run computes block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crdist.errors import RecipeError, SchemaError
from crdist.grids import CartesianGrid, SphericalGrid
from crdist.schema import PosteriorHeader, read_posterior_header
from crdist_postproc import recipe as recipes
from crdist_postproc.products.base import Product, Quantity
from crdist_postproc.products.maps import ProjectionMap, SliceMap, VolumeMap
from crdist_postproc.products.profiles import RadialMean, VerticalMean
from crdist_postproc.products.sky import SkyMap
from crdist_postproc.source import Source, store_digest

__all__ = ["Job", "build_jobs"]


@dataclass(frozen=True, slots=True)
class Job:
    """A product and what it is computed from."""

    product: Product
    source: Source
    weight: Source | None = None


def build_jobs(recipe: recipes.Recipe, header: PosteriorHeader) -> tuple[Job, ...]:
    """The products of a recipe over a posterior.

    Raises
    ------
    RecipeError
        If a box lies wholly outside the data, or a weight's store cannot be used.
    SchemaError
        If the posterior has no such quantity.
    """
    resolved = header.resolve(recipe.quantity)
    quantity = Quantity(resolved.name, resolved.units, resolved.long_name, header.n_sample)
    source = Source(
        header.path.absolute(),
        resolved.name,
        recipe.method,
        recipe.value_space,
        recipe.inner,
        n_sample=header.n_sample,
        digest=store_digest(header.path, resolved.name, header.n_sample),
    )
    return tuple(_job(asked, recipe, header, quantity, source) for asked in recipe.products)


def _job(
    asked: recipes.Product,
    recipe: recipes.Recipe,
    header: PosteriorHeader,
    quantity: Quantity,
    source: Source,
) -> Job:
    native = header.grid
    extend = recipe.inner == "extend"
    common: dict[str, Any] = {
        "name": asked.name,
        "quantity": quantity,
        "frame": recipe.frame_record,
        "quantiles": asked.quantile_levels(recipe),
        "per_sample": asked.per_sample,
    }
    if isinstance(asked, recipes.SliceProduct | recipes.ProjectionProduct | recipes.VolumeProduct):
        common["native"] = native
        common["parts_per_cell"] = asked.parts_per_cell if asked.sampling == "adaptive" else 0.0
    match asked:
        case recipes.SliceProduct():
            grid = _reached(asked.grid(recipe), native, asked.name, extend)
            return Job(SliceMap(**common, grid=grid, axis=asked.axis), source)
        case recipes.ProjectionProduct():
            grid = _reached(asked.grid(recipe), native, asked.name, extend)
            return Job(ProjectionMap(**common, grid=grid, axis=asked.axis, extend=extend), source)
        case recipes.VolumeProduct():
            grid = _reached(asked.grid(recipe), native, asked.name, extend)
            return Job(VolumeMap(**common, grid=grid), source)
        case recipes.SkyProduct():
            limits = asked.distance
            inner, outer = (0.0 if extend else native.edges_kpc[0]), native.edges_kpc[-1]
            if limits is not None and (limits[0] >= outer or limits[1] <= inner):
                raise RecipeError(
                    f"products.{asked.name}.distance: [{limits[0]:g}, {limits[1]:g}] kpc lies wholly outside the data, "
                    f"which reach from {inner:g} to {outer:g} kpc"
                )
            return Job(SkyMap(**common, native=native, extend=extend, limits_kpc=limits), source)
        case recipes.RadialProfile():
            weight = _weight(asked, recipe)
            radial = RadialMean(
                **common,
                radii_kpc=tuple(asked.edges_kpc.tolist()),
                heights_kpc=(-asked.z_cut, asked.z_cut),
                voxel_kpc=asked.voxel_kpc(recipe),
                weighted_by="volume" if weight is None else weight.quantity,
            )
            return Job(radial, source, weight)
        case recipes.VerticalProfile():
            vertical = VerticalMean(
                **common,
                radii_kpc=asked.ring,
                heights_kpc=tuple(asked.edges_kpc.tolist()),
                voxel_kpc=asked.voxel_kpc(recipe),
                fit_threshold=asked.fit_threshold,
            )
            return Job(vertical, source)


def _weight(asked: recipes.RadialProfile, recipe: recipes.Recipe) -> Source | None:
    if not isinstance(asked.weight, recipes.StoreWeight):
        return None
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
