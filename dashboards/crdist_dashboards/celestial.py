"""The sky on a plane: Mollweide and gnomonic projections there and back, the graticule, the edges of masks.

Longitude increases to the left, as on the sky. A Mollweide map lies in [-2, 2] x [-1, 1]; a gnomonic one is measured in
degree from where the plane touches the sky.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import SchemaError
from crdist_dashboards.records import Curve

__all__ = ["SkyPlane", "mask_edges"]

Values = npt.NDArray[np.float64]

DEGREE = 180.0 / math.pi
MAX_GNOMONIC_DEG = 120.0
"""Width of a gnomonic map beyond which distances on it mean little."""

STEPS_DEG = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0)
LABEL_DROP = 0.02
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class SkyPlane:
    """A projection of the sky.

    Parameters
    ----------
    projection : {"mollweide", "gnomonic"}
    centre : tuple of float, degree
        Galactic longitude and latitude of the middle.
    size_deg : float, degree
        Width and height of a gnomonic map; a Mollweide map shows the whole sky.

    Raises
    ------
    SchemaError
        If there is no such projection, or a value is out of range.

    Examples
    --------
    >>> plane = SkyPlane()
    >>> x, y = plane.to_plane(np.array([90.0]), np.array([0.0]))
    >>> print(f"{x[0]:.2f} {y[0]:.2f}")
    -1.00 0.00
    """

    projection: Literal["mollweide", "gnomonic"] = "mollweide"
    centre: tuple[float, float] = (0.0, 0.0)
    size_deg: float = 30.0

    def __post_init__(self) -> None:
        if self.projection not in ("mollweide", "gnomonic"):
            raise SchemaError(f"a sky is projected as mollweide or gnomonic, got {self.projection!r}")
        longitude, latitude = self.centre
        if not (math.isfinite(longitude) and -90.0 <= latitude <= 90.0):
            raise SchemaError(f"the centre of a sky is (l, b) in degree with |b| at most 90, got {self.centre}")
        if not 0.0 < self.size_deg <= MAX_GNOMONIC_DEG:
            raise SchemaError(f"a gnomonic map is at most {MAX_GNOMONIC_DEG:g} degree wide, got {self.size_deg:g}")

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top."""
        if self.projection == "mollweide":
            return -2.0, 2.0, -1.0, 1.0
        half = math.tan(math.radians(self.size_deg / 2.0)) * DEGREE
        return -half, half, -half, half

    def shape(self, n_row: int) -> tuple[int, int]:
        """Rows and columns of a raster."""
        return n_row, 2 * n_row if self.projection == "mollweide" else n_row

    def to_plane(self, longitude_deg: npt.ArrayLike, latitude_deg: npt.ArrayLike) -> tuple[Values, Values]:
        """Where points of the sky lie in the plane; NaN for what a gnomonic map cannot show.

        Parameters
        ----------
        longitude_deg, latitude_deg : array_like, degree
            Galactic coordinates; they broadcast.

        Returns
        -------
        x, y : ndarray
        """
        towards, left, up = self._axes
        l, b = np.broadcast_arrays(np.radians(longitude_deg), np.radians(latitude_deg))  # noqa: E741
        point = np.stack([np.cos(b) * np.cos(l), np.cos(b) * np.sin(l), np.sin(b)], axis=-1)
        near, aside, above = (np.asarray(point @ axis, dtype=np.float64) for axis in (towards, left, up))
        if self.projection == "mollweide":
            return _mollweide(np.arctan2(aside, near), np.arcsin(np.clip(above, -1.0, 1.0)))
        # what lies beside or behind the observer has no place
        near = np.where(near > 1e-3, near, np.nan)
        return -aside / near * DEGREE, above / near * DEGREE

    def to_sky(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Values, Values]:
        """Galactic longitude in [0, 360) and latitude of points of the plane, degree; NaN outside the sky."""
        across, up = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        if self.projection == "mollweide":
            inside = np.hypot(across / 2.0, up) <= 1.0
            theta = np.arcsin(np.where(inside, up, 0.0))
            latitude = np.arcsin(np.clip((2.0 * theta + np.sin(2.0 * theta)) / math.pi, -1.0, 1.0))
            longitude = -math.pi * across / (2.0 * np.maximum(np.cos(theta), 1e-12))
            longitude = np.clip(longitude, -math.pi, math.pi)
            cosine = np.cos(latitude)
            parts = cosine * np.cos(longitude), cosine * np.sin(longitude), np.sin(latitude)
        else:
            inside = np.ones(across.shape, dtype=bool)
            aside, above = -across / DEGREE, up / DEGREE
            length = np.sqrt(1.0 + aside**2 + above**2)
            parts = 1.0 / length, aside / length, above / length
        point = np.stack(parts, axis=-1) @ np.stack(self._axes)
        latitude = np.arcsin(np.clip(point[..., 2], -1.0, 1.0)) * DEGREE
        longitude = np.mod(np.arctan2(point[..., 1], point[..., 0]) * DEGREE, 360.0)
        return np.where(inside, longitude, np.nan), np.where(inside, latitude, np.nan)

    def raster(self, n_row: int, level: int, scheme: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """HEALPix cell of every pixel of a raster, -1 outside the sky, and which pixels lie inside.

        Parameters
        ----------
        n_row : int
            Height; a Mollweide raster is twice as wide.
        level : int
            HEALPix level.
        scheme : {"nested", "ring"}

        Returns
        -------
        cells, inside : ndarray, shape (n_row, n_column)
            Row 0 is the lowest. Read-only, shared.
        """
        return _raster(self, n_row, level, scheme)

    def graticule(self) -> tuple[tuple[Curve, ...], tuple[tuple[float, float, str], ...]]:
        """Lines of equal longitude and latitude, and where to write which."""
        if self.projection == "mollweide":
            return self._whole_graticule()
        return self._local_graticule()

    @property
    def _axes(self) -> tuple[Values, Values, Values]:
        """Unit vectors to the middle, to the left (along increasing l) and up (along increasing b)."""
        l, b = (math.radians(angle) for angle in self.centre)  # noqa: E741
        towards = np.array([math.cos(b) * math.cos(l), math.cos(b) * math.sin(l), math.sin(b)])
        left = np.array([-math.sin(l), math.cos(l), 0.0])
        return towards, left, np.cross(towards, left)

    def _curve(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike, label: str = "") -> Curve:
        x, y = self.to_plane(longitude, latitude)
        return Curve("graticule", *_unjoined(x, y, self), label)

    def _whole_graticule(self) -> tuple[tuple[Curve, ...], tuple[tuple[float, float, str], ...]]:
        arc, ring = np.linspace(-90.0, 90.0, 181), np.linspace(0.0, 360.0, 721)
        lines = [self._curve(longitude, arc) for longitude in range(0, 360, 60)]
        lines += [self._curve(ring, latitude) for latitude in range(-60, 61, 30)]
        labels = []
        l0, b0 = self.centre
        for offset in (-120, -60, 60, 120):
            longitude = 60.0 * round(l0 / 60.0) + offset
            (x,), (y,) = self.to_plane([longitude], [0.0])
            labels.append((float(x), float(y) - LABEL_DROP, f"{longitude % 360:g}°"))
        if b0 == 0.0:
            for latitude in (-60, -30, 30, 60):
                (x,), (y,) = self.to_plane([l0 + 179.999], [latitude])
                labels.append((float(x), float(y), f"{latitude:+d}°".replace("-", MINUS)))
        return tuple(lines), tuple(labels)

    def _local_graticule(self) -> tuple[tuple[Curve, ...], tuple[tuple[float, float, str], ...]]:
        (l0, b0), half = self.centre, self.size_deg / 2.0
        step = next((step for step in STEPS_DEG if step >= self.size_deg / 6.0), STEPS_DEG[-1])
        latitudes = np.arange(math.ceil((b0 - 1.5 * half) / step), math.floor((b0 + 1.5 * half) / step) + 1) * step
        latitudes = latitudes[np.abs(latitudes) < 90.0]
        # meridians converge towards the poles
        cosine = math.cos(math.radians(min(abs(b0) + half, 89.0)))
        wanted = step / max(math.cos(math.radians(b0)), 0.1)
        across = next((wide for wide in (*STEPS_DEG, 60.0) if wide >= wanted), 60.0)
        reach = min(180.0, 1.5 * half / cosine)
        longitudes = np.arange(math.ceil((l0 - reach) / across), math.floor((l0 + reach) / across) + 1) * across
        arc = np.linspace(max(-90.0, b0 - 1.6 * half), min(90.0, b0 + 1.6 * half), 401)
        ring = np.linspace(l0 - reach, l0 + reach, 801)
        lines, labels = [], []
        left, _, bottom, _ = self.extent
        for longitude in longitudes:
            line = self._curve(longitude, arc)
            lines.append(line)
            if (x := _crossing(line.y, line.x, bottom)) is not None and abs(x) <= abs(left):
                labels.append((x, bottom, f"{longitude % 360:g}°"))
        for latitude in latitudes:
            line = self._curve(ring, latitude)
            lines.append(line)
            if (y := _crossing(line.x, line.y, left)) is not None and abs(y) <= abs(bottom):
                labels.append((left, y, f"{latitude:+g}°".replace("-", MINUS) if latitude else "0°"))
        return tuple(lines), tuple(labels)


def mask_edges(masked: npt.NDArray[np.bool_], level: int, scheme: str, plane: SkyPlane) -> tuple[Curve, ...]:
    """The edges between masked and other cells of a sky, as they lie in a plane.

    Parameters
    ----------
    masked : ndarray of bool, shape (12 * 4**level,)
    level : int
        HEALPix level.
    scheme : {"nested", "ring"}
    plane : SkyPlane

    Returns
    -------
    tuple of Curve
        One with all edges, separated by NaN; none if nothing, or everything, is masked.
    """
    import healpy

    nside, is_nested = 2**level, scheme == "nested"
    cells = np.flatnonzero(masked)
    if cells.size in (0, masked.size):
        return ()
    neighbours = healpy.get_all_neighbours(nside, cells, nest=is_nested)
    # neighbours come as SW, W, NW, N, NE, E, SE, S; the corners of a boundary go round N, W, S, E
    steps = max(2, 64 // nside)
    corners = np.moveaxis(np.atleast_3d(healpy.boundaries(nside, cells, step=steps, nest=is_nested)), 1, 2)
    corners = corners.reshape(cells.size, 4 * steps, 3)
    corners = np.concatenate([corners, corners[:, :1]], axis=1)
    pieces = []
    for side, neighbour in enumerate((2, 0, 6, 4)):
        is_edge = ~masked[neighbours[neighbour]]
        pieces.append(corners[is_edge, side * steps : (side + 1) * steps + 1])
    points = np.concatenate(pieces)
    latitude = np.arcsin(np.clip(points[..., 2], -1.0, 1.0)) * DEGREE
    x, y = plane.to_plane(np.arctan2(points[..., 1], points[..., 0]) * DEGREE, latitude)
    gap = np.full((x.shape[0], 1), np.nan)
    x, y = (np.concatenate([part, gap], axis=1).ravel() for part in (x, y))
    left, right, bottom, top = plane.extent
    outside = (x < left) | (x > right) | (y < bottom) | (y > top)
    x, y = _unjoined(np.where(outside, np.nan, x), np.where(outside, np.nan, y), plane)
    return (Curve("outline", x, y, "mask"),) if np.isfinite(x).any() else ()


@lru_cache(maxsize=16)
def _raster(
    plane: SkyPlane, n_row: int, level: int, scheme: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    import healpy

    if scheme not in ("nested", "ring"):
        raise SchemaError(f"HEALPix cells are numbered nested or ring, got {scheme!r}")
    rows, columns = plane.shape(n_row)
    left, right, bottom, top = plane.extent
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    longitude, latitude = plane.to_sky(x[None, :], y[:, None])
    inside = np.isfinite(latitude)
    cells = np.full(inside.shape, -1, dtype=np.int64)
    angles = np.radians(90.0 - latitude[inside]), np.radians(longitude[inside])
    cells[inside] = healpy.ang2pix(2**level, *angles, nest=scheme == "nested")
    cells.flags.writeable = inside.flags.writeable = False
    return cells, inside


def _mollweide(longitude: Values, latitude: Values) -> tuple[Values, Values]:
    theta = latitude.copy()
    # Newton's method for 2 theta + sin 2 theta = pi sin b; at the poles theta = b and the slope vanishes.
    for _ in range(60):
        slope = 2.0 + 2.0 * np.cos(2.0 * theta)
        error = 2.0 * theta + np.sin(2.0 * theta) - math.pi * np.sin(latitude)
        theta = theta - np.divide(error, slope, out=np.zeros_like(error), where=slope > 1e-9)
    return -2.0 / math.pi * longitude * np.cos(theta), np.sin(theta)


def _unjoined(x: Values, y: Values, plane: SkyPlane) -> tuple[Values, Values]:
    """A line that leaves the map on one side and comes back on the other is two."""
    left, right, bottom, top = plane.extent
    if plane.projection == "mollweide":
        jump = np.flatnonzero(np.abs(np.diff(x)) > 0.25 * (right - left)) + 1
        return np.insert(x, jump, np.nan), np.insert(y, jump, np.nan)
    beyond = (x < left) | (x > right) | (y < bottom) | (y > top)
    # the first point beyond stays, so that the line reaches the edge
    keep = ~beyond | np.append(~beyond[1:], False) | np.append(False, ~beyond[:-1])
    return np.where(keep, x, np.nan), np.where(keep, y, np.nan)


def _crossing(along: npt.NDArray[Any], other: npt.NDArray[Any], at: float) -> float | None:
    """Where a line that runs in ``along`` first crosses ``at``: the other coordinate there."""
    above = along > at
    known = np.isfinite(along[:-1]) & np.isfinite(along[1:])
    places: Sequence[int] = np.flatnonzero(known & (above[:-1] != above[1:])).tolist()
    if not places:
        return None
    i = places[0]
    part = (at - along[i]) / (along[i + 1] - along[i])
    return float(other[i] + part * (other[i + 1] - other[i]))
