"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["RESUME", "RUN_FILE", "RUN_FOLDER", "RUN_SETTINGS", "Json"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

RUN_FILE = typer.Argument(help="Run file (YAML); see 'crdist infer --explain'.", metavar="RUN.yaml")
RUN_FOLDER = typer.Argument(help="Folder of the run. Default: named like the run file, here.", metavar="FOLDER")
RUN_SETTINGS = typer.Option("--set", "-s", help="Override a key: inference.mode=joint; may be repeated.")
RESUME = typer.Option("--resume", help="Go on with the run in the folder; start one where there is none.")
