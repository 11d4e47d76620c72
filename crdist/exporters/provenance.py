"""Where the numbers of an export come from, as plain data and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crdist.exporters.samples import Samples
from crdist.schema import INFERENCE_GROUP, open_group, versions

__all__ = ["comments_of", "nature_of", "provenance_of"]


def provenance_of(samples: Samples) -> dict[str, Any]:
    """The store's own provenance, and under ``exported`` what made the export of it."""
    return {**samples.header.provenance, "exported": exported(samples.header.path)}


def exported(store: Path) -> dict[str, Any]:
    """Name of the store that was exported, and the versions that did it."""
    return {"from": store.absolute().name, "versions": versions(("numpy", "zarr", "astropy", "healpy"))}


def comments_of(samples: Samples) -> list[str]:
    """What a reader of the numbers must know."""
    return [nature_of(samples), *samples.warnings]


def nature_of(samples: Samples) -> str:
    """What kind of samples these are: it decides which statistics mean anything."""
    if samples.header.n_sample == 1:
        return "One sample: nothing is known of its uncertainty."
    if INFERENCE_GROUP in open_group(samples.header.path):
        return (
            "Approximate posterior samples of a variational inference (geoVI), in mirrored pairs about a mean; half as "
            "many deviations are independent. They are no Markov chain: their order means nothing, and R-hat and "
            "effective sample sizes are not defined for them."
        )
    return (
        "Posterior samples as published. They are no Markov chain: their order means nothing, and R-hat and effective "
        "sample sizes are not defined for them."
    )
