"""Calibration of the inference on synthetic skies whose truths are drawn from the prior.

evidence: length and slope from the evidence grid, the field by geoVI at draws from it; the default of an inference.
joint: everything by geoVI. linear: geoVI beside the exact posterior, where fluctuations are small and both must agree.
coarse: length and slope of one sky from a coarser and from its own grid.
merge: one table of several --json files, whose skies were shared out among runs.
"""

from __future__ import annotations

import os

# read when numpy is imported; threads of small factorisations only wait for each other
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from galaxy import LOCAL_C, synthetic_problem
from machine import description

from crdist.grids import SphericalGrid
from crdist_inference.calibration import Calibration, Inferred, Score, Trial, calibrate
from crdist_inference.compiled import keep_compiled
from crdist_inference.evidence import EvidenceGrid, evidence_grid
from crdist_inference.geovi import Settings, infer
from crdist_inference.laplace import laplace
from crdist_inference.prior import LogNormal, Prior
from crdist_inference.problem import Problem
from crdist_inference.records import PosteriorSample, Start
from crdist_inference.refinement import Refinement
from crdist_inference.simulated import linear_posterior, sky_scalars, sky_truth

N_EVIDENCE_DRAW = 4000
"""Draws that give the evidence grid's cumulative distributions."""

PRIOR = Prior(scale=LogNormal(0.7, 0.3), offset_mean=math.log(LOCAL_C), offset_std=0.5)
"""The reference prior of length and slope, with scale and offset of a Galaxy like ours: sigma cannot follow the truth's
brightness, and with the reference prior of the offset most skies would be all noise or have none."""

LINEAR_SCALE = 0.01
LINEAR = Prior(
    scale=LogNormal(LINEAR_SCALE, 1e-6 * LINEAR_SCALE),
    offset_mean=math.log(LOCAL_C),
    offset_std=1e-8,
)
LINEAR_LENGTH, LINEAR_SLOPE = 4.0, 6.0


def main() -> None:
    """Run one mode over seeds, print its table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("evidence", "joint", "linear", "coarse", "merge"))
    parser.add_argument("files", nargs="*", type=Path, help="merge: results of the same mode")
    parser.add_argument("--seeds", type=int, default=20, help="number of skies (default: 20)")
    parser.add_argument("--first", type=int, default=0, help="first seed, to share the skies out (default: 0)")
    parser.add_argument("--nside", type=int, help="of the sky (default: 2; coarse: 4)")
    parser.add_argument("--shells", type=int, default=12, help="of the grid (default: 12)")
    parser.add_argument("--draws", type=int, default=3, help="of length and slope in evidence mode (default: 3)")
    parser.add_argument("--pairs", type=int, default=2, help="mirrored pairs a draw (default: 2; joint, linear: 6)")
    parser.add_argument("--noise", type=float, default=0.1, help="sigma relative to the sky (default: 0.1)")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    if options.seeds < 1 or options.draws < 1 or options.pairs < 1 or not options.noise > 0:
        sys.exit("calibration.py: give at least 1 of --seeds, --draws and --pairs, and a positive --noise")
    if (options.mode == "merge") != bool(options.files):
        sys.exit("calibration.py: 'merge' needs the files of results, and no other mode takes any")
    if options.mode == "merge":
        print("\n".join(merged(options.files).lines()))
        return
    nside = options.nside or (4 if options.mode == "coarse" else 2)
    keep_compiled()
    # exact prior: the coarsest level of the refinement is the whole grid
    grid = SphericalGrid.log_spaced(nside, options.shells, 0.05, 30.0, ordering="nested")
    field = Refinement(grid, base_nside=nside)
    print(description())
    print(f"{options.mode}: nside {nside} x {options.shells} shells, noise {options.noise:g}, {options.seeds} skies")
    modes: dict[str, Callable[[Any, Refinement], dict[str, Any]]] = {
        "evidence": sampled,
        "joint": sampled,
        "linear": linear,
        "coarse": coarse,
    }
    found = modes[options.mode](options, field)
    if options.json:
        asked = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(json.dumps({"options": asked, **found}, indent=1) + "\n", encoding="utf-8")


def sampled(options: Any, field: Refinement) -> dict[str, Any]:
    """Ranks of truths in the evidence mode or in the joint one."""
    template = synthetic_problem(field.grid, options.noise, PRIOR)

    def simulate(seed: int) -> Trial[Problem]:
        truth = sky_truth(template, field, seed)
        hyper = truth.hyperparameters
        scalars = {
            "length and slope": (hyper.length, hyper.slope),
            "length": hyper.length,
            "slope": hyper.slope,
            "ln scale": math.log(hyper.scale),
            "offset": hyper.offset,
        }
        return Trial(truth.problem, scalars | sky_scalars(truth.problem, truth.density))

    def by_evidence(problem: Problem, seed: int) -> Inferred:
        evidence = evidence_grid(problem)
        rng = np.random.default_rng([seed, 3])
        many = np.array(evidence.draw(N_EVIDENCE_DRAW, rng))
        points = [laplace(problem, *draw) for draw in evidence.draw(options.draws, rng)]
        starts = [Start(at.length, at.slope, math.exp(at.log_scale), at.offset) for at in points]
        samples = geovi(problem, field, starts, options.pairs, seed, "evidence")
        probabilities: dict[str, Callable[[Any], float]] = {
            "length and slope": lambda truth: evidence.rank(*truth),
            "length": lambda truth: rank(many[:, 0], truth),
            "slope": lambda truth: rank(many[:, 1], truth),
        }
        return Inferred(quantities(problem, samples), [sample.draw for sample in samples], probabilities)

    def jointly(problem: Problem, seed: int) -> Inferred:
        start = Start(problem.prior.length.median, problem.prior.slope.median)
        samples = geovi(problem, field, [start], max(options.pairs, 6), seed, "joint")
        hyper = {
            name: np.array([getattr(sample.hyperparameters, name) for sample in samples])
            for name in ("length", "slope")
        }
        return Inferred(quantities(problem, samples) | hyper, np.zeros(len(samples), dtype=int))

    began = time.perf_counter()

    def tell(seed: int, so_far: Calibration) -> None:
        own = [score for score in so_far.scores if score.seed == seed]
        text = ", ".join(f"{score.name} {score.rank[0]:.2f}" for score in own[:5])
        print(f"  sky {seed} after {time.perf_counter() - began:.0f} s: ranks {text}", flush=True)

    seeds = range(options.first, options.first + options.seeds)
    found = calibrate(simulate, by_evidence if options.mode == "evidence" else jointly, seeds, report=tell)
    print("\n".join(found.lines()))
    return found.to_dict() | {"seconds": time.perf_counter() - began}


def merged(files: list[Path]) -> Calibration:
    """The scalars of several results as one calibration."""
    scores: dict[tuple[str, int], Score] = {}
    for file in files:
        for score in json.loads(file.read_text(encoding="utf-8"))["scores"]:
            rank, normal = np.array([score["rank"]]), np.array([score["normal"]])
            scores[score["name"], score["seed"]] = Score(score["name"], score["seed"], rank, normal)
    return Calibration(tuple(scores.values()))


def linear(options: Any, field: Refinement) -> dict[str, Any]:
    """geoVI at known hyperparameters beside dense linear algebra."""
    template = synthetic_problem(field.grid, options.noise * LINEAR_SCALE, LINEAR)
    pairs = max(options.pairs, 6)
    rows = []
    print(f"{'sky':>6}{'mean, exact widths':>20}{'width / exact':>15}{'chi^2':>8}")
    for seed in range(options.first, options.first + options.seeds):
        truth = sky_truth(template, field, seed)
        hyper = {"length": truth.hyperparameters.length, "slope": truth.hyperparameters.slope}
        exact = linear_posterior(
            truth.problem, field, **hyper, scale=truth.hyperparameters.scale, offset=truth.hyperparameters.offset
        )
        samples = geovi(truth.problem, field, [Start(**hyper)], pairs, seed, "evidence")
        logs = np.log(np.stack([sample.density for sample in samples]).astype(np.float64))
        mean, spread = logs.mean(axis=0), logs.std(axis=0)
        skies = np.stack([sample.sky for sample in samples])
        row = {
            "seed": seed,
            "mean": float(np.sqrt(np.mean(np.square((mean - exact.mean) / exact.std)))),
            "width": float(np.sqrt(np.mean(np.square(spread / exact.std)))),
            "chi2": float(np.mean(np.square((skies - truth.problem.sky) / truth.problem.sigma))),
        }
        rows.append(row)
        print(f"{seed:6}{row['mean']:20.4f}{row['width']:15.4f}{row['chi2']:8.3f}", flush=True)
    names = ("mean", "width", "chi2")
    medians = {name: float(np.median([row[name] for row in rows])) for name in names}
    print(f"median{medians['mean']:20.4f}{medians['width']:15.4f}{medians['chi2']:8.3f}")
    return {"skies": rows, "median": medians}


def coarse(options: Any, field: Refinement) -> dict[str, Any]:
    """Evidence of a sky on its own grid and coarsened by two in both directions."""
    template = synthetic_problem(field.grid, options.noise, PRIOR)
    rows = []
    print(f"{'':6}{'length [kpc]':>34}{'slope':>34}{'HPD rank':>16}{'seconds':>14}")
    print(
        f"{'sky':>6}" + f"{'truth':>8}{'coarse':>13}{'own':>13}" * 2 + f"{'coarse':>9}{'own':>7}{'coarse':>8}{'own':>6}"
    )
    for seed in range(options.first, options.first + options.seeds):
        truth = sky_truth(template, field, seed)
        at = (truth.hyperparameters.length, truth.hyperparameters.slope)
        own, own_seconds = timed_evidence(truth.problem)
        coarser = truth.problem.coarsened(field.grid.nside // 2, field.grid.n_shell // 2)
        less, less_seconds = timed_evidence(coarser, field.grid)
        rows.append(
            {
                "seed": seed,
                "truth": at,
                "coarse": {"mean": less.mean, "std": less.std, "rank": less.rank(*at), "seconds": less_seconds},
                "own": {"mean": own.mean, "std": own.std, "rank": own.rank(*at), "seconds": own_seconds},
            }
        )
        text = f"{seed:6}"
        for i in range(2):
            text += f"{at[i]:8.2f}{less.mean[i]:7.2f} +-{less.std[i]:4.1f}{own.mean[i]:7.2f} +-{own.std[i]:4.1f}"
        text += f"{less.rank(*at):9.2f}{own.rank(*at):7.2f}{less_seconds:8.0f}{own_seconds:6.0f}"
        print(text, flush=True)
    shift = [[(r["coarse"]["mean"][i] - r["own"]["mean"][i]) / r["own"]["std"][i] for r in rows] for i in range(2)]
    widths = [[r["coarse"]["std"][i] / r["own"]["std"][i] for r in rows] for i in range(2)]
    for name, moved, wide in zip(("length", "slope"), shift, widths, strict=True):
        print(
            f"{name}: coarse - own {np.mean(moved):+.2f} on average, {np.sqrt(np.mean(np.square(moved))):.2f} RMS, in "
            f"widths of the own grid's; coarse width / own {np.median(wide):.2f}"
        )
    return {"skies": rows, "shift": shift, "widths": widths}


def geovi(
    problem: Problem, field: Refinement, draws: list[Start], pairs: int, seed: int, mode: Any
) -> list[PosteriorSample]:
    """Samples of one sky."""
    samples: list[PosteriorSample] = []
    with tempfile.TemporaryDirectory(prefix="crdist-bench-") as folder:
        infer(
            problem,
            field,
            draws,
            Settings(n_pairs=pairs),
            mode=mode,
            seed=seed,
            folder=Path(folder),
            fingerprint={},
            on_sample=samples.append,
        )
    return samples


def quantities(problem: Problem, samples: list[PosteriorSample]) -> dict[str, Any]:
    """Scalars of samples under the names of the truth's."""
    hyper = [sample.hyperparameters for sample in samples]
    density = np.stack([sample.density for sample in samples]).astype(np.float64)
    return {
        "ln scale": np.log([own.scale for own in hyper]),
        "offset": np.array([own.offset for own in hyper]),
        **sky_scalars(problem, density),
    }


def rank(draws: Any, truth: float) -> float:
    """Probability below the truth, which no finite number of draws shows to be nothing."""
    return (float(np.sum(draws < truth)) + 0.5) / (len(draws) + 1)


def timed_evidence(problem: Problem, fine: SphericalGrid | None = None) -> tuple[EvidenceGrid, float]:
    """The evidence grid and the seconds that it took."""
    began = time.perf_counter()
    found = evidence_grid(problem, fine=fine)
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
