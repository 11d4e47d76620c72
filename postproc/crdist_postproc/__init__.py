"""Regrid posterior samples and compute products from them, on Dask."""

from __future__ import annotations
