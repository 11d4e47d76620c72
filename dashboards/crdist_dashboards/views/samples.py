"""Single samples of a product, alone or side by side, all on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crdist.errors import SchemaError
from crdist_dashboards.overlays import ALL
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.records import MapView
from crdist_dashboards.scales import COLOUR_MAPS, ColourScale, ScaleKind
from crdist_dashboards.views.maps import map_view, sample_words
from crdist_dashboards.views.planes import Window, cut_of, scale_of

__all__ = ["sample_view", "small_multiples"]


def sample_view(
    source: ProductsSource,
    product: str,
    sample: int,
    *,
    difference: bool = False,
    axis: str | None = None,
    at_kpc: float | None = None,
    scale: ScaleKind | ColourScale = "auto",
    window: Window | None = None,
    overlays: Sequence[str] = ALL,
) -> MapView:
    """One sample of a slice, a projection or a plane of a volume.

    Parameters
    ----------
    source : ProductsSource
    product : str
        With samples.
    sample : int
        Which, counted from 0.
    difference : bool
        Whether to show its difference to the mean of all samples.
    axis, at_kpc, scale, window, overlays
        As for `slice_view`; the scale is by default that of all samples together, and about zero for differences.

    Raises
    ------
    SchemaError
        If the product keeps no samples, or not that one.
    """
    info = source.info(product)
    if not info.has_samples:
        raise SchemaError(f"{source.path}: product {product} keeps no samples; ask for per_sample in the recipe")
    if difference and not isinstance(scale, ColourScale):
        scale = scale_of(source, cut_of(source, info, axis, at_kpc), "difference", "linear")
    view = map_view(
        source,
        product,
        "sample",
        sample=sample,
        axis=axis,
        at_kpc=at_kpc,
        scale=scale,
        window=window,
        overlays=overlays,
    )
    if not difference:
        return view
    mean = map_view(source, product, axis=axis, at_kpc=at_kpc, scale=view.scale, window=window, overlays=())
    return replace(
        view,
        values=view.values - mean.values,
        statistic=f"{sample_words(sample, info.n_sample)}, minus the mean",
        colours=COLOUR_MAPS["difference"],
    )


def small_multiples(
    source: ProductsSource,
    product: str,
    *,
    samples: Sequence[int] | None = None,
    difference: bool = False,
    axis: str | None = None,
    at_kpc: float | None = None,
    scale: ScaleKind | ColourScale = "auto",
    window: Window | None = None,
    overlays: Sequence[str] = ("sun", "centre"),
) -> tuple[MapView, ...]:
    """Samples side by side, all on one colour scale.

    Parameters
    ----------
    source, product, difference, axis, at_kpc, scale, window, overlays
        As for `sample_view`.
    samples : sequence of int, optional
        Which, counted from 0; default all.

    Raises
    ------
    SchemaError
        As `sample_view`.
    """
    info = source.info(product)
    views: list[MapView] = []
    for sample in range(info.n_sample) if samples is None else samples:
        views.append(
            sample_view(
                source,
                product,
                sample,
                difference=difference,
                axis=axis,
                at_kpc=at_kpc,
                scale=views[0].scale if views else scale,
                window=window,
                overlays=overlays,
            )
        )
    return tuple(views)
