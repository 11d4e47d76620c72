"""Numerical kernels: plain arrays in, plain arrays out; no Dask, no xarray, no Zarr."""

from __future__ import annotations
