"""Geometric variational inference with NIFTy, one checkpoint an iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import nifty8.re as jft
import numpy as np

from crdist.errors import InferenceError, RecipeError

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .model import Mode, SkyModel, hoisted_cg, hyperparameters, likelihood, position, without_callbacks
from .problem import Problem
from .records import IterationReport, PosteriorSample, Start
from .refinement import Refinement

__all__ = ["InferenceSummary", "Settings", "infer"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How many iterations, samples and solver steps.

    Parameters
    ----------
    n_iteration : int
        Global iterations of the first draw of (length, slope).
    n_iteration_next : int
        Of every further draw, which starts where the one before ended.
    early_iterations : int
        The first iterations of the first draw, with ``n_pairs_early`` pairs of samples; two of them are linear.
    n_pairs_early, n_pairs : int
        Mirrored pairs of samples in an early and in a later iteration; the last one's are a draw's posterior samples.
    update_iterations : int
        Last iterations of a draw, which keep their random numbers and so converge.
    linear_steps, newton_steps, newton_cg_steps, kl_steps, kl_cg_steps : int
        At most: conjugate gradient steps of a linear sample, Newton steps that bend it and gradient steps of each,
        Newton steps of the mean and gradient steps of each.
    linear_tolerance, newton_tolerance, kl_tolerance : float
        Changes of the energies below which those solvers stop.
    converged_below : float
        The mean is called converged where its last change is below this many posterior standard deviations.
    """

    n_iteration: int = 12
    n_iteration_next: int = 4
    early_iterations: int = 5
    n_pairs_early: int = 1
    n_pairs: int = 2
    update_iterations: int = 2
    linear_steps: int = 400
    newton_steps: int = 25
    newton_cg_steps: int = 100
    kl_steps: int = 12
    kl_cg_steps: int = 100
    linear_tolerance: float = 1e-4
    newton_tolerance: float = 1e-2
    kl_tolerance: float = 1e-2
    converged_below: float = 0.3

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 0 if item.name in ("early_iterations", "update_iterations") else 1
            if item.type in (int, "int") and value < least:
                raise RecipeError(f"inference setting {item.name} must be at least {least}, got {value}")
            if item.type in (float, "float") and not value > 0:
                raise RecipeError(f"inference setting {item.name} must be positive, got {value:g}")

    def iterations(self, draw: int) -> int:
        """Global iterations of a draw."""
        return self.n_iteration if draw == 0 else self.n_iteration_next

    def pairs(self, draw: int, iteration: int) -> int:
        """Mirrored pairs of an iteration."""
        early = draw == 0 and iteration < min(self.early_iterations, self.n_iteration - 1)
        return self.n_pairs_early if early else self.n_pairs

    def sample_mode(self, draw: int, iteration: int) -> str:
        """NIFTy's name of how an iteration draws its samples."""
        if draw == 0 and iteration < min(2, self.early_iterations):
            return "linear_resample"
        last = self.iterations(draw) - self.update_iterations
        return "nonlinear_update" if iteration >= max(last, 1) else "nonlinear_resample"


@dataclass(frozen=True, eq=False)
class InferenceSummary:
    """What came out of ``infer``.

    Parameters
    ----------
    finished : bool
        False if it was stopped; it can be resumed.
    reports : tuple of IterationReport
    warnings : tuple of str
        What a reader of the samples must know.
    """

    finished: bool
    reports: tuple[IterationReport, ...]
    warnings: tuple[str, ...]


def infer(
    problem: Problem,
    field: Refinement,
    draws: Sequence[Start],
    settings: Settings,
    *,
    mode: Mode = "evidence",
    seed: int = 1,
    folder: Path,
    resume: bool = False,
    fingerprint: Mapping[str, Any],
    report: Callable[[IterationReport], None] = lambda _: None,
    on_sample: Callable[[PosteriorSample], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> InferenceSummary:
    """Draw posterior samples of the density.

    Parameters
    ----------
    problem : Problem
    field : Refinement
        On the problem's grid.
    draws : sequence of Start
        In the evidence mode geoVI is run at the length and slope of each, in the joint mode it starts from each. The
        samples of all are pooled.
    settings : Settings
    mode : {"evidence", "joint"}
    seed : int
        The same seed gives the same samples on the same device.
    folder : Path
        For the checkpoints, one after every iteration.
    resume : bool
        Continue from the checkpoint in ``folder`` if there is one.
    fingerprint : mapping
        What makes this inference this one; a checkpoint with another is refused.
    report, on_sample : callable
        Called after every iteration and, draw by draw, for each final sample; for all of them again after a resume.
    stopping : callable
        Asked after every iteration; once true, the inference ends there.

    Returns
    -------
    InferenceSummary

    Raises
    ------
    InferenceError
        If an energy or a sample is not a number; the last checkpoint is kept.
    CheckpointError
        If the checkpoint is damaged or of another inference.
    """
    fingerprint = {
        **fingerprint,
        "mode": mode,
        "seed": seed,
        "draws": [list(astuple(draw)) for draw in draws],
        "settings": asdict(settings),
        "precision": field.dtype.name,
    }
    state = load_checkpoint(folder, fingerprint) if resume else None
    state = state or Checkpoint.fresh(fingerprint)
    reports = list(state.reports)
    last: Any = None
    for draw, start in enumerate(draws):
        fixed = (start.length, start.slope) if mode == "evidence" else None
        model = SkyModel(problem, field, fixed)
        run = _Draw(problem, model, settings, draw, len(draws), seed, fixed)
        if state.draw > draw:  # its last iteration is kept as a file of its own
            samples = run.restore(state.finished(folder, draw))
        else:
            if state.draw == draw and state.iteration > 0:
                samples = run.restore(state.arrays)
                begin = state.iteration
            else:
                at = position(problem, model, start)
                if last is not None and fixed is not None:
                    # a fixed kernel's neighbour is close to where the last one ended; the joint mode's starts are apart
                    at = {**last, **({} if start.scale is None else {name: at[name] for name in ("scale", "offset")})}
                samples, begin = jft.Samples(pos=jft.Vector(at), samples=None, keys=None), 0
            for iteration in range(begin, settings.iterations(draw)):
                samples, own = run.iterate(samples, iteration)
                reports.append(own)
                state = Checkpoint(fingerprint, draw, iteration + 1, tuple(reports), run.arrays(samples))
                save_checkpoint(folder, state, last=iteration + 1 == settings.iterations(draw))
                report(own)
                if stopping():
                    return InferenceSummary(False, tuple(reports), ())
        last = samples.pos.tree
        for sample in run.final(samples):
            on_sample(sample)
    return InferenceSummary(True, tuple(reports), _judge(reports, settings, mode, len(draws)))


class _Draw:
    """geoVI at one draw of (length, slope), or from one start of the joint mode."""

    def __init__(
        self,
        problem: Problem,
        model: SkyModel,
        settings: Settings,
        draw: int,
        n_draw: int,
        seed: int,
        fixed: tuple[float, float] | None,
    ) -> None:
        self.problem, self.model, self.settings = problem, model, settings
        self.draw, self.n_draw, self.fixed = draw, n_draw, fixed
        self.key = jax.random.fold_in(jax.random.PRNGKey(seed), draw)
        self.likelihood = likelihood(problem, model)
        self.last_mean: jax.Array | None = None

    def iterate(self, samples: Any, iteration: int) -> tuple[Any, IterationReport]:
        """Draw samples about the mean, then move the mean."""
        began, settings = time.perf_counter(), self.settings
        samples, steps = self._sample(samples, iteration)
        moved = _move(self.likelihood, samples, settings, self.fixed is not None)
        samples = samples.at(moved.x)
        logs, chi2 = self._look(samples)
        energy = float(moved.fun)
        if not (np.isfinite(energy) and bool(jnp.isfinite(logs).all())):
            raise InferenceError(self._trouble(iteration, samples, "the energy or a sample is not a number"))
        mean, spread = logs.mean(axis=0), logs.std(axis=0)
        last, self.last_mean = self.last_mean, mean
        change = float("nan")
        if last is not None:
            change = float(jnp.sqrt(jnp.mean(jnp.square(mean - last) / jnp.maximum(jnp.square(spread), 1e-12))))
        own = IterationReport(
            draw=self.draw,
            n_draw=self.n_draw,
            iteration=iteration,
            n_iteration=settings.iterations(self.draw),
            n_sample=len(samples),
            energy=energy,
            reduced_chi2=float(chi2.mean()),
            hyperparameters=self._hyperparameters(samples),
            newton_steps=steps,
            kl_steps=int(moved.nit),
            change=change,
            seconds=time.perf_counter() - began,
            warnings=self._warnings(steps, int(moved.status)),
        )
        return samples, own

    def final(self, samples: Any) -> list[PosteriorSample]:
        """The posterior samples of a finished draw."""
        out = []
        for number in range(len(samples)):
            at = samples[number].tree
            log_density = np.asarray(_log_density(self.model, at), dtype=np.float64)
            density = np.exp(log_density).astype(np.float32)
            if not np.isfinite(density).all():
                raise InferenceError(
                    f"draw {self.draw + 1}, sample {number + 1}: {int((~np.isfinite(density)).sum())} cells are not "
                    "finite; check the priors, or use double precision"
                )
            out.append(
                PosteriorSample(
                    density=density,
                    sky=self.problem.predict(density),
                    hyperparameters=hyperparameters(self.problem.prior, at, self.fixed),
                    excitations=tuple(np.asarray(part) for part in at["excitations"]),
                    draw=self.draw,
                    pair=number // 2,
                )
            )
        return out

    def arrays(self, samples: Any) -> dict[str, np.ndarray[Any, Any]]:
        """All arrays of a state, flat."""
        leaves = jax.tree_util.tree_leaves((samples.pos, samples._samples, samples.keys))
        out = {f"leaf{i:03d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        if self.last_mean is not None:
            out["last_mean"] = np.asarray(self.last_mean)
        return out

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        """Samples from ``arrays``."""
        template = jft.Vector(position(self.problem, self.model, Start(5.0, 6.0)))
        tree = jax.tree_util.tree_structure((template, template, 0))
        leaves = [jnp.asarray(arrays[name]) for name in sorted(arrays) if name.startswith("leaf")]
        pos, residuals, keys = jax.tree_util.tree_unflatten(tree, leaves)
        self.last_mean = jnp.asarray(arrays["last_mean"]) if "last_mean" in arrays else None
        return jft.Samples(pos=pos, samples=residuals, keys=keys)

    def _sample(self, samples: Any, iteration: int) -> tuple[Any, tuple[int, ...]]:
        """New samples about the mean, or the old ones bent about where the mean is now."""
        settings, about = self.settings, samples.pos
        n_pair = settings.pairs(self.draw, iteration)
        mode = settings.sample_mode(self.draw, iteration)
        keys = samples.keys
        if mode != "nonlinear_update" or keys is None or len(keys) != n_pair:
            keys = jax.random.split(jax.random.fold_in(self.key, iteration), n_pair)
            drawn = [_linear(self.likelihood, about, key, settings) for key in keys]
            if any(int(status) < 0 for _, status in drawn):
                raise InferenceError(self._trouble(iteration, samples, "a curvature of the energy is not positive"))
            residuals = [part for own, _ in drawn for part in (own, -own)]
        else:
            residuals = [samples[i] - about for i in range(len(samples))]
        steps: list[int] = []
        if not mode.startswith("linear"):
            for i, residual in enumerate(residuals):
                residuals[i], n_step = _bend(
                    self.likelihood, about, residual, keys[i // 2], 1.0 - 2.0 * (i % 2), settings
                )
                steps.append(int(n_step))
        return jft.Samples(pos=about, samples=jft.stack(residuals), keys=keys), tuple(steps)

    def _look(self, samples: Any) -> tuple[jax.Array, jax.Array]:
        logs, chi2 = _logs_and_chi2(self.model, self.likelihood, samples.samples)
        return logs, chi2

    def _hyperparameters(self, samples: Any) -> dict[str, tuple[float, float]]:
        values = [asdict(hyperparameters(self.problem.prior, samples[i].tree, self.fixed)) for i in range(len(samples))]
        return {
            name: (float(np.mean([v[name] for v in values])), float(np.std([v[name] for v in values], ddof=1)))
            for name in values[0]
        }

    def _warnings(self, steps: tuple[int, ...], status: int) -> tuple[str, ...]:
        out = []
        if steps and all(step <= 1 for step in steps):
            out.append("every sample was bent in one step only: they are close to linear samples")
        if steps and any(step >= self.settings.newton_steps for step in steps):
            out.append(f"a sample was not bent to the end in {self.settings.newton_steps} steps (newton_steps)")
        if status < 0:
            out.append("the mean's minimiser stopped early: no step lowered the energy")
        return tuple(out)

    def _trouble(self, iteration: int, samples: Any, what: str) -> str:
        at = samples.pos.tree
        now = hyperparameters(self.problem.prior, at, self.fixed)
        return (
            f"draw {self.draw + 1} of {self.n_draw}, iteration {iteration + 1}: {what} (length {now.length:.3g} kpc, "
            f"slope {now.slope:.3g}, scale {now.scale:.3g}, offset {now.offset:.4g}); the checkpoint before it is "
            "kept; check sigma and the priors, or use double precision"
        )


@partial(jax.jit, static_argnames="settings")
def _linear(of: Any, about: Any, key: jax.Array, settings: Settings) -> tuple[Any, jax.Array]:
    """A sample of the Gaussian approximation about a point, as the difference from it, and its solver's status."""
    with without_callbacks():
        residual, status = jft.draw_linear_residual(
            of,
            about,
            key,
            cg=_solution,
            cg_kwargs={"absdelta": settings.linear_tolerance, "miniter": 10, "maxiter": settings.linear_steps},
        )
    return residual, status


@partial(jax.jit, static_argnames="settings")
def _bend(of: Any, about: Any, residual: Any, key: jax.Array, sign: float, settings: Settings) -> tuple[Any, jax.Array]:
    """The same sample in the coordinates in which the posterior is closest to Gaussian, and the steps it took."""
    least = _minimiser(settings.newton_tolerance, settings.newton_steps, settings.newton_cg_steps, about)
    with without_callbacks():
        bent, state = jft.nonlinearly_update_residual(of, about, residual, key, sign, minimize_kwargs=least)
    return bent, state.nit


@partial(jax.jit, static_argnames=("settings", "at_once"))
def _move(of: Any, samples: Any, settings: Settings, at_once: bool) -> Any:
    """Minimise the mean energy of the samples, moved together; ``at_once`` maps over them in one batch."""

    def over_samples(function: Any, at: Any) -> Any:
        each = jax.vmap(function)(samples.at(at).samples) if at_once else jax.lax.map(function, samples.at(at).samples)
        return jax.tree_util.tree_map(lambda values: jnp.mean(values, axis=0), each)

    def energy(at: Any) -> Any:
        return of(at) + 0.5 * jft.vdot(at, at)

    with without_callbacks():
        return jft.optimize._static_newton_cg(
            x0=samples.pos,
            fun_and_grad=partial(over_samples, jax.value_and_grad(energy)),
            hessp=lambda at, step: over_samples(lambda own: of.metric(own, step) + step, at),
            **_minimiser(settings.kl_tolerance, settings.kl_steps, settings.kl_cg_steps, samples.pos),
        )


def _minimiser(tolerance: float, steps: int, cg_steps: int, at: Any) -> dict[str, Any]:
    return {
        # NIFTy multiplies xtol by the number of parameters
        "xtol": 0.1 / jft.size(at),
        "absdelta": tolerance,
        "maxiter": steps,
        "cg": hoisted_cg,
        # its own criterion, on the norm of the residual, stops after some six steps
        "cg_kwargs": {"resnorm": 0.0, "absdelta": 0.1 * tolerance, "miniter": 10, "maxiter": cg_steps},
    }


def _solution(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    result = hoisted_cg(*args, **kwargs)
    return result.x, result.info


@jax.jit
def _log_density(model: SkyModel, at: Any) -> jax.Array:
    return model.log_density(at)


@jax.jit
def _logs_and_chi2(model: SkyModel, of: Any, stacked: Any) -> tuple[jax.Array, jax.Array]:
    def one(at: Any) -> tuple[jax.Array, jax.Array]:
        residual = of.normalized_residual(at)
        return model.log_density(at.tree), jnp.mean(jnp.square(residual))

    logs, chi2 = jax.lax.map(one, stacked)
    return logs, chi2


def _judge(reports: list[IterationReport], settings: Settings, mode: Mode, n_draw: int) -> tuple[str, ...]:
    """What the reports say against the result, in words."""
    out = []
    lasts = [[r for r in reports if r.draw == draw][-1] for draw in range(n_draw)]
    for last in lasts:
        where = f"draw {last.draw + 1}: "
        out += [where + text for text in last.warnings]
        if last.change > settings.converged_below:
            out.append(
                f"{where}the mean still moved by {last.change:.2g} posterior standard deviations in the last "
                "iteration; use more iterations"
            )
        if not 0.5 < last.reduced_chi2 < 2.0:
            out.append(
                f"{where}chi^2 per pixel is {last.reduced_chi2:.2f}: the model or sigma does not describe the sky"
            )
    if mode == "joint":
        out.append("the widths of length and slope are not calibrated in the joint mode; the evidence mode's are")
        for name in ("length", "slope"):
            values = np.array([last.hyperparameters[name] for last in lasts])
            if n_draw > 1 and np.ptp(values[:, 0]) > values[:, 1].mean():
                out.append(f"the starts disagree in {name}: " + ", ".join(f"{m:.3g} +- {s:.2g}" for m, s in values))
            own = [r.hyperparameters[name][0] for r in reports if r.draw == 0][-4:]
            steps = np.diff(own)
            drifts = len(steps) == 3 and (np.all(steps > 0) or np.all(steps < 0))
            if drifts and abs(own[-1] - own[0]) > lasts[0].hyperparameters[name][1]:
                out.append(f"{name} still drifts, from {own[0]:.3g} to {own[-1]:.3g} in four iterations")
    return tuple(out)
