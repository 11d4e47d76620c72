"""What a view shows, as plain data: values, axes, scale, words. Free of any drawing library.

A view is made once and drawn by two renderers, HoloViews for the dashboard and notebooks, matplotlib for print, so that
both show the same numbers with the same colours and limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.frames import Frame
from crdist_dashboards.scales import ColourScale

__all__ = ["AxisLabel", "Band", "Curve", "Line", "MapView", "Mark", "Points", "ProfileView", "SkyCells", "SkyView"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class AxisLabel:
    """Name and unit of an axis."""

    name: str
    """Name of the coordinate, such as ``x``; also the name of the HoloViews dimension."""
    label: str
    """In words, such as ``height z``."""
    units: str
    """As stored, such as ``kpc``; empty if it has none."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on a map."""

    kind: Literal["sun", "centre", "source"]
    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line on a map; NaN interrupts it."""

    kind: Literal["solar circle", "spiral arm", "contour", "outline", "graticule"]
    x: Array
    y: Array
    label: str
    """Empty for one that needs none in a legend."""


@dataclass(frozen=True, slots=True, eq=False)
class MapView:
    """A map on a regular plane."""

    title: str
    """What and where: ``Slice z = 0 kpc``."""
    statistic: str
    """Which statistic of how many samples, in words, such as ``standard deviation of 12 samples``."""
    quantity: str
    """Name of the quantity, in words."""
    values: Array
    """Shape (up, across), float32; row 0 is the lowest. NaN is masked."""
    extent: tuple[float, float, float, float]
    """Outer edges: left, right, bottom, top, in the units of the axes."""
    across: AxisLabel
    up: AxisLabel
    units: str
    """Unit of the values, as stored; empty if they have none."""
    colours: str
    """Colour map, a name that matplotlib knows."""
    scale: ColourScale
    marks: tuple[Mark, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know beside it: a mass residual, every second voxel shown, masked share."""
    frame: Frame | None = None
    """Of the axes."""
    axis: str = ""
    """Axis that the plane lies across or that was integrated along."""
    at_kpc: float | None = None
    """Place of the plane on that axis; None for a projection."""
    thinned: bool = False
    """Whether only some of the voxels are shown; a smaller window shows more of them."""


@dataclass(frozen=True, slots=True, eq=False)
class SkyCells:
    """The values of a sky as they are stored, before any projection."""

    values: Array
    """Shape (n,)."""
    cell_ids: Array
    """HEALPix cells, shape (n,)."""
    level: int
    scheme: Literal["nested", "ring"]


@dataclass(frozen=True, slots=True, eq=False)
class SkyView:
    """A map of the sky, projected.

    The plane's coordinates are those of the projection: Mollweide's in [-2, 2] x [-1, 1], a gnomonic map's tangent
    offsets in degree. Longitude increases to the left.
    """

    title: str
    statistic: str
    quantity: str
    values: Array
    """Shape (up, across), float32; row 0 is the lowest. NaN is masked, or outside the sky."""
    inside: Array
    """Shape of ``values``, bool: within the projected sky; what is inside and NaN is drawn as masked."""
    projection: Literal["mollweide", "gnomonic"]
    centre: tuple[float, float]
    """Galactic longitude and latitude of the middle, degree."""
    extent: tuple[float, float, float, float]
    units: str
    colours: str
    scale: ColourScale
    graticule: tuple[Curve, ...] = ()
    labels: tuple[tuple[float, float, str], ...] = ()
    """Place in the plane and text of the labels of l and b."""
    outlines: tuple[Curve, ...] = ()
    """Edges of masks, in the plane."""
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()
    cells: SkyCells | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A region between two curves, such as 68 % of the samples."""

    lower: Array
    upper: Array
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A curve of a profile, or a straight line across it."""

    kind: Literal["mean", "fit", "reference", "truth", "sample", "place"]
    """``place`` is a vertical line at one abscissa; ``reference`` a horizontal one if it has two equal ordinates."""
    x: Array
    y: Array
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Measured points with their errors and source."""

    x: Array
    y: Array
    x_lower: Array
    """Lower ends of the bars, as coordinates; NaN where there is none."""
    x_upper: Array
    y_lower: Array
    y_upper: Array
    label: str
    reference: str
    """Whose they are, to be cited; and how they were obtained."""


@dataclass(frozen=True, slots=True, eq=False)
class ProfileView:
    """A quantity along one coordinate."""

    title: str
    statistic: str
    quantity: str
    across: AxisLabel
    up: AxisLabel
    x: Array
    """Shape (n,)."""
    mean: Array
    samples: Array
    """Shape (n, n_sample); (n, 0) where the store keeps none."""
    bands: tuple[Band, ...]
    """The wider first."""
    lines: tuple[Line, ...] = ()
    points: tuple[Points, ...] = ()
    x_limits: tuple[float, float] = (0.0, 1.0)
    y_limits: tuple[float, float] = (0.0, 1.0)
    up_kind: Literal["linear", "log"] = "linear"
    power: int = 0
    """The axis is labelled in units of 10^power; the values here are not divided by it."""
    notes: tuple[str, ...] = ()

    @property
    def n_sample(self) -> int:
        """Number of samples that are shown."""
        return int(np.shape(self.samples)[1])
