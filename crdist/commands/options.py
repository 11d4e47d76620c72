"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["RESUME", "RUN_FILE", "RUN_FOLDER", "RUN_SETTINGS", "Json", "counted"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

RUN_FILE = typer.Argument(help="Run file (YAML); see 'crdist infer --explain'.", metavar="RUN.yaml")
RUN_FOLDER = typer.Argument(help="Folder of the run. Default: named like the run file, here.", metavar="FOLDER")
RUN_SETTINGS = typer.Option("--set", "-s", help="Override a key: inference.mode=joint; may be repeated.")
RESUME = typer.Option("--resume", help="Go on with the run in the folder; start one where there is none.")


def counted(n: int, what: str) -> str:
    """A number of things, in words.

    Examples
    --------
    >>> counted(1, "block"), counted(1200, "block")
    ('1 block', '1,200 blocks')
    """
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
