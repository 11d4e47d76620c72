"""How many independent deviations from their mean the samples of a posterior hold."""

from __future__ import annotations

import numpy as np
import zarr

from crdist.schema import INFERENCE_GROUP, PosteriorHeader
from crdist.store import open_for_reading

__all__ = ["degrees_of_freedom"]


def degrees_of_freedom(header: PosteriorHeader) -> int:
    """Degrees of freedom of the variance over a posterior's samples.

    Parameters
    ----------
    header : PosteriorHeader
        Its first ``n_sample`` samples count.

    Returns
    -------
    int
        The number of pairs where an inference has drawn samples in pairs that mirror each other about a mean: the
        squares of both are the same. One less than the number of samples otherwise.

    Notes
    -----
    Of samples around several means, as the draws of a length and slope have, what the means differ by is not counted:
    it may be little.
    """
    root = zarr.open_group(str(header.path), mode="r")
    if INFERENCE_GROUP not in root:
        return header.n_sample - 1
    inference = root[INFERENCE_GROUP]
    names = ("draw", "pair")
    if not isinstance(inference, zarr.Group) or not all(name in inference for name in names):
        return header.n_sample - 1
    labels = [
        np.asarray(open_for_reading(header.path, f"{INFERENCE_GROUP}/{name}")[: header.n_sample]) for name in names
    ]
    n_pair = len(np.unique(np.stack(labels, axis=-1), axis=0))
    return n_pair if n_pair < len(labels[0]) else header.n_sample - 1
