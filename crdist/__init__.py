"""crdist: posterior samples of 3D Galactic fields in, every product with correct per-sample statistics out.

The names below are the public API. They are loaded when they are first used, so that ``import crdist`` is quick and a
stage that is not asked for need not be installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Axis",
    "CartesianGrid",
    "CrdistError",
    "Frame",
    "PointMap",
    "Recipe",
    "SphericalGrid",
    "__version__",
    "along",
    "derive",
    "export_store",
    "import_map",
    "open_posterior",
    "open_products",
    "pack",
    "project",
    "query",
    "regrid",
    "run_products",
    "slice_plane",
    "source_density",
]

if TYPE_CHECKING:
    from crdist.errors import CrdistError
    from crdist.exporters import export_store
    from crdist.frames import Frame
    from crdist.grids import Axis, CartesianGrid, SphericalGrid
    from crdist.importers import import_map
    from crdist.opening import open_posterior, open_products
    from crdist.store import pack
    from crdist_postproc.analysis.derived import derive, source_density
    from crdist_postproc.lazy import project, regrid, slice_plane
    from crdist_postproc.point_map import PointMap
    from crdist_postproc.query import query
    from crdist_postproc.rays import along
    from crdist_postproc.recipe import Recipe
    from crdist_postproc.run import run_products

_HOMES = {
    "Axis": "crdist.grids",
    "CartesianGrid": "crdist.grids",
    "CrdistError": "crdist.errors",
    "Frame": "crdist.frames",
    "PointMap": "crdist_postproc.point_map",
    "Recipe": "crdist_postproc.recipe",
    "SphericalGrid": "crdist.grids",
    "along": "crdist_postproc.rays",
    "derive": "crdist_postproc.analysis.derived",
    "export_store": "crdist.exporters",
    "import_map": "crdist.importers",
    "open_posterior": "crdist.opening",
    "open_products": "crdist.opening",
    "pack": "crdist.store",
    "project": "crdist_postproc.lazy",
    "query": "crdist_postproc.query",
    "regrid": "crdist_postproc.lazy",
    "run_products": "crdist_postproc.run",
    "slice_plane": "crdist_postproc.lazy",
    "source_density": "crdist_postproc.analysis.derived",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crdist' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
