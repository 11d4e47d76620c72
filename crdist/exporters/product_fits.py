"""Products as parts of a FITS file: images with linear Cartesian coordinates, and maps of the sky as HEALPix tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crdist.exporters.exporter import Tell
from crdist.exporters.fitsfile import FitsPart, HealpixTable, about, healpix_table, image, primary, write_parts
from crdist.exporters.products import ProductsToExport, ProductToExport
from crdist.exporters.target import ArrayInFile
from crdist.grids import Axis

__all__ = ["ProductPart", "image_part", "pieces", "sky_part", "write_product_parts"]

PIECE_BYTES = 16 * 1024**2
"""Values of a product read at once, where chunks allow it."""


@dataclass(frozen=True, slots=True)
class ProductPart:
    """A part of the file, and the arrays of a product that fill it."""

    product: ProductToExport
    arrays: tuple[str, ...]
    """Several for a table, whose columns they are; one for an image."""
    part: FitsPart


def image_part(product: ProductToExport, array: str) -> ProductPart:
    """An array of a volume, a slice or a projection as an image; its first axis is the first dimension.

    The coordinates are linear, in kpc, in the product's frame, and give the centre of each voxel.
    """
    stored = product.array(array)
    grid = product.grid
    cards: dict[str, tuple[Any, str]] = {"BUNIT": (product.units(array), "unit of the values")}
    cards["WCSNAME"] = (f"{product.frame.name} Cartesian", "")
    for i, dim in enumerate(product.dims, 1):
        cards |= _linear(i, dim, grid.axis(dim))
    extra = stored.shape[len(product.dims) :]
    if extra:
        i = len(product.dims) + 1
        name = "sample" if array == "per_sample" else "quantile"
        cards |= {
            f"CTYPE{i}": (name.upper(), f"{name}, counted from 0"),
            f"CRPIX{i}": (1.0, ""),
            f"CRVAL{i}": (0.0, ""),
            f"CDELT{i}": (1.0, ""),
        }
    cards |= _about(product, array)
    part = image(f"{product.name}_{array}", tuple(reversed(stored.shape)), cards)
    return ProductPart(product, (array,), part)


def sky_part(product: ProductToExport, arrays: Sequence[str]) -> ProductPart:
    """Arrays of a map of the sky as columns of a HEALPix table: its statistics, or its samples alone."""
    stored = [product.array(name) for name in arrays]
    cells: Any = product.arrays["cell_ids"].attrs
    near, far = product.attrs["distance_kpc"]
    columns = []
    for name, array in zip(arrays, stored, strict=True):
        if name == "per_sample":
            columns += [(f"SAMPLE_{i}", product.units(name)) for i in range(array.shape[-1])]
        else:
            columns.append((name.upper(), product.units(name)))
    cards = {
        "D_NEAR": (near, "[kpc] integrated from"),
        "D_FAR": (far, "[kpc] integrated to"),
        **_about(product, arrays[0]),
        "STATIST": (", ".join(arrays), ""),
    }
    part = healpix_table(product.name, 2 ** int(cells["level"]), str(cells["indexing_scheme"]), columns, cards)
    return ProductPart(product, tuple(arrays), part)


def write_product_parts(store: ProductsToExport, parts: Sequence[ProductPart], target: Path, tell: Tell) -> str:
    """Write a file of these parts behind a primary header, reading the products in pieces."""
    cards = about(store.quantity["name"], store.quantity["long_name"], store.frame, store.n_sample)
    head = primary(cards, store.provenance)
    with write_parts(target, [head, *(part.part for part in parts)]) as (_, *places):
        for done, (part, place) in enumerate(zip(parts, places, strict=True), 1):
            if len(place.shape) == 3 and part.product.kind == "sky":
                _fill_table(part, place)
            else:
                _fill_image(part, place)
            tell(done, len(parts))
    names = ", ".join(product.name for product in store.products)
    return store.told(f"{store.quantity['name']} in {len(parts)} HDU{'s' * (len(parts) > 1)}: {names}")


def pieces(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Regions of an array that cover it once: whole chunks, whole along the first axis if that keeps them small.

    The first dimension of a product is the one that runs fastest in the files of other tools.
    """
    size = list(chunks)
    if 4 * shape[0] * math.prod(size[1:]) <= PIECE_BYTES:
        size[0] = shape[0]
    for axis in range(1, len(shape)):
        while size[axis] < shape[axis] and 8 * math.prod(size) <= PIECE_BYTES:
            size[axis] *= 2
    starts = itertools.product(*(range(0, n, step) for n, step in zip(shape, size, strict=True)))
    for start in starts:
        yield tuple(slice(i, min(i + step, n)) for i, step, n in zip(start, size, shape, strict=True))


def _fill_image(part: ProductPart, place: ArrayInFile) -> None:
    array = part.product.array(part.arrays[0])
    for region in pieces(array.shape, array.chunks):
        place.write(tuple(reversed(region)), np.asarray(array[region]).T)


def _fill_table(part: ProductPart, place: ArrayInFile) -> None:
    table = HealpixTable(place)
    column = 0
    for name in part.arrays:
        array = part.product.array(name)
        n_column = array.shape[1] if array.ndim == 2 else 1
        step = array.chunks[0]
        for first in range(0, array.shape[0], step):
            pixels = slice(first, min(first + step, array.shape[0]))
            values = np.asarray(array[pixels]).reshape(-1, n_column)
            table.write(pixels, slice(column, column + n_column), values)
        column += n_column


def _linear(i: int, name: str, axis: Axis) -> dict[str, tuple[Any, str]]:
    return {
        f"CTYPE{i}": (name.upper(), "linear"),
        f"CUNIT{i}": ("kpc", ""),
        f"CRPIX{i}": (1.0, "the first voxel"),
        f"CRVAL{i}": (float(axis.centres[0]), "its centre"),
        f"CDELT{i}": (axis.step, "size of a voxel"),
    }


def _about(product: ProductToExport, array: str) -> dict[str, tuple[Any, str]]:
    attrs = product.attrs
    cards = {
        "PRODUCT": (product.name, "name in the products store"),
        "KIND": (product.kind, "kind of product"),
        "STATIST": (array, "over the samples"),
        **about(attrs["quantity"], product.long_name(array), product.frame, product.n_sample),
    }
    if product.kind == "slice":
        cards["AXIS"] = (attrs["axis"], "across the slice")
        cards["AT"] = (attrs["at_kpc"], "[kpc] place of the slice on it")
    if product.kind == "projection":
        low, high = attrs["box"][attrs["axis"]]
        cards["AXIS"] = (attrs["axis"], "integrated along")
        cards["FROM"] = (low, "[kpc] lower limit of the integral")
        cards["TO"] = (high, "[kpc] upper limit of the integral")
    return cards
