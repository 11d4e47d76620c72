"""A products store as exporters see it: what it says of itself, and the products that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from crdist.errors import RecipeError, SchemaError
from crdist.exporters.exporter import ExportOptions
from crdist.exporters.provenance import exported
from crdist.frames import Frame
from crdist.grids import CartesianGrid
from crdist.schema import POSTERIOR_SCHEMA, PRODUCTS_SCHEMA, open_group
from crdist.store import open_for_reading

__all__ = ["MAP_ARRAYS", "ProductToExport", "ProductsToExport", "is_posterior", "open_products_for_export"]

MAP_ARRAYS = ("mean", "std", "significance", "significance_error", "coverage")
"""The statistics of every product, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class ProductToExport:
    """A product: its arrays and what its group says."""

    store: Path
    name: str
    attrs: Mapping[str, Any]
    arrays: Mapping[str, zarr.Array[Any]]

    @property
    def kind(self) -> str:
        """``slice``, ``projection``, ``volume``, ``sky``, ``radial`` or ``vertical``."""
        return str(self.attrs["kind"])

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the statistics."""
        return _dims(self.arrays["mean"])

    @property
    def frame(self) -> Frame:
        """The frame of its coordinates."""
        return Frame.from_dict(self.attrs["frame"])

    @property
    def grid(self) -> CartesianGrid:
        """Voxels of a volume, a slice or a projection."""
        return CartesianGrid.from_dict(self.attrs["grid"])

    @property
    def n_sample(self) -> int:
        """Number of samples that the statistics are over."""
        return int(self.attrs["n_sample"])

    def array(self, name: str) -> zarr.Array[Any]:
        """One of its arrays, opened for reading.

        Raises
        ------
        SchemaError
            If it is missing.
        """
        if name not in self.arrays:
            raise SchemaError(
                f"{self.store}: product {self.name!r} lacks its array {name!r}; 'crdist check' tells what else"
            )
        return open_for_reading(self.store, f"{self.name}/{name}")

    def units(self, name: str) -> str:
        """Unit of one of its arrays."""
        return str(self.arrays[name].attrs.get("units", ""))

    def long_name(self, name: str) -> str:
        """Description of one of its arrays."""
        return str(self.arrays[name].attrs.get("long_name", name))


@dataclass(frozen=True, slots=True)
class ProductsToExport:
    """A products store and some of its products."""

    path: Path
    quantity: Mapping[str, Any]
    frame: Frame
    n_sample: int
    provenance: Mapping[str, Any]
    products: tuple[ProductToExport, ...]
    left_out: tuple[str, ...] = ()
    """Products that nobody named and whose samples, which were asked for, were not kept."""

    def told(self, text: str) -> str:
        """What was written, with what was left out."""
        if not self.left_out:
            return text
        return f"{text} (without {', '.join(self.left_out)}, whose samples were not kept)"


def is_posterior(path: Path) -> bool:
    """Whether a store is a posterior; if not, it is one of products.

    Raises
    ------
    SchemaError
        If it is no store of crdist.
    """
    return open_group(path).attrs["schema"] == POSTERIOR_SCHEMA


def open_products_for_export(path: Path, kinds: Sequence[str], options: ExportOptions) -> ProductsToExport:
    """Open a products store and choose the products of some kinds.

    Parameters
    ----------
    path : Path
        The store.
    kinds : sequence of str
        Kinds of product that can be written.
    options : ExportOptions
        Its products, if it names any, are the ones that are meant.

    Raises
    ------
    SchemaError
        If the store is not one of products, or its run is not complete.
    RecipeError
        If there is no such product, or none of these kinds.
    """
    group = open_group(path, PRODUCTS_SCHEMA)
    attrs: Mapping[str, Any] = group.attrs.asdict()
    if attrs.get("status") != "complete":
        raise SchemaError(f"{path}: its run is not complete; run the same 'crdist post' again to finish it")
    found = {
        name: ProductToExport(path, name, product.attrs.asdict(), dict(product.arrays()))
        for name, product in sorted(group.groups())
    }
    for name in options.products:
        if name not in found:
            raise RecipeError(f"{path}: no product {name!r}; it has {', '.join(found)}")
        if found[name].kind not in kinds:
            raise RecipeError(f"{path}: product {name!r} is a {found[name].kind}; such a file holds {', '.join(kinds)}")
    chosen = [found[name] for name in options.products] or [item for item in found.values() if item.kind in kinds]
    left_out: list[str] = []
    if options.values == "samples":
        without = [item.name for item in chosen if "per_sample" not in item.arrays]
        if without and (options.products or len(without) == len(chosen)):
            raise RecipeError(
                f"{path}: the samples of {', '.join(without)} were not kept; leave them out, or make the products with "
                "per_sample: true"
            )
        left_out = without
        chosen = [item for item in chosen if item.name not in without]
    if not chosen:
        has = ", ".join(f"{item.name} ({item.kind})" for item in found.values()) or "none"
        raise RecipeError(f"{path}: has no product of the kind {' or '.join(kinds)}; its products: {has}")
    return ProductsToExport(
        path=path,
        quantity=attrs["quantity"],
        frame=Frame.from_dict(attrs["frame"]),
        n_sample=int(attrs["n_sample"]),
        provenance={
            "recipe": attrs.get("recipe"),
            **attrs.get("provenance", {}),
            "exported": exported(path),
        },
        products=tuple(chosen),
        left_out=tuple(left_out),
    )


def _dims(array: zarr.Array[Any]) -> tuple[str, ...]:
    names: Any = array.metadata.to_dict().get("dimension_names") or ()
    return tuple(str(name) for name in names)
