"""Small files in the layouts in which maps are published, for tests.

Each function writes a file and returns what it wrote: `Written` holds the samples as the store should have them,
(pixel, shell, sample) in nested order and single precision, whatever the file's own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import healpy
import numpy as np
from astropy.io import fits


@dataclass(frozen=True)
class Written:
    values: dict[str, np.ndarray]
    """By variable: nested samples, shape (pixel, shell, sample), float32."""
    edges_kpc: np.ndarray
    centres_kpc: np.ndarray


def shell_edges(n_shell, inner_kpc=0.05, outer_kpc=30.0):
    return np.geomspace(inner_kpc, outer_kpc, n_shell + 1)


def samples(nside, n_shell, n_sample, seed):
    """Smooth positive samples that differ in every cell, nested, (pixel, shell, sample), float32."""
    rng = np.random.default_rng(seed)
    x, y, z = healpy.pix2vec(nside, np.arange(12 * nside**2), nest=True)
    sky = 1.0 + 0.3 * x + 0.2 * y + 0.6 * np.exp(-8 * z**2)
    radial = np.exp(-np.linspace(0.0, 3.0, n_shell))
    noise = rng.lognormal(sigma=0.2, size=(sky.size, n_shell, n_sample))
    return (sky[:, None, None] * radial[None, :, None] * noise).astype(np.float32)


def in_file_order(values, ordering):
    """Nested pixels (first axis) in the order of the file."""
    if ordering.upper() == "RING":
        return values[healpy.ring2nest(healpy.npix2nside(len(values)), np.arange(len(values)))]
    return values


def column(name, values, units=None):
    hdu = fits.BinTableHDU.from_columns([fits.Column(name, "D", array=values, unit=units)])
    hdu.name = name
    return hdu


def write_edenhofer(
    path,
    *,
    nside=8,
    n_shell=12,
    n_sample=4,
    seed=0,
    ordering="NESTED",
    cunit="E/pc",
    kind="samples",
    centres_kpc=None,
    extra=(),
):
    """The dust map: ``kind`` is "samples" (a primary image) or "mean" (beside its standard deviation)."""
    edges_kpc = shell_edges(n_shell, 0.069, 1.25)
    centres = np.sqrt(edges_kpc[1:] * edges_kpc[:-1]) if centres_kpc is None else np.asarray(centres_kpc)
    values = samples(nside, n_shell, n_sample, seed)
    inner = values[:, 0] * 69
    if kind == "mean":
        spread = values.std(axis=2)
        values = values.mean(axis=2, keepdims=True)

    def image(array, hdu_type, name=None, ctype=None):
        hdu = hdu_type(np.ascontiguousarray(np.moveaxis(in_file_order(array, ordering), 0, -1).astype(np.float32)))
        if name:
            hdu.name = name
        hdu.header["NSIDE"], hdu.header["ORDERING"] = nside, ordering
        if cunit:
            hdu.header["CUNIT"] = cunit
        if ctype:
            hdu.header["CTYPE"] = ctype
        return hdu

    within = "inner density integrated within 69pc"
    if kind == "samples":
        hdus = [
            image(values.swapaxes(1, 2), fits.PrimaryHDU),
            image(inner, fits.ImageHDU, "integrated inner 69 pc", within),
        ]
    else:
        hdus = [
            fits.PrimaryHDU(),
            image(values[..., 0], fits.ImageHDU, "mean"),
            image(spread, fits.ImageHDU, "std."),
            image(inner.mean(axis=1), fits.ImageHDU, "mean of integrated inner 69 pc", within),
            image(inner.std(axis=1), fits.ImageHDU, "std. of integrated inner 69 pc", f"std. of {within}"),
        ]
    # in memory (sample, shell, pixel) has the pixel last, as moveaxis leaves it
    hdus += [
        column("radial pixel centers", centres * 1e3),
        column("radial pixel boundaries", edges_kpc * 1e3),
        *extra,
    ]
    fits.HDUList(hdus).writeto(path)
    return Written({"extinction_density": values.astype(np.float32)}, edges_kpc, centres)


def write_soding(
    path,
    *,
    nside=8,
    n_shell=12,
    n_sample=4,
    seed=0,
    ordering=None,
    axes=("pixel", "shell", "sample"),
    edges_kpc=None,
    with_nside=False,
    extra=(),
):
    """The gas maps; ``axes`` is the order of the image's axes, without "sample" for the first sample alone."""
    edges = shell_edges(n_shell) if edges_kpc is None else np.asarray(edges_kpc)
    centres = np.sqrt(np.abs(edges[1:] * edges[:-1]))
    values = {
        "n_hi": samples(nside, n_shell, n_sample, seed),
        "n_h2": samples(nside, n_shell, n_sample, seed + 1),
    }
    if "sample" not in axes:
        values = {name: array[..., :1] for name, array in values.items()}
    order = [("pixel", "shell", "sample").index(axis) for axis in axes]
    hdus = [fits.PrimaryHDU(), column("radial pixel centres", centres), column("radial pixel edges", edges)]
    for array in values.values():
        stored = in_file_order(array, ordering or "NESTED")
        if "sample" not in axes:
            stored = stored[..., 0]
        hdu = fits.ImageHDU(np.ascontiguousarray(stored.transpose(order)))
        if ordering:
            hdu.header["ORDERING"] = ordering
        if with_nside:
            hdu.header["NSIDE"] = nside
        hdus.append(hdu)
    fits.HDUList([*hdus, *extra]).writeto(path)
    return Written(values, edges, centres)


def write_healpix_shells(
    path,
    *,
    nside=8,
    n_shell=12,
    n_sample=4,
    seed=0,
    ordering="RING",
    units="cm-3",
    edges="keywords",
    coord="G",
    with_n_shell=True,
):
    """A HEALPix table a shell: a folder of healpy's files, or one file if the path ends in ".fits".

    ``edges`` is "keywords" (R_INNER, R_OUTER), or "table". NSHELL is in the primary header of the one file, or in
    the header of each table of the folder.
    """
    path = Path(path)
    edges_kpc = shell_edges(n_shell)
    values = samples(nside, n_shell, n_sample, seed)
    folder = path.with_suffix(".parts") if path.suffix == ".fits" else path
    folder.mkdir()
    # Files whose names are not in the order of distance show that the keywords count.
    order = range(n_shell) if edges == "table" else reversed(range(n_shell))
    parts = []
    stated = [("NSHELL", n_shell)] if with_n_shell else []
    for i, shell in enumerate(order):
        parts.append(folder / f"shell_{i:04d}.fits")
        keywords = [("R_INNER", edges_kpc[shell], "kpc"), ("R_OUTER", edges_kpc[shell + 1], "kpc")]
        healpy.write_map(
            parts[-1],
            list(in_file_order(values[:, shell], ordering).T),
            nest=ordering.upper() != "RING",
            dtype=np.float32,
            coord=coord,
            column_names=[f"SAMPLE_{k}" for k in range(n_sample)],
            column_units=units,
            extra_header=(keywords if edges == "keywords" else []) + (stated if folder == path else []),
        )
    if edges == "table":
        parts.append(folder / "edges.fits")
        fits.HDUList([fits.PrimaryHDU(), column("radial pixel edges", edges_kpc, "kpc")]).writeto(parts[-1])
    if folder != path:
        hdus = fits.HDUList([fits.PrimaryHDU(header=fits.Header(stated))])
        for part in parts:
            with fits.open(part, memmap=False) as hdul:
                hdus.append(hdul[1].copy())
            part.unlink()
        hdus.writeto(path)
        folder.rmdir()
    return Written({"density": values}, edges_kpc, np.sqrt(edges_kpc[1:] * edges_kpc[:-1]))


def write_npz(
    path,
    *,
    nside=8,
    n_shell=12,
    n_sample=4,
    seed=0,
    ordering="nested",
    compressed=False,
    dtype=np.float32,
    changes=None,
):
    """A NumPy archive; ``changes`` add or replace arrays, or leave those out that are None."""
    edges_kpc = shell_edges(n_shell)
    values = samples(nside, n_shell, n_sample, seed)
    arrays = {
        "samples": np.ascontiguousarray(in_file_order(values, ordering).transpose(2, 0, 1).astype(dtype)),
        "distance_edges_kpc": edges_kpc,
        "nside": nside,
        "ordering": ordering,
        "units": "cm-3",
        "name": "C",
        **(changes or {}),
    }
    save = np.savez_compressed if compressed else np.savez
    save(path, **{key: array for key, array in arrays.items() if array is not None})
    return Written({"C": values}, edges_kpc, np.sqrt(edges_kpc[1:] * edges_kpc[:-1]))
