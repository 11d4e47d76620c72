"""Times of the steps of an inference on each device, beside the bytes and operations that they cannot do without.

The floor of a step is the larger of two times that are measured in the same rounds: that of a copy of as many bytes
(each array is read or written once) and that of as many operations in a matrix product. Compiling does not count.
"""

from __future__ import annotations

import os

# OpenBLAS' threads wait for each other on a busy machine, for many times the factorisation's own time
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from galaxy import synthetic_problem
from healpy import pix2vec
from machine import description

from crdist.grids import SphericalGrid
from crdist_inference.geovi import Settings, infer
from crdist_inference.model import SkyModel, likelihood, position
from crdist_inference.problem import Problem
from crdist_inference.records import IterationReport, Start
from crdist_inference.refinement import Matrices, Refinement, matern_correlation
from crdist_inference.refinement.base import apply_base
from crdist_inference.refinement.icr import KNOTS_PER_UNIT, N_KNOT_LEAST
from crdist_inference.simulated import sky_truth

SIZES = {"8 x 28": (8, 28), "16 x 68": (16, 68), "32 x 196": (32, 196)}
LENGTH, SLOPE = 5.0, 6.0
PRODUCT_SIDE = 2048

KERNELS = ((2, 4), (2, 6), (2, 12), (4, 4), (6, 6), (6, 12), (12, 4), (12, 12))
GRIDS = (
    (8, 12, 0.05, 30),
    (8, 28, 0.05, 30),
    (8, 60, 0.05, 30),
    (16, 20, 0.05, 30),
    (16, 36, 0.05, 30),
    (16, 68, 0.05, 30),
    (8, 28, 1, 12),
    (16, 20, 1, 12),
    (16, 36, 1, 12),
    (16, 68, 1, 12),
)
N_COLUMN = 60
"""Columns of each covariance that are compared."""


class Step(NamedTuple):
    """A compiled step of an inference."""

    call: Callable[[], Any]
    n_bytes: float
    n_flop: float


def main() -> None:
    """Time every step for each device, size and precision asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the size of the reference analysis, too (3 to 8 GB)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="these sizes only")
    parser.add_argument("--precision", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    parser.add_argument("--samples", type=int, default=4, help="samples that share matrices in a batch (default: 4)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing (default: 7)")
    parser.add_argument(
        "--iterations", type=int, default=3, help="global iterations of 12 samples, 0 for none (default: 3)"
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="cut the solvers of the iterations to a few steps: their memory, not their time",
    )
    parser.add_argument(
        "--accuracy", action="store_true", help="compare implied covariances with the exact ones instead (10 minutes)"
    )
    options = parser.parse_args()
    if options.rounds < 1 or options.samples < 1:
        sys.exit("inference.py: give at least 1 of --rounds and of --samples")
    if options.accuracy:
        accuracy()
        return
    sizes = options.sizes or ["8 x 28", *(["32 x 196"] if options.full else [])]
    print(description())
    for device in jax.devices():
        with jax.default_device(device):
            kind = f"{device.platform} {device.device_kind}"
            print(f"\n{kind}, jax {jax.__version__}, median of {options.rounds} rounds")
            for size in sizes:
                for precision in options.precision:
                    report(size, precision, options.samples, options.rounds, on_host=device.platform == "cpu")
                    if options.iterations:
                        iterate(size, precision, options.iterations, device, short=options.short)


def accuracy() -> None:
    """Print the relative Frobenius norm of what the implied covariance lacks, from random columns."""
    print(f"{'grid':28}" + "".join(f"{f'{length:g} kpc, {slope:g}':>12}" for length, slope in KERNELS))
    for nside, n_shell, inner, outer in GRIDS:
        grid = SphericalGrid.log_spaced(nside, n_shell, inner, outer, ordering="nested")
        prior = Refinement(grid)
        cells = np.random.default_rng(1).choice(grid.n_pixel * grid.n_shell, N_COLUMN, replace=False)
        rays = np.stack(pix2vec(nside, np.arange(grid.n_pixel), nest=True), axis=-1)
        at = (rays[:, None] * grid.centres[:, None]).reshape(-1, 3)
        distance = np.linalg.norm(at[:, None] - at[cells], axis=-1)
        zero = tuple(jnp.zeros(shape) for shape in prior.shapes)

        def column(matrices: Matrices, cell: Any, prior: Refinement = prior, zero: Any = zero) -> jax.Array:
            def apply(xi: tuple[jax.Array, ...]) -> jax.Array:
                return prior.apply(matrices, xi).ravel()

            unit = jnp.zeros(prior.grid.n_pixel * prior.grid.n_shell).at[cell].set(1.0)
            return apply(jax.linear_transpose(apply, zero)(unit)[0])

        make, column_of, errors = jax.jit(prior.matrices), jax.jit(column), []
        for length, slope in KERNELS:
            x = np.linspace(0.0, distance.max() / length, 20001)
            exact = np.interp(distance / length, x, matern_correlation(x, slope))
            matrices = make(length, slope)
            implied = np.stack([column_of(matrices, cell) for cell in cells], axis=1)
            errors.append(np.linalg.norm(implied - exact) / np.linalg.norm(exact))
        name = f"{nside} x {n_shell}, {inner:g}-{outer:g} kpc"
        print(f"{name:28}" + "".join(f"{error:12.3%}" for error in errors), flush=True)


def report(size: str, precision: str, n_sample: int, rounds: int, *, on_host: bool) -> None:
    """Print the table of one size and precision."""
    nside, n_shell = SIZES[size]
    prior = Refinement(SphericalGrid.log_spaced(nside, n_shell, 0.05, 30.0, ordering="nested"), dtype=precision)
    steps, agreement = compiled_steps(prior, synthetic_problem(prior.grid), n_sample)
    copies = {step.n_bytes: Copy(step.n_bytes) for step in steps.values()}
    calls = {name: step.call for name, step in steps.items()} | {"product": Product(precision)}
    times = timed(calls | {f"copy {n_bytes}": copy for n_bytes, copy in copies.items()}, rounds)
    rate = 2 * PRODUCT_SIDE**3 / times["product"].wall
    whole = max(copies)
    print(f"\nnside {size} shells, {precision}; einsum agrees to {agreement:.1g} of the field's deviation")
    copied = 1e-9 * whole / times[f"copy {whole}"].wall
    print(f"copy of {1e-6 * whole:.0f} MB (read and written) {copied:.1f} GB/s, product {1e-9 * rate:.0f} GFLOP/s")
    host = f"{'CPU ms':>10}" if on_host else ""
    print(f"{'':44}{'ms':>10}{host}{'MB':>10}{'MFLOP':>10}{'copy ms':>10}{'product ms':>12}{'of floor':>10}")
    for name, step in steps.items():
        wall, cpu = times[name]
        host = f"{1e3 * cpu:10.2f}" if on_host else ""
        copied, multiplied = times[f"copy {step.n_bytes}"].wall, step.n_flop / rate
        print(
            f"{name:44}{1e3 * wall:10.2f}{host}{1e-6 * step.n_bytes:10.1f}{1e-6 * step.n_flop:10.1f}"
            f"{1e3 * copied:10.2f}{1e3 * multiplied:12.2f}{max(copied, multiplied) / wall:10.0%}"
        )


def iterate(size: str, precision: str, n_iteration: int, device: Any, *, short: bool) -> None:
    """Time global iterations of 12 samples on a synthetic sky, and tell the most memory that was used so far."""
    nside, n_shell = SIZES[size]
    prior = Refinement(SphericalGrid.log_spaced(nside, n_shell, 0.05, 30.0, ordering="nested"), dtype=precision)
    problem = sky_truth(synthetic_problem(prior.grid), prior, seed=1).problem
    settings = Settings(n_iteration=n_iteration, early_iterations=0, n_pairs=6, update_iterations=0)
    if short:
        settings = replace(settings, linear_steps=12, newton_steps=2, newton_cg_steps=10, kl_steps=2, kl_cg_steps=10)
    print("global iterations of 12 samples (the first one compiles):")

    def tell(own: IterationReport) -> None:
        bent = f"{min(own.newton_steps)} to {max(own.newton_steps)}" if own.newton_steps else "no"
        print(
            f"  {own.iteration + 1}: {own.seconds:.1f} s, samples bent in {bent} steps, mean moved in {own.kl_steps}, "
            f"chi^2 {own.reduced_chi2:.3f}"
        )

    with tempfile.TemporaryDirectory(prefix="crdist-bench-") as folder:
        infer(problem, prior, [Start(LENGTH, SLOPE)], settings, folder=Path(folder), fingerprint={}, report=tell)
    used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    where = "process, at most"
    if device.platform != "cpu":
        used, where = device.memory_stats()["peak_bytes_in_use"], "device, at most"
    print(f"memory of the {where}: {used / 1024**3:.2f} GiB", flush=True)


def compiled_steps(prior: Refinement, problem: Problem, n_sample: int) -> tuple[dict[str, Step], float]:
    """The steps, and how far the plain formulation of the refinement is from ours."""
    key = jax.random.key(1)
    model = SkyModel(problem, prior, (LENGTH, SLOPE))
    matrices = model.matrices
    assert matrices is not None
    xi = prior.excitations(key)
    many = jax.vmap(prior.excitations)(jax.random.split(key, n_sample))
    make, apply, apply_many = (jax.jit(f) for f in (prior.matrices, prior.apply, jax.vmap(prior.apply, (None, 0))))
    field = apply(matrices, xi)
    adjoint = jax.jit(lambda m, y: jax.linear_transpose(lambda x: prior.apply(m, x), xi)(y)[0])
    plain = jax.jit(lambda m, x: einsum_apply(prior, m, x))
    agreement = float(jnp.max(jnp.abs(plain(matrices, xi) - field)) / jnp.std(field))

    at = position(problem, model, Start(LENGTH, SLOPE)) | {"excitations": xi}
    of = likelihood(problem, model)
    # arguments, not constants of the compiled function: as in an inference
    gradient = jax.jit(jax.grad(lambda own, p: own(p), argnums=1))
    sky = jax.jit(lambda own, p: own(p))

    def metric(own: Any, p: Any, t: Any) -> Any:
        return jax.tree.map(jnp.add, t, own.metric(p, t))

    def loop(own: Any, p: Any, right: Any, n_step: int) -> Any:
        """Conjugate gradient with the expansion point's share of the metric computed once, before the loop."""
        _, linear = jax.linearize(lambda t: metric(own, p, t), jax.tree.map(jnp.zeros_like, right))
        zero = jax.tree.map(jnp.zeros_like, right)
        return jax.scipy.sparse.linalg.cg(linear, right, zero, tol=0.0, maxiter=n_step)[0]

    metric_of, cg = jax.jit(metric), jax.jit(loop, static_argnums=3)
    inner = Loop(cg, (of, at, gradient(of, at)), 4, 24)

    item = np.dtype(prior.dtype).itemsize
    n_matrix = sum(part.size for part in jax.tree.leaves(matrices))
    n_cell = prior.grid.n_pixel * prior.grid.n_shell
    # between two levels the coarse field and its windows are written and read once each
    n_between = sum(math.prod(shape[:1] + shape[2:]) for shape in prior.shapes[1:])
    n_xi = prior.n_excitation
    once = item * (n_matrix + n_xi + 2 * n_between + n_cell)
    flop = apply_flop(prior, matrices)
    n_sky = item * 2 * n_cell
    table_flop, table_bytes = matrices_cost(prior, matrices)
    steps = {
        "matrices (float64 inside)": Step(lambda: make(LENGTH, SLOPE), table_bytes + item * n_matrix, table_flop),
        "apply": Step(lambda: apply(matrices, xi), once, flop),
        "apply as einsum over gathered windows": Step(lambda: plain(matrices, xi), once, flop),
        "adjoint": Step(lambda: adjoint(matrices, field), once, flop),
        f"apply, {n_sample} samples at once": Step(
            lambda: apply_many(matrices, many),
            item * n_matrix + n_sample * (once - item * n_matrix),
            n_sample * flop,
        ),
        "sky of a position": Step(lambda: sky(model, at), once + n_sky, flop + 4 * n_cell),
        "gradient of the likelihood": Step(lambda: gradient(of, at), 2 * once + 2 * n_sky, 2 * flop + 8 * n_cell),
        "metric, from a new position": Step(lambda: metric_of(of, at, at), 3 * once + 3 * n_sky, 3 * flop + 8 * n_cell),
        "a step of conjugate gradients, in the loop": Step(
            inner, 2 * once + 2 * n_sky + 10 * item * n_xi, 2 * flop + 20 * n_xi
        ),
    }
    return steps, agreement


class Loop:
    """A step inside a compiled loop: the difference of a long and a short loop, per step."""

    def __init__(self, solve: Callable[..., Any], problem: tuple[Any, ...], short: int, long: int) -> None:
        self.solve, self.problem, self.short, self.long = solve, problem, short, long
        self.n_step = long - short

    def __call__(self) -> Any:
        return self.solve(*self.problem, self.long)

    def before(self) -> Any:
        """What belongs to the start and not to the steps."""
        return self.solve(*self.problem, self.short)


class Copy:
    """Reading and writing a number of bytes, half each."""

    def __init__(self, n_bytes: float) -> None:
        self.source = jnp.zeros(max(int(n_bytes) // 8, 1), jnp.float32)
        self.copy = jax.jit(lambda x: x + 1.0)

    def __call__(self) -> Any:
        return self.copy(self.source)


class Product:
    """A matrix product."""

    def __init__(self, precision: str) -> None:
        self.square = jnp.ones((PRODUCT_SIDE, PRODUCT_SIDE), precision)
        self.product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))

    def __call__(self) -> Any:
        return self.product(self.square)


def einsum_apply(prior: Refinement, matrices: Matrices, xi: tuple[jax.Array, ...]) -> jax.Array:
    """The refinement in the plain way: gather every window, multiply by its matrix."""
    field = apply_base(prior._base, matrices.base, xi[0])
    for level, own, excitation in zip(prior._levels, matrices.levels, xi[1:], strict=True):
        n_shell, n_window = own.predict.shape[1], own.predict.shape[-1]
        shells = np.arange(n_window)[:, None] + np.arange(n_shell)
        windows = field[level.neighbours][..., shells]  # pixel, image, class, window, shell
        made = jnp.einsum("ojkum,kgumj->ogum", own.predict, windows)
        made += jnp.einsum("oeum,guem->ogum", own.spread[:, 0], excitation[level.parents])
        rows = made.reshape(4, level.n_split, -1, n_window).transpose(0, 2, 3, 1).reshape(-1, level.n_split * n_window)
        field = rows[level.source, : level.n_fine]
    return field


def apply_flop(prior: Refinement, matrices: Matrices) -> float:
    """Multiplications and additions of one application."""
    flop = 0.0
    for level, own in zip(prior._levels, matrices.levels, strict=True):
        n_out, n_shell, n_pixel, _, n_window = own.predict.shape
        flop += 2 * n_out * (n_shell * n_pixel + n_out) * n_window * 12 * level.nside**2
    members = zip(prior._base.n_member, matrices.base, strict=True)
    return (
        flop
        + 2 * len(prior._base.basis) * prior.shapes[0][0] * prior.shapes[0][1]
        + sum(2 * n_member * own.size for n_member, own in members)
    )


def matrices_cost(prior: Refinement, matrices: Matrices) -> tuple[float, float]:
    """Operations of the factorisations and bytes of their covariances, in double precision."""
    flop = sum(own.shape[-1] ** 3 / 3 for own in matrices.base)
    n_bytes = sum(8.0 * own.size for own in matrices.base)
    for level, own in zip(prior._levels, matrices.levels, strict=True):
        n_class, n_point = level.log_distance.shape[:2]
        n_made = own.predict.shape[0]
        n_knot = math.ceil(KNOTS_PER_UNIT * float(np.ptp(level.log_centre)))
        n_knot = min(own.predict.shape[-1], max(n_knot, N_KNOT_LEAST))
        each = n_point**3 / 3 + n_made * (n_point - n_made) ** 2 + 20 * n_point**2
        flop += n_knot * n_class * each
        n_bytes += 8 * n_knot * n_class * n_point**2
    return flop, n_bytes


class Times(NamedTuple):
    """Seconds of a call."""

    wall: float
    cpu: float


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Medians over interleaved rounds, after one call of each that does not count."""
    found: dict[str, list[Times]] = {name: [] for name in calls}
    for counts in [False, *[True] * rounds]:
        for name, call in calls.items():
            times = _times(call)
            if isinstance(call, Loop):
                before = _times(call.before)
                times = Times(*((a - b) / call.n_step for a, b in zip(times, before, strict=True)))
            if counts:
                found[name].append(times)
    return {name: Times(*np.median(np.array(own), axis=0)) for name, own in found.items()}


def _times(call: Callable[[], Any]) -> Times:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
