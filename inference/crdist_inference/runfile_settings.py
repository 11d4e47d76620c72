"""What a run file says, section by section: every setting with its default, its meaning and unit.

Every choice that the published description (arXiv:2605.22739) leaves open is a setting here; its default is the reading
that this project takes to be the paper's.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from crdist.grids import SphericalGrid
from crdist.settings_text import show
from crdist_inference.gamma_files import BAND_GEV
from crdist_inference.prior import LogNormal

__all__ = [
    "CONFIG",
    "DataSettings",
    "EmissionSettings",
    "EvidenceSettings",
    "GammaSettings",
    "GasSettings",
    "GridSettings",
    "InferenceSettings",
    "LogNormalSettings",
    "MaskSettings",
    "OutputSettings",
    "PriorSettings",
    "ProductSettings",
    "Schedule",
    "SyntheticSettings",
]

CONFIG = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_truth_value(value: object) -> object:
    # YAML reads yes as true, which is no number
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {show(value)}")
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value)]
Count = Annotated[int, BeforeValidator(_no_truth_value)]
Positive = Annotated[float, BeforeValidator(_no_truth_value), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_no_truth_value), Field(ge=0, le=1)]
AtLeastOne = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=1)]
NotNegative = Annotated[int, BeforeValidator(_no_truth_value), Field(ge=0)]


def _rectangle(value: object) -> object:
    pair = isinstance(value, list | tuple) and len(value) == 2 and not isinstance(value[0], bool)
    if not (value in ("table", "none") or pair):
        raise ValueError(f"must be table, none or [l, b], the half widths in degree, got {show(value)}")
    return value


Rectangle = Annotated[Literal["table", "none"] | tuple[Positive, Positive], BeforeValidator(_rectangle)]


class GammaSettings(BaseModel):
    """The gamma-ray map."""

    model_config = CONFIG

    path: str | None = Field(
        default=None, description="HDF5 in the layout of Scheel-Platz et al. 2023, or a HEALPix FITS table"
    )
    band: tuple[Positive, Positive] = Field(
        default=BAND_GEV, description="the energy bin by its edges, to 1 % [GeV]; the file's own edges are kept"
    )
    energy_bins: str | None = Field(
        default=None, description="HDF5: file of the bins' edges; null: in the map, or energy_bins.hdf5 beside it"
    )
    sigma_path: str | None = Field(default=None, description="FITS: file of the standard deviation")
    columns: tuple[str, str] | None = Field(default=None, description="FITS: columns of intensity and its sigma")
    ordering: Literal["nested", "ring"] | None = Field(
        default=None, description="order of the file's pixels; null: what the file says, else ring for HDF5"
    )
    units: str | None = Field(
        default=None, description="unit of the file; null: what the file says, else m-2 s-1 sr-1 for HDF5"
    )
    sigma_rule: Literal["mean", "quadrature", "samples"] = Field(
        default="mean",
        description="standard deviation of a coarser pixel: the children's mean (errors fully correlated), in "
        "quadrature (independent), or the scatter of the file's samples",
    )
    missing: Literal["refuse", "mask"] = Field(default="refuse", description="what to do about unknown pixels")
    min_fraction: Share = Field(
        default=0.5, description="with missing: mask, the share of known children that makes a pixel known"
    )


class GasSettings(BaseModel):
    """The gas map."""

    model_config = CONFIG

    path: str | None = Field(
        default=None, description="FITS of Söding et al. 2025, or a posterior store of gas made by 'crdist import'"
    )
    xco_rescale: Annotated[float, BeforeValidator(_no_truth_value), Field(ge=0)] = Field(
        default=1.0, description="factor on the molecules: X_CO wanted over that of the map, 2e20 cm-2 (K km/s)-1"
    )
    inner: Literal["exclude", "extend"] = Field(
        default="exclude", description="between the Sun and the first edge: no gas, or that of the first shell"
    )


class SyntheticSettings(BaseModel):
    """A made-up truth instead of a measured sky, written in the published layouts and read back from them."""

    model_config = CONFIG

    truth: Literal["prior", "analytic"] = Field(
        default="prior", description="a draw from the prior, or a ring with a linear decline with height"
    )
    length: Positive | None = Field(
        default=None, description="of a prior draw: correlation length [kpc]; null: drawn from its prior"
    )
    slope: Annotated[float, BeforeValidator(_no_truth_value), Field(gt=3)] | None = Field(
        default=None, description="of a prior draw: spectral slope; null: drawn"
    )
    scale: Positive | None = Field(
        default=None, description="of a prior draw: standard deviation of ln(density); null: drawn"
    )
    offset: Number | None = Field(default=None, description="of a prior draw: mean of ln(density / cm-3); null: drawn")
    noise: Share = Field(default=0.05, description="sigma as a share of the pixel's true intensity")
    floor: Share = Field(
        default=0.02, description="added to sigma, as a share of the true intensity's median over the sky"
    )
    gas_nside: AtLeastOne | None = Field(
        default=None, description="resolution of the synthetic gas map; null: twice that of the grid"
    )
    gas_n_shell: AtLeastOne | None = Field(
        default=None, description="shells of the synthetic gas map; null: twice those of the grid"
    )
    gas_samples: AtLeastOne = Field(default=4, description="samples in the synthetic gas map")
    seed: NotNegative = Field(default=1, description="of truth, noise and gas")

    @model_validator(mode="after")
    def _noise_is_there(self) -> Self:
        if self.noise + self.floor <= 0:
            raise ValueError("noise and floor are both 0; a sky without noise cannot be fitted, raise one")
        return self


class DataSettings(BaseModel):
    """What is fitted."""

    model_config = CONFIG

    gamma: GammaSettings = Field(default=GammaSettings(), description="the gamma-ray map")
    gas: GasSettings = Field(default=GasSettings(), description="the gas map")
    synthetic: SyntheticSettings | None = Field(
        default=None, description="a made-up sky in place of gamma.path; with gas.path it shines on that gas"
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.synthetic is None:
            for key in ("gamma", "gas"):
                if getattr(self, key).path is None:
                    raise ValueError(f"{key}.path is missing; give a file, or data.synthetic for a made-up sky")
        elif self.gamma.path is not None:
            raise ValueError("gamma.path and synthetic are both given; leave one out")
        return self


class GridSettings(BaseModel):
    """The grid of the inference."""

    model_config = CONFIG

    nside: AtLeastOne = Field(default=32, description="HEALPix resolution, a power of two")
    n_shell: AtLeastOne = Field(default=196, description="number of shells, even in ln(distance)")
    inner: Positive = Field(default=0.05, description="where the shells begin [kpc]")
    outer: Positive = Field(default=30.0, description="where the shells end [kpc]")
    ends: Literal["edges", "centres"] = Field(
        default="edges", description="whether inner and outer are the outermost edges or the outermost centres"
    )

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        self.record()
        return self

    def record(self) -> SphericalGrid:
        """The grid as crdist's record."""
        inner, outer = self.inner, self.outer
        if self.ends == "centres" and self.n_shell > 1 and inner < outer:
            half = math.exp(0.5 * math.log(outer / inner) / (self.n_shell - 1))
            inner, outer = inner / half, outer * half
        return SphericalGrid.log_spaced(self.nside, self.n_shell, inner, outer)


class MaskSettings(BaseModel):
    """Regions of the sky that are left out."""

    model_config = CONFIG

    kind: Literal["composite", "magellanic", "none", "file"] = Field(
        default="composite",
        description="all regions of the published analysis, the Magellanic Clouds alone (its appendix A), none, or "
        "a table of one's own",
    )
    file: str | None = Field(default=None, description="kind file: table of circles, .csv or .yaml")
    radii: dict[str, Positive] = Field(
        default={},
        description="other radii by group [degree], such as {pulsar: 3}; the paper's numbers are lost, the table has "
        "magellanic 5, pulsar 2 and dust_peak 2",
    )
    rectangle: Rectangle = Field(
        default="table",
        description="about the Galactic centre: half widths in l and b [degree], none, or the table's, [10, 5]",
    )
    move: dict[str, tuple[Number, Number]] = Field(
        default={},
        description="other centres by name, [l, b] [degree], such as {G074.53-09.59: [74.53, -7.18]}; the notes of "
        "masks_paper.yaml list the candidates of uncertain ones",
    )
    pixels: Literal["centre", "inclusive"] = Field(
        default="centre", description="a pixel is masked if its centre lies in a region, or any part of it"
    )

    @model_validator(mode="after")
    def _has_its_file(self) -> Self:
        if (self.kind == "file") != (self.file is not None):
            raise ValueError("kind file needs the key file, and no other kind has it")
        return self


class EmissionSettings(BaseModel):
    """What cosmic rays make of gas."""

    model_config = CONFIG

    preset: Literal["paper", "consistent"] = Field(
        default="paper",
        description="paper: enhancement 1.8 and 1.4 nucleons per hydrogen nucleus, which counts the gas's helium "
        "twice; consistent: 1.8 and 1",
    )
    model: str = Field(default="dp04", description="dp04 (Pfrommer & Ensslin 2004), kafexhiu, or a registered name")
    alpha: Annotated[float, BeforeValidator(_no_truth_value), Field(gt=1)] = Field(
        default=2.7, description="slope of the proton spectrum in momentum"
    )
    nuclear_enhancement: Positive | None = Field(default=None, description="factor for nuclei; null: the preset's")
    nucleon_scale: Positive | None = Field(
        default=None, description="nucleons per hydrogen nucleus; null: the preset's"
    )
    emissivity_rescale: Positive = Field(default=1.0, description="a further factor on the emissivity")
    band: tuple[Positive, Positive] | None = Field(
        default=None, description="energies of the photons [GeV]; null: the edges that the map's file says"
    )
    energy: Positive = Field(
        default=30.0, description="energy at which the density per energy, such as n30, is reported [GeV]"
    )
    energy_is: Literal["kinetic", "total", "ultrarelativistic"] = Field(
        default="kinetic",
        description="that energy is kinetic (exact), total (exact), or the momentum times c with speed c",
    )
    local_reference: Literal["toa", "demodulated"] = Field(
        default="toa",
        description="the locally measured protons that results are compared with: as counted, or outside the "
        "heliosphere",
    )


class LogNormalSettings(BaseModel):
    """A log-normal prior."""

    model_config = CONFIG

    mean: Positive = Field(description="mean of the variable itself")
    std: Positive = Field(description="standard deviation of the variable itself")

    def record(self) -> LogNormal:
        """The distribution as a record."""
        return LogNormal(self.mean, self.std)


class PriorSettings(BaseModel):
    """density = exp(scale * s + offset), s a Gaussian field of unit variance."""

    model_config = CONFIG

    scale: LogNormalSettings = Field(
        default=LogNormalSettings(mean=1.5, std=3.0),
        description="standard deviation of ln(density); row 2 of the paper's table 2 (whose symbols are lost)",
    )
    slope: LogNormalSettings = Field(
        default=LogNormalSettings(mean=6.0, std=2.0),
        description="slope of the spectrum [1 + (k length)^2]^(-slope/2), truncated at 3.1; row 3 of that table",
    )
    length: LogNormalSettings = Field(
        default=LogNormalSettings(mean=6.0, std=3.0), description="correlation length in that spectrum [kpc]"
    )
    offset_mean: Number = Field(
        default=-21.2, description="mean of the prior's ln(density); -21.2 is the locally measured one, ln(6e-10)"
    )
    offset_std: Positive = Field(default=4.0, description="standard deviation of that mean")
    offset_of: Literal["c", "density_at_energy"] = Field(
        default="c", description="what offset_mean is the logarithm of: C [cm-3] or emission's density at energy"
    )


class EvidenceSettings(BaseModel):
    """The grid on which length and slope are inferred, in mode evidence."""

    model_config = CONFIG

    nside: AtLeastOne = Field(default=4, description="resolution of the coarsened sky; the grid's, if that is less")
    n_shell: AtLeastOne = Field(default=14, description="shells of the coarsened grid; the grid's, if those are less")
    n_length: Annotated[int, Field(ge=4)] = Field(default=9, description="lengths of the first, coarse grid")
    n_slope: Annotated[int, Field(ge=4)] = Field(default=9, description="slopes of the first, coarse grid")


class Schedule(BaseModel):
    """How long geoVI works; the numbers of `crdist_inference.geovi.Settings`."""

    model_config = CONFIG

    n_iteration: AtLeastOne = Field(default=12, description="iterations of the first draw of (length, slope)")
    n_iteration_next: AtLeastOne = Field(
        default=4, description="of every further draw, which starts where the one before ended"
    )
    early_iterations: NotNegative = Field(
        default=5, description="the first iterations of the first draw, with fewer samples"
    )
    n_pairs_early: AtLeastOne = Field(default=1, description="mirrored pairs of samples in an early iteration")
    update_iterations: NotNegative = Field(
        default=2, description="last iterations of a draw, which keep their random numbers and so converge"
    )
    linear_steps: AtLeastOne = Field(default=400, description="conjugate gradient steps of a linear sample, at most")
    newton_steps: AtLeastOne = Field(default=25, description="Newton steps that bend a sample, at most")
    newton_cg_steps: AtLeastOne = Field(default=100, description="gradient steps of each of those, at most")
    kl_steps: AtLeastOne = Field(default=12, description="Newton steps of the mean in an iteration, at most")
    kl_cg_steps: AtLeastOne = Field(default=100, description="gradient steps of each of those, at most")
    linear_tolerance: Positive = Field(default=1e-4, description="change of the energy at which a linear sample stops")
    newton_tolerance: Positive = Field(default=1e-2, description="change of the energy at which bending stops")
    kl_tolerance: Positive = Field(default=1e-2, description="change of the energy at which the mean stops")
    converged_below: Positive = Field(
        default=0.3, description="warn if the mean's last change is larger [posterior standard deviations]"
    )


class InferenceSettings(BaseModel):
    """How the posterior is drawn."""

    model_config = CONFIG

    mode: Literal["evidence", "joint"] = Field(
        default="evidence",
        description="evidence: length and slope from a grid of evidences, then geoVI at draws from it; joint: all in "
        "one geoVI, as the paper, whose widths of length and slope are not calibrated",
    )
    samples: AtLeastOne = Field(default=12, description="posterior samples in all, in mirrored pairs")
    draws: AtLeastOne = Field(
        default=3, description="draws of (length, slope) that share the samples; mode joint: separate starts"
    )
    seed: NotNegative = Field(default=1, description="the same seed gives the same samples on the same device")
    dtype: Literal["float32", "float64"] = Field(default="float64", description="precision of the field")
    base_nside: AtLeastOne = Field(default=4, description="resolution down to which the prior is exact")
    window: tuple[Annotated[int, Field(ge=5)], Annotated[int, Field(ge=3)]] = Field(
        default=(9, 5), description="pixels and shells (odd) that a cell of the next resolution is conditioned on"
    )
    evidence: EvidenceSettings = Field(
        default=EvidenceSettings(), description="the grid for length and slope, in mode evidence"
    )
    schedule: Schedule = Field(default=Schedule(), description="iterations and solver steps")

    @model_validator(mode="after")
    def _samples_can_be_shared(self) -> Self:
        if self.samples % (2 * self.draws):
            raise ValueError(
                f"samples must be a multiple of {2 * self.draws} (mirrored pairs of {self.draws} draws), got "
                f"{self.samples}"
            )
        if self.window[1] % 2 == 0:
            raise ValueError(f"window needs an odd number of shells, got {self.window[1]}")
        return self

    @property
    def n_pairs(self) -> int:
        """Mirrored pairs of each draw."""
        return self.samples // (2 * self.draws)


class OutputSettings(BaseModel):
    """What is kept beside the density."""

    model_config = CONFIG

    latents: bool = Field(default=False, description="keep the latent excitations of every sample (as large as it)")


class ProductSettings(BaseModel):
    """What 'crdist run' computes from the posterior."""

    model_config = CONFIG

    recipe: str = Field(default="default", description="default, or a recipe file; see 'crdist recipe'")
    set: tuple[str, ...] = Field(
        default=(), description="overrides of the recipe, such as [quantity=n30, frame.r0=8.178, grid.voxel=0.2]"
    )
