"""The software: versions, what can be imported, and whether JAX and numba compute.

What may hang or crash, such as a GPU's driver, runs in a process of its own.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from crdist.doctor.findings import Finding
from crdist.doctor.programs import run_python

__all__ = ["check_devices", "check_imports", "check_plugins", "check_software", "check_threading"]

DISTRIBUTION = "crdist-tomography"

IMPORTS = """\
import importlib, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    print("trying", name, flush=True)
    try:
        importlib.import_module(name)
    except BaseException as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        print("failed", name, words, flush=True)
    else:
        print("works", name, flush=True)
"""

DEVICES = """\
import json, warnings
warnings.simplefilter("ignore")
import jax, jax.numpy as jnp
total = float(jax.jit(lambda x: (x * x).sum())(jnp.arange(64.0)))
assert total == 85344.0, f"the sum of squares below 64 came out as {total}"
print(json.dumps({"backend": jax.default_backend(), "devices": [str(device.device_kind) for device in jax.devices()]}))
"""

PLUGINS = """\
import json
from crdist.plugins import TABLES, plugins, table
for group in TABLES:
    if not plugins(group):
        continue
    found = table(group)
    known, faults = found.working()
    for plugin in found.clashes():
        faults.append(f"{plugin}: that name is built in, so it is never used; the package must choose another")
    own = [str(found.plugin(name)) for name in known if found.plugin(name) is not None]
    print(json.dumps({"own": own, "faults": faults}))
"""

THREADING = """\
import json, numba, numpy
@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(x.size):
        s += x[i]
    return s
assert total(numpy.ones(64)) == 64.0
print(json.dumps({"layer": numba.threading_layer(), "threads": numba.get_num_threads()}))
"""


def check_software(distribution: str = DISTRIBUTION) -> list[Finding]:
    """Versions of crdist and of what it asks for, read from the packages' metadata without importing them.

    Parameters
    ----------
    distribution : str
        Name under which crdist is installed.

    Returns
    -------
    list of Finding
        One for Python and crdist, one for what is required, one for each extra.
    """
    system = f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    try:
        own = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        advice = "install crdist, such as with 'pip install -e .' in its folder: packages and extras cannot be told"
        return [Finding("crdist", "broken", f"runs from a folder, no distribution {distribution!r}; {system}", advice)]
    findings = [Finding("crdist", "ok", f"{own}, {system}")]
    for extra, needs in _requirements(distribution).items():
        findings.append(_packages(extra, needs))
    return findings


def check_imports(seconds: float, distribution: str = DISTRIBUTION) -> list[Finding]:
    """Import every required or optional package that is installed, in a process of its own.

    Parameters
    ----------
    seconds : float
        Time that it may take.
    distribution : str
        Name under which crdist is installed.
    """
    try:
        requirements = _requirements(distribution)
    except metadata.PackageNotFoundError:
        return []
    wanted = {need.name for needs in requirements.values() for need in needs if _installed(need.name)}
    modules = sorted(filter(None, map(_module_of, wanted)))
    done = run_python(IMPORTS, seconds, *modules)
    words = [line.split(" ", 2) for line in done.out.splitlines()]
    failed = [(parts[1], parts[2]) for parts in words if parts[0] == "failed"]
    ended = {parts[1] for parts in words if parts[0] in ("works", "failed")}
    last = next((parts[1] for parts in reversed(words) if parts[0] == "trying" and parts[1] not in ended), None)
    findings = [
        Finding("imports", "broken", f"{name} is installed and cannot be imported ({why})", "install it anew")
        for name, why in failed
    ]
    if last is not None:
        findings.append(Finding("imports", "broken", f"importing {last} {done.how}", "install it anew"))
    elif done.code != 0:
        findings.append(
            Finding("imports", "broken", f"importing packages {done.how}", "see whether Python itself runs")
        )
    return findings or [Finding("imports", "ok", f"{len(modules)} packages can be imported")]


def check_devices(seconds: float) -> Finding:
    """The devices that JAX computes on, by a small computation.

    Parameters
    ----------
    seconds : float
        Time that it may take: a GPU's driver can hang for ever.
    """
    if not _installed("jax"):
        return Finding("jax", "note", "not installed, so there is no inference", "install crdist's extra 'inference'")
    done = run_python(DEVICES, seconds)
    if done.code != 0:
        advice = "try JAX_PLATFORMS=cpu, which leaves GPUs alone, and see the installation of jax"
        return Finding("jax", "broken", f"a small computation {done.how}", advice)
    found = json.loads(done.out.splitlines()[-1])
    devices = ", ".join(f"{found['devices'].count(kind)} x {kind}" for kind in dict.fromkeys(found["devices"]))
    if found["backend"] == "cpu" and shutil.which("nvidia-smi") is not None:
        advice = "install jax with its CUDA extra to use it, unless this node's GPU is not for you"
        return Finding("jax", "note", f"computes on the processor ({devices}) though there is an NVIDIA driver", advice)
    return Finding("jax", "ok", f"{metadata.version('jax')} computes on {found['backend']}: {devices}")


def check_plugins(seconds: float) -> list[Finding]:
    """What installed packages add to crdist, and whether it can be loaded; in a process of its own.

    Parameters
    ----------
    seconds : float
        Time that it may take.
    """
    done = run_python(PLUGINS, seconds)
    if done.code != 0:
        return [Finding("plugins", "broken", f"loading plug-ins {done.how}", "remove the package that adds them")]
    tables = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
    findings = [Finding("plugins", "broken", fault) for table in tables for fault in table["faults"]]
    findings += [Finding("plugins", "ok", own) for table in tables for own in table["own"]]
    return findings or [Finding("plugins", "ok", "none are installed")]


def check_threading(seconds: float) -> Finding:
    """Whether numba compiles, and the layer by which it starts threads.

    Parameters
    ----------
    seconds : float
        Time that it may take.
    """
    done = run_python(THREADING, seconds)
    if done.code != 0:
        return Finding("numba", "broken", f"compiling a small function {done.how}", "install numba and llvmlite anew")
    found = json.loads(done.out.splitlines()[-1])
    return Finding("numba", "ok", f"compiles; threading layer {found['layer']}, {found['threads']} threads")


@dataclass(frozen=True, slots=True)
class _Need:
    """A package that is asked for."""

    name: str
    specifier: Any


def _requirements(distribution: str) -> dict[str, list[_Need]]:
    """What a distribution asks for, by extra; what is always needed under an empty name."""
    from packaging.requirements import Requirement

    # "all" repeats what the others say
    extras = [name for name in metadata.metadata(distribution).get_all("Provides-Extra") or () if name != "all"]
    found: dict[str, list[_Need]] = {"": []}
    for line in metadata.requires(distribution) or ():
        need = Requirement(line)
        if need.name == distribution:
            # an extra that is the sum of others names crdist itself
            continue
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            found[""].append(_Need(need.name, need.specifier))
            continue
        for extra in extras:
            if need.marker.evaluate({"extra": extra}):
                found.setdefault(extra, []).append(_Need(need.name, need.specifier))
    return found


def _packages(extra: str, needs: Sequence[_Need]) -> Finding:
    """What is there of the packages of an extra."""
    topic = "packages" if not extra else "extra"
    prefix = f"{extra}: " if extra else ""
    versions = {need.name: _installed(need.name) for need in needs}
    missing = [name for name, version in versions.items() if version is None]
    wrong = [
        f"{need.name} {version} where {need.specifier} is asked for"
        for need in needs
        if (version := versions[need.name]) is not None and not need.specifier.contains(version, prereleases=True)
    ]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    if wrong:
        return Finding(topic, "broken", f"{prefix}{', '.join(wrong)}", "install crdist anew to get fitting versions")
    if missing and not extra:
        return Finding(topic, "broken", f"{', '.join(missing)} not installed", "install crdist anew")
    if missing:
        text = f"{prefix}without {', '.join(missing)}" + (f"; there is {listed}" if listed else "")
        return Finding(topic, "note", text, f"install crdist's extra {extra!r} if you need it")
    return Finding(topic, "ok", f"{prefix}{listed}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _module_of(distribution: str) -> str | None:
    """The module that a distribution is imported by: the one that is called like it, or its first."""
    tops = (metadata.distribution(distribution).read_text("top_level.txt") or "").split()
    if not tops:
        files = metadata.files(distribution) or []
        tops = sorted({file.parts[0] for file in files if len(file.parts) == 2 and file.name == "__init__.py"})
    names = [name for name in tops if not name.startswith("_")]
    like = [name for name in names if name.lower() == distribution.lower().replace("-", "_")]
    return next(iter(like or names), None)
