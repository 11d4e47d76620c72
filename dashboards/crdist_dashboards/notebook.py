"""Views for a notebook: what ``.crdist.plot`` of an opened store offers, as HoloViews objects to compose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crdist.errors import SchemaError
from crdist_dashboards.products import ProductsSource
from crdist_dashboards.render.holoviews import to_holoviews
from crdist_dashboards.views.compare import comparison
from crdist_dashboards.views.inference import InferenceSource, SkyName
from crdist_dashboards.views.maps import map_view, projection_view, slice_view
from crdist_dashboards.views.native import native_slice
from crdist_dashboards.views.profiles import profile_view
from crdist_dashboards.views.samples import sample_view, small_multiples
from crdist_dashboards.views.sky import product_sky

__all__ = ["InferencePlots", "ProductPlots"]

TRIPTYCH = ("mean", "std", "significance")
COLUMNS = 3


class ProductPlots:
    """Views of a products store. Each reads what it shows when it is called, and nothing else.

    Every method takes further options of the view function that its docstring names.

    Parameters
    ----------
    path : path
        The store.
    product : str, optional
        What methods show that are not told a product; default: the first product of the right kind.

    Raises
    ------
    SchemaError
        If it is no products store.
    """

    def __init__(self, path: str | Path, product: str | None = None) -> None:
        self.source = ProductsSource(path)
        self._product = product

    def slice(self, product: str | None = None, statistic: str = "mean", **options: Any) -> Any:
        """A slice, or a plane of a volume: `crdist_dashboards.views.maps.slice_view`."""
        return to_holoviews(slice_view(self.source, self._name(product, "slice", "volume"), statistic, **options))

    def projection(
        self, product: str | None = None, statistic: str = "mean", *, contours: str | Path | None = None, **options: Any
    ) -> Any:
        """An integral along an axis, with the contours of another store's: `views.maps.projection_view`."""
        over = None if contours is None else ProductsSource(contours)
        name = self._name(product, "projection")
        return to_holoviews(projection_view(self.source, name, statistic, contours=over, **options))

    def triptych(self, product: str | None = None, **options: Any) -> Any:
        """Mean, standard deviation and significance of a map beside each other, zooming together."""
        name = self._name(product, "slice", "projection", "volume")
        return _beside([map_view(self.source, name, statistic, **options) for statistic in TRIPTYCH])

    def sky(self, product: str | None = None, statistic: str = "mean", **options: Any) -> Any:
        """Integrals along lines of sight: `crdist_dashboards.views.sky.product_sky`."""
        return to_holoviews(product_sky(self.source, self._name(product, "sky"), statistic, **options))

    def profile(self, product: str | None = None, **options: Any) -> Any:
        """A radial or vertical profile: `crdist_dashboards.views.profiles.profile_view`."""
        return to_holoviews(profile_view(self.source, self._name(product, "radial", "vertical"), **options))

    def sample(self, sample: int, product: str | None = None, **options: Any) -> Any:
        """One sample of a map: `crdist_dashboards.views.samples.sample_view`."""
        name = self._name(product, "slice", "projection", "volume")
        return to_holoviews(sample_view(self.source, name, sample, **options))

    def samples(self, product: str | None = None, **options: Any) -> Any:
        """All samples of a map on one colour scale: `crdist_dashboards.views.samples.small_multiples`."""
        name = self._name(product, "slice", "projection", "volume")
        return _beside(small_multiples(self.source, name, **options))

    def compare(self, other: str | Path, product: str | None = None, **options: Any) -> Any:
        """This store, another, and their difference in sigma: `crdist_dashboards.views.compare.comparison`."""
        name = self._name(product, "slice", "projection", "volume")
        return _beside(comparison(self.source, ProductsSource(other), name, **options))

    def _name(self, product: str | None, *kinds: str) -> str:
        if product is not None or self._product is not None:
            return str(product or self._product)
        for info in self.source.products:
            if info.kind in kinds:
                return info.name
        raise SchemaError(f"{self.source.path}: has no product of kind {' or '.join(kinds)}")


class InferencePlots:
    """Views of the inference that a posterior comes from.

    Parameters
    ----------
    path : path
        The posterior store.

    Raises
    ------
    SchemaError
        If it does not come from an inference.
    """

    def __init__(self, path: str | Path) -> None:
        self.source = InferenceSource(path)

    def sky(self, what: SkyName = "residual", **options: Any) -> Any:
        """Data, prediction, or residual in sigma: `crdist_dashboards.views.inference.InferenceSource.sky_view`."""
        return to_holoviews(self.source.sky_view(what, **options))

    def slice(self, statistic: Any = "mean", **options: Any) -> Any:
        """The mid-plane on the native grid: `crdist_dashboards.views.native.native_slice`."""
        return to_holoviews(native_slice(self.source, statistic, **options))

    def course(self) -> Any:
        """Energy, chi^2 and hyperparameters, iteration by iteration."""
        return _beside(self.source.course())

    def evidence(self) -> Any:
        """The posterior of correlation length and slope."""
        return to_holoviews(self.source.evidence())


def _beside(views: Sequence[Any]) -> Any:
    import holoviews as hv

    return hv.Layout([to_holoviews(view) for view in views]).cols(COLUMNS)
