"""Dask workers by the hundred in one process: what a scheduler has to do with them is real, their cores are not.

Run with a scheduler's address, a number of workers and the threads of each; ends when the scheduler does.
"""

from __future__ import annotations

import asyncio
import sys

STARTED_AT_ONCE = 20


async def serve(address: str, n_worker: int, n_thread: int) -> None:
    """Start workers, and stay until the last has ended."""
    from distributed import Worker

    gate = asyncio.Semaphore(STARTED_AT_ONCE)

    async def start(number: int) -> Worker:
        async with gate:
            return await Worker(
                address,
                nthreads=n_thread,
                name=f"simulated-{number}",
                memory_limit=0,
                dashboard=False,
                host="127.0.0.1",
            )

    workers = await asyncio.gather(*(start(number) for number in range(n_worker)))
    await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
