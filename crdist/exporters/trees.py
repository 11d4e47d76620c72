"""Labelled arrays in groups, written region by region: a Zarr store or a NetCDF file, which xarray opens alike."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import DependencyError

__all__ = ["NetcdfTree", "Tree", "WriteRegion", "ZarrTree", "put"]

WriteRegion = Callable[[tuple[slice, ...], npt.NDArray[Any]], None]


class Tree(Protocol):
    """Where groups of labelled arrays are written."""

    def describe(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Make a group, ``""`` for the root, with its attributes."""

    def create(
        self,
        group: str,
        name: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        attributes: Mapping[str, Any],
        chunks: tuple[int, ...] | None = None,
    ) -> WriteRegion:
        """Make an array, and say how to write into it."""

    def close(self) -> None:
        """Finish."""


def put(
    tree: Tree, group: str, name: str, dims: tuple[str, ...], values: npt.NDArray[Any], attributes: Mapping[str, Any]
) -> None:
    """Write a whole array at once."""
    write = tree.create(group, name, dims, values.shape, values.dtype, attributes)
    write(tuple(slice(0, size) for size in values.shape), values)


class ZarrTree:
    """A Zarr v3 store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = zarr.create_group(str(path))

    def describe(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Make a group with its attributes."""
        made = self._root.require_group(group) if group else self._root
        made.update_attributes(dict(attributes))

    def create(
        self,
        group: str,
        name: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        attributes: Mapping[str, Any],
        chunks: tuple[int, ...] | None = None,
    ) -> WriteRegion:
        """Make an array; a region to write is made of whole chunks."""
        kind = np.dtype(dtype)
        array = self._root.create_array(
            f"{group}/{name}" if group else name,
            shape=shape,
            dtype=kind,
            chunks=chunks or tuple(max(size, 1) for size in shape),
            # posterior noise does not compress, and any reader knows plain chunks
            compressors=None,
            fill_value=np.nan if kind.kind == "f" else None,
            dimension_names=dims,
            attributes=dict(attributes),
            config={"write_empty_chunks": True},
        )

        def write(region: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
            array[region] = values

        return write

    def close(self) -> None:
        """Put the metadata of all arrays where readers look first."""
        with warnings.catch_warnings():
            # zarr warns that other readers of Zarr v3 may not know consolidated metadata; they read the arrays' own
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(str(self._path))


class NetcdfTree:
    """A NetCDF-4 file.

    Raises
    ------
    DependencyError
        If h5netcdf, which writes it, is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import h5netcdf  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            raise DependencyError(
                "NetCDF files are written by h5netcdf, which is not installed; install it, or write a store whose "
                "name ends in .zarr"
            ) from error
        with ExitStack() as stack:
            self._bytes = stack.enter_context(_FailSafeFile(path, "x+"))
            self._file: Any = stack.enter_context(h5netcdf.File(self._bytes, "w"))
            self._stack = stack.pop_all()

    def describe(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Make a group with its attributes; what NetCDF has no type for is JSON."""
        made = self._group(group)
        for key, value in attributes.items():
            made.attrs[key] = _plain(value)

    def create(
        self,
        group: str,
        name: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        attributes: Mapping[str, Any],
        chunks: tuple[int, ...] | None = None,
    ) -> WriteRegion:
        """Make an array; flags are stored as bytes, which xarray knows how to read."""
        made = self._group(group)
        for dim, size in zip(dims, shape, strict=True):
            if dim not in made.dimensions:
                made.dimensions[dim] = size
        kind = np.dtype(dtype)
        flags = kind.kind == "b"
        variable = made.create_variable(name, dims, "i1" if flags else kind, chunks=chunks)
        for key, value in attributes.items():
            variable.attrs[key] = _plain(value)
        if flags:
            variable.attrs["dtype"] = "bool"

        def write(region: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
            variable[region] = values.astype("i1") if flags else values
            self._bytes.check()

        return write

    def close(self) -> None:
        """Close the file."""
        self._stack.close()
        self._bytes.check()

    def _group(self, name: str) -> Any:
        if not name:
            return self._file
        return self._file.groups[name] if name in self._file.groups else self._file.create_group(name)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


class _FailSafeFile(FileIO):
    """A file for HDF5 that keeps a failed write to itself, and later ones: HDF5 crashes the process on them.

    `check` tells of the failure.
    """

    _error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._error is None:
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self._error is None:
                return super().truncate(size)
        except OSError as error:
            self._error = error
        return size or 0

    def check(self) -> None:
        """Raise the error of the first write that failed."""
        if self._error is not None:
            raise self._error
