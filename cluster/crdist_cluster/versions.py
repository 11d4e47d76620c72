"""Whether the workers run the same software as their driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["breaking", "compare", "differing"]

CRDIST = "crdist-tomography"
"""The distribution that this package is part of."""

BREAKING = ("python", "dask", "distributed", CRDIST)
"""What must be the same on both sides: tasks are pickled by one and taken up by the other."""

TOLD = (*BREAKING, "cloudpickle", "msgpack", "numpy", "zarr")


def differing(client: Client) -> dict[str, str]:
    """Packages whose versions differ between this process and its workers, each with a line that tells how."""
    found: Mapping[str, Any] = client.get_versions(check=False, packages=[CRDIST, "zarr"])
    return compare(found["client"], found["workers"])


def compare(client: Mapping[str, Any], workers: Mapping[str, Any]) -> dict[str, str]:
    """As `differing`, from what Dask reports.

    Examples
    --------
    >>> here, there = {"packages": {"dask": "2026.8.0"}}, {"packages": {"dask": "2025.1.0"}}
    >>> compare(here, {"tcp://node7:41": there})
    {'dask': 'dask is 2026.8.0 here and 2025.1.0 on worker tcp://node7:41'}
    """
    lines = {}
    for package in TOLD:
        here = _version(package, client["packages"].get(package))
        for address, worker in workers.items():
            there = _version(package, worker["packages"].get(package)) if worker else None
            if worker and there != here:
                lines[package] = f"{package} is {here or 'missing'} here and {there or 'missing'} on worker {address}"
                break
    return lines


def breaking(lines: Mapping[str, str]) -> str | None:
    """The error that differences amount to; None where they do not matter."""
    grave = [lines[package] for package in BREAKING if package in lines]
    if not grave:
        return None
    return f"{'; '.join(grave)}: give the recipe a 'python' or 'setup' lines that lead to the driver's environment"


def _version(package: str, version: str | None) -> str | None:
    # tasks travel between patch levels of one Python: its bytecode is that of the minor version
    return ".".join(version.split(".")[:2]) if package == "python" and version else version
