"""The run file: which data, which model and how an inference is run, in one YAML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from crdist.constants import PROTON_GEV
from crdist.emission import MODELS, Emissivity, density_at_energy
from crdist.errors import CrdistError, RecipeError
from crdist.settings_text import SettingsFile, apply_override, explain, mapping_of, read_yaml, validated
from crdist_inference.prior import Prior
from crdist_inference.runfile_settings import (
    CONFIG,
    DataSettings,
    EmissionSettings,
    GridSettings,
    InferenceSettings,
    MaskSettings,
    OutputSettings,
    PriorSettings,
    ProductSettings,
)

__all__ = ["RunFile", "packaged_run_file"]


class RunFile(SettingsFile):
    """All that decides an inference. Made with `from_yaml` or `from_mapping`, which raise `RecipeError`.

    Examples
    --------
    >>> run = RunFile.from_mapping({"version": 1, "data": {"synthetic": {}}, "grid": {"nside": 8, "n_shell": 28}})
    >>> run.inference.mode, run.grid.record().n_pixel
    ('evidence', 768)
    >>> RunFile.from_mapping({"version": 1, "data": {"synthetic": {"trut": "prior"}}})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    crdist.errors.RecipeError: run file: data.synthetic.trut: unknown key 'trut'; did you mean 'truth'? known: ...
    """

    model_config = CONFIG

    version: Literal[1] = Field(description="of this format: 1")
    title: str = Field(default="", description="kept in the result's provenance")
    data: DataSettings = Field(description="what is fitted")
    grid: GridSettings = Field(default=GridSettings(), description="cells of the density: heliocentric, nested")
    mask: MaskSettings = Field(default=MaskSettings(), description="regions of the sky that are left out")
    emission: EmissionSettings = Field(default=EmissionSettings(), description="from density and gas to intensity")
    prior: PriorSettings = Field(
        default=PriorSettings(), description="density = exp(scale * s + offset), s Gaussian of unit variance"
    )
    inference: InferenceSettings = Field(default=InferenceSettings(), description="how the posterior is drawn")
    output: OutputSettings = Field(default=OutputSettings(), description="what is kept beside the density")
    products: ProductSettings = Field(default=ProductSettings(), description="what 'crdist run' computes from it")

    @model_validator(mode="after")
    def _can_be_computed(self) -> Self:
        # what these records refuse is said before any file is read
        band = self.emission.band or self.data.gamma.band
        checks = (("emission", lambda: self.emissivity(band)), ("emission", lambda: self.reported_weight))
        for key, check in (*checks, ("prior", self.prior_record)):
            try:
                check()
            except CrdistError as error:
                raise ValueError(f"{key}: {error}") from error
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> RunFile:
        """Read a run file; paths in it are relative to its own folder.

        Raises
        ------
        RecipeError
            If it cannot be read or followed: file, key or line, what was got, what to do.
        """
        path = Path(path)
        return cls.from_mapping(read_yaml(path, "run file"), source=str(path), folder=path.absolute().parent)

    @classmethod
    def from_mapping(cls, data: Any, *, source: str = "run file", folder: Path | None = None) -> RunFile:
        """The run that plain data describe.

        Parameters
        ----------
        data : mapping
            Keys as in a run file. Anything else is refused.
        source : str
            Where the data come from, for messages.
        folder : Path, optional
            What relative paths are relative to; default: they stay as they are.

        Raises
        ------
        RecipeError
            If the data cannot be followed; the first fault, and how many more there are.
        """
        run = validated(cls, mapping_of(data, source, "'data' and 'grid'"), source)
        return run if folder is None else cls.model_validate(_located(run.to_dict(), folder))

    def with_overrides(self, overrides: Sequence[str], *, folder: Path | None = None) -> RunFile:
        """The run with some values set anew: ``inference.mode=joint``, the value as YAML.

        Raises
        ------
        RecipeError
            If a key does not exist or the run file cannot be followed any more.
        """
        data = self.to_dict()
        for override in overrides:
            apply_override(data, override, "inference.samples=12")
        return RunFile.from_mapping(data, source="overrides", folder=folder)

    @classmethod
    def explained(cls) -> str:
        """Every setting with its default, meaning and unit, as YAML."""
        return f"# Every setting of a run file.\n{explain(cls)}"

    def deciding(self) -> dict[str, Any]:
        """What decides the samples, as plain data: without where files lie, what is kept and what is made of it."""
        data = self.to_dict()
        for key in ("title", "output", "products"):
            del data[key]
        for *parents, key in _PATHS:
            node = data
            for parent in parents:
                node = node.get(parent) or {}
            node.pop(key, None)
        # a model of an installed package may give other numbers in another version
        data["emission"] |= MODELS.origin(self.emission.model)
        return data

    def emissivity(self, band: tuple[float, float]) -> Emissivity:
        """The emissivity, for a band [GeV] where the run file does not set one."""
        emission = self.emission
        e_min, e_max = emission.band or band
        given = {
            key: getattr(emission, key)
            for key in ("nuclear_enhancement", "nucleon_scale")
            if getattr(emission, key) is not None
        }
        return Emissivity.preset(
            emission.preset,
            model=emission.model,
            alpha=emission.alpha,
            emissivity_rescale=emission.emissivity_rescale,
            e_min_gev=e_min,
            e_max_gev=e_max,
            **given,
        )

    @property
    def reported_weight(self) -> float:
        """Density per energy that is reported over C, GeV-1."""
        emission = self.emission
        if emission.energy_is == "ultrarelativistic":
            return float((emission.energy / PROTON_GEV) ** -emission.alpha / PROTON_GEV)
        kinetic = emission.energy - (PROTON_GEV if emission.energy_is == "total" else 0.0)
        if kinetic <= 0:
            raise RecipeError(f"energy is {emission.energy:g} GeV, less than a proton's rest energy; raise it")
        return float(density_at_energy(1.0, kinetic, emission.alpha))

    def prior_record(self) -> Prior:
        """The prior of C [cm-3]."""
        prior = self.prior
        shift = math.log(self.reported_weight) if prior.offset_of == "density_at_energy" else 0.0
        return Prior(
            scale=prior.scale.record(),
            slope=prior.slope.record(),
            length=prior.length.record(),
            offset_mean=prior.offset_mean - shift,
            offset_std=prior.offset_std,
        )


_PATHS = (
    ("data", "gamma", "path"),
    ("data", "gamma", "energy_bins"),
    ("data", "gamma", "sigma_path"),
    ("data", "gas", "path"),
    ("mask", "file"),
    ("products", "recipe"),
)
"""Settings that are paths."""


def _located(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data with paths that do not depend on where the command runs."""
    for *parents, key in _PATHS:
        node = data
        for parent in parents:
            node = node[parent]
        if node[key] is not None and (key != "recipe" or node[key] != "default"):
            node[key] = str(folder / Path(node[key]).expanduser())
    return data


def packaged_run_file(name: str) -> Path:
    """A run file that comes with crdist.

    Raises
    ------
    RecipeError
        If there is none of this name.
    """
    inside = Path(str(resources.files("crdist_inference")))
    # a wheel holds them in the package, a checkout beside it
    folders = (inside / "configs", inside.parent / "configs")
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted(path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml"))
    raise RecipeError(f"no run file {name!r} comes with crdist; there are {', '.join(known)}")
