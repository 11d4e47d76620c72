"""Who may import whom: the stages meet at the Zarr schema, and the core knows none of them."""

import ast
import fnmatch
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    "crdist": ROOT / "crdist",
    "crdist_inference": ROOT / "inference" / "crdist_inference",
    "crdist_postproc": ROOT / "postproc" / "crdist_postproc",
    "crdist_cluster": ROOT / "cluster" / "crdist_cluster",
    "crdist_dashboards": ROOT / "dashboards" / "crdist_dashboards",
}
STAGES = set(PACKAGES) - {"crdist"}

FORBIDDEN = {
    "crdist": {*STAGES, "dask*", "distributed", "jax*", "nifty*", "panel"},
    "crdist_inference": {*STAGES - {"crdist_inference"}, "panel"},
    "crdist_postproc": {"jax*", "nifty*", "panel", "dask_jobqueue", "crdist_inference", "crdist_dashboards"},
    "crdist_postproc.kernels": {"dask", "distributed", "xarray", "zarr"},
    "crdist_postproc.recipe*": {"dask", "distributed", "xarray", "zarr"},
    "crdist_cluster": {*STAGES - {"crdist_cluster"}, "astropy", "healpy", "jax*", "nifty*", "numba", "scipy"},
    "crdist_dashboards": {"jax*", "nifty*", "crdist_inference"},
}

MAY_KNOW_THE_STAGES = ("crdist", "crdist.accessor", "crdist.cli", "crdist.commands.*", "crdist.demo")
"""The public names, the accessor and the command line; they import the stages when asked, not when imported."""


def modules(package):
    """Name and path of every module of a package."""
    folder = PACKAGES[package]
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(source, module, is_package):
    """Every module that a source imports, anywhere in it, with the line."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            name = ".".join(filter(None, [base, node.module]))
            yield name, node.lineno
            yield from ((f"{name}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__", "importorskip"):
                yield str(node.args[0].value), node.lineno


def violations(source, module, is_package=False):
    """What a source imports against the rules, as (line, imported)."""
    found = set()
    for layer, names in FORBIDDEN.items():
        if not (fnmatch.fnmatch(module, layer) or module.startswith(f"{layer}.")):
            continue
        if layer == "crdist" and any(fnmatch.fnmatch(module, known) for known in MAY_KNOW_THE_STAGES):
            continue
        for imported, line in imports(source, module, is_package):
            if any(fnmatch.fnmatch(imported.partition(".")[0], name) for name in names):
                found.add((line, imported))
    return sorted(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_keep_to_their_layer(package):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {imported}"
        for module, path in modules(package)
        for line, imported in violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_every_package_is_looked_at():
    assert {"crdist", "crdist.store", "crdist.importers"} <= {name for name, _ in modules("crdist")}
    assert {"crdist_postproc.recipe", "crdist_postproc.kernels"} <= {name for name, _ in modules("crdist_postproc")}
    assert all(folder.is_dir() for folder in PACKAGES.values())


@pytest.mark.parametrize(
    ("module", "source", "imported"),
    [
        ("crdist.store", "import dask.array as da", "dask.array"),
        ("crdist.store", "def f():\n    from crdist_postproc import regrid", "crdist_postproc"),
        ("crdist.importers.npz", "import numpy, jaxlib", "jaxlib"),
        ("crdist.store", "import importlib\nimportlib.import_module('panel')", "panel"),
        ("crdist_postproc.kernels.rows", "from xarray import DataArray", "xarray"),
        ("crdist_postproc.recipe_text", "import zarr", "zarr"),
        ("crdist_postproc.run", "if TYPE_CHECKING:\n    import nifty8.re", "nifty8.re"),
        ("crdist_dashboards.app", "from crdist_inference import synthetic", "crdist_inference"),
        ("crdist_cluster.spec", "import healpy", "healpy"),
    ],
)
def test_a_forbidden_import_is_found(module, source, imported):
    assert (len(source.splitlines()), imported) in violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("crdist.cli", "def run():\n    import crdist_postproc"),
        ("crdist.commands.post", "from crdist_postproc.run import execute"),
        ("crdist_postproc.run", "import dask, xarray, zarr"),
        ("crdist_postproc.kernels.rows", "import numba\nfrom . import lanes"),
        ("crdist_dashboards.app", "import panel\nimport crdist_postproc"),
        ("crdist.store", "import zarr  # not dask"),
    ],
)
def test_an_allowed_import_is_let_through(module, source):
    assert violations(source, module) == []


def test_relative_imports_are_resolved():
    assert ("crdist_postproc.kernels", 1) in imports("from . import rows", "crdist_postproc.kernels.lanes", False)
    assert ("crdist_postproc.plan", 1) in imports("from ..plan import P", "crdist_postproc.kernels.lanes", False)
    assert ("crdist.store", 1) in imports("from .store import pack", "crdist", True)


def test_importing_the_core_is_quick():
    code = "import json, sys, crdist; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert "crdist" in loaded
    assert not loaded & {*STAGES, "numba", "dask", "distributed", "matplotlib", "panel", "jax"}
