"""Packages that add to crdist, put where Python finds them: here, and in processes that are started."""

import base64
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from contextlib import contextmanager
from pathlib import Path

from crdist.plugins import TABLES, table

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin"


class Site:
    """A folder of installed packages."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, name, version, entries, source):
        """Put a package of one module there; a version of it that is there already is replaced."""
        module = name.replace("-", "_")
        for old in self.folder.glob(f"{module}-*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        for path, text in metadata_files(name, version, entries).items():
            (self.folder / path).parent.mkdir(exist_ok=True)
            (self.folder / path).write_text(text)
        (self.folder / f"{module}.py").write_text(source)


@contextmanager
def site(folder, monkeypatch):
    """A folder of installed packages that Python looks into; what was imported from it is forgotten afterwards."""
    folder.mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    try:
        yield Site(folder)
    finally:
        for name, module in list(sys.modules.items()):
            if str(folder) in str(getattr(module, "__file__", None)):
                del sys.modules[name]
        for group in TABLES:
            table(group)._loaded.clear()


def install_example(target):
    """Install the example of the documentation: by pip, once for all tests of this process."""
    shutil.copytree(_installed_example().name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


@functools.cache
def _installed_example():
    """The folder that pip has installed the example into, as its pyproject.toml says; what builds it is not at hand."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    name, version = project["project"]["name"], project["project"]["version"]
    modules = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    files = {path: (EXAMPLE / path).read_text() for path in modules}
    files |= metadata_files(name, version, project["project"]["entry-points"])
    info = f"{name.replace('-', '_')}-{version}"
    files[f"{info}.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items()]
    files[f"{info}.dist-info/RECORD"] = "".join([*record, f"{info}.dist-info/RECORD,,\n"])
    target = tempfile.TemporaryDirectory()
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / f"{info}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        options = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", "--target", target.name]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True)
    return target


def metadata_files(name, version, entries):
    """What tells of a package that is installed."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    points = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in names.items())
        for group, names in entries.items()
    )
    return {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/entry_points.txt": points,
    }


def _digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
