"""What is wrong with a run's inputs, said before a job waits in a queue for them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from crdist.errors import InputFileError

if TYPE_CHECKING:
    from crdist_inference.runfile import RunFile

__all__ = ["check_inputs"]


def check_inputs(run: RunFile) -> None:
    """Read the gamma-ray map and the mask, and the header of the gas map, as the inference will.

    The gas map itself is not read: it may be many GB.

    Raises
    ------
    InputFileError, SchemaError, RecipeError
        If one is missing, damaged, of another layout, or does not fit the settings.
    """
    from crdist_inference.assemble import input_files, read_gamma, used_pixels

    files = input_files(run)
    if "gas" in files:
        _check_gas(files["gas"])
    if "gamma" not in files:
        return
    observation = read_gamma(run, files["gamma"], files)
    used_pixels(run.mask, run.grid.record(), observation, files.get("mask"))


def _check_gas(path: Path) -> None:
    if path.is_dir():
        from crdist.store import open_posterior

        open_posterior(path).close()
        return
    from crdist.importers import ImportOptions
    from crdist.importers.fitsfile import scan
    from crdist.importers.soding import SODING

    with path.open("rb") as file:
        start = file.read(9)
    if start != b"SIMPLE  =":
        raise InputFileError(
            f"{path}: neither a FITS file nor a posterior store; make a store of it with 'crdist import'"
        )
    if not SODING.matches(scan(path)):
        raise InputFileError(
            f"{path}: not in the layout of the published gas ({SODING.summary}): make a store of it with 'crdist "
            "import'"
        )
    with ExitStack() as files:
        SODING.open(path, ImportOptions(), files, path.parent)
