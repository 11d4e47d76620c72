"""The memory that Linux says an array takes."""

import re
from pathlib import Path

import pytest

linux_only = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux to tell its memory")


def resident_bytes(array):
    """Memory of the mapping that holds an array, as Linux counts it."""
    address, within = array.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            within = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif within and line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the array lies in no mapping")
