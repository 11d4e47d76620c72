"""Products from a posterior."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from crdist.commands.options import Json, counted
from crdist.commands.where import Cluster, compute_products, place_of, remote_workers, workers_of
from crdist.errors import RecipeError

__all__ = ["post"]

FEW_INSIDE = 0.05
"""Part of a product's voxels inside the data below which a user is told that there is little to see."""


def post(
    posterior: Annotated[Path, typer.Argument(help="Posterior store.")],
    products: Annotated[Path, typer.Argument(help="Products store to create, or to continue.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", "-r", help="Recipe (YAML); see 'crdist recipe'.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Override a key: grid.voxel=0.05; may be repeated."),
    ] = None,
    cluster: Cluster = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes here; each reads the source once. Default: 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each worker here; default: all cores over the workers.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of the whole run here, such as 4GiB; default: 80 % of what there is."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin though it takes hours, or more than the disk has.")] = False,
    scheduler: Annotated[str | None, typer.Option(hidden=True)] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compute every product of a recipe from a posterior. Killed? Run the same command again: it continues."""
    from crdist_cluster import connect
    from crdist_postproc.plan import plan_run
    from crdist_postproc.recipe import Recipe

    if scheduler is not None:
        raise RecipeError(f"--scheduler is now called --cluster: give --cluster {scheduler}")
    place = place_of(cluster)
    there = workers_of(place, workers, threads, memory)
    wanted = Recipe.default() if recipe is None else Recipe.from_yaml(recipe)
    if settings:
        wanted = wanted.with_overrides(settings)
    plan = plan_run(posterior, wanted, products)
    if plan_only:
        if there is None:
            with connect(cluster) as client:
                there = remote_workers(client)
        _print_plan(plan.within(there), there, as_json)
        return
    if not yes:
        plan.check_cost()
        plan.check_disk(products)
    report = compute_products(plan, products, place, there)
    if as_json:
        print(
            json.dumps(
                {
                    "products": str(report.path),
                    "blocks_computed": report.blocks_computed,
                    "blocks_found": report.blocks_found,
                    "seconds": round(report.seconds, 3),
                    "bytes_written": report.bytes_written,
                }
            )
        )
        return
    found = f" ({report.blocks_found} found done)" if report.blocks_found else ""
    names = ", ".join(product.name for product in plan.products)
    print(f"{products}: {names}; {counted(report.blocks_computed, 'block')}{found} in {report.seconds:.1f} s")
    outside = [product.name for product in plan.products if product.inside is not None and product.inside < FEW_INSIDE]
    if outside:
        print(
            f"note: less than {FEW_INSIDE:.0%} of the voxels of {', '.join(outside)} lie inside the data, which reach "
            f"{plan.header.grid.edges_kpc[-1]:g} kpc from the Sun; a smaller grid shows more (--set 'grid.x=[...]' ...)"
        )


def _print_plan(plan: Any, workers: Any, as_json: bool) -> None:
    data = plan.to_dict(workers)
    if as_json:
        print(json.dumps(data, indent=1))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from crdist_postproc.plan import format_bytes

    title = f"{data['quantity']} of {data['posterior']}, {data['n_sample']} samples"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("product", "kind", "shape", "inside data", "blocks", "Mvs", "written", "memory/block"):
        table.add_column(name, justify="left" if name in ("product", "kind") else "right", overflow="fold")
    for product in data["products"]:
        table.add_row(
            product["name"],
            product["kind"],
            "x".join(map(str, product["shape"])),
            "" if product["inside_data"] is None else f"{product['inside_data']:.0%}",
            str(product["blocks"]),
            f"{product['voxel_samples'] / 1e6:.1f}",
            format_bytes(product["bytes_written"]),
            format_bytes(product["block_bytes"]),
        )
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    size = {key: format_bytes(value) for key, value in data.items() if "bytes" in key}
    more = " (in parts, some of it again)" if data["source_in_parts"] else ""
    lines = (
        f"Mvs: million voxel-samples. {data['blocks']} blocks and {len(data['products'])} last steps",
        f"on {workers.processes} worker(s) x {workers.threads} threads;",
        f"reads {size['bytes_read_per_worker']} a worker{more}, writes {size['bytes_written']};",
        f"peak memory {size['peak_bytes_per_worker']} a worker of {size['memory_bytes_per_worker']}",
    )
    console.print(" ".join(lines), highlight=False, soft_wrap=True)
