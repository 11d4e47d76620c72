"""Which stores a server shows. They are named on its command line; a page chooses among them by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from crdist.errors import RecipeError
from crdist_dashboards.names import names_of
from crdist_dashboards.products import ProductsSource

if TYPE_CHECKING:
    from crdist_dashboards.views.inference import InferenceSource

__all__ = ["Stores"]


@dataclass(frozen=True)
class Stores:
    """What is shown."""

    products: tuple[Path, ...]
    """Products stores; the second may be compared with the first."""
    posterior: Path | None = None
    """The posterior of an inference, for its skies and its course."""
    gas: Path | None = None
    """Products of a gas map, whose columns are drawn as contours."""

    def __post_init__(self) -> None:
        if not self.products:
            raise RecipeError("name at least one products store to show")

    @cached_property
    def by_name(self) -> Mapping[str, Path]:
        """Paths by the names that pages know: as short as tells them apart."""
        return dict(zip(names_of(self.products), self.products, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the products stores."""
        return tuple(self.by_name)

    def source(self, name: str) -> ProductsSource:
        """Open a products store by its name.

        Raises
        ------
        SchemaError
            If it is gone, damaged or none.
        """
        return ProductsSource(self.by_name[name])

    def gas_source(self) -> ProductsSource | None:
        """Open the products of the gas, if there are any."""
        return ProductsSource(self.gas) if self.gas is not None else None

    def inference_source(self) -> InferenceSource | None:
        """What the inference stored, if there is a posterior; all pages share it, and it is current.

        Raises
        ------
        SchemaError
            If it is gone, damaged or none.
        """
        if self.posterior is None:
            return None
        source = self._inference
        source.refresh()
        return source

    @cached_property
    def _inference(self) -> InferenceSource:
        from crdist_dashboards.views.inference import InferenceSource

        assert self.posterior is not None
        return InferenceSource(self.posterior)

    def check(self) -> None:
        """Open every store once.

        Raises
        ------
        SchemaError
            If one cannot be opened.
        """
        for name in self.names:
            self.source(name)
        self.gas_source()
        if self.posterior is not None:
            self.inference_source()
