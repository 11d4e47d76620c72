"""Cluster recipes: which there are, what they mean, and whether one works."""

from __future__ import annotations

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
    """Name the recipes that come with crdist, to start one's own from."""
    from crdist_cluster.recipe import ClusterRecipe, shipped_recipes

    for name, path in sorted(shipped_recipes().items()):
        recipe = ClusterRecipe.from_yaml(path)
        spec = recipe.job("cpu")
        print(f"{name:14} {recipe.scheduler:9} {spec.cores:3} cores, {recipe.memory}, {recipe.walltime}  {path}")


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
