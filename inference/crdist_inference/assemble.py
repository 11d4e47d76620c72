"""From a run file to the inverse problem: files are found and read, masked, and joined into one response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crdist import __version__
from crdist.emission import Emissivity
from crdist.errors import InputFileError, RecipeError
from crdist.grids import SphericalGrid
from crdist_inference.gas import GasCube, read_gas
from crdist_inference.masks import CentreRectangle, MaskTable, composite, magellanic_only
from crdist_inference.observation import Observation, read_observation
from crdist_inference.problem import Problem
from crdist_inference.runfile import RunFile
from crdist_inference.runfile_settings import MaskSettings
from crdist_inference.synthetic_sky import GAMMA_FILE, GAS_FILE, Truth, make_synthetic_inputs, read_truth

__all__ = ["Assembled", "assemble", "input_files", "mask_table", "read_gamma", "used_pixels"]

SOURCES = {
    "gamma": "the map of Scheel-Platz et al. 2023, A&A 680, A2 (I_dust.hdf5, energy_bins.hdf5; the paper says where)",
    "energy_bins": "it comes with the map of Scheel-Platz et al. 2023, A&A 680, A2",
    "sigma": "the standard deviation of your gamma-ray map",
    "gas": "samples_densities_hpixr.fits of Söding et al. 2025, https://doi.org/10.5281/zenodo.12578443",
    "mask": "a table of your own, like masks_paper.yaml",
    "recipe": "a recipe of your own; 'crdist recipe' prints one to start from",
}
"""Where to get what a run file asks for. Results of the published analysis: https://doi.org/10.5281/zenodo.20328252."""

INPUTS = "input"
"""Folder of synthetic files in that of the run."""


@dataclass(frozen=True, eq=False)
class Assembled:
    """All that an inference is about.

    Parameters
    ----------
    problem : Problem
    observation : Observation
        With the mask.
    gas : GasCube
    emissivity : Emissivity
        For the band of the observation.
    fingerprint : mapping
        Settings and digests of the inputs: two inferences with the same are the same.
    notes : tuple of str
        What a reader of the result should know of the inputs.
    truth : Truth or None
        Of a synthetic sky.
    """

    problem: Problem
    observation: Observation
    gas: GasCube
    emissivity: Emissivity
    fingerprint: Mapping[str, Any]
    notes: tuple[str, ...]
    truth: Truth | None


def assemble(run: RunFile, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> Assembled:
    """Read what a run file names and build the problem.

    Parameters
    ----------
    run : RunFile
    folder : Path
        Of the run: synthetic files are made in it, if they are not there yet.
    say : callable
        Told, in a line each, what is being done.

    Raises
    ------
    InputFileError
        If files are missing, all of them with where to get them, or one cannot be used.
    RecipeError
        If settings do not fit the data.
    """
    files = input_files(run)
    grid = run.grid.record()
    inputs = folder / INPUTS
    gamma_path, gas_path = files.get("gamma", inputs / GAMMA_FILE), files.get("gas", inputs / GAS_FILE)
    if run.data.synthetic is not None and not inputs.exists():
        say(f"making a synthetic sky (a model, not data) in {inputs}")
        make_synthetic_inputs(
            inputs,
            grid,
            run.data.synthetic,
            prior=run.prior_record(),
            emissivity=run.emissivity(run.data.gamma.band),
            gas=files.get("gas"),
            xco_rescale=run.data.gas.xco_rescale,
            inner=run.data.gas.inner,
            base_nside=run.inference.base_nside,
            window=run.inference.window,
        )
    say(f"reading {gamma_path}")
    observation = read_gamma(run, gamma_path, files)
    emissivity = run.emissivity((observation.e_min_gev, observation.e_max_gev))
    used = used_pixels(run.mask, grid, observation, files.get("mask"))
    observation = observation.with_mask(used)
    say(f"reading {gas_path}")
    gas = read_gas(gas_path, grid, xco_rescale=run.data.gas.xco_rescale, inner=run.data.gas.inner)
    problem = Problem(
        grid=grid,
        response=emissivity.intensity_per_column * gas.shell_columns(),
        sky=np.where(observation.used, observation.intensity, 0.0),
        sigma=np.where(observation.used, observation.sigma, 1.0),
        used=observation.used.copy(),
        prior=run.prior_record(),
    )
    notes = [*observation.provenance.get("notes", ()), *gas.provenance.get("notes", ())]
    empty = gas.describe_empty_sightlines(observation.used)
    for note in filter(None, [*notes, empty]):
        say(note)
    truth = None
    if run.data.synthetic is not None:
        truth = read_truth(inputs)
        if truth.density.shape != problem.response.shape:
            raise InputFileError(f"{inputs}: was made for another grid; choose another folder, or start the run anew")
    return Assembled(
        problem=problem,
        observation=observation,
        gas=gas,
        emissivity=emissivity,
        fingerprint={
            "crdist": __version__,
            "run": run.deciding(),
            "inputs": {
                "gamma": observation.provenance["source"],
                "gas": gas.provenance["source"],
                "n_used": problem.n_used,
            },
        },
        notes=tuple(filter(None, [*notes, empty])),
        truth=truth,
    )


def input_files(run: RunFile) -> dict[str, Path]:
    """The files that a run file names, by what they are.

    Raises
    ------
    InputFileError
        If some are missing: all of them at once, with where to get them.
    """
    gamma = run.data.gamma
    named = {
        "gamma": gamma.path,
        "energy_bins": gamma.energy_bins,
        "sigma": gamma.sigma_path,
        "gas": run.data.gas.path,
        "mask": run.mask.file,
        "recipe": None if run.products.recipe == "default" else run.products.recipe,
    }
    files = {kind: Path(path) for kind, path in named.items() if path is not None}
    missing = [f"{path} ({SOURCES[kind]})" for kind, path in files.items() if not path.exists()]
    if missing:
        raise InputFileError(f"{len(missing)} file{'s' * (len(missing) > 1)} missing: {'; '.join(missing)}")
    return files


def mask_table(mask: MaskSettings, file: Path | None = None) -> MaskTable | None:
    """The regions that are left out; None for none.

    Raises
    ------
    RecipeError
        If a group or a name is not in the table.
    InputFileError
        If the user's table cannot be read.
    """
    if mask.kind == "none":
        return None
    if mask.kind == "file":
        assert file is not None  # the settings see to it
        table = MaskTable.load(file)
    else:
        table = composite() if mask.kind == "composite" else magellanic_only()
    if mask.radii:
        table = table.with_radii(**mask.radii)
    names = [circle.name for circle in table.circles]
    for name, (l_deg, b_deg) in mask.move.items():
        if name not in names:
            raise RecipeError(f"mask.move: no region {name!r}; there are {', '.join(names)}")
        moved = (
            replace(circle, l_deg=l_deg, b_deg=b_deg, provenance="user") if circle.name == name else circle
            for circle in table.circles
        )
        table = MaskTable(tuple(moved), table.centre)
    if mask.rectangle == "none":
        return table.with_centre(None)
    return table if mask.rectangle == "table" else table.with_centre(CentreRectangle(*mask.rectangle))


def used_pixels(
    mask: MaskSettings, grid: SphericalGrid, observation: Observation, file: Path | None = None
) -> npt.NDArray[np.bool_]:
    """Nested pixels that are neither masked nor unknown."""
    table = mask_table(mask, file)
    return observation.used if table is None else observation.used & table.used(grid.nside, mask.pixels)


def read_gamma(run: RunFile, path: Path, files: Mapping[str, Path]) -> Observation:
    """The gamma-ray map as a run file asks for it.

    Parameters
    ----------
    run : RunFile
    path : Path
        The map's file.
    files : mapping
        The other files by their role, as `input_files` gives them.

    Raises
    ------
    InputFileError, RecipeError, GridError, DependencyError
        As `crdist_inference.observation.read_observation`.
    """
    gamma = run.data.gamma
    # a synthetic file's one bin is the band that the emissivity was asked for
    band = gamma.band if run.data.synthetic is None else run.emission.band or gamma.band
    return read_observation(
        path,
        nside=run.grid.nside,
        band=band,
        sigma_rule=gamma.sigma_rule,
        energy_bins=files.get("energy_bins"),
        sigma_path=files.get("sigma"),
        columns=gamma.columns,
        ordering=gamma.ordering,
        units=gamma.units,
        missing=gamma.missing,
        min_fraction=gamma.min_fraction,
    )
