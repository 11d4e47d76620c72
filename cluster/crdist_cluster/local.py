"""An embedded Dask cluster on this machine, or a connection to one that exists."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crdist.errors import RunError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

__all__ = ["available_cores", "available_memory", "connect", "local_client"]

CONNECT_SECONDS = 15
KEEP_UP_SECONDS = 1.0

WORKER_SETTINGS = {
    # the memory of a worker is its source and the blocks at work: there is nothing to spill
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.95,
    "distributed.worker.memory.terminate": 0.98,
    "distributed.comm.timeouts.connect": "60s",
    # Dask looks at its own loops 50 times a second and at the threads' stacks 100 times: 5 % of a core, at rest
    "distributed.admin.tick.interval": "500ms",
    "distributed.worker.profile.interval": "100ms",
}
"""Dask settings of every worker that crdist starts."""

COMMON_SETTINGS = {
    **WORKER_SETTINGS,
    # a failed block is reported once, by the driver, in words
    "logging.distributed": "critical",
}
"""Dask settings of every driver that crdist starts a cluster from."""

PINNED_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""Environment of workers: one block is one thread's work, libraries must not start threads of their own."""


def available_cores() -> int:
    """Cores that this process may use, containers' limits included."""
    from dask.system import cpu_count

    return max(1, int(cpu_count()))


def available_memory() -> int:
    """Memory that this process may use, containers' limits included, bytes."""
    from distributed.system import memory_limit

    return int(memory_limit())


@contextmanager
def local_client(workers: int, threads: int, worker_bytes: int, *, allowed_losses: int = 5) -> Iterator[Client]:
    """A client of a cluster of ``workers`` processes with ``threads`` threads and ``worker_bytes`` of memory each.

    Everything listens on the loopback interface; the diagnostic dashboard is off. When the driver dies, however it
    does, its workers end too; they ignore Ctrl-C. A worker that ends is replaced; a task that lost its worker more
    often than ``allowed_losses`` fails.
    """
    import dask
    from distributed import Client, LocalCluster

    # a task that loses its worker is tried again; blocks are written whole or not at all
    settings = {
        **COMMON_SETTINGS,
        "distributed.scheduler.allowed-failures": allowed_losses,
        # Dask would end a nanny whose new worker is not up by then, which a busy machine may well take; see _kept_up
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(settings), ExitStack() as stack:
        with _interrupts_ignored():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=threads,
                    memory_limit=worker_bytes,
                    processes=True,
                    host="127.0.0.1",
                    # a free port for what is left of the dashboard: its health page
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    silence_logs=logging.CRITICAL,
                    env=PINNED_THREADS,
                    local_directory=tempfile.gettempdir(),
                )
            )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        stack.enter_context(_kept_up(cluster, workers))
        yield client


@contextmanager
def _kept_up(cluster: LocalCluster, workers: int) -> Iterator[None]:
    """Replace nannies that have given up: one whose new worker dies before it is up closes, and nothing follows it."""
    stop = threading.Event()

    def keep_up() -> None:
        while not stop.wait(KEEP_UP_SECONDS):
            closed = [
                name for name, nanny in list(cluster.workers.items()) if nanny.status.name in ("closed", "failed")
            ]
            for name in closed:
                cluster.workers.pop(name, None)
            if closed:
                cluster.scale(workers)

    thread = threading.Thread(target=keep_up, name="crdist-keep-up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def connect(scheduler: str) -> Iterator[Client]:
    """A client of an existing cluster, by the scheduler's address or the path of a scheduler file.

    Raises
    ------
    RunError
        If nothing answers, or the cluster has no workers.
    """
    from distributed import Client

    try:
        address = json.loads(Path(scheduler).read_text())["address"] if Path(scheduler).is_file() else scheduler
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"scheduler file {scheduler}: cannot be read ({error!r}); is it one of a Dask scheduler?"
        ) from error
    match = re.fullmatch(r"[a-z]+://(.+):([0-9]+)", address)
    if match is None:
        raise RunError(
            f"scheduler {address!r}: give an address such as tcp://host:8786, or the path of a scheduler file"
        )
    try:
        # A client that fails to connect cannot be closed and complains later; so see first whether anything listens.
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(
            f"scheduler {address}: does not answer ({error}); is it running, and reachable from here?"
        ) from error
    with client:
        if not client.nthreads():
            raise RunError(f"scheduler {address}: has no workers; start some and run the same command again")
        yield client


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes started inside ignore Ctrl-C, which a terminal sends to all: their driver ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
