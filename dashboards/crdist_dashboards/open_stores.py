"""Products stores that this process holds open: what they contain, and whether they have changed."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import CrdistError, SchemaError
from crdist.frames import Frame
from crdist.schema import PRODUCTS_SCHEMA, Variable, open_group
from crdist.sharded_array import ShardedArray, sharded_array

__all__ = ["GridAxis", "OpenStore", "ProductInfo", "Selection", "array_dims", "open_store", "read_array"]

Array = npt.NDArray[Any]
Selection = int | slice

ADVICE = "run the product again or restore the file"
"""What to do about a damaged file."""

MAX_STORES = 64
"""Stores that are held open."""

STATISTICS = ("mean", "std", "significance", "significance_error", "coverage")


@dataclass(frozen=True, slots=True)
class GridAxis:
    """Voxels along an axis: evenly spaced."""

    name: str
    n: int
    lower: float
    """Outer edge of the first voxel, kpc."""
    upper: float
    units: str = "kpc"

    @property
    def step(self) -> float:
        """Width of a voxel."""
        return (self.upper - self.lower) / self.n

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Centres of the voxels, shape (n,)."""
        return np.asarray(self.lower + (np.arange(self.n) + 0.5) * self.step, dtype=np.float64)

    def index(self, place: float) -> int | None:
        """The voxel that holds a place; the outermost edge belongs to the last one, None outside."""
        if not self.lower <= place <= self.upper:
            return None
        return min(int((place - self.lower) / self.step), self.n - 1)


@dataclass(frozen=True, slots=True)
class ProductInfo:
    """What a product is, without its values."""

    name: str
    kind: str
    """``slice``, ``projection``, ``volume``, ``sky``, ``radial`` or ``vertical``."""
    axis: str | None
    """Axis that a slice lies across or that a projection runs along."""
    at_kpc: float | None
    """Place of a slice on its axis."""
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    units: str
    """Unit of the mean."""
    n_sample: int
    statistics: tuple[str, ...]
    """What may be asked for: stored, derived from what is stored, quantiles as ``q16``; ``sample`` with samples."""
    has_samples: bool
    quantiles: tuple[float, ...]
    freedom: int | None
    """Degrees of freedom of the variance, where the store says it."""
    axes: tuple[GridAxis, ...] = ()
    """Of a product on a Cartesian grid, in the order of `dims`."""
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    variables: tuple[str, ...] = ()
    """Names of the arrays that are stored."""

    @property
    def extents(self) -> Mapping[str, tuple[float, float]]:
        """Outer edges along each axis, kpc."""
        return {axis.name: (axis.lower, axis.upper) for axis in self.axes}

    def grid_axis(self, name: str) -> GridAxis:
        """An axis by its name.

        Raises
        ------
        SchemaError
            If the product has no such axis.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        has = ", ".join(axis.name for axis in self.axes) or "none"
        raise SchemaError(f"product {self.name} ({self.kind}) has no axis {name!r}; it has {has}")


@dataclass(slots=True)
class OpenStore:
    """A store that this process holds open."""

    identity: tuple[int, ...]
    """Of the file that its metadata come from."""
    arrays: Mapping[str, zarr.Array[Any]]
    sharded: Mapping[str, ShardedArray]
    """Those of `arrays` that are read without Zarr."""
    attrs: Mapping[str, Any]
    frame: Frame
    quantity: Variable
    n_sample: int
    status: Literal["running", "complete"]
    products: Mapping[str, ProductInfo]
    growth: tuple[int, float] = (0, 0.0)
    """Of a running store: how many blocks there were at the last look, and when the latest came."""


_STORES: OrderedDict[Path, OpenStore] = OrderedDict()
_LOCK = threading.Lock()


def open_store(path: Path, *, look: bool = False) -> OpenStore:
    """The store of a path, opened once per process, and anew where its root has changed.

    Parameters
    ----------
    path : Path
    look : bool
        Whether to look for new blocks, too.

    Raises
    ------
    SchemaError
        If it is gone, damaged, or no products store.
    """
    key = path.absolute()
    identity = _identity(path)
    with _LOCK:
        held = _STORES.get(key)
        if held is None or held.identity != identity:
            held = _open(path, identity)
            look = True
        if look:
            growth = _growth(path) if held.status == "running" else (0, 0.0)
            if growth != held.growth:
                held.growth = growth
        _STORES[key] = held
        _STORES.move_to_end(key)
        while len(_STORES) > MAX_STORES:
            _STORES.popitem(last=False)
        return held


def _identity(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path / "zarr.json")
    except OSError as error:
        if not path.exists():
            raise SchemaError(f"{path}: no such store (any more)") from error
        raise SchemaError(f"{path}: not a Zarr store of crdist: its zarr.json cannot be read") from error
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _growth(path: Path) -> tuple[int, float]:
    """How many blocks a running store has, and when the last came."""
    done = path.with_name(path.name + ".run") / "done"
    # a store that was copied without the folder beside it still shows its files
    folders = [done] if done.is_dir() else [path]
    count, latest = 0, 0.0
    for folder in folders:
        for place, _, files in os.walk(folder):
            count += len(files)
            latest = max(latest, os.stat(place).st_mtime)
    return count, latest


def _open(path: Path, identity: tuple[int, ...]) -> OpenStore:
    root = open_group(path, PRODUCTS_SCHEMA)
    attrs: Mapping[str, Any] = root.attrs.asdict()
    try:
        quantity = dict(attrs["quantity"])
        name = str(quantity.get("name", ""))
        variable = Variable(name, str(quantity.get("units", "")), str(quantity.get("long_name") or name))
        frame, n_sample = Frame.from_dict(dict(attrs["frame"])), int(attrs["n_sample"])
        members = dict(root.members(max_depth=None))
        arrays = {key: item for key, item in members.items() if isinstance(item, zarr.Array)}
        groups = {key: item for key, item in members.items() if isinstance(item, zarr.Group) and "kind" in item.attrs}
        products = {key: _info(path, key, groups[key], arrays, n_sample) for key in sorted(groups)}
    except CrdistError as error:
        raise SchemaError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"{path}: its attributes lack or garble {error}; make the store anew") from error
    except Exception as error:  # zarr raises many kinds for metadata that are damaged
        raise SchemaError(f"{path}: cannot be opened ({error}); make the store anew") from error
    status: Literal["running", "complete"] = "complete" if attrs.get("status") == "complete" else "running"
    quick = {name: sharded_array(array, path / name, ADVICE) for name, array in arrays.items()}
    sharded = {name: array for name, array in quick.items() if array is not None}
    return OpenStore(identity, arrays, sharded, attrs, frame, variable, n_sample, status, products)


def _info(
    path: Path, name: str, group: zarr.Group, arrays: Mapping[str, zarr.Array[Any]], n_sample: int
) -> ProductInfo:
    attrs: Mapping[str, Any] = group.attrs.asdict()
    start = name + "/"
    own = {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}
    if "mean" not in own:
        raise SchemaError(f"{path}: product {name} has no array 'mean'; make the store anew")
    mean = own["mean"]
    dims = array_dims(mean)
    kind = str(attrs["kind"])
    axes: tuple[GridAxis, ...] = ()
    if kind in ("slice", "projection", "volume"):
        axes = tuple(_axis(path, name, dim, own) for dim in dims)
    statistics = [item for item in STATISTICS if item in own]
    if kind == "volume" and "std" in own:
        statistics += [item for item in ("significance", "significance_error") if item not in own]
    levels: tuple[float, ...] = ()
    if "quantiles" in own and "quantile" in own:
        levels = tuple(
            float(level) for level in read_array(own["quantile"], (slice(None),), f"{path}: {name}/quantile")
        )
    statistics += [f"q{100 * level:g}" for level in levels]
    if "per_sample" in own:
        statistics.append("sample")
    return ProductInfo(
        name=name,
        kind=kind,
        axis=str(attrs["axis"]) if "axis" in attrs else None,
        at_kpc=float(attrs.get("at_kpc", 0.0)) if kind == "slice" else None,
        dims=dims,
        shape=tuple(mean.shape),
        units=str(mean.attrs.get("units", "")),
        n_sample=int(own["per_sample"].shape[-1]) if "per_sample" in own else int(attrs.get("n_sample", n_sample)),
        statistics=tuple(statistics),
        has_samples="per_sample" in own,
        quantiles=levels,
        freedom=int(attrs["degrees_of_freedom"]) if "degrees_of_freedom" in attrs else None,
        axes=axes,
        attrs=attrs,
        variables=tuple(own),
    )


def _axis(path: Path, product: str, name: str, own: Mapping[str, zarr.Array[Any]]) -> GridAxis:
    if name not in own:
        raise SchemaError(f"{path}: product {product} has no coordinate {name!r}; make the store anew")
    centres = np.asarray(read_array(own[name], (slice(None),), f"{path}: {product}/{name}"), dtype=np.float64)
    steps = np.diff(centres)
    if not np.isfinite(centres).all() or (steps.size and not (steps > 0).all()):
        raise SchemaError(f"{path}: {product}/{name} does not increase from voxel to voxel; make the store anew")
    if steps.size and not np.allclose(steps, steps.mean(), rtol=1e-4):
        raise SchemaError(f"{path}: {product}/{name} is not evenly spaced; maps need an even grid")
    half = float(steps.mean()) / 2 if steps.size else 0.5
    units = str(own[name].attrs.get("units", "kpc"))
    # edges of a grid are round numbers; centres carry rounding errors
    return GridAxis(
        name, centres.size, round(float(centres[0]) - half, 12), round(float(centres[-1]) + half, 12), units
    )


def array_dims(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Names of an array's dimensions."""
    names = getattr(array.metadata, "dimension_names", None)
    return tuple(str(name) for name in names) if names else ()


def read_array(array: zarr.Array[Any], index: tuple[Selection, ...], what: str) -> Array:
    """Part of an array.

    Raises
    ------
    SchemaError
        If it cannot be read, with ``what`` as its name.
    """
    try:
        return np.asarray(array[index])
    except CrdistError:
        raise
    except Exception as error:  # zarr and its codecs raise many kinds for a chunk that is damaged
        text = " ".join(str(error).split()) or type(error).__name__
        raise SchemaError(f"{what} cannot be read: {text[:160]}; run the product again or restore the file") from error
