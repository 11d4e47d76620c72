"""What an inference leaves behind: a posterior store that grows sample by sample, with all that belongs beside it.

The samples are appended as any appended posterior's (`crdist.store.append_sample`). Beside them, in the group
``inference`` of the same store, are the hyperparameters and the predicted sky of each sample, data, mask, gas and
truth, the evidence grid and the course of the iterations. Readers go by the root's copy of the metadata, which is
replaced in one rename: a sample and what belongs to it appear together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from crdist.durable import DurableStore, new_store, remove_partial_files
from crdist.errors import InferenceError
from crdist.schema import (
    INFERENCE_GROUP,
    INFERENCE_VARIABLES,
    BesideVariable,
    Derived,
    Variable,
    read_posterior_header,
    versions,
)
from crdist.store import SAMPLE_CHUNK, append_sample, consolidate, create_posterior, open_for_writing
from crdist_inference.assemble import Assembled
from crdist_inference.records import IterationReport, PosteriorSample
from crdist_inference.runfile import RunFile

__all__ = ["MAIN", "PosteriorWriter", "create_store"]

MAIN = "c"
"""The stored variable: normalisation C of the proton spectrum."""

SAME = 1e-3
"""Largest relative difference between a stored density and the same sample computed again, on another device say."""

HYPERPARAMETERS = ("length", "slope", "scale", "offset")

COMPUTING = ("numpy", "zarr", "scipy", "healpy", "jax", "jaxlib", "nifty8")


def create_store(path: Path, run: RunFile, assembled: Assembled) -> None:
    """Create an empty posterior store with what is known before the first sample.

    Raises
    ------
    StoreExistsError
        If it exists.
    """
    problem, emission = assembled.problem, run.emission
    energy = f"{emission.energy:g}".replace(".", "p")
    kind = {"kinetic": "kinetic energy", "total": "total energy", "ultrarelativistic": "momentum times c of"}
    with new_store(path) as folder:
        create_posterior(
            folder,
            problem.grid,
            [
                Variable(
                    MAIN, "cm-3", "normalisation C of the cosmic-ray proton spectrum C p^-alpha, p in units of m_p c"
                )
            ],
            n_sample=0,
            layout="appended",
            provenance=_provenance(run, assembled),
            derived=[
                Derived(
                    f"n{energy}",
                    "GeV-1 cm-3",
                    f"cosmic-ray protons at {kind[emission.energy_is]} {emission.energy:g} GeV",
                    ((MAIN, run.reported_weight),),
                )
            ],
        )
        zarr.open_group(DurableStore(folder), mode="r+").create_group(
            INFERENCE_GROUP,
            attributes={
                "status": "running",
                "warnings": [],
                "notes": list(assembled.notes),
                "settings": run.deciding()["inference"],
                "prior": problem.prior.to_dict(),
                "emissivity": assembled.emissivity.to_dict(),
                "intensity_per_column": assembled.emissivity.intensity_per_column,
                "local_normalisation_cm3": _local_reference(run),
                "mask": run.deciding()["mask"],
            },
        )
        _put(folder, "data", assembled.observation.intensity)
        _put(folder, "sigma", assembled.observation.sigma)
        _put(folder, "used", problem.used)
        _put(folder, "hydrogen_density", assembled.gas.hydrogen_density)
        if assembled.truth is not None:
            _put(folder, "truth", assembled.truth.density)
            if assembled.truth.hyperparameters is not None:
                _set_attributes(folder, {"truth_hyperparameters": asdict(assembled.truth.hyperparameters)})
        for name in (*HYPERPARAMETERS, "draw", "pair"):
            _create(folder, name, INFERENCE_VARIABLES[name], (0,), (SAMPLE_CHUNK,))
        _create(folder, "sky", INFERENCE_VARIABLES["sky"], (problem.grid.n_pixel, 0), (problem.grid.n_pixel, 1))
        consolidate(folder)


class PosteriorWriter:
    """Writes samples into a store of `create_store`; one at a time, and each once, however often it is handed over.

    Parameters
    ----------
    path : Path
        The store.
    latents : bool
        Keep the excitations, too.

    Raises
    ------
    SchemaError
        If it is no posterior store.
    """

    def __init__(self, path: Path, *, latents: bool = False) -> None:
        self.path, self.latents = path, latents
        self.n_given = 0
        remove_partial_files(path)
        self.n_stored = read_posterior_header(path).n_sample
        # a writer that was killed may have left rows of a sample that never appeared
        for name, array in _group(path).arrays():
            if array.metadata.to_dict().get("dimension_names", ())[-1:] == ("sample",):  # type: ignore[index]
                if array.shape[-1] != self.n_stored:
                    _resize(path, name, self.n_stored)

    def add(self, sample: PosteriorSample) -> None:
        """Append a sample; one that the store has already, by its number, is compared with it instead.

        Raises
        ------
        InferenceError
            If the store has another sample of this number.
        """
        number, self.n_given = self.n_given, self.n_given + 1
        if number < self.n_stored:
            self._compare(number, sample)
            return
        rows: dict[str, npt.ArrayLike] = {name: getattr(sample.hyperparameters, name) for name in HYPERPARAMETERS}
        rows |= {"draw": sample.draw, "pair": sample.pair, "sky": sample.sky}
        if self.latents:
            rows |= {f"latent_{i}": excitation for i, excitation in enumerate(sample.excitations)}
        for name, values in rows.items():
            values = np.asarray(values)
            if name.startswith("latent_") and name not in _group(self.path):
                dims = (*(f"{name}_{axis}" for axis in range(values.ndim)), "sample")
                what = BesideVariable(
                    dims, "", "independent standard normal excitations of a refinement level", "float32"
                )
                _create(self.path, name, what, (*values.shape, 0), (*values.shape, 1))
            array = _resize(self.path, name, number + 1)
            array[..., number] = values
        # this puts the metadata of all arrays, those of the rows too, where readers look for them
        append_sample(self.path, {MAIN: sample.density})
        self.n_stored = number + 1

    def _compare(self, number: int, sample: PosteriorSample) -> None:
        group = zarr.open_group(str(self.path), mode="r")
        stored = np.asarray(group[MAIN][:, :, number])  # type: ignore[index]
        scalars = [float(group[f"{INFERENCE_GROUP}/{name}"][number]) for name in HYPERPARAMETERS]  # type: ignore[index, arg-type]
        same = np.allclose(scalars, [getattr(sample.hyperparameters, name) for name in HYPERPARAMETERS], rtol=SAME)
        if not (same and np.allclose(stored, sample.density, rtol=SAME, atol=0.0)):
            raise InferenceError(
                f"{self.path}: its sample {number} is not the one that the checkpoint gives; they are of different "
                "inferences: start anew in another folder"
            )

    def write_evidence(self, lengths: npt.ArrayLike, slopes: npt.ArrayLike, log_posterior: npt.ArrayLike) -> None:
        """Store the evidence grid: ln of the posterior of (length, slope), shape (n_length, n_slope)."""
        for name, values in (("evidence_length", lengths), ("evidence_slope", slopes), ("evidence", log_posterior)):
            if name not in _group(self.path):
                _put(self.path, name, np.asarray(values))
        consolidate(self.path)

    def write_reports(self, reports: Sequence[IterationReport]) -> None:
        """Store the course of all iterations so far; replaces what is there."""
        columns: dict[str, list[float]] = {
            "draw": [report.draw for report in reports],
            "energy": [report.energy for report in reports],
            "reduced_chi2": [report.reduced_chi2 for report in reports],
            "change": [report.change for report in reports],
            "n_sample": [report.n_sample for report in reports],
            "kl_steps": [report.kl_steps for report in reports],
            "newton_steps": [max(report.newton_steps, default=0) for report in reports],
            "seconds": [report.seconds for report in reports],
        }
        for name in HYPERPARAMETERS:
            pairs = [report.hyperparameters.get(name, (math.nan, math.nan)) for report in reports]
            columns |= {name: [mean for mean, _ in pairs], f"{name}_std": [std for _, std in pairs]}
        there = _group(self.path)
        for key, values in columns.items():
            name = f"iteration_{key}"
            if name not in there:
                _create(self.path, name, INFERENCE_VARIABLES[name], (0,), (SAMPLE_CHUNK,))
            array = _resize(self.path, name, len(reports))
            array[...] = np.asarray(values, dtype=array.dtype)
        consolidate(self.path)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the group; plain data."""
        _set_attributes(self.path, attributes)
        consolidate(self.path)

    def finish(self, warnings: Sequence[str]) -> None:
        """Say that all samples are there, and what their reader must know."""
        self.set_attributes({"status": "complete", "warnings": list(warnings)})


def _group(store: Path) -> zarr.Group:
    # the root's copy may lag behind; a writer goes by the arrays' own metadata
    return zarr.open_group(DurableStore(store), path=INFERENCE_GROUP, mode="r+", use_consolidated=False)


def _set_attributes(store: Path, attributes: Mapping[str, Any]) -> None:
    _group(store).update_attributes(dict(attributes))


def _put(store: Path, name: str, values: npt.NDArray[Any]) -> None:
    """Create a variable and write it whole."""
    what = INFERENCE_VARIABLES[name]
    _create(store, name, what, values.shape, values.shape)
    open_for_writing(store, f"{INFERENCE_GROUP}/{name}")[...] = values.astype(what.dtype)


def _create(store: Path, name: str, what: BesideVariable, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    attributes: dict[str, Any] = {"long_name": what.long_name} | (
        {"units": what.units} if what.dtype.startswith("float") else {}
    )
    _group(store).create_array(
        name,
        shape=shape,
        dtype=what.dtype,
        chunks=chunks,
        compressors=[Crc32cCodec()],
        fill_value=np.nan if what.dtype.startswith("float") else 0,
        dimension_names=what.dims,
        attributes=attributes,
        config={"write_empty_chunks": True},
    )


def _resize(store: Path, name: str, n: int) -> zarr.Array[Any]:
    """An array with its last axis, along which it grows, brought to a length."""
    array = open_for_writing(store, f"{INFERENCE_GROUP}/{name}")
    if array.shape[-1] != n:
        array.resize((*array.shape[:-1], n))
        array = open_for_writing(store, f"{INFERENCE_GROUP}/{name}")
    return array


def _local_reference(run: RunFile) -> float:
    from crdist.emission import C_LOCAL_DEMODULATED_CM3, C_LOCAL_TOA_CM3

    return C_LOCAL_TOA_CM3 if run.emission.local_reference == "toa" else C_LOCAL_DEMODULATED_CM3


def _provenance(run: RunFile, assembled: Assembled) -> dict[str, Any]:
    return {
        "versions": versions(COMPUTING),
        "source": {"name": run.title or "inference", "kind": "synthetic" if assembled.truth is not None else "data"},
        "run": run.deciding(),
        "gamma": _plain(assembled.observation.provenance),
        "gas": _plain(assembled.gas.provenance),
        "notes": list(assembled.notes),
    }


def _plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key != "versions"}
