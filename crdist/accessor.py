"""What xarray objects of crdist's stores can do beside xarray's own: the accessor ``.crdist``.

Stores that `crdist.open_products` and `crdist.open_posterior` open have it; for one that plain xarray opened,
``import crdist.accessor`` first. All but what says so is lazy: xarray in, xarray out, nothing computed until asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from crdist.errors import DependencyError, SchemaError
from crdist.schema import is_url

if TYPE_CHECKING:
    from astropy.units import Quantity

    from crdist.frames import Frame
    from crdist.grids import CartesianGrid
    from crdist.schema import PosteriorHeader
    from crdist_dashboards.notebook import InferencePlots, ProductPlots
    from crdist_postproc.point_map import PointMap

__all__ = ["PosteriorAccessor", "ProductsAccessor", "SamplesAccessor"]


class _Samples(ABC):
    """What can be done with samples on a native grid, and with what was made from them.

    ``variable`` chooses one of a Dataset's; default: its main quantity. The other arguments are those of the functions
    named.
    """

    @abstractmethod
    def _array(self, variable: str | None) -> xr.DataArray:
        """The samples."""

    # fields on other grids

    def regrid(self, grid: CartesianGrid, *, variable: str | None = None, **interpolation: Any) -> xr.DataArray:
        """Every sample at the voxel centres of a Cartesian grid; see `crdist.regrid`."""
        from crdist_postproc.lazy import regrid

        return regrid(self._array(variable), grid, **interpolation)

    def slice(
        self,
        grid: CartesianGrid,
        axis: str = "z",
        at_kpc: float = 0.0,
        *,
        variable: str | None = None,
        **interpolation: Any,
    ) -> xr.DataArray:
        """Every sample in a plane; see `crdist.slice_plane`."""
        from crdist_postproc.lazy import slice_plane

        return slice_plane(self._array(variable), grid, _axis(axis), at_kpc, **interpolation)

    def project(
        self, grid: CartesianGrid, axis: str = "z", *, variable: str | None = None, **interpolation: Any
    ) -> xr.DataArray:
        """Every sample integrated along an axis of a Cartesian grid; see `crdist.project`."""
        from crdist_postproc.lazy import project

        return project(self._array(variable), grid, _axis(axis), **interpolation)

    def sky(
        self, distance: tuple[float, float] | None = None, *, variable: str | None = None, **options: Any
    ) -> xr.DataArray:
        """Every sample integrated along each line of sight; see `crdist_postproc.analysis.sight.sky`."""
        from crdist_postproc.analysis.sight import sky

        return sky(self._array(variable), distance, **options)

    def shell(self, at_kpc: float, *, variable: str | None = None) -> xr.DataArray:
        """Every sample in the shell that contains a distance; see `crdist_postproc.analysis.sight.shell`."""
        from crdist_postproc.analysis.sight import shell

        return shell(self._array(variable), at_kpc)

    def profile(
        self,
        frame: Frame,
        bins: tuple[float, float, float] = (0.0, 16.0, 1.0),
        *,
        variable: str | None = None,
        **options: Any,
    ) -> xr.DataArray:
        """Every sample's mean over rings about the centre; see `crdist_postproc.analysis.profiles.radial_profile`."""
        from crdist_postproc.analysis.profiles import radial_profile

        return radial_profile(self._array(variable), frame, bins, **options)

    def vertical_profile(
        self,
        frame: Frame,
        ring: tuple[float, float] = (8.0, 9.0),
        bins: tuple[float, float, float] = (-3.0, 3.0, 0.1),
        *,
        variable: str | None = None,
        **options: Any,
    ) -> xr.DataArray:
        """Every sample's mean at heights in a ring; see `crdist_postproc.analysis.profiles.vertical_profile`."""
        from crdist_postproc.analysis.profiles import vertical_profile

        return vertical_profile(self._array(variable), frame, ring, bins, **options)

    def query(self, coords: Any, *, variable: str | None = None, **options: Any) -> xr.DataArray:
        """The field at points; see `crdist_postproc.query.query`."""
        from crdist_postproc.query import query

        return query(self._array(variable), coords, **options)

    def point_map(self, *, variable: str | None = None, **options: Any) -> PointMap:
        """The field read into memory and kept ready for many queries; see `crdist_postproc.point_map.PointMap`."""
        from crdist_postproc.point_map import PointMap

        return PointMap(self._array(variable), **options)

    def along(self, *way: Any, variable: str | None = None, **options: Any) -> xr.DataArray:
        """The field along a ray or a path; see `crdist_postproc.rays.along`."""
        from crdist_postproc.rays import along

        return along(self._array(variable), *way, **options)

    def at_cells_of(self, other: xr.DataArray, *, variable: str | None = None, **interpolation: Any) -> xr.DataArray:
        """The samples on another native grid; see `crdist_postproc.analysis.comparison.at_cells_of`."""
        from crdist_postproc.analysis.comparison import at_cells_of

        return at_cells_of(self._array(variable), other, **interpolation)

    def on_grid_of(self, other: xr.DataArray, *, variable: str | None = None, **options: Any) -> xr.DataArray:
        """Means over another native grid's cells, which keep columns; see `analysis.native_regrid.on_grid_of`."""
        from crdist_postproc.analysis.native_regrid import on_grid_of

        return on_grid_of(self._array(variable), other, **options)

    def compare(self, other: xr.DataArray, *, variable: str | None = None, **interpolation: Any) -> xr.Dataset:
        """Difference from another posterior in sigma; see `crdist_postproc.analysis.comparison.compare`."""
        from crdist_postproc.analysis.comparison import compare

        return compare(self._array(variable), other, **interpolation)

    # over samples

    def mean(self, *, variable: str | None = None) -> xr.DataArray:
        """Mean over samples, float64."""
        from crdist_postproc.analysis import over_samples

        return over_samples.mean(self._array(variable))

    def std(self, *, variable: str | None = None) -> xr.DataArray:
        """Standard deviation over samples (ddof = 1), float64."""
        from crdist_postproc.analysis import over_samples

        return over_samples.std(self._array(variable))

    def quantile(self, levels: float | Sequence[float], *, variable: str | None = None) -> xr.DataArray:
        """Quantiles over samples; see `crdist_postproc.analysis.over_samples.quantile`."""
        from crdist_postproc.analysis import over_samples

        return over_samples.quantile(self._array(variable), levels)

    def significance(self, *, variable: str | None = None) -> xr.DataArray:
        """Mean / std over samples; `statistics` has its own error, too."""
        from crdist_postproc.analysis import over_samples

        return over_samples.significance(self._array(variable))

    def statistics(self, *, variable: str | None = None) -> xr.Dataset:
        """Mean, std, significance and its own error; see `crdist_postproc.analysis.over_samples.statistics`."""
        from crdist_postproc.analysis import over_samples

        return over_samples.statistics(self._array(variable))

    def where_significant(self, threshold: float, *, variable: str | None = None) -> xr.DataArray:
        """The samples where mean / std reaches a threshold; see `over_samples.where_significant`."""
        from crdist_postproc.analysis import over_samples

        return over_samples.where_significant(self._array(variable), threshold)

    # units, frames, stores

    def convert(self, units: str | None = None, *, variable: str | None = None, **energies: Any) -> xr.DataArray:
        """In another unit, or protons at another energy; see `crdist_postproc.analysis.conversion.convert`."""
        from crdist_postproc.analysis.conversion import convert

        return convert(self._array(variable), units, **energies)

    def quantity(self, *, variable: str | None = None) -> Quantity:
        """The values as an astropy Quantity; computes them."""
        from crdist_postproc.analysis.conversion import quantity

        return quantity(self._array(variable))

    def to_frame(self, frame: Frame, *, variable: str | None = None) -> xr.DataArray:
        """With coordinates in a Cartesian frame; see `crdist_postproc.analysis.conversion.to_frame`."""
        from crdist_postproc.analysis.conversion import to_frame

        return to_frame(self._array(variable), frame)

    def save(self, path: str | Path, *, variable: str | None = None, **record: Any) -> PosteriorHeader:
        """Write the samples as a posterior store, shard by shard; see `crdist_postproc.analysis.saving.save`."""
        from crdist_postproc.analysis.saving import save

        return save(self._array(variable), path, **record)


@xr.register_dataarray_accessor("crdist")
class SamplesAccessor(_Samples):
    """Samples of a field, or what was computed from them.

    Parameters
    ----------
    array : DataArray
        A variable of `crdist.open_posterior`, or anything computed from one that keeps its coordinates.
    """

    def __init__(self, array: xr.DataArray) -> None:
        self._given = array

    def _array(self, variable: str | None) -> xr.DataArray:
        if variable is not None:
            raise SchemaError(f"variable {variable!r} is chosen of a Dataset; this is the array {self._given.name!r}")
        return self._given


@xr.register_dataset_accessor("crdist")
class PosteriorAccessor(_Samples):
    """A posterior store; its methods take the store's main quantity.

    Parameters
    ----------
    dataset : Dataset
        Of `crdist.open_posterior`.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def _array(self, variable: str | None) -> xr.DataArray:
        names = ", ".join(map(str, self._dataset.data_vars))
        if variable is None:
            variable = self._dataset.attrs.get("main_quantity")
            if variable not in self._dataset:
                raise SchemaError(
                    "this Dataset does not say which variable is its main quantity; choose one of them: "
                    f"variable='...' of {names}"
                )
        if variable not in self._dataset.data_vars:
            raise SchemaError(f"this Dataset has no variable {variable!r}; it has {names}")
        return self._dataset[variable]

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


def _axis(axis: str) -> Any:
    if axis not in ("x", "y", "z"):
        raise SchemaError(f"axis must be 'x', 'y' or 'z', got {axis!r}")
    return axis


def _source(encoding: Any, kind: str) -> Path:
    source = encoding.get("source")
    if isinstance(source, str) and is_url(source):
        raise SchemaError(f"{source}: plots are drawn from a store on a disk; copy it here first")
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
