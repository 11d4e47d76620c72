"""What an inference tells while it runs and what it yields: plain records, without JAX."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Hyperparameters", "IterationReport", "PosteriorSample", "Start"]


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Scalars of one sample.

    Parameters
    ----------
    length : float, kpc
        Correlation length.
    slope : float
        Spectral slope.
    scale : float
        Standard deviation of the prior's ln(density).
    offset : float
        Mean of the prior's ln(density / cm-3).
    """

    length: float
    slope: float
    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class Start:
    """Where an inference of the field starts, and in the evidence mode the kernel that it keeps.

    Parameters
    ----------
    length : float, kpc
    slope : float
    scale, offset : float, optional
        Left out, they start at the prior's median and where the whole sky has the measured brightness. From far off the
        scale is slow to come back, so what the evidence says of it is worth handing over.
    """

    length: float
    slope: float
    scale: float | None = None
    offset: float | None = None


@dataclass(frozen=True, eq=False)
class PosteriorSample:
    """One finished posterior sample.

    Parameters
    ----------
    density : ndarray of float32, shape (n_pixel, n_shell), cm-3
        Normalisation C of the proton spectrum, nested pixels.
    sky : ndarray, shape (n_pixel,), m-2 s-1 sr-1
        Predicted intensity, masked pixels too.
    hyperparameters : Hyperparameters
    excitations : tuple of ndarray
        Latent position of the field, in the shapes of ``Refinement.shapes``.
    draw : int
        Which draw of (length, slope) it belongs to.
    pair : int
        Samples of the same draw and pair mirror each other about the mean in latent space.
    """

    density: npt.NDArray[np.float32]
    sky: npt.NDArray[np.float64]
    hyperparameters: Hyperparameters
    excitations: tuple[npt.NDArray[Any], ...]
    draw: int
    pair: int


@dataclass(frozen=True, slots=True)
class IterationReport:
    """Figures of one global iteration.

    Parameters
    ----------
    draw, n_draw : int
        Which of the draws of (length, slope), or of the starts of the joint mode, from 0.
    iteration, n_iteration : int
        From 0.
    n_sample : int
        Samples that the iteration drew.
    energy : float
        Variational energy up to a constant: mean of likelihood and prior over the samples; without the entropy, so it
        cannot rank different starts.
    reduced_chi2 : float
        Mean over samples of chi^2 per used pixel.
    hyperparameters : dict
        Name to (mean, standard deviation) over the samples.
    newton_steps : tuple of int
        Steps that bent each sample; all 1 means that they are linear samples.
    kl_steps : int
        Newton steps of the mean.
    change : float
        Root mean square over cells of the change of the mean of ln(density), in posterior standard deviations.
    seconds : float
    warnings : tuple of str
    """

    draw: int
    n_draw: int
    iteration: int
    n_iteration: int
    n_sample: int
    energy: float
    reduced_chi2: float
    hyperparameters: dict[str, tuple[float, float]]
    newton_steps: tuple[int, ...]
    kl_steps: int
    change: float
    seconds: float
    warnings: tuple[str, ...] = field(default=())
