"""What xarray objects of crdist's stores can do beside xarray's own: the accessor ``.crdist``.

Stores that `crdist.open_products` and `crdist.open_posterior` open have it; for one that plain xarray opened,
``import crdist.accessor`` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from crdist.errors import DependencyError, SchemaError

if TYPE_CHECKING:
    from crdist_dashboards.notebook import InferencePlots, ProductPlots

__all__ = ["PosteriorAccessor", "ProductsAccessor"]


@xr.register_datatree_accessor("crdist")
class ProductsAccessor:
    """A products store, or one of its products.

    Parameters
    ----------
    tree : DataTree
        Of `crdist.open_products`, or a node of it.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    @property
    def path(self) -> Path:
        """The store.

        Raises
        ------
        SchemaError
            If the tree does not come from a store.
        """
        return _source(self._tree.root.encoding, "DataTree")

    @property
    def plot(self) -> ProductPlots:
        """Views of the products as HoloViews objects; see `crdist_dashboards.notebook.ProductPlots`.

        Raises
        ------
        DependencyError
            If what draws them is not installed.
        """
        path = self.path
        product = self._tree.path.strip("/").partition("/")[0]
        return _plots().ProductPlots(path, product or None)  # type: ignore[no-any-return]


@xr.register_dataset_accessor("crdist")
class PosteriorAccessor:
    """A posterior store.

    Parameters
    ----------
    dataset : Dataset
        Of `crdist.open_posterior`.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def path(self) -> Path:
        """The store.

        Raises
        ------
        SchemaError
            If the dataset does not come from a store.
        """
        return _source(self._dataset.encoding, "Dataset")

    @property
    def plot(self) -> InferencePlots:
        """Views of the inference that made it; see `crdist_dashboards.notebook.InferencePlots`.

        Raises
        ------
        DependencyError
            If what draws them is not installed.
        """
        return _plots().InferencePlots(self.path)  # type: ignore[no-any-return]


def _source(encoding: Any, kind: str) -> Path:
    source = encoding.get("source")
    if not isinstance(source, str | Path):
        raise SchemaError(
            f"this {kind} does not know the store that it comes from: it was computed or copied; open the store and "
            "plot from that"
        )
    return Path(source)


def _plots() -> Any:
    from importlib.util import find_spec

    for package in ("holoviews", "bokeh"):
        if find_spec(package) is None:
            raise DependencyError(f"plots need {package}; install crdist with its extra 'dashboards'")
    from crdist_dashboards import notebook

    return notebook
