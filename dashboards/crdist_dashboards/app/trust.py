"""What a person needs to trust a run: where it stands, how long it took, what the maps cover and keep of the mass."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np

from crdist.errors import CrdistError, RunError
from crdist_dashboards.products import ProductInfo, ProductsSource

__all__ = ["Rows", "progress_lines", "quality_rows", "timing_rows"]

Rows = list[tuple[str, str]]

LOG_LINES = 6


def progress_lines(source: ProductsSource) -> list[str]:
    """Progress, queue, time left and the end of the log, from the files of the run; empty where there are none."""
    from crdist_cluster.report import report_of

    # 'crdist run' has products and inference in one folder, 'crdist post' its records beside the store
    for folder in (source.path.absolute().parent, source.path):
        if folder != source.path and not (folder / "run.yaml").exists():
            continue
        with suppress(RunError, OSError):
            return report_of(folder, LOG_LINES).lines()
    return []


def timing_rows(source: ProductsSource) -> Rows:
    """Time and work of each run that computed the store, and of its products."""
    path = source.path.with_name(source.path.name + ".run") / "timings.json"
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            (
                f"run that ended {run['ended']}",
                f"{run['seconds']:.0f} s, {run['blocks_computed']} blocks computed, {run['blocks_found']} found done",
            )
            for run in runs
        ]
        spent: dict[str, float] = {}
        for run in runs:
            for product, seconds in run["task_seconds_by_product"].items():
                spent[product] = spent.get(product, 0.0) + float(seconds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # without records, or half written ones, there is nothing to show
        return []
    most = sorted(spent.items(), key=lambda item: -item[1])
    rows.append(("seconds of work", ", ".join(f"{product} {seconds:.1f}" for product, seconds in most)))
    return rows


def quality_rows(source: ProductsSource) -> Rows:
    """Of each map: the share that the data cover, and the worst sample's relative error of the mass."""
    rows = []
    for info in source.products:
        if info.kind not in ("slice", "projection"):
            continue
        with suppress(CrdistError):
            if text := ", ".join(_quality(source, info)):
                rows.append((info.name, text))
    return rows


def _quality(source: ProductsSource, info: ProductInfo) -> list[str]:
    parts = []
    if "coverage" in info.variables:
        covered = np.asarray(source.read(info.name, "coverage"), dtype=np.float64)
        if np.isfinite(covered).any():
            parts.append(f"{100 * float(np.nanmean(covered)):.3g} % inside the data")
    if "mass_residual" in info.variables:
        residual = np.asarray(source.read(info.name, "mass_residual"), dtype=np.float64)
        residual = residual[np.isfinite(residual)]
        if residual.size:
            worst = float(residual[np.argmax(np.abs(residual))])
            parts.append(f"mass residual {worst:+.2g} in the worst sample")
    return parts
