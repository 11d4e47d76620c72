"""A made-up sky with a known truth, in files of the published layouts, which an inference reads like real ones."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from crdist.durable import new_store, write_durably
from crdist.emission import Emissivity
from crdist.errors import InputFileError
from crdist.grids import SphericalGrid
from crdist_inference.gamma_files import write_observation_file
from crdist_inference.gas import Inner, read_gas
from crdist_inference.prior import Prior
from crdist_inference.records import Hyperparameters
from crdist_inference.runfile_settings import SyntheticSettings
from crdist_inference.synthetic import LOCAL_C, cosmic_ray_density, write_published_gas

__all__ = ["GAMMA_FILE", "GAS_FILE", "Truth", "analytic_truth", "make_synthetic_inputs", "prior_truth", "read_truth"]

Float = npt.NDArray[np.float64]

GAMMA_FILE, GAS_FILE, TRUTH_FILE = "I_dust.hdf5", "gas.fits", "truth.npz"

HALO_SHARE = 0.01
"""Of the local density, everywhere: the analytic model ends at a height, and a logarithm needs a number there."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What made a synthetic sky.

    Parameters
    ----------
    density : ndarray, shape (n_pixel, n_shell), cm-3
        Normalisation C of the proton spectrum, nested.
    hyperparameters : Hyperparameters or None
        Of a draw from the prior.
    """

    density: Float
    hyperparameters: Hyperparameters | None


def make_synthetic_inputs(
    folder: Path,
    grid: SphericalGrid,
    settings: SyntheticSettings,
    *,
    prior: Prior,
    emissivity: Emissivity,
    gas: Path | None = None,
    xco_rescale: float = 1.0,
    inner: Inner = "exclude",
    base_nside: int = 4,
    window: tuple[int, int] = (9, 5),
) -> None:
    """Write a synthetic gas map (unless one is given), a truth, and the sky it makes, with noise.

    The sky is that of the truth on the grid of the inference, seen through the gas as the inference will read it; sigma
    is ``noise * intensity + floor * median intensity`` of the noiseless sky, and the noise is drawn from it.

    Parameters
    ----------
    folder : Path
        Folder to create; it is there whole or not at all.
    grid : SphericalGrid
        Nested.
    settings : SyntheticSettings
    prior : Prior
    emissivity : Emissivity
        Its band is the file's one energy bin.
    gas : Path, optional
        A gas map to use instead of a synthetic one.
    xco_rescale, inner
        As for `crdist_inference.gas.read_gas`.
    base_nside, window
        As for `crdist_inference.refinement.Refinement`.

    Raises
    ------
    StoreExistsError
        If the folder exists.
    InputFileError
        If the gas leaves no pixel with any intensity.
    """
    rng = np.random.default_rng(settings.seed)
    with new_store(folder) as made:
        if gas is None:
            gas = write_published_gas(
                made / GAS_FILE,
                nside=settings.gas_nside or 2 * grid.nside,
                n_shell=settings.gas_n_shell or 2 * grid.n_shell,
                n_sample=settings.gas_samples,
                seed=settings.seed,
            )
        columns = read_gas(gas, grid, xco_rescale=xco_rescale, inner=inner).shell_columns()
        if settings.truth == "prior":
            truth = prior_truth(grid, settings, prior, rng, base_nside=base_nside, window=window)
        else:
            truth = Truth(analytic_truth(grid), None)
        sky = emissivity.intensity_per_column * np.sum(truth.density * columns, axis=1)
        middle = float(np.median(sky))
        if not middle > 0:
            raise InputFileError(f"{gas}: leaves half of the sky without gas; a synthetic sky needs a fuller map")
        sigma = settings.noise * sky + settings.floor * middle
        write_observation_file(
            made / GAMMA_FILE,
            sky + sigma * rng.standard_normal(sky.size),
            sigma,
            edges_gev=(emissivity.e_min_gev, emissivity.e_max_gev),
        )
        _write_truth(made / TRUTH_FILE, truth)


def prior_truth(
    grid: SphericalGrid,
    settings: SyntheticSettings,
    prior: Prior,
    rng: np.random.Generator,
    *,
    base_nside: int = 4,
    window: tuple[int, int] = (9, 5),
) -> Truth:
    """Draw a density from the prior, with the hyperparameters that the settings do not fix drawn, too."""
    import jax

    from crdist_inference.refinement import Refinement

    drawn = Hyperparameters(**prior.draw(rng))
    fixed = {key: getattr(settings, key) for key in ("length", "slope", "scale", "offset")}
    own = replace(drawn, **{key: value for key, value in fixed.items() if value is not None})
    field = Refinement(grid, base_nside=base_nside, window=window)
    excitations = tuple(rng.standard_normal(shape) for shape in field.shapes)
    matrices = jax.jit(field.matrices)(own.length, own.slope)
    values = np.asarray(jax.jit(field.apply)(matrices, excitations), dtype=np.float64)
    return Truth(np.exp(own.scale * values + own.offset), own)


def analytic_truth(grid: SphericalGrid) -> Float:
    """The density of `crdist_inference.synthetic.cosmic_ray_density` at the cells' centres, with a thin halo, cm-3."""
    import healpy

    vectors = healpy.pix2vec(grid.nside, np.arange(grid.n_pixel), nest=grid.ordering == "nested")
    x, y, z = (vector[:, None] * grid.centres for vector in vectors)
    return np.asarray(cosmic_ray_density(x, y, z), dtype=np.float64) + HALO_SHARE * LOCAL_C


def read_truth(folder: Path) -> Truth:
    """The truth of the files in a folder that `make_synthetic_inputs` made.

    Raises
    ------
    InputFileError
        If it is missing or damaged.
    """
    path = folder / TRUTH_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            density = np.asarray(file["density"], dtype=np.float64)
            scalars = {key: float(file[key]) for key in ("length", "slope", "scale", "offset") if key in file.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputFileError(f"{path}: the truth cannot be read ({error}); start the run anew") from error
    return Truth(density, Hyperparameters(**scalars) if scalars else None)


def _write_truth(path: Path, truth: Truth) -> None:
    buffer = io.BytesIO()
    scalars = {} if truth.hyperparameters is None else asdict(truth.hyperparameters)
    np.savez(buffer, allow_pickle=False, density=truth.density, **{key: np.array(scalars[key]) for key in scalars})
    write_durably(path, buffer.getbuffer())
