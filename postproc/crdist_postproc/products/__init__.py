"""The products that a recipe asks for, as records that a run computes block by block; and what a kind is made of."""

from __future__ import annotations

from crdist.errors import CrdistError, DependencyError
from crdist.mirrored import degrees_of_freedom
from crdist.schema import PosteriorHeader
from crdist_postproc.product_kinds import PRODUCT_KINDS, Job, ProductKind, ProductRequest
from crdist_postproc.products.base import ArraySpec, Block, BlockResult, Coordinate, Product, Quantity
from crdist_postproc.recipe import Recipe
from crdist_postproc.recipe_products import ProductSettings
from crdist_postproc.source import Source, store_digest

__all__ = [
    "PRODUCT_KINDS",
    "ArraySpec",
    "Block",
    "BlockResult",
    "Coordinate",
    "Job",
    "Product",
    "ProductKind",
    "ProductRequest",
    "ProductSettings",
    "Quantity",
    "build_jobs",
]

NEEDED = ("mean", "std")
"""Arrays that readers of a product expect."""


def build_jobs(recipe: Recipe, header: PosteriorHeader) -> tuple[Job, ...]:
    """The products of a recipe over a posterior.

    Raises
    ------
    RecipeError
        If a box lies wholly outside the data, or a weight's store cannot be used.
    SchemaError
        If the posterior has no such quantity.
    DependencyError
        If a kind of an installed package cannot be loaded, or does not give a job that can be run.
    """
    resolved = header.resolve(recipe.quantity)
    freedom = degrees_of_freedom(header)
    quantity = Quantity(resolved.name, resolved.units, resolved.long_name, header.n_sample, freedom)
    source = Source(
        header.path.absolute(),
        resolved.name,
        recipe.method,
        recipe.value_space,
        recipe.inner,
        n_sample=header.n_sample,
        digest=store_digest(header.path, resolved.name, header.n_sample),
    )
    request = ProductRequest(recipe, header, quantity, source)
    return tuple(_job(asked, request) for asked in recipe.products)


def _job(asked: ProductSettings, request: ProductRequest) -> Job:
    kind, plugin = PRODUCT_KINDS[asked.kind], PRODUCT_KINDS.plugin(asked.kind)
    if plugin is None:
        return kind.job(asked, request)
    try:
        job = kind.job(asked, request)
        fault = _fault(job, asked)
    except CrdistError:
        raise
    except Exception as error:  # a plug-in is anybody's code
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise DependencyError(
            f"{plugin}: gives no job for product {asked.name!r} ({words}); update or remove that package"
        ) from error
    if fault:
        raise DependencyError(f"{plugin}: product {asked.name!r} {fault}; update or remove that package")
    return job


def _fault(job: Job, asked: ProductSettings) -> str:
    """What a run would stumble over in a job of an installed package; nothing if it is fine."""
    product = job.product
    if (product.name, product.kind) != (asked.name, asked.kind):
        return f"calls itself {product.name!r} of kind {product.kind!r}"
    missing = set(NEEDED) - {spec.name for spec in product.arrays()}
    if missing:
        return f"has no array {' and no '.join(sorted(missing))}"
    return "" if product.blocks() else "has no blocks"
