"""A volume as VTK image data, for ParaView and PyVista.

Values belong to the centres of voxels, so they are point data, on points from the first centre to the last, in kpc.
The arrays are appended as raw binary, in which readers of large files seek. Format: VTK's XML files, version 1.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from crdist import __version__
from crdist.errors import RecipeError
from crdist.exporters.exporter import Exporter, ExportOptions, Tell
from crdist.exporters.product_fits import pieces
from crdist.exporters.products import ProductsToExport, ProductToExport, open_products_for_export
from crdist.exporters.target import ArrayInFile, reserve

__all__ = ["VTK"]

ARRAYS = ("mean", "std", "significance", "coverage")


def write_vtk(source: Path, target: Path, options: ExportOptions, tell: Tell) -> str:
    """Write one volume.

    Raises
    ------
    SchemaError
        If the store is not one of products, or its run is not complete.
    RecipeError
        If there is no such volume, or several and none is named.
    """
    store = open_products_for_export(source, ("volume",), options)
    if len(store.products) > 1:
        names = ", ".join(product.name for product in store.products)
        raise RecipeError(f"{source}: has the volumes {names}, a file holds one; name it with --product")
    (product,) = store.products
    stored = [product.array(name) for name in ARRAYS]
    n_bytes = 4 * stored[0].size
    head, tail = _text(store, product, n_bytes), b"\n  </AppendedData>\n</VTKFile>\n"
    reserve(target, len(head) + len(ARRAYS) * (8 + n_bytes) + len(tail))
    with target.open("r+b", buffering=0) as file:
        file.write(head)
        offset = len(head)
        for done, array in enumerate(stored, 1):
            file.seek(offset)
            file.write(np.uint64(n_bytes).astype("<u8").tobytes())
            place = ArrayInFile(file, offset + 8, np.dtype("<f4"), tuple(reversed(array.shape)))
            for region in pieces(array.shape, array.chunks):
                place.write(tuple(reversed(region)), np.asarray(array[region]).T)
            offset += 8 + n_bytes
            tell(done, len(ARRAYS))
        file.seek(offset)
        file.write(tail)
    return f"{', '.join(ARRAYS)} of {product.name} as VTK image data, {' x '.join(map(str, product.grid.shape))} points"


def _text(store: ProductsToExport, product: ProductToExport, n_bytes: int) -> bytes:
    """All that stands before the arrays."""
    axes = product.grid.axes
    extent = " ".join(f"0 {axis.n - 1}" for axis in axes)
    origin = " ".join(repr(float(axis.centres[0])) for axis in axes)
    spacing = " ".join(repr(axis.step) for axis in axes)
    frame = product.frame
    sun = f"R0 = {frame.r0_kpc!r} kpc, z_sun = {frame.z_sun_kpc!r} kpc, roll = {frame.roll_deg!r} deg"
    facts = {
        "quantity": product.attrs["quantity"],
        "units": product.units("mean"),
        "description": product.long_name("mean"),
        "length_unit": "kpc",
        "frame": f"{frame.name}, {sun}",
        "n_sample": str(product.n_sample),
        "creator": f"crdist {__version__}",
        "provenance": json.dumps(store.provenance, separators=(",", ":")),
    }
    arrays = []
    for i, name in enumerate(ARRAYS):
        arrays.append(
            f'        <DataArray type="Float32" Name="{name}" NumberOfComponents="1" format="appended" '
            f'offset="{i * (8 + n_bytes)}">\n'
            '          <InformationKey name="UNITS_LABEL" location="vtkDataArray">'
            f"{escape(product.units(name) or '1')}</InformationKey>\n"
            "        </DataArray>"
        )
    lines = [
        '<?xml version="1.0"?>',
        '<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" header_type="UInt64">',
        f'  <ImageData WholeExtent="{extent}" Origin="{origin}" Spacing="{spacing}" Direction="1 0 0 0 1 0 0 0 1">',
        "    <FieldData>",
        *(_string(name, text) for name, text in facts.items()),
        "    </FieldData>",
        f'    <Piece Extent="{extent}">',
        '      <PointData Scalars="mean">',
        *arrays,
        "      </PointData>",
        "    </Piece>",
        "  </ImageData>",
        '  <AppendedData encoding="raw">',
        "   _",
    ]
    return "\n".join(lines).encode()


def _string(name: str, text: str) -> str:
    """A text as VTK keeps one: the codes of its characters, with a 0 at the end."""
    codes = " ".join(str(code) for code in (*text.encode(), 0))
    return (
        f'      <DataArray type="String" Name={quoteattr(name)} NumberOfTuples="1" format="ascii">{codes}</DataArray>'
    )


VTK = Exporter(
    name="vtk",
    reads=("products",),
    suffixes=(".vti",),
    options=frozenset({"products"}),
    summary="a volume as VTK image data: mean, std, significance, coverage; ParaView, PyVista",
    write=write_vtk,
)
