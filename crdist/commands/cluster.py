"""Cluster recipes: which there are, what they mean, and whether one works."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from crdist.commands.options import Json

__all__ = ["app"]

app = typer.Typer(help="Cluster recipes: list, explain, show and test them.", no_args_is_help=True)

RECIPE = typer.Argument(help="A cluster recipe (YAML), or a name of 'crdist cluster list'.", metavar="RECIPE")
KIND = typer.Option(help="Which of the recipe's jobs: cpu (products), gpu (inference) or driver (--submit).")


@app.command("list")
def list_() -> None:
    """Name the recipes that come with crdist or with installed packages, to follow or to start one's own from."""
    from crdist.errors import CrdistError
    from crdist_cluster.kinds import CLUSTER_KINDS
    from crdist_cluster.recipe import ClusterRecipe

    known, faults = CLUSTER_KINDS.working()
    rows = []
    for name, kind in sorted(known.items()):
        plugin = CLUSTER_KINDS.plugin(name)
        try:
            recipe = None if kind.recipe is None else ClusterRecipe.of_kind(name)
        except CrdistError as error:
            if plugin is None:
                raise
            faults.append(f"{plugin}: {error}; update or remove that package")
            continue
        if recipe is not None:
            asks = f"{recipe.job('cpu').cores:3} cores, {recipe.memory}, {recipe.walltime}"
            rows.append((name, recipe.scheduler, asks, str(kind.recipe) if plugin is None else f"[{plugin.package}]"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *first, last in rows:
        print(*(text.ljust(width) for text, width in zip(first, widths, strict=False)), last)
    for fault in faults:
        print(f"crdist: {fault}", file=sys.stderr)


@app.command()
def explain() -> None:
    """Print every key of a cluster recipe with its default, meaning and unit."""
    from crdist_cluster.recipe import ClusterRecipe

    print(ClusterRecipe.explained(), end="")


@app.command()
def show(recipe: Annotated[str, RECIPE], kind: Annotated[Literal["cpu", "gpu", "driver"], KIND] = "cpu") -> None:
    """Print the job script that a recipe makes; nothing is submitted. What only a run knows stands in capitals."""
    from crdist_cluster.jobscript import command_script, worker_script
    from crdist_cluster.recipe import ClusterRecipe

    wanted = ClusterRecipe.from_yaml(recipe)
    if kind == "driver":
        command = [
            wanted.job("driver").python,
            "-m",
            "crdist.cli",
            "run",
            "RUN.yaml",
            "RUN_FOLDER",
            "--resume",
            "--relay",
        ]
        script = command_script(wanted, "driver", [*command, "--cluster", "RUN_FOLDER/cluster/recipe.yaml"])
    else:
        script = worker_script(wanted, kind)
    print(script.rstrip("\n"))


@app.command("test")
def try_(
    recipe: Annotated[str, RECIPE],
    kind: Annotated[Literal["cpu", "gpu"], KIND] = "cpu",
    folder: Annotated[
        Path, typer.Option(help="Where to make a temporary folder; it must be on a disk that the nodes share.")
    ] = Path("."),
    as_json: Json = False,
) -> None:
    """Submit one small job, run a task on it, say what it found, and clean up."""
    import json

    from crdist_cluster.probe import probe
    from crdist_cluster.recipe import ClusterRecipe

    report = probe(ClusterRecipe.from_yaml(recipe), folder, kind)
    print(json.dumps(report.to_dict(), indent=1) if as_json else "\n".join(report.lines()))
    if report.faults:
        raise typer.Exit(1)
