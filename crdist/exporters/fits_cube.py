"""Volumes, slices and projections as FITS images with world coordinates, for DS9, glue and astropy."""

from __future__ import annotations

from pathlib import Path

from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.product_fits import image_part, sky_part, write_product_parts
from crdist.exporters.products import MAP_ARRAYS, open_products_for_export

__all__ = ["FITS_CUBE"]


def write_fits_cube(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write each statistic, or the samples, of each product as a part of one file; sky maps as HEALPix tables.

    Raises
    ------
    SchemaError
        If the store is not one of products, or its run is not complete.
    RecipeError
        If there is no such product, or its samples were not kept.
    """
    store = open_products_for_export(source, ("volume", "slice", "projection", "sky"), options)
    parts = []
    for product in store.products:
        if options.values == "samples":
            names: tuple[str, ...] = ("per_sample",)
        else:
            names = MAP_ARRAYS + ("quantiles",) * ("quantiles" in product.arrays and product.kind != "sky")
        if product.kind == "sky":
            parts.append(sky_part(product, names))
        else:
            parts += [image_part(product, name) for name in names]
    return write_product_parts(store, parts, target, tell)


FITS_CUBE = Exporter(
    name="fits-cube",
    reads=("products",),
    suffixes=(".fits",),
    options=frozenset({"products", "values"}),
    summary="FITS images with Cartesian coordinates in kpc, sky maps as HEALPix; DS9, glue, astropy",
    write=write_fits_cube,
)
