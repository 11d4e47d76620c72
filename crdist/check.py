"""Check a store: that it is what the schema says, and that every chunk of every array is there and decodes.

Every chunk carries a checksum, so a flipped bit is an error on reading. What fails is named down to the
smallest part that can be lost alone: the file and the chunk inside it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from crdist.errors import CrdistError, SchemaError
from crdist.frames import Frame
from crdist.schema import POSTERIOR_SCHEMA, open_group, read_posterior_header
from crdist.units import parse_unit

__all__ = ["Problem", "check_store"]

READ_BYTES_MAX = 64 * 1024**2
"""Bytes that are decoded at once; a larger shard is read in parts."""

ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that a shard does not hold (Zarr v3, sharding codec)."""

PRODUCT_KINDS = ("slice", "projection", "sky", "radial", "vertical", "volume")
PRODUCT_ROOT_KEYS = ("status", "quantity", "n_sample", "frame", "recipe", "provenance")
STATISTICS = ("mean", "std")
"""What every product has."""

INCOMPLETE = "incomplete"
"""How the problem of an array begins whose run has not ended."""

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a store.

    Examples
    --------
    >>> print(Problem("C", "C/c/0/1/0", (0, 3, 0), "the checksum differs"))
    C, file C/c/0/1/0, inner chunk (0, 3, 0): the checksum differs
    """

    array: str
    """Path of the array or group in the store; empty for the store itself."""
    file: str | None
    """File, relative to the store, that is missing or damaged; None where no file is meant."""
    inner: Index | None
    """Index of the chunk inside a shard; None if the whole file or no file is meant."""
    what: str
    """What is wrong and, where there is one, the way out."""

    def __str__(self) -> str:
        place = [self.array or "store"]
        if self.file is not None:
            place.append(f"file {self.file}")
        if self.inner is not None:
            place.append(f"inner chunk {self.inner}")
        return f"{', '.join(place)}: {self.what}"


def check_store(path: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Check a posterior or products store from its attributes to its last chunk.

    Everything is read once, shard by shard; memory stays below some 200 MB whatever the size of the store.

    Parameters
    ----------
    path : path
        Folder of the store.
    progress : callable, optional
        Called with (files checked, files in all).

    Returns
    -------
    list of Problem
        Empty if the store is sound.

    Raises
    ------
    SchemaError
        If there is no such folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise SchemaError(f"{folder}: no such store")
    try:
        root = open_group(folder)
    except CrdistError as error:
        return [_schema_problem(folder, error)]
    is_posterior = root.attrs["schema"] == POSTERIOR_SCHEMA
    running = not is_posterior and root.attrs.get("status") == "running"
    problems = _check_posterior(folder, root) if is_posterior else _check_products(root)
    for name, _ in root.groups():
        problems += _check_metadata_file(folder, name)
    arrays = sorted(
        ((name, member) for name, member in root.members(max_depth=None) if isinstance(member, zarr.Array)),
        key=lambda item: item[0],
    )
    total = sum(math.prod(_file_grid(array)) for _, array in arrays)
    done = 0
    for name, array in arrays:
        problems += _check_metadata_file(folder, name)
        n_file, missing = math.prod(_file_grid(array)), []
        for index in np.ndindex(_file_grid(array)):
            file = f"{name}/{array.metadata.encode_chunk_key(index)}"
            if (folder / file).is_file():
                problems += _check_file(folder, name, array, file, index)
            else:
                missing.append(file)
            done += 1
            if progress is not None:
                progress(done, total)
        if missing and running:
            problems.append(Problem(name, None, None, f"{INCOMPLETE}: {n_file - len(missing)} of {n_file} blocks"))
        else:
            problems += [Problem(name, file, None, "the file is missing") for file in missing]
    return problems


def _check_file(folder: Path, name: str, array: zarr.Array[Any], file: str, index: Index) -> list[Problem]:
    """Decode one file: at once if it is small, and chunk by chunk where that fails."""
    outer = array.shards or array.chunks
    start = tuple(i * size for i, size in zip(index, outer, strict=True))
    stop = tuple(min(low + size, n) for low, size, n in zip(start, outer, array.shape, strict=True))
    if array.shards is None:
        error = _read_error(array, start, stop)
        return [] if error is None else [Problem(name, file, None, _damaged(error))]
    grid = tuple(-(-(high - low) // size) for low, high, size in zip(start, stop, array.chunks, strict=True))
    n_chunk = math.prod(grid)
    if (folder / file).stat().st_size == 0:
        # zarr takes an empty shard for one that holds nothing and gives its readers the fill value
        return [Problem(name, file, None, "the file is empty")]
    # A shard leaves out chunks without an error, and readers then see the fill value.
    problems = [
        Problem(name, file, inner, "the chunk is missing from its shard")
        for inner in _absent_chunks(folder / file, array, grid)
    ]

    def read_error(box: tuple[slice, ...]) -> Exception | None:
        low = tuple(s + part.start * size for s, part, size in zip(start, box, array.chunks, strict=True))
        high = tuple(s + part.stop * size for s, part, size in zip(start, box, array.chunks, strict=True))
        return _read_error(array, low, tuple(map(min, high, stop)))

    damaged: list[tuple[Index, Exception]] = []
    for group in _groups(grid, array):
        if read_error(group) is None:
            continue
        for inner in itertools.product(*(range(part.start, part.stop) for part in group)):
            error = read_error(tuple(slice(i, i + 1) for i in inner))
            if error is not None:
                damaged.append((inner, error))
    if len(damaged) == n_chunk and len({str(error) for _, error in damaged}) == 1:
        # What all chunks share is the index at the shard's end: a cut file, most often.
        return [Problem(name, file, None, f"none of its chunks ({n_chunk}) can be read; {_damaged(damaged[0][1])}")]
    return problems + [Problem(name, file, inner, _damaged(error)) for inner, error in damaged]


def _read_error(array: zarr.Array[Any], start: Index, stop: Index) -> Exception | None:
    try:
        array[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))]
    except MemoryError:
        raise
    except Exception as error:  # each codec raises its own kind
        return error
    return None


def _damaged(error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"damaged ({reason})"


def _groups(grid: Index, array: zarr.Array[Any]) -> Iterator[tuple[slice, ...]]:
    """Boxes of inner chunks that together cover a shard and each decode to at most `READ_BYTES_MAX`."""
    left = max(1, READ_BYTES_MAX // (math.prod(array.chunks) * array.dtype.itemsize))
    sizes = []
    for n in reversed(grid):
        size = min(n, left)
        sizes.append(size)
        # a box that is cut along one axis is one chunk thick along the slower ones
        left = left // n if size == n else 1
        left = max(1, left)
    steps = sizes[::-1]
    for corner in itertools.product(*(range(0, n, step) for n, step in zip(grid, steps, strict=True))):
        yield tuple(slice(c, min(c + step, n)) for c, step, n in zip(corner, steps, grid, strict=True))


def _absent_chunks(file: Path, array: zarr.Array[Any], grid: Index) -> list[Index]:
    """Chunks that a shard's index says it does not hold; none if the index itself cannot be read."""
    codecs: Any = array.metadata.to_dict()["codecs"]
    settings = codecs[0].get("configuration", {}) if codecs[0]["name"] == "sharding_indexed" else None
    if settings is None or [codec["name"] for codec in settings["index_codecs"]] != ["bytes", "crc32c"]:
        return []
    assert array.shards is not None
    per_shard = tuple(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    n_bytes = 16 * math.prod(per_shard)
    if file.stat().st_size < n_bytes + 4:
        return []
    with file.open("rb") as stream:
        if settings.get("index_location", "end") == "end":
            stream.seek(-(n_bytes + 4), 2)
        index = np.frombuffer(stream.read(n_bytes), dtype="<u8").reshape(*per_shard, 2)
    absent = np.argwhere((index == ABSENT).all(axis=-1))
    # chunks beyond the edge of the array are never written
    return [tuple(int(i) for i in inner) for inner in absent if all(i < n for i, n in zip(inner, grid, strict=True))]


def _file_grid(array: zarr.Array[Any]) -> Index:
    """Number of files along each axis."""
    outer = array.shards or array.chunks
    return tuple(-(-n // size) for n, size in zip(array.shape, outer, strict=True))


def _check_metadata_file(folder: Path, name: str) -> list[Problem]:
    """Readers go by the root's consolidated copy, writers by the array's own file."""
    file = f"{name}/zarr.json"
    try:
        json.loads((folder / file).read_bytes())
    except FileNotFoundError:
        return [Problem(name, file, None, "the file is missing")]
    except ValueError as error:
        return [Problem(name, file, None, f"damaged ({error})")]
    return []


def _schema_problem(folder: Path, error: Exception) -> Problem:
    return Problem("", None, None, str(error).removeprefix(f"{folder}: "))


def _check_posterior(folder: Path, root: zarr.Group) -> list[Problem]:
    try:
        header = read_posterior_header(folder)
    except (CrdistError, ValueError, AttributeError) as error:
        return [_schema_problem(folder, error)]
    problems = []
    for name, units in [(item.name, item.units) for item in header.variables] + [
        (item.name, item.units) for item in header.derived
    ]:
        problems += _check_units(name, units)
    try:
        header.resolve(header.main)
        for derived in header.derived:
            for term, _ in derived.terms:
                header.resolve(term)
    except CrdistError as error:
        problems.append(_schema_problem(folder, error))
    grid = header.grid
    expected: dict[str, npt.NDArray[Any]] = {
        "cell_ids": np.arange(grid.n_pixel),
        "distance": grid.centres,
        "distance_edges": grid.edges,
        "sample": np.arange(header.n_sample),
    }
    for name, values in expected.items():
        problems += _check_coordinate(root, name, values)
    scheme = {"grid_name": "healpix", "level": grid.level, "indexing_scheme": grid.ordering}
    cells = root.get("cell_ids")
    if isinstance(cells, zarr.Array):
        problems += _check_scheme("cell_ids", cells.attrs.asdict(), scheme)
    return problems


def _check_coordinate(root: zarr.Group, name: str, expected: npt.NDArray[Any]) -> list[Problem]:
    array = root.get(name)
    if not isinstance(array, zarr.Array):
        return [Problem(name, None, None, "the coordinate is missing")]
    try:
        values = np.asarray(array[...])
    except Exception:  # the walk over the chunks names what is damaged
        return []
    if values.shape != expected.shape:
        return [
            Problem(
                name,
                None,
                None,
                f"has shape {values.shape}, but the grid of the store needs {expected.shape}",
            )
        ]
    differ = np.flatnonzero(~np.isclose(values, expected, rtol=1e-12, atol=0.0))
    if differ.size:
        i = int(differ[0])
        return [Problem(name, None, None, f"value {i} is {values[i]}, but the grid of the store says {expected[i]}")]
    return []


def _check_scheme(name: str, attrs: Mapping[str, Any], expected: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem(name, None, None, f"attribute {key} = {attrs.get(key)!r}, expected {value!r}")
        for key, value in expected.items()
        if attrs.get(key) != value
    ]


def _check_units(name: str, units: Any) -> list[Problem]:
    if not isinstance(units, str):
        return [Problem(name, None, None, "attribute 'units' is missing")]
    try:
        parse_unit(units)
    except SchemaError as error:
        return [Problem(name, None, None, str(error))]
    return []


def _check_products(root: zarr.Group) -> list[Problem]:
    attrs: Mapping[str, Any] = root.attrs.asdict()
    problems = [
        Problem("", None, None, f"root attribute {key!r} is missing") for key in PRODUCT_ROOT_KEYS if key not in attrs
    ]
    status = attrs.get("status")
    if status == "running":
        problems.append(Problem("", None, None, f"{INCOMPLETE}: the run has not ended (status = 'running')"))
    elif "status" in attrs and status != "complete":
        problems.append(Problem("", None, None, f"attribute status = {status!r}, expected 'complete' or 'running'"))
    if "frame" in attrs:
        try:
            Frame.from_dict(attrs["frame"])
        except (CrdistError, TypeError) as error:
            problems.append(Problem("", None, None, f"attribute frame: {error}"))
    provenance = attrs.get("provenance")
    # kinds of installed packages, which need not be installed here
    others = provenance.get("plugins", {}) if isinstance(provenance, Mapping) else {}
    for name, group in root.groups():
        problems += _check_product(name, group, attrs.get("n_sample"), (*PRODUCT_KINDS, *others))
    return problems


def _check_product(name: str, group: zarr.Group, n_sample: Any, kinds: Sequence[str]) -> list[Problem]:
    kind = group.attrs.get("kind")
    if kind not in kinds:
        return [Problem(name, None, None, f"attribute kind = {kind!r}, expected one of {', '.join(kinds)}")]
    arrays = dict(group.arrays())
    problems = [Problem(name, None, None, f"variable {key!r} is missing") for key in STATISTICS if key not in arrays]
    sizes: dict[str, int] = {} if n_sample is None else {"sample": n_sample}
    for key, array in sorted(arrays.items()):
        # a number has no dims, which zarr writes as none at all
        dims: Any = array.metadata.to_dict().get("dimension_names") or ()
        place = f"{name}/{key}"
        if len(dims) != array.ndim:
            problems.append(Problem(place, None, None, f"has dims {dims}, expected one name for each of {array.ndim}"))
            continue
        for dim, n in zip(dims, array.shape, strict=True):
            if sizes.setdefault(dim, n) != n:
                problems.append(Problem(place, None, None, f"has {n} along {dim!r}, expected {sizes[dim]}"))
        # labels, such as numbers of cells and samples, have none
        if array.dtype.kind == "f":
            problems += _check_units(place, array.attrs.get("units"))
    return problems
