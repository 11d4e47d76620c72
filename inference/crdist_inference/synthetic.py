"""An analytic galaxy and posterior-like samples of it: a model to try crdist on, not data.

The numbers are round and chosen to look like the Milky Way: an atomic disc with arms, flare and warp, a
molecular ring with arms, bar and compact clouds, and a cosmic-ray density whose vertical profile is known in
closed form. A sample is the model times a smooth random log-field; samples come in mirrored pairs, as
geometric variational inference draws them, and scatter more the farther a place is from the Sun.

All coordinates are heliocentric in kpc: x towards the Galactic centre, y towards l = 90 deg, z towards the
north pole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError, StoreExistsError
from crdist.frames import R0_KPC
from crdist.grids import SphericalGrid

if TYPE_CHECKING:
    from astropy.io import fits

__all__ = [
    "Clouds",
    "LogField",
    "cosmic_ray_density",
    "cosmic_ray_samples",
    "hi_density",
    "molecular_density",
    "write_published_gas",
]

Float = npt.NDArray[np.float32]

INNER_KPC, OUTER_KPC = 0.05, 30.0
PIXEL_BLOCK_CELLS = 1 << 17
"""Cells that are worked on at once: their few arrays stay in the processor's cache."""

PITCH = math.radians(12.5)
ARM_PHASE = 1.1
N_ARM = 4
BAR_ANGLE = math.radians(28.0)
BAR_KPC = (1.5, 0.35)
WARP_START_KPC = 9.0
HALO_KPC = 4.0
LOCAL_C = 6.0e-10  # cm-3, of the order that the locally measured spectrum gives


@dataclass(frozen=True, slots=True)
class Clouds:
    """Round molecular clouds with a Gaussian profile."""

    places_kpc: npt.NDArray[np.float64]
    """Centres, kpc, shape (n, 3)."""
    widths_kpc: npt.NDArray[np.float64]
    """Standard deviations of the profiles, kpc, shape (n,)."""
    peaks: npt.NDArray[np.float64]
    """Density of molecules at the centres, cm-3, shape (n,)."""

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int = 36) -> Clouds:
        """Clouds along the arms of the inner Galaxy, and one near the Sun, 0.4 kpc away."""
        radius = rng.uniform(3.0, 10.5, n)
        turn = 2 * math.pi * rng.integers(N_ARM, size=n) / N_ARM + rng.normal(0.0, 0.05, n)
        azimuth = ARM_PHASE + np.log(radius / R0_KPC) / math.tan(PITCH) + turn
        places = np.stack([R0_KPC - radius * np.cos(azimuth), radius * np.sin(azimuth), rng.normal(0.0, 0.04, n)], -1)
        widths = rng.uniform(0.05, 0.22, n)
        places[0], widths[0] = (0.38, 0.12, -0.03), 0.05
        peaks = 30.0 * (widths / 0.1) ** -1.1 * rng.uniform(0.4, 1.6, n)  # larger clouds are thinner
        return cls(places, widths, peaks)


@dataclass(frozen=True, slots=True)
class LogField:
    """A smooth random field of zero mean and unit variance: a sum of plane waves.

    Parameters
    ----------
    wave_numbers : ndarray, shape (n_wave, 3), rad / kpc
    phases : ndarray, shape (n_wave,), rad
    amplitudes : ndarray, shape (n_wave,)
    """

    wave_numbers: Float
    phases: Float
    amplitudes: Float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        shortest_kpc: float = 1.5,
        longest_kpc: float = 12.0,
        n_wave: int = 32,
    ) -> LogField:
        """A field whose long waves are the strong ones."""
        length = np.geomspace(shortest_kpc, longest_kpc, n_wave)
        direction = rng.normal(size=(n_wave, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        amplitude = np.sqrt(length)
        # a cosine has the variance one half
        amplitude *= math.sqrt(2.0) / np.linalg.norm(amplitude)
        return cls(
            np.asarray(2 * math.pi * direction / length[:, None], dtype=np.float32),
            np.asarray(rng.uniform(0.0, 2 * math.pi, n_wave), dtype=np.float32),
            np.asarray(amplitude, dtype=np.float32),
        )

    def __call__(self, x: Float, y: Float, z: Float) -> Float:
        """The field at places in kpc; dimensionless, the shape of ``x``."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
        for (kx, ky, kz), phase, amplitude in zip(self.wave_numbers, self.phases, self.amplitudes, strict=True):
            total += amplitude * np.cos(kx * x + ky * y + kz * z + phase)
        return total


def hi_density(x: npt.ArrayLike, y: npt.ArrayLike, z: npt.ArrayLike, *, blur_kpc: npt.ArrayLike = 0.0) -> Float:
    """Density of hydrogen atoms of the model.

    Parameters
    ----------
    x, y, z : array_like, kpc
        Heliocentric places; they broadcast.
    blur_kpc : array_like, kpc
        Standard deviation of a vertical smoothing that keeps the column, as of a coarse cell on a thin disc.

    Returns
    -------
    ndarray of float32, cm-3
    """
    x, y, z = _float32(x, y, z)
    radius, azimuth = _cylindrical(x, y)
    # atoms are few inside the bar and fall off exponentially outside the Sun's orbit
    surface = np.exp(-np.maximum(radius - 7.0, 0.0) / 5.5) / (1.0 + np.exp((3.2 - radius) / 0.5))
    surface *= 0.45 + 2.2 * _arms(radius, azimuth, sharpness=3.0)
    height, z = 0.14 * np.exp((radius - R0_KPC) / 11.0), z - _warp(radius, azimuth)
    layers = 0.88 * _layer(z, height, blur_kpc) + 0.12 * _layer(z, 3.0 * height, blur_kpc)
    return np.asarray(1.1 * surface * layers, dtype=np.float32)


def molecular_density(
    x: npt.ArrayLike, y: npt.ArrayLike, z: npt.ArrayLike, clouds: Clouds, *, blur_kpc: npt.ArrayLike = 0.0
) -> Float:
    """Density of hydrogen molecules of the model: ring, arms, bar and clouds.

    Parameters
    ----------
    x, y, z : array_like, kpc
        Heliocentric places; they broadcast.
    clouds : Clouds
    blur_kpc : array_like, kpc
        Standard deviation of a smoothing that keeps columns and masses: vertical for the disc, round for
        a cloud.

    Returns
    -------
    ndarray of float32, cm-3
    """
    x, y, z = _float32(x, y, z)
    radius, azimuth = _cylindrical(x, y)
    ring = np.exp(-0.5 * ((radius - 4.6) / 1.3) ** 2) + 0.12 * np.exp(-0.5 * (radius / 9.0) ** 2)
    # the near end of the bar lies at positive longitudes
    along, aside = radius * np.cos(azimuth - BAR_ANGLE), radius * np.sin(azimuth - BAR_ANGLE)
    bar = np.exp(-0.5 * ((along / BAR_KPC[0]) ** 2 + (aside / BAR_KPC[1]) ** 2))
    surface = ring * (0.35 + 2.6 * _arms(radius, azimuth, sharpness=7.0)) + 2.5 * bar
    density = 0.8 * surface * _layer(z - _warp(radius, azimuth), np.float32(0.06), blur_kpc)
    blur2 = np.square(np.asarray(blur_kpc, dtype=np.float32))
    for (cx, cy, cz), width, peak in zip(clouds.places_kpc, clouds.widths_kpc, clouds.peaks, strict=True):
        width2 = np.float32(width**2)
        spread2 = width2 + blur2
        squared = (x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2 + (z - np.float32(cz)) ** 2
        density += np.float32(peak) * (width2 / spread2) ** 1.5 * np.exp(-0.5 * squared / spread2)
    return np.asarray(density, dtype=np.float32)


def cosmic_ray_density(x: npt.ArrayLike, y: npt.ArrayLike, z: npt.ArrayLike) -> Float:
    """Normalisation C of the cosmic-ray proton density of the model.

    Its radial profile peaks near 4.5 kpc and is 6.0e-10 cm-3 at the Sun; with height it is
    ``1 - |z| / 4 kpc``, so that a linear fit must return 4 kpc.

    Parameters
    ----------
    x, y, z : array_like, kpc
        Heliocentric places; they broadcast.

    Returns
    -------
    ndarray of float32, cm-3
    """
    x, y, z = _float32(x, y, z)
    radius, _ = _cylindrical(x, y)
    at_sun = _cosmic_ray_radial(np.float32(R0_KPC))
    return np.asarray(
        LOCAL_C * _cosmic_ray_radial(radius) / at_sun * np.maximum(1.0 - np.abs(z) / HALO_KPC, 0.0),
        dtype=np.float32,
    )


def cosmic_ray_samples(grid: SphericalGrid, n_sample: int, seed: int = 1) -> Float:
    """Posterior-like samples of the cosmic-ray density on a spherical grid. A model, not data.

    Parameters
    ----------
    grid : SphericalGrid
    n_sample : int
        Number of samples; mirrored pairs, so an odd number leaves out the last one's mirror image.
    seed : int
        The same seed gives the same samples.

    Returns
    -------
    ndarray of float32, shape (n_pixel, n_shell, n_sample), cm-3

    Raises
    ------
    GridError
        If there is no sample to make.
    """
    rng = np.random.default_rng(seed)
    fields = _fields(rng, n_sample)
    samples = np.empty((grid.n_pixel, grid.n_shell, n_sample), dtype=np.float32)
    for pixels, x, y, z in _blocks(grid):
        samples[pixels] = _scatter(cosmic_ray_density(x, y, z), fields, n_sample, x, y, z, amplitude=0.3)
    return samples


def write_published_gas(
    path: str | Path, *, nside: int = 32, n_shell: int = 98, n_sample: int = 8, seed: int = 1
) -> Path:
    """Write posterior-like samples of the model's gas as a FITS file in the layout of the Söding+2025 map.

    A model, not data; the primary header says so. Blocks of pixels are computed and written one after the
    other, so memory stays at some ten megabytes whatever the size of the file.

    Parameters
    ----------
    path : path
        File to write; it must not exist.
    nside, n_shell : int
        Size of the grid, 0.05 to 30 kpc.
    n_sample : int
        Number of samples, in mirrored pairs.
    seed : int
        The same seed gives the same file.

    Returns
    -------
    Path
        The file: tables ``radial pixel centres`` and ``radial pixel edges`` [kpc], then images of the atoms
        and of the molecules [cm-3], each (n_pixel, n_shell, n_sample) in nested order.

    Raises
    ------
    GridError
        If the grid cannot be or there is no sample to make.
    StoreExistsError
        If the file exists.

    Notes
    -----
    Layout: Zenodo 12578443, ``samples_densities_hpixr.fits``.
    """
    from astropy.io import fits

    target = Path(path)
    if target.exists():
        raise StoreExistsError(f"{target}: exists already; choose another name or remove it")
    grid = SphericalGrid.log_spaced(nside, n_shell, INNER_KPC, OUTER_KPC)
    rng = np.random.default_rng(seed)
    clouds = Clouds.draw(rng)
    atoms, molecules = _fields(rng, n_sample), _fields(rng, n_sample)
    # A uniform cell of side s has the standard deviation s / sqrt(12).
    blur = np.asarray(grid.centres * math.sqrt(math.pi / 3.0) / nside / math.sqrt(12.0), dtype=np.float32)

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        primary = fits.PrimaryHDU()
        primary.header["COMMENT"] = "A synthetic galaxy in the layout of a published map: a model, not data."
        primary.header["ORDERING"], primary.header["NSIDE"], primary.header["SEED"] = "NESTED", nside, seed
        tables = [_column("radial pixel centres", grid.centres), _column("radial pixel edges", grid.edges)]
        fits.HDUList([primary, *tables]).writeto(partial)
        with _image(partial, grid, n_sample, "HI") as image:
            for _, x, y, z in _blocks(grid):
                values = _scatter(hi_density(x, y, z, blur_kpc=blur), atoms, n_sample, x, y, z, amplitude=0.25)
                image.write(values.astype(">f4"))
        with _image(partial, grid, n_sample, "H2") as image:
            for _, x, y, z in _blocks(grid):
                density = molecular_density(x, y, z, clouds, blur_kpc=blur)
                image.write(_scatter(density, molecules, n_sample, x, y, z, amplitude=0.4).astype(">f4"))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _image(path: Path, grid: SphericalGrid, n_sample: int, name: str) -> fits.StreamingHDU:
    from astropy.io import fits

    header = fits.Header()
    header["XTENSION"], header["BITPIX"], header["NAXIS"] = "IMAGE", -32, 3
    # FITS counts the fastest axis first
    header["NAXIS1"], header["NAXIS2"], header["NAXIS3"] = n_sample, grid.n_shell, grid.n_pixel
    header["PCOUNT"], header["GCOUNT"] = 0, 1
    header["EXTNAME"], header["BUNIT"], header["ORDERING"], header["NSIDE"] = (
        name,
        "cm-3",
        "NESTED",
        grid.nside,
    )
    return fits.StreamingHDU(str(path), header)


def _column(name: str, values: npt.NDArray[np.float64]) -> fits.BinTableHDU:
    from astropy.io import fits

    return fits.BinTableHDU.from_columns([fits.Column(name, "D", unit="kpc", array=values)])


def _float32(*places: npt.ArrayLike) -> tuple[Float, ...]:
    return tuple(np.asarray(place, dtype=np.float32) for place in places)


def _cylindrical(x: Float, y: Float) -> tuple[Float, Float]:
    """Galactocentric radius [kpc] and azimuth [rad], which is 0 towards the Sun."""
    return np.hypot(x - np.float32(R0_KPC), y), np.arctan2(y, np.float32(R0_KPC) - x)


def _arms(radius: Float, azimuth: Float, sharpness: float) -> Float:
    """Logarithmic spiral arms: 1 on an arm, small between arms and inside the bar."""
    winding = np.log(np.maximum(radius, np.float32(0.1)) / np.float32(R0_KPC)) / np.float32(math.tan(PITCH))
    phase = np.float32(N_ARM) * (azimuth - np.float32(ARM_PHASE) - winding)
    inside = 1.0 + np.exp((2.8 - radius) / 0.35)
    return np.asarray(np.exp(np.float32(sharpness) * (np.cos(phase) - 1)) / inside, dtype=np.float32)


def _warp(radius: Float, azimuth: Float) -> Float:
    """Height of the disc's middle: it rises on one side of the outer Galaxy and falls on the other."""
    return np.asarray(0.012 * np.maximum(radius - WARP_START_KPC, 0.0) ** 2 * np.sin(azimuth), dtype=np.float32)


def _layer(z: Float, height: Float | np.float32, blur_kpc: npt.ArrayLike) -> Float:
    """A Gaussian layer, smoothed so that its column stays the same."""
    spread = np.hypot(height, np.asarray(blur_kpc, dtype=np.float32))
    return np.asarray(height / spread * np.exp(-0.5 * np.square(z / spread)), dtype=np.float32)


def _cosmic_ray_radial(radius: Float | np.float32) -> Float:
    bump = 1.3 * np.exp(-0.5 * ((radius - 4.5) / 1.6) ** 2)
    return np.asarray(bump + np.exp(-(radius - R0_KPC) / 9.0), dtype=np.float32)


def _fields(rng: np.random.Generator, n_sample: int) -> list[LogField]:
    if n_sample < 1:
        raise GridError(f"a synthetic posterior has at least 1 sample, got {n_sample}")
    return [LogField.draw(rng) for _ in range(-(-n_sample // 2))]


def _scatter(
    density: Float, fields: list[LogField], n_sample: int, x: Float, y: Float, z: Float, amplitude: float
) -> Float:
    """Mirrored pairs of samples about a density, last axis the sample."""
    distance2 = x * x + y * y + z * z
    # towards the Sun the data say most; far away the scatter levels off
    spread = np.float32(amplitude) * (0.3 + 1.7 * distance2 / (distance2 + np.float32(36.0)))
    # the expectation of a log-normal sample is then the density itself
    middle = density * np.exp(-0.5 * np.square(spread))
    samples = np.empty((*density.shape, n_sample), dtype=np.float32)
    for i, field in enumerate(fields):
        step = np.exp(spread * field(x, y, z))
        samples[..., 2 * i] = middle * step
        if 2 * i + 1 < n_sample:
            samples[..., 2 * i + 1] = middle / step
    return samples


def _blocks(grid: SphericalGrid) -> Iterator[tuple[slice, Float, Float, Float]]:
    """Blocks of pixels with the heliocentric places of their cells' centres, each (pixel, shell)."""
    import healpy

    step = max(1, PIXEL_BLOCK_CELLS // grid.n_shell)
    for first in range(0, grid.n_pixel, step):
        pixels = slice(first, min(first + step, grid.n_pixel))
        vectors = healpy.pix2vec(grid.nside, np.arange(pixels.start, pixels.stop), nest=grid.ordering == "nested")
        x, y, z = (np.asarray(vector[:, None] * grid.centres, dtype=np.float32) for vector in vectors)
        yield pixels, x, y, z
