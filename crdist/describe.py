"""What a store holds, as plain data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from crdist.schema import POSTERIOR_SCHEMA, open_group, read_posterior_header

__all__ = ["describe", "render"]

COLUMNS = {"variables": ("name", "units", "shape", "long_name"), "products": ("name", "kind", "dims", "units", "what")}
"""What people are shown of the lists; programs get everything."""


def describe(path: str | Path) -> dict[str, Any]:
    """What a posterior or products store holds, as plain data.

    Raises
    ------
    SchemaError
        If it is neither.
    """
    folder = Path(path)
    group = open_group(folder)
    if group.attrs["schema"] == POSTERIOR_SCHEMA:
        return _describe_posterior(folder)
    return _describe_products(folder, group)


def render(content: Mapping[str, Any]) -> None:
    """Print what `describe` found, for people."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no edge to wrap at
    for key, value in content.items():
        if not isinstance(value, list):
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
            console.print(f"[bold]{key.replace('_', ' ')}[/bold]  {text}", soft_wrap=True)
    for key, rows in content.items():
        if isinstance(rows, list) and rows:
            table = Table(title=key, title_justify="left", box=SIMPLE_HEAD)
            for column in COLUMNS[key]:
                table.add_column(column.replace("_", " "), no_wrap=column == "name")
            for row in rows:
                table.add_row(*(str(row[column]) for column in COLUMNS[key]))
            console.print(table)


def _describe_posterior(folder: Path) -> dict[str, Any]:
    header = read_posterior_header(folder)
    grid = header.grid
    variables: list[dict[str, Any]] = []
    for variable in header.variables:
        array = zarr.open_array(str(folder), path=variable.name, mode="r")
        variables.append(
            {
                "name": variable.name,
                "units": variable.units,
                "long_name": variable.long_name,
                "shape": " x ".join(map(str, array.shape)),
                "chunks": " x ".join(map(str, array.chunks)),
                "shards": " x ".join(map(str, array.shards or array.chunks)),
            }
        )
    for derived in header.derived:
        terms = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in derived.terms)
        shape = f"= {terms}"
        variables.append(
            {
                "name": derived.name,
                "units": derived.units,
                "long_name": derived.long_name,
                "shape": shape,
                "chunks": "",
                "shards": "",
            }
        )
    source = _source_of(header.provenance)
    return {
        "store": str(folder),
        "kind": "posterior",
        "layout": header.layout,
        "samples": header.n_sample,
        "grid": {
            "nside": grid.nside,
            "ordering": grid.ordering,
            "shells": grid.n_shell,
            "from_kpc": f"{grid.edges_kpc[0]:g}",
            "to_kpc": f"{grid.edges_kpc[-1]:g}",
        },
        "frame": header.frame.to_dict(),
        "main_quantity": header.main,
        "bytes": _size(folder),
        "source": source,
        "variables": variables,
    }


def _source_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Where samples come from: a file, an inference, or an expression of other stores."""
    if "computed" in provenance:
        computed, parents = provenance["computed"], provenance.get("parents", {})
        named = {key: value for key, value in computed.get("fields", {}).items() if key not in parents}
        named |= {
            key: f"{parent['quantity']} of {parent['store']}" for key, parent in parents.items() if "store" in parent
        }
        return {"expression": computed.get("expression", "computed"), **named}
    source = provenance.get("source", {})
    return {key: value for key, value in source.items() if not isinstance(value, Mapping)}


def _describe_products(folder: Path, group: zarr.Group) -> dict[str, Any]:
    attrs: Mapping[str, Any] = group.attrs.asdict()
    products = []
    for name, product in sorted(group.groups()):
        mean = product["mean"]
        assert isinstance(mean, zarr.Array)
        dims = mean.metadata.to_dict()["dimension_names"]
        products.append(
            {
                "name": name,
                "kind": product.attrs["kind"],
                "dims": " x ".join(f"{dim} {size}" for dim, size in zip(dims, mean.shape, strict=True)),  # type: ignore[arg-type]
                "units": mean.attrs["units"],
                "what": str(mean.attrs["long_name"]).rpartition(", mean over")[0],
                "arrays": ", ".join(sorted(key for key, array in product.arrays() if "units" in array.attrs)),
            }
        )
    source = attrs["provenance"]["source"]
    return {
        "store": str(folder),
        "kind": "products",
        "status": attrs["status"],
        "quantity": attrs["quantity"],
        "samples": attrs["n_sample"],
        "frame": attrs["frame"],
        "source": {"name": source["name"], "digest": source["digest"][:12]},
        "crdist": attrs["provenance"]["versions"]["crdist"],
        "bytes": _size(folder),
        "products": products,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
