"""Products stores as the views read them: plane by plane, without Dask or xarray, through one cache.

A store may grow while it is looked at, be damaged or vanish: that is one clear line for whoever asked, and no more.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import SchemaError
from crdist.frames import Frame
from crdist.schema import Variable
from crdist_dashboards.lru import PLANES
from crdist_dashboards.open_stores import ADVICE, GridAxis, ProductInfo, Selection, array_dims, open_store, read_array

__all__ = ["GridAxis", "ProductInfo", "ProductsSource"]

Array = npt.NDArray[Any]

RUNNING_SECONDS = 5.0
"""How long a plane of a store that is still written is taken for current."""

ALL_SAMPLES_BYTES = 64 * 1024**2
"""Samples of a product up to this size are read together, as they lie together on the disk."""

BY_PLANE = "_by_plane"


class ProductsSource:
    """A products store to take planes and lines from; cheap to make, safe to share between threads.

    Parameters
    ----------
    path : path
        A products store, complete or still being written.

    Raises
    ------
    SchemaError
        If it is none, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._store = open_store(self.path)
        self._seen = (self._store.identity, self._store.growth)

    @property
    def frame(self) -> Frame:
        """The frame of every product."""
        return self._store.frame

    @property
    def quantity(self) -> Variable:
        """The quantity that the products are made of: name, units, long_name."""
        return self._store.quantity

    @property
    def n_sample(self) -> int:
        """Number of posterior samples."""
        return self._store.n_sample

    @property
    def status(self) -> Literal["running", "complete"]:
        """Whether every block is there."""
        return self._store.status

    @property
    def version(self) -> tuple[Hashable, ...]:
        """Changes when what is read may have changed: a key for what is derived from it."""
        return self.path.absolute(), self._store.identity, self._store.growth

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Root attributes: recipe, provenance."""
        return self._store.attrs

    @property
    def products(self) -> tuple[ProductInfo, ...]:
        """What the store holds, in the order of its names."""
        return tuple(self._store.products.values())

    def info(self, product: str) -> ProductInfo:
        """What is known of a product.

        Raises
        ------
        SchemaError
            If the store has no such product.
        """
        known = self._store.products
        if product not in known:
            near = difflib.get_close_matches(str(product), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SchemaError(f"{self.path}: no product {product!r}; it has {', '.join(known) or 'none'}{hint}")
        return known[product]

    def refresh(self) -> bool:
        """Look whether the store has changed; what is read from now on is current.

        Returns
        -------
        bool
            Whether it has, since this source last looked: more blocks, complete, or made anew.

        Raises
        ------
        SchemaError
            If it is gone or damaged.
        """
        self._store = open_store(self.path, look=True)
        seen, self._seen = self._seen, (self._store.identity, self._store.growth)
        return seen != self._seen

    def read(self, product: str, variable: str, **selection: Selection) -> Array:
        """Part of a stored array, through the cache that all sessions share.

        Parameters
        ----------
        product, variable : str
            As the store names them.
        **selection : int or slice
            By dimension; an int takes the dimension away. What is not named is read whole.

        Returns
        -------
        ndarray
            Read-only, in the order of the stored dimensions; NaN where a running store has no block yet.

        Raises
        ------
        SchemaError
            If there is no such array, or it cannot be read.
        """
        self._store = store = open_store(self.path)
        info = self.info(product)
        if variable not in info.variables:
            raise SchemaError(f"{self.path}: product {product} has no {variable!r}; it has {', '.join(info.variables)}")
        name = f"{product}/{variable}"
        array = store.arrays[name]
        dims = array_dims(array)
        index = tuple(selection.get(dim, slice(None)) for dim in dims)
        # slices are not hashable before Python 3.12
        key = tuple((item.start, item.stop, item.step) if isinstance(item, slice) else item for item in index)
        running = store.status == "running"

        def from_disk() -> Array:
            quick = store.sharded.get(name)
            if quick is not None and all(isinstance(item, int) or item.step in (None, 1) for item in index):
                return quick.read(index, complete=not running)
            if not running:
                _check_files(array, index, self.path / name)
            return read_array(array, index, f"{self.path}: {name}")

        seconds = RUNNING_SECONDS if running else float("inf")
        return PLANES.get((*self.version, name, key), from_disk, seconds=seconds)

    def plane(
        self, product: str, variable: str, axis: str | None = None, index: int | None = None, **selection: Selection
    ) -> Array:
        """A stored array of a slice or projection, or of one plane of a volume.

        Parameters
        ----------
        product : str
            Of kind slice, projection or volume.
        variable : str
            ``mean``, ``std``, ``coverage`` ..., as stored.
        axis : {"x", "y", "z"}, optional
            Axis that the plane of a volume lies across.
        index : int, optional
            Its voxel on that axis.
        **selection : int or slice
            Part of the plane, as for `read`.

        Returns
        -------
        ndarray, shape (across, up)
            Read-only; the axes in the order in which the product has them.
        """
        info = self.info(product)
        if info.kind != "volume":
            return self.read(product, variable, **selection)
        if axis is None or index is None:
            raise SchemaError(f"{self.path}: a plane of the volume {product} needs an axis and a place on it")
        laid_out = variable + BY_PLANE
        chosen = laid_out if axis == "z" and laid_out in info.variables else variable
        return self.read(product, chosen, **{**selection, axis: index})

    def sample_plane(self, product: str, sample: int, axis: str | None = None, index: int | None = None) -> Array:
        """One sample of a slice or projection, or of one plane of a volume.

        Raises
        ------
        SchemaError
            If the product keeps no samples, or not that one.
        """
        info = self.info(product)
        self._check_sample(info, sample)
        if info.kind == "volume":
            if axis is None or index is None:
                raise SchemaError(f"{self.path}: a plane of the volume {product} needs an axis and a place on it")
            return self.read(product, "per_sample", **{axis: index, "sample": sample})
        if 4 * int(np.prod(info.shape)) * info.n_sample <= ALL_SAMPLES_BYTES:
            return np.asarray(self.read(product, "per_sample")[..., sample])
        return self.read(product, "per_sample", sample=sample)

    def _check_sample(self, info: ProductInfo, sample: int) -> None:
        if not info.has_samples:
            raise SchemaError(f"{self.path}: product {info.name} keeps no samples; ask for per_sample in the recipe")
        if not 0 <= sample < info.n_sample:
            raise SchemaError(f"{self.path}: product {info.name} has samples 0 to {info.n_sample - 1}, got {sample}")


def _check_files(array: zarr.Array[Any], index: tuple[Selection, ...], folder: Path) -> None:
    """Refuse to show a lost file of a complete store as masked, as Zarr would."""
    sizes = array.shards or array.chunks
    ranges = []
    for item, n, size in zip(index, array.shape, sizes, strict=True):
        start, stop, _ = (item, item + 1, 1) if isinstance(item, int) else item.indices(n)
        ranges.append(range(start // size, -(-stop // size)))
    for place in itertools.product(*ranges):
        file = folder.joinpath("c", *map(str, place))
        if not file.exists():
            raise SchemaError(f"{file} is missing from a complete store; {ADVICE}")
