"""The products store: created whole and empty, filled block by block, declared complete at the end.

Every array is cut so that one block is one file. A block's files are flushed to the disk before its record is
written, so a block with a record is there whatever was killed, and one without is computed again, to the same bits.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from crdist.durable import flush_tree, remove_partial_files, write_durably
from crdist.errors import RunError, SchemaError
from crdist.schema import PRODUCTS_SCHEMA, SCHEMA_VERSION, open_group
from crdist.shard_files import has_plain_shards, shard_bytes
from crdist.store import consolidate, new_store, open_for_writing
from crdist_postproc.products.base import ArraySpec, Block, BlockResult, Coordinate, Product

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

__all__ = [
    "Partials",
    "RunFolder",
    "create_products",
    "declare_complete",
    "drop_left",
    "finished_blocks",
    "samples_begun_with",
    "write_block",
    "write_last_step",
    "write_strip",
]

Array = npt.NDArray[Any]
LAST_STEP = "last"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder beside a products store: records of finished blocks, log, recipe, plan, timings."""

    store: Path
    key: str = ""
    """Digest of recipe and source: a task that outlives its run must not answer for another run of the same name."""

    @property
    def path(self) -> Path:
        """``PRODUCTS.run`` beside the store."""
        return self.store.with_name(self.store.name + ".run")

    @property
    def done(self) -> Path:
        """Records of finished blocks."""
        return self.path / "done" / self.key

    @property
    def log(self) -> Path:
        """The run's log."""
        return self.path / "run.log"

    def record(self, product: str, block: str) -> Path:
        """The record of a block, or of a product's last step."""
        return self.done / _record_name(product, block)

    def recorded(self) -> frozenset[str]:
        """Names of all records, read at once."""
        return frozenset(os.listdir(self.done)) if self.done.exists() else frozenset()

    def prepare(self) -> None:
        """Create the folders."""
        self.done.mkdir(parents=True, exist_ok=True)

    def forget(self) -> None:
        """Remove the records of an earlier store of this name."""
        shutil.rmtree(self.path / "done", ignore_errors=True)
        self.prepare()

    def clean(self) -> None:
        """Remove what killed writers left half-written, here and in the store."""
        remove_partial_files(self.path)
        remove_partial_files(self.store)


def create_products(path: Path, products: Sequence[Product], attributes: Mapping[str, Any]) -> None:
    """Create a products store with every array in place and empty, under a name of its own until it is whole.

    Parameters
    ----------
    path : Path
        Folder to create.
    products : sequence of Product
        One group each.
    attributes : mapping
        Root attributes: frame, recipe, quantity, provenance; plain data.

    Raises
    ------
    StoreExistsError
        If the folder exists.
    """
    with new_store(path) as folder:
        # nobody sees the folder before it is whole: its hundreds of small files are made, written and flushed together
        files: dict[str, Buffer] = {}
        root = zarr.create_group(
            MemoryStore(files),
            attributes={
                "schema": PRODUCTS_SCHEMA,
                "schema_version": SCHEMA_VERSION,
                "status": "running",
                **attributes,
            },
        )
        for product in products:
            coordinates = product.coordinates()
            extra = [item.name for item in coordinates if item.name not in item.dims]
            group = root.create_group(
                product.name,
                attributes={
                    "kind": product.kind,
                    "quantity": product.quantity.name,
                    "n_sample": product.quantity.n_sample,
                    "degrees_of_freedom": product.quantity.freedom,
                    "frame": product.frame.to_dict(),
                    **product.attributes(),
                    **({"coordinates": " ".join(extra)} if extra else {}),
                },
            )
            for coordinate in coordinates:
                _create_coordinate(group, coordinate)
            for spec in product.arrays():
                _create_array(group, spec)
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.to_bytes())
        consolidate(folder)
        flush_tree(folder)


def write_block(folder: RunFolder, product: Product, block: Block, result: BlockResult) -> int:
    """Write the files of a block, then its record; return the number of bytes.

    Raises
    ------
    RunError
        If the block is not exactly one file of an array: a part of one would erase the rest.
    """
    n_bytes = 0
    for name, values in result.arrays.items():
        n_bytes += _write_region(folder.store, product, name, block, values)
    write_durably(folder.record(product.name, block.name), _pack(result.partial))
    return n_bytes


def write_strip(folder: RunFolder, product: Product, strip: Block, arrays: Mapping[str, Array]) -> int:
    """Write the files of a strip of the output, of which the last step makes several; return the number of bytes."""
    return sum(_write_region(folder.store, product, name, strip, values) for name, values in arrays.items())


def write_last_step(folder: RunFolder, product: Product, arrays: Mapping[str, Array]) -> None:
    """Write the arrays that needed all blocks of a product, then the record of that."""
    for name, values in arrays.items():
        stored = _open(folder.store, product.name, name)
        stored[...] = np.asarray(values, dtype=stored.dtype)
    write_durably(folder.record(product.name, LAST_STEP), _pack({}))


def drop_left(folder: RunFolder, product: Product) -> None:
    """Remove the sums that blocks left for the last step, which is done; their records stay."""
    for block in product.blocks():
        if product.left_bytes(block):
            write_durably(folder.record(product.name, block.name), _pack({}))


class Partials(Sequence[Mapping[str, Array]]):
    """What a product's blocks left, in their order; each array is read when it is asked for.

    Parameters
    ----------
    folder : RunFolder
    product : Product
    """

    def __init__(self, folder: RunFolder, product: Product) -> None:
        self._folder, self._product, self._blocks = folder, product, product.blocks()

    def __len__(self) -> int:
        return len(self._blocks)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Array]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Array]]: ...

    def __getitem__(self, index: int | slice) -> Mapping[str, Array] | Sequence[Mapping[str, Array]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _Left(self._folder.record(self._product.name, self._blocks[index].name))


class _Left(Mapping[str, Array]):
    """The arrays of a record."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> Array:
        with np.load(self._path) as record:
            return np.asarray(record[name])

    def __iter__(self) -> Iterator[str]:
        with np.load(self._path) as record:
            names = list(record.files)
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in list(self)


def finished_blocks(
    folder: RunFolder, product: Product, recorded: Collection[str] | None = None
) -> tuple[set[int], bool]:
    """The indices of the blocks that are done, and whether the last step is.

    A record counts if all its files are there, too, and not empty.

    Parameters
    ----------
    folder : RunFolder
    product : Product
    recorded : collection of str, optional
        What `RunFolder.recorded` says, where it is known already.
    """
    if recorded is None:
        recorded = folder.recorded()
    blocks = product.blocks()
    named = [block for block in blocks if _record_name(product.name, block.name) in recorded] if recorded else []
    files = _BlockFiles(folder.store, product)
    done = {block.index for block in named if _present(files.of(block))}
    last = _record_name(product.name, LAST_STEP) in recorded and _present(_last_files(folder.store, product))
    last = last and len(done) == len(blocks)
    if not last:
        # what the last step needs of them may have been removed by an earlier one, whose files are gone
        small = {block.index for block in named if _size(folder, product, block) < product.left_bytes(block)}
        done -= small
    return done, last


def declare_complete(path: Path) -> None:
    """Say in the root attributes that every block is there: one file, replaced in one rename."""
    root = path / "zarr.json"
    metadata = json.loads(root.read_text())
    metadata["attributes"]["status"] = "complete"
    write_durably(root, json.dumps(metadata, indent=2).encode())


def read_attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a products store.

    Raises
    ------
    SchemaError
        If it is something else.
    """
    return open_group(path, PRODUCTS_SCHEMA).attrs.asdict()


def samples_begun_with(path: Path) -> int | None:
    """Number of samples of a products store whose run is not complete; None where there is no such store."""
    try:
        attributes = read_attributes(path)
    except SchemaError:
        return None
    return int(attributes["n_sample"]) if attributes.get("status") == "running" else None


def _create_array(group: zarr.Group, spec: ArraySpec) -> None:
    group.create_array(
        spec.name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.inner_chunks or spec.chunks,
        shards=spec.chunks if spec.inner_chunks else None,
        compressors=[Crc32cCodec()],
        fill_value=np.nan,
        dimension_names=spec.dims,
        attributes={"units": spec.units, "long_name": spec.long_name},
        config={"write_empty_chunks": True},
    )


def _create_coordinate(group: zarr.Group, coordinate: Coordinate) -> None:
    array = group.create_array(
        coordinate.name,
        shape=coordinate.values.shape,
        dtype=coordinate.values.dtype,
        chunks=coordinate.values.shape,
        dimension_names=coordinate.dims,
        attributes=dict(coordinate.attrs),
        config={"write_empty_chunks": True},
    )
    array[...] = coordinate.values


def _write_region(store: Path, product: Product, name: str, block: Block, values: Array) -> int:
    stored = _open(store, product.name, name)
    # an array may have the product's dimensions in another order
    cut = dict(zip(product.dims, block.bounds, strict=False))
    dims = [str(dim) for dim in getattr(stored.metadata, "dimension_names", None) or ()]
    bounds = [cut.get(dim, (0, whole)) for dim, whole in zip(dims, stored.shape, strict=True)]
    for (start, stop), size, whole in zip(bounds, stored.shards or stored.chunks, stored.shape, strict=True):
        if start % size or stop != min(start + size, whole):
            raise RunError(
                f"{store}/{product.name}/{name}: block {block.name} covers {start} to {stop} of an axis of "
                f"{whole} that is "
                f"stored in files of {size}; a block must be exactly one file"
            )
    if has_plain_shards(stored):
        places = [str(start // size) for (start, _), size in zip(bounds, stored.shards or (), strict=True)]
        write_durably(store.joinpath(product.name, name, "c", *places), shard_bytes(stored, values).data)
    else:
        stored[tuple(slice(*bound) for bound in bounds)] = np.ascontiguousarray(values, dtype=stored.dtype)
    return values.size * stored.dtype.itemsize


def _record_name(product: str, block: str) -> str:
    return f"{product}--{block}.npz"


class _BlockFiles:
    """The files that blocks write: there may be a million of these, so what they share is made once.

    Parameters
    ----------
    store : Path
    product : Product
    """

    def __init__(self, store: Path, product: Product) -> None:
        self._product, self._dims = product, product.dims
        self._arrays = [
            (_chunks_folder(store, product, spec), list(zip(spec.dims, spec.chunks, strict=True)))
            for spec in product.arrays()
            if _is_cut(product, spec)
        ]

    def of(self, block: Block) -> list[str]:
        """Those of one block, if it writes."""
        return self.of_strip(block) if self._product.blocks_write(block) else []

    def of_strip(self, block: Block) -> list[str]:
        """Those of a block that writes, or of what the last step writes piece by piece."""
        starts = {dim: start for dim, (start, _) in zip(self._dims, block.bounds, strict=False)}
        return [
            os.path.join(folder, *(str(starts.get(dim, 0) // size) for dim, size in cut))
            for folder, cut in self._arrays
        ]


def _last_files(store: Path, product: Product) -> list[str]:
    """The files that the last step writes: arrays in one piece."""
    by_blocks = any(map(product.blocks_write, product.blocks()))
    strips = product.strips()
    files = _BlockFiles(store, product)
    whole = [
        os.path.join(_chunks_folder(store, product, spec), *("0" for _ in spec.shape))
        for spec in product.arrays()
        if not (by_blocks and _is_cut(product, spec))
    ]
    return [*whole, *(name for strip in strips for name in files.of_strip(strip))]


def _size(folder: RunFolder, product: Product, block: Block) -> int:
    """Of the record of a block; 0 where nothing is asked of it."""
    if not product.left_bytes(block):
        return 0
    return folder.record(product.name, block.name).stat().st_size


def _is_cut(product: Product, spec: ArraySpec) -> bool:
    """Whether blocks write an array: one that has all of the product's dimensions, in whatever order."""
    return set(product.dims) <= set(spec.dims)


def _chunks_folder(store: Path, product: Product, spec: ArraySpec) -> str:
    return str(store.joinpath(product.name, spec.name, "c"))


def _present(files: list[str]) -> bool:
    """Whether all are there and not empty."""
    try:
        return all(os.stat(path).st_size > 0 for path in files)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _open(store: Path, product: str, name: str) -> zarr.Array[Any]:
    try:
        return open_for_writing(store, f"{product}/{name}")
    except FileNotFoundError as error:
        raise SchemaError(f"{store}: array {product}/{name} is missing; remove the store and run again") from error


def _pack(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()
