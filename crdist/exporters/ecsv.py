"""Profiles as ECSV tables, which astropy reads with their units, and any other tool as text.

Format: the Astropy Proposal for Enhancement 6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crdist.errors import RecipeError
from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.products import MAP_ARRAYS, ProductsToExport, ProductToExport, open_products_for_export

__all__ = ["ECSV"]

IN_META = ("frame", "coordinates", "quantity", "n_sample")
"""Attributes of a product that the table says elsewhere, or has no use for."""


def write_ecsv(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write one profile as a file, or several as the files of a folder.

    Raises
    ------
    SchemaError
        If the store is not one of products, or its run is not complete.
    RecipeError
        If there is no such profile, its samples were not kept, or one file was asked for and there are several.
    """
    store = open_products_for_export(source, ("radial", "vertical"), options)
    names = [product.name for product in store.products]
    if options.suffix == ".ecsv" and len(names) > 1:
        raise RecipeError(
            f"{source}: has the profiles {', '.join(names)}, an .ecsv file holds one; name it with --product, or give "
            "the name of a folder, without an ending"
        )
    if not options.suffix:
        target.mkdir()
        for done, product in enumerate(store.products, 1):
            _write(store, product, options, target / f"{product.name}.ecsv")
            tell(done, len(store.products))
        return store.told(f"the profiles {', '.join(names)} as ECSV tables")
    (product,) = store.products
    _write(store, product, options, target)
    tell(1, 1)
    return store.told(f"the profile {product.name} as an ECSV table")


def _write(store: ProductsToExport, product: ProductToExport, options: ExportOptions, path: Path) -> None:
    from astropy.table import Column, Table

    (dim,) = product.dims
    table = Table(meta=_meta(store, product))
    edges = np.asarray(product.array(f"{dim}_edges")[...])

    def add(name: str, values: Any, units: str, description: str) -> None:
        table[name] = Column(np.asarray(values), unit=units or None, description=description)

    axis = product.long_name(dim)
    add(dim, product.array(dim)[...], product.units(dim), axis)
    add(f"{dim}_lower", edges[:-1], product.units(dim), f"{axis}, lower edge of the bin")
    add(f"{dim}_upper", edges[1:], product.units(dim), f"{axis}, upper edge of the bin")
    for name in MAP_ARRAYS:
        add(name, product.array(name)[...], product.units(name), product.long_name(name))
    if "quantiles" in product.arrays:
        levels = np.asarray(product.array("quantile")[...])
        values = np.asarray(product.array("quantiles")[...])
        for i, level in enumerate(levels.tolist()):
            add(f"quantile_{level:g}", values[:, i], product.units("quantiles"), f"quantile {level:g} over samples")
    if options.values == "samples":
        values = np.asarray(product.array("per_sample")[...])
        for i in range(values.shape[1]):
            add(f"sample_{i}", values[:, i], product.units("per_sample"), f"posterior sample {i}")
    table.write(path, format="ascii.ecsv")


def _meta(store: ProductsToExport, product: ProductToExport) -> dict[str, Any]:
    fits = {
        name: {"value": np.asarray(product.array(name)[...]).tolist(), "units": product.units(name), "what": what}
        for name in sorted(product.arrays)
        if name.startswith("fit_")
        for what in [product.long_name(name)]
    }
    return {
        "product": product.name,
        "quantity": dict(store.quantity),
        "n_sample": product.n_sample,
        "frame": dict(product.attrs["frame"]),
        "statistics": "mean and standard deviation (ddof=1) over samples of each sample's own profile",
        "settings": {key: value for key, value in product.attrs.items() if key not in IN_META},
        **({"fits": fits} if fits else {}),
        "provenance": dict(store.provenance),
    }


ECSV = Exporter(
    name="ecsv",
    reads=("products",),
    suffixes=(".ecsv", ""),
    options=frozenset({"products", "values"}),
    summary="profiles as ECSV tables, one a file, several a folder; astropy.table, any text editor",
    write=write_ecsv,
)
