"""Where a run computes: on this machine, or on a Dask cluster that is there already."""

from __future__ import annotations

from crdist_cluster.local import available_cores, available_memory, connect, local_client

__all__ = ["available_cores", "available_memory", "connect", "local_client"]
