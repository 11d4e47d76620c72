"""Compute the blocks that are left, each once: in this process, or on a Dask cluster whose workers come and go."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from crdist.errors import CrdistError, RunError
from crdist_postproc.books import Books, Piece, Token, run_last_step
from crdist_postproc.output import RunFolder, write_block
from crdist_postproc.products import Job
from crdist_postproc.products.base import Block, BlockResult
from crdist_postproc.source import Source, drop_fields, load_field

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Watch", "drive", "run_piece", "wake"]

log = logging.getLogger("crdist.run")

WAKE_SECONDS = 1.0
RESULT_SECONDS = 5.0
CLEANUP_SECONDS = 10.0

ALONE_SECONDS = 600.0
"""Without a watch that knows more, a cluster that has no worker for so long is given up."""

MOST_FAULTS = 10
"""So many blocks that fail on their own are no longer the blocks' fault."""

NAMED_FAULTS = 4

Watch = Callable[[int, int], None]
"""Told about every second how many blocks are done and how many are left; what it raises ends the run."""


def run_piece(folder: RunFolder, piece: Piece, sources: frozenset[Source]) -> tuple[Token, ...]:
    """The task of one block, or of several that are computed together: read (once in a process and run), compute,
    write, record.

    Returns
    -------
    tuple of Token
        One for each block; the time that they were computed together counts to equal parts.

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
    results = compute_piece(piece, sources)
    computed = (time.monotonic() - started) / len(piece)
    tokens = []
    for (job, block), result in zip(piece, results, strict=True):
        started = time.monotonic()
        n_bytes = write_block(folder, job.product, block, result)
        tokens.append(Token(computed + time.monotonic() - started, n_bytes))
    return tuple(tokens)


def compute_piece(piece: Piece, sources: frozenset[Source]) -> list[BlockResult]:
    """Compute a block, or several together, from samples that are read at the first call."""
    job, block = piece[0]
    samples = load_field(job.source, sources)
    if len(piece) == 1:
        weight = None if job.weight is None else load_field(job.weight, sources)
        return [job.product.compute(block, samples, weight)]
    return job.product.compute_together([(job.product, block) for job, block in piece], samples)


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
    waiting = deque(books.missing)
    while waiting:
        piece = waiting.popleft()
        try:
            tokens = run_piece(books.folder, piece, books.sources)
        except Exception as error:
            waiting.extendleft(reversed(faults.add(piece, error)))
            continue
        for (job, block), token in zip(piece, tokens, strict=True):
            if books.take(block, token):
                books.join(job)
        if watch is not None:
            watch(books.n_block - books.n_left, books.n_left)


def wake(client: Client) -> None:
    """Let workers that are there load the programs that blocks need, and return at once; later ones do so by need."""
    with suppress(Exception):
        call: Any = client._run
        asyncio.run_coroutine_threadsafe(call(load_programs, on_error="ignore"), client.loop.asyncio_loop)


def load_programs() -> None:
    """Import what the products of a recipe compute with: a second, where blocks take tenths of one."""
    from crdist_postproc.products import maps, profiles, sky

    log.debug("loaded %s", ", ".join(module.__name__ for module in (maps, profiles, sky)))


class _Faults:
    """Blocks that could not be computed, and why."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._failed: list[tuple[Block, BaseException]] = []
        self._deadly: list[Block] = []

    def add(self, piece: Piece, error: BaseException) -> list[Piece]:
        """Keep the error of a block for the end; raise one that other blocks would meet as well.

        Returns
        -------
        list of Piece
            Of blocks that were computed together each alone, to be tried again: one of them may be at fault.
        """
        if isinstance(error, CrdistError | OSError):
            raise error
        if len(piece) > 1:
            return apart(piece)
        ((_, block),) = piece
        log.error("block %s failed", block.name, exc_info=error)
        self._failed.append((block, error))
        if len(self._failed) >= MOST_FAULTS:
            self.tell()
        return []

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


def apart(piece: Piece) -> list[Piece]:
    """The blocks of a piece, each alone."""
    return [(part,) for part in piece]


def _names(blocks: list[Block]) -> str:
    shown = ", ".join(block.name for block in blocks[:NAMED_FAULTS])
    return shown + (f" and {len(blocks) - NAMED_FAULTS} more" if len(blocks) > NAMED_FAULTS else "")


class _Drive:
    """Keeps every thread of a cluster busy, with few tasks waiting and none remembered."""

    def __init__(self, books: Books, client: Client, faults: _Faults, watch: Watch | None) -> None:
        self.books, self.client, self.faults, self.watch = books, client, faults, watch
        self.sent: dict[Future, Piece] = {}
        self.ended: SimpleQueue[Future] = SimpleQueue()
        self.alone = False
        self.joining: dict[Future, Job] = {}
        self.lost: list[Future] = []
        self.suspects: list[Piece] = []
        self.again: list[Piece] = []
        self.last_worker = time.monotonic()

    def run(self) -> None:
        """Compute every missing block; those that were at work when a worker was lost too often, again and alone."""
        try:
            self._through(self.books.for_threads(), self._ahead)
            # A block that ends its worker takes others down with it, as often as it is tried. Alone, each shows
            # whether it was the one.
            suspects, self.suspects, self.alone = self.suspects, [], True
            if suspects:
                blocks = [block for piece in suspects for _, block in piece]
                log.warning("at work when workers were lost, now one by one: %s", _names(blocks))
            self._through(itertools.chain.from_iterable(map(apart, suspects)), lambda: min(1, self._ahead()))
            for ((_, block),) in self.suspects:
                self.faults.add_deadly(block)
        finally:
            self._clean()

    def _through(self, pieces: Iterable[Piece], most: Callable[[], int]) -> None:
        """Send pieces, ``most`` at a time, until all have ended."""
        waiting = iter(pieces)
        looked, allowed = time.monotonic(), most()
        self._fill(waiting, allowed)
        while self.sent or self.joining:
            ended = self._next()
            tokens = self._tokens(ended)
            for future in ended:
                if future in self.joining:
                    self._joined(future, tokens.get(future))
                else:
                    self._settle(future, tokens.get(future))
            if time.monotonic() - looked >= WAKE_SECONDS:
                looked, allowed = time.monotonic(), most()
            self._fill(waiting, allowed)
            if self.watch is not None:
                # what is being joined needs a worker, too
                left = self.books.n_left + len(self.joining)
                self.watch(self.books.n_block - left, left)
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
        """Send as many as are allowed and not there yet, in one message: the more there are, the less each costs."""
        most = max(0, allowed - len(self.sent))
        pieces, self.again = self.again[:most], self.again[most:]
        pieces += itertools.islice(waiting, most - len(pieces))
        if not pieces:
            return
        n, books = len(pieces), self.books
        keys = [f"{piece[0][1].name}-{os.urandom(4).hex()}" for piece in pieces]
        futures = self.client.map(run_piece, [books.folder] * n, pieces, [books.sources] * n, key=keys, pure=False)
        for future, piece in zip(futures, pieces, strict=True):
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

    def _tokens(self, ended: list[Future]) -> dict[Future, Any]:
        """The tokens of tasks that went well, in one message; none where a worker is being lost just now."""
        well = [future for future in ended if future.status == "finished"]
        if not well:
            return {}
        with suppress(Exception):
            gather: Any = self.client._gather
            tokens = self.client.sync(gather, well, errors="skip", callback_timeout=RESULT_SECONDS)
            if len(tokens) == len(well):
                return dict(zip(well, tokens, strict=True))
        return {}

    def _settle(self, future: Future, tokens: tuple[Token, ...] | None) -> None:
        from distributed.scheduler import KilledWorker

        piece = self.sent[future]
        error: BaseException | None = None
        if tokens is None:
            if not future.done():
                # its worker was lost before the token was fetched; Dask computes it again
                self.lost.append(future)
                return
            if future.status == "cancelled" or self.client.status == "closed":
                raise RunError(
                    "the connection to the Dask scheduler was lost; finished blocks are kept: run the same command "
                    "again"
                )
            try:
                error = future.exception(timeout=RESULT_SECONDS)
                tokens = future.result(timeout=RESULT_SECONDS) if error is None else None
            except (OSError, TimeoutError):
                # its worker is being lost just now
                self.lost.append(future)
                return
            except Exception as late:
                error, tokens = late, None
        del self.sent[future]
        future.release()
        if isinstance(error, KilledWorker):
            self.suspects.append(piece)
        elif error is not None:
            self.again += self.faults.add(piece, error)
        elif tokens is not None:
            for (job, block), token in zip(piece, tokens, strict=True):
                if self.books.take(block, token):
                    self._join(job)

    def _join(self, job: Job) -> None:
        if self.alone:
            # a suspected block shares its worker with nothing that might end it
            self.books.join(job)
            return
        key = f"{job.product.name}-last-{os.urandom(4).hex()}"
        future = self.client.submit(run_last_step, self.books.folder, job, key=key, pure=False)
        self.joining[future] = job
        future.add_done_callback(self.ended.put)

    def _joined(self, future: Future, token: Token | None) -> None:
        """Note that a last step was done; what cannot be done there is done here, with the error that it may have."""
        job = self.joining.pop(future)
        future.release()
        self.books.join(job, token)

    def _clean(self) -> None:
        for future in (*self.sent, *self.joining):
            future.release()
        if self.client.status == "running":
            with suppress(Exception):
                call: Any = self.client._run
                self.client.sync(call, drop_fields, on_error="ignore", callback_timeout=CLEANUP_SECONDS)
