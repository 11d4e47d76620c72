"""What a benchmark ran on, and how its times are compared."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("numpy", "numba", "healpy", "scipy", "dustmaps", "zarr", "dask", "distributed")


def one_core() -> None:
    """Keep this process on one core, the last that it may use."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def description() -> str:
    """Processor, cores and package versions, two lines."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = os.cpu_count()
    return f"{_processor()}, {cores} cores; Python {platform.python_version()}\n{', '.join(found)}"


def interleaved(methods: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each method, A B C A B C ..., after one call of each that does not count.

    Another process slows all methods of a round down alike, so compare times of the same round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for counts in [False, *[True] * rounds]:
        for name, method in methods.items():
            started = time.process_time()
            method()
            if counts:
                seconds[name].append(time.process_time() - started)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of the ratio of two methods' times."""
    return float(np.median(np.array(slow) / np.array(fast)))


def _processor() -> str:
    """Name, family, model and stepping: under a hypervisor the name alone says little."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    number = ", ".join(f"{key} {found[key]}" for key in ("cpu family", "model", "stepping") if key in found)
    return f"{found.get('model name', platform.machine())} ({number})"
