"""Compute the blocks that are left, each once: in this process, or on a Dask cluster whose workers come and go."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from crdist.errors import CrdistError, RunError
from crdist_postproc.output import RunFolder, read_partial, write_block, write_last_step
from crdist_postproc.plan import RunPlan
from crdist_postproc.products import Job
from crdist_postproc.products.base import Block
from crdist_postproc.source import Source, drop_fields, load_field

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Books", "Progress", "Step", "Watch", "drive", "run_block"]

log = logging.getLogger("crdist.run")

WAKE_SECONDS = 1.0
RESULT_SECONDS = 5.0
CLEANUP_SECONDS = 10.0

ALONE_SECONDS = 600.0
"""Without a watch that knows more, a cluster that has no worker for so long is given up."""

MOST_FAULTS = 10
"""So many blocks that fail on their own are no longer the blocks' fault."""

NAMED_FAULTS = 4


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a run, after each block."""

    done: int
    """Voxel-samples done, in this run and before."""
    total: int
    blocks_done: int
    n_block: int
    product: str


Progress = Callable[[Step], None]

Watch = Callable[[int, int], None]
"""Told about every second how many blocks are done and how many are left; what it raises ends the run."""

Piece = tuple[Job, Block]


@dataclass(frozen=True, slots=True)
class Token:
    """What a task tells the driver: results stay on the disk."""

    seconds: float
    bytes_written: int


def run_block(folder: RunFolder, job: Job, block: Block, sources: frozenset[Source]) -> Token:
    """The task of one block: read (once in a process and run), compute, write, record.

    Raises
    ------
    RunError
        If the store is not here: a worker on a machine without the disk would write into the void.
    """
    if not (folder.store / "zarr.json").exists():
        raise RunError(
            f"{folder.store}: a worker on {os.uname().nodename} does not see it; put the stores on a disk that all "
            "workers share"
        )
    started = time.monotonic()
    samples = load_field(job.source, sources)
    weight = None if job.weight is None else load_field(job.weight, sources)
    result = job.product.compute(block, samples, weight)
    n_bytes = write_block(folder, job.product, block, result)
    return Token(time.monotonic() - started, n_bytes)


class Books:
    """What is left to do and what was done, kept by the driver."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        found: Mapping[str, tuple[set[int], bool]],
        progress: Progress | None,
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.jobs = {job.product.name: job for job in plan.jobs}
        self.sources = plan.sources
        self.left = {
            name: {block.index for block in job.product.blocks()} - found[name][0] for name, job in self.jobs.items()
        }
        self.missing: list[Piece] = [
            (job, block)
            for job in plan.jobs
            for block in job.product.blocks()
            if block.index in self.left[job.product.name]
        ]
        if plan.in_parts:
            # blocks of all products that read the same samples, one after the other
            self.missing.sort(key=lambda piece: piece[0].product.place(piece[1]))
        self.n_missing = len(self.missing)
        self.n_block = plan.n_block
        self.total = plan.work
        self.done = plan.work - sum(job.product.work(block) for job, block in self.missing)
        self.computed = 0
        self.bytes_written = 0
        self.seconds = dict.fromkeys(self.jobs, 0.0)
        for name, job in self.jobs.items():
            if not self.left[name] and not found[name][1]:
                self._last_step(job)

    @property
    def n_left(self) -> int:
        """Blocks that are not done."""
        return sum(map(len, self.left.values()))

    def take(self, block: Block, token: Token) -> None:
        """Count a finished block; after a product's last one, join them."""
        job = self.jobs[block.product]
        self.computed += 1
        self.bytes_written += token.bytes_written
        self.seconds[block.product] += token.seconds
        self.done += job.product.work(block)
        self.left[block.product].discard(block.index)
        log.info("block %s done in %.2f s", block.name, token.seconds)
        if not self.left[block.product]:
            self._last_step(job)
        if self.progress is not None:
            self.progress(Step(self.done, self.total, self.n_block - self.n_left, self.n_block, block.product))

    def _last_step(self, job: Job) -> None:
        product = job.product
        partials = [read_partial(self.folder, product, block) for block in product.blocks()]
        write_last_step(self.folder, product, product.finish(partials))


def drive(books: Books, client: Client | None = None, watch: Watch | None = None) -> None:
    """Compute every block that is left.

    A block that fails, or that ends the worker that computes it, does not keep the others from being finished; the
    error at the end names it.

    Parameters
    ----------
    books : Books
        What is left.
    client : distributed.Client, optional
        Where to compute; default: here, one block after the other.
    watch : callable, optional
        Called about every second, and after blocks, with the numbers of blocks done and left.

    Raises
    ------
    RunError
        If blocks could not be computed; all others that could are.
    """
    faults = _Faults(books.folder)
    if client is None:
        _drive_here(books, faults, watch)
    else:
        _Drive(books, client, faults, watch).run()
    faults.tell()


def _drive_here(books: Books, faults: _Faults, watch: Watch | None) -> None:
    for job, block in books.missing:
        try:
            token = run_block(books.folder, job, block, books.sources)
        except Exception as error:
            faults.add(block, error)
            continue
        books.take(block, token)
        if watch is not None:
            watch(books.n_block - books.n_left, books.n_left)


class _Faults:
    """Blocks that could not be computed, and why."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._failed: list[tuple[Block, BaseException]] = []
        self._deadly: list[Block] = []

    def add(self, block: Block, error: BaseException) -> None:
        """Keep the error of a block for the end; raise one that other blocks would meet as well."""
        if isinstance(error, CrdistError | OSError):
            raise error
        log.error("block %s failed", block.name, exc_info=error)
        self._failed.append((block, error))
        if len(self._failed) >= MOST_FAULTS:
            self.tell()

    def add_deadly(self, block: Block) -> None:
        """Keep a block that ends its worker."""
        log.error("block %s ends the worker that computes it", block.name)
        self._deadly.append(block)

    def tell(self) -> None:
        """Raise what was kept, if anything."""
        if self._deadly:
            raise RunError(
                f"block {_names(self._deadly)} ended the worker that computed it, several times and alone (out of "
                "memory?); finished blocks are kept: run the same command again with more memory or fewer threads"
            )
        if self._failed:
            block, error = self._failed[0]
            others = [block for block, _ in self._failed[1:]]
            also = f"; {_names(others)} neither" if others else ""
            raise RunError(
                f"block {block.name} could not be computed ({type(error).__name__}: {error}){also}; finished blocks "
                f"are kept; the traceback is in {self._folder.log}"
            ) from error


def _names(blocks: list[Block]) -> str:
    shown = ", ".join(block.name for block in blocks[:NAMED_FAULTS])
    return shown + (f" and {len(blocks) - NAMED_FAULTS} more" if len(blocks) > NAMED_FAULTS else "")


class _Drive:
    """Keeps every thread of a cluster busy, with few tasks waiting and none remembered."""

    def __init__(self, books: Books, client: Client, faults: _Faults, watch: Watch | None) -> None:
        self.books, self.client, self.faults, self.watch = books, client, faults, watch
        self.sent: dict[Future, Piece] = {}
        self.ended: SimpleQueue[Future] = SimpleQueue()
        self.lost: list[Future] = []
        self.suspects: list[Piece] = []
        self.last_worker = time.monotonic()

    def run(self) -> None:
        """Compute every missing block; those that were at work when a worker was lost too often, again and alone."""
        try:
            self._through(self.books.missing, self._ahead)
            # A block that ends its worker takes others down with it, as often as it is tried. Alone, each shows
            # whether it was the one.
            suspects, self.suspects = self.suspects, []
            if suspects:
                log.warning(
                    "at work when workers were lost, now one by one: %s", _names([block for _, block in suspects])
                )
            self._through(suspects, lambda: min(1, self._ahead()))
            for _, block in self.suspects:
                self.faults.add_deadly(block)
        finally:
            self._clean()

    def _through(self, pieces: Iterable[Piece], most: Callable[[], int]) -> None:
        """Send pieces, ``most`` at a time, until all have ended."""
        waiting = iter(pieces)
        looked, allowed = time.monotonic(), most()
        self._fill(waiting, allowed)
        while self.sent:
            for future in self._next():
                self._settle(future)
            if time.monotonic() - looked >= WAKE_SECONDS:
                looked, allowed = time.monotonic(), most()
            self._fill(waiting, allowed)
            if self.watch is not None:
                self.watch(self.books.n_block - self.books.n_left, self.books.n_left)
            elif time.monotonic() - self.last_worker > ALONE_SECONDS:
                raise RunError(
                    f"no worker for {ALONE_SECONDS / 60:.0f} min; finished blocks are kept: start workers and run the "
                    "same command again"
                )

    def _ahead(self) -> int:
        """Two tasks a thread, as many as there are now: what waits at a lost worker is suspected without need."""
        with suppress(OSError, TimeoutError):
            n_thread: int = sum(self.client.nthreads().values())
            if n_thread:
                self.last_worker = time.monotonic()
            return max(2, 2 * n_thread)
        return max(2, len(self.sent))

    def _fill(self, waiting: Iterator[Piece], allowed: int) -> None:
        while len(self.sent) < allowed:
            piece = next(waiting, None)
            if piece is None:
                return
            job, block = piece
            key = f"{block.name}-{os.urandom(4).hex()}"
            future = self.client.submit(
                run_block, self.books.folder, job, block, self.books.sources, key=key, pure=False
            )
            self.sent[future] = piece
            future.add_done_callback(self.ended.put)

    def _next(self) -> list[Future]:
        """The tasks that have ended, after a second at most."""
        found = [future for future in self.lost if future.done()]
        self.lost = [future for future in self.lost if future not in found]
        with suppress(Empty):
            found.append(self.ended.get(timeout=WAKE_SECONDS))
            while True:
                found.append(self.ended.get_nowait())
        return found

    def _settle(self, future: Future) -> None:
        from distributed.scheduler import KilledWorker

        if not future.done():
            # its worker was lost before the token was fetched; Dask computes it again
            self.lost.append(future)
            return
        piece = self.sent[future]
        _, block = piece
        if future.status == "cancelled" or self.client.status == "closed":
            raise RunError(
                "the connection to the Dask scheduler was lost; finished blocks are kept: run the same command again"
            )
        try:
            error = future.exception(timeout=RESULT_SECONDS)
            token = future.result(timeout=RESULT_SECONDS) if error is None else None
        except (OSError, TimeoutError):
            # its worker is being lost just now
            self.lost.append(future)
            return
        except Exception as late:
            error, token = late, None
        del self.sent[future]
        future.release()
        if isinstance(error, KilledWorker):
            self.suspects.append(piece)
        elif error is not None:
            self.faults.add(block, error)
        elif token is not None:
            self.books.take(block, token)

    def _clean(self) -> None:
        for future in self.sent:
            future.release()
        if self.client.status == "running":
            with suppress(Exception):
                call: Any = self.client._run
                self.client.sync(call, drop_fields, on_error="ignore", callback_timeout=CLEANUP_SECONDS)
