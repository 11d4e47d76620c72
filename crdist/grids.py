"""Frozen records of the grids: spherical HEALPix x distance in, Cartesian voxels out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError
from crdist.frames import Frame

__all__ = ["Axis", "CartesianGrid", "SphericalGrid"]

Ordering = Literal["nested", "ring"]

MAX_NSIDE = 8192
"""Beyond this a pixel index no longer fits the int32 arithmetic of the kernels."""


@dataclass(frozen=True, slots=True)
class SphericalGrid:
    """A heliocentric grid of HEALPix pixels (Galactic coordinates) x distance shells.

    Parameters
    ----------
    nside : int
        HEALPix resolution, a power of two.
    edges_kpc : sequence of float, kpc, n_shell + 1 values
        Shell edges, positive and strictly increasing.
    centres_kpc : sequence of float, kpc, n_shell values, optional
        Shell centres, each inside its shell. Default: the geometric mean of the two edges, the centre of a shell in
        ln(distance). A published map's own centres are kept when they differ.
    ordering : {"nested", "ring"}
        Order of the pixels.

    Raises
    ------
    GridError
        If nside is not a power of two, or edges or centres are not as described.

    Examples
    --------
    >>> grid = SphericalGrid.log_spaced(nside=32, n_shell=196, inner_kpc=0.05, outer_kpc=30.0)
    >>> grid.n_pixel, grid.n_shell, grid.n_pixel * grid.n_shell
    (12288, 196, 2408448)
    >>> SphericalGrid(nside=3, edges_kpc=(1.0, 2.0))
    Traceback (most recent call last):
        ...
    crdist.errors.GridError: nside must be a power of two between 1 and 8192, got 3
    """

    nside: int
    edges_kpc: tuple[float, ...]
    centres_kpc: tuple[float, ...] = ()
    ordering: Ordering = "nested"

    def __post_init__(self) -> None:
        nside = self.nside
        if not (isinstance(nside, int | np.integer) and 1 <= nside <= MAX_NSIDE and nside & (nside - 1) == 0):
            raise GridError(f"nside must be a power of two between 1 and {MAX_NSIDE}, got {nside}")
        if self.ordering not in ("nested", "ring"):
            raise GridError(f"ordering must be 'nested' or 'ring', got {self.ordering!r}")
        edges = np.asarray(self.edges_kpc, dtype=np.float64)
        _check_edges(edges)
        centres = np.asarray(self.centres_kpc, dtype=np.float64)
        if centres.size == 0:
            centres = np.sqrt(edges[1:] * edges[:-1])
        if centres.shape != (edges.size - 1,):
            raise GridError(f"{edges.size} edges bound {edges.size - 1} shells, got {centres.size} shell centres")
        astray = np.flatnonzero(~((centres > edges[:-1]) & (centres < edges[1:])))
        if astray.size:
            i = int(astray[0])
            raise GridError(
                f"each shell centre must lie inside its shell, got centre[{i}] = {centres[i]:g} kpc "
                f"between the edges {edges[i]:g} and {edges[i + 1]:g} kpc"
            )
        object.__setattr__(self, "nside", int(nside))
        object.__setattr__(self, "edges_kpc", tuple(edges.tolist()))
        object.__setattr__(self, "centres_kpc", tuple(centres.tolist()))

    @classmethod
    def log_spaced(
        cls, nside: int, n_shell: int, inner_kpc: float, outer_kpc: float, ordering: Ordering = "nested"
    ) -> SphericalGrid:
        """A grid whose edges span [inner, outer] evenly in ln(distance)."""
        if not (n_shell >= 1 and 0 < inner_kpc < outer_kpc):
            raise GridError(
                f"shells need n_shell >= 1 and 0 < inner < outer, got {n_shell} from {inner_kpc:g} to {outer_kpc:g} kpc"
            )
        edges = np.geomspace(inner_kpc, outer_kpc, n_shell + 1)
        return cls(nside=nside, edges_kpc=tuple(edges.tolist()), ordering=ordering)

    @property
    def n_pixel(self) -> int:
        """Number of pixels, 12 nside^2."""
        return 12 * self.nside**2

    @property
    def n_shell(self) -> int:
        """Number of distance shells."""
        return len(self.edges_kpc) - 1

    @property
    def level(self) -> int:
        """HEALPix level, log2(nside)."""
        return self.nside.bit_length() - 1

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Shell edges as an array, kpc, shape (n_shell + 1,)."""
        return np.array(self.edges_kpc)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Shell centres as an array, kpc, shape (n_shell,)."""
        return np.array(self.centres_kpc)

    @property
    def widths(self) -> npt.NDArray[np.float64]:
        """Radial width of each shell, kpc, shape (n_shell,)."""
        return np.diff(self.edges)

    @property
    def cell_volumes(self) -> npt.NDArray[np.float64]:
        """Volume of one cell of each shell, kpc^3, shape (n_shell,)."""
        return 4.0 * math.pi / (3.0 * self.n_pixel) * np.diff(self.edges**3)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return {
            "nside": self.nside,
            "edges_kpc": list(self.edges_kpc),
            "centres_kpc": list(self.centres_kpc),
            "ordering": self.ordering,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SphericalGrid:
        """The record that `to_dict` wrote."""
        return cls(
            nside=data["nside"],
            edges_kpc=tuple(data["edges_kpc"]),
            centres_kpc=tuple(data["centres_kpc"]),
            ordering=data["ordering"],
        )


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of voxels: n equal cells between two ends, kpc.

    Examples
    --------
    >>> Axis(-0.2, 0.2, 4).centres
    array([-0.15, -0.05,  0.05,  0.15])
    """

    lower_kpc: float
    upper_kpc: float
    n: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower_kpc) and math.isfinite(self.upper_kpc) and self.lower_kpc < self.upper_kpc):
            raise GridError(f"an axis must run from lower to upper, got [{self.lower_kpc:g}, {self.upper_kpc:g}] kpc")
        if self.n < 1:
            raise GridError(f"an axis needs at least one voxel, got {self.n}")

    @classmethod
    def from_voxel(cls, lower_kpc: float, upper_kpc: float, voxel_kpc: float, name: str = "axis") -> Axis:
        """The axis whose voxels have the given size.

        Raises
        ------
        GridError
            If the extent is not a whole number of voxels (to 1e-6 of one).
        """
        if not (math.isfinite(voxel_kpc) and voxel_kpc > 0):
            raise GridError(f"{name}: a voxel must have a positive size, got {voxel_kpc} kpc")
        n = (upper_kpc - lower_kpc) / voxel_kpc
        if not (math.isfinite(n) and round(n) >= 1 and abs(n - round(n)) < 1e-6):
            raise GridError(
                f"{name}: [{lower_kpc:g}, {upper_kpc:g}] kpc is not a whole number of {voxel_kpc:g} kpc voxels "
                f"({n:g}); change the extent or the voxel"
            )
        return cls(float(lower_kpc), float(upper_kpc), round(n))

    @property
    def step(self) -> float:
        """Size of a voxel along this axis, kpc."""
        return (self.upper_kpc - self.lower_kpc) / self.n

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Voxel centres, kpc, shape (n,)."""
        return np.asarray(self.lower_kpc + (np.arange(self.n) + 0.5) * self.step, dtype=np.float64)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Voxel edges, kpc, shape (n + 1,)."""
        return np.asarray(self.lower_kpc + np.arange(self.n + 1) * self.step, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CartesianGrid:
    """A box of voxels in a stated frame; any extent and voxel size along each axis.

    Examples
    --------
    >>> grid = CartesianGrid.from_extent(x=(-20, 20), y=(-20, 20), z=(-3, 3), voxel=0.1)
    >>> grid.shape
    (400, 400, 60)
    """

    x: Axis
    y: Axis
    z: Axis
    frame: Frame = field(default_factory=Frame)

    @classmethod
    def from_extent(
        cls,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        *,
        voxel: float | Sequence[float],
        frame: Frame | None = None,
    ) -> CartesianGrid:
        """A grid from its extents and voxel size(s), all in kpc.

        Raises
        ------
        GridError
            If an extent is not a whole number of voxels.
        """
        sizes = [float(voxel)] * 3 if isinstance(voxel, int | float) else [float(size) for size in voxel]
        if len(sizes) != 3:
            raise GridError(f"voxel is one size or three (x, y, z), got {len(sizes)}")
        along_x, along_y, along_z = (
            Axis.from_voxel(float(extent[0]), float(extent[1]), size, name)
            for name, extent, size in zip("xyz", (x, y, z), sizes, strict=True)
        )
        return cls(along_x, along_y, along_z, frame or Frame())

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The three axes, in the order x, y, z."""
        return self.x, self.y, self.z

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        return self.x.n, self.y.n, self.z.n

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel, kpc^3."""
        return self.x.step * self.y.step * self.z.step

    def axis(self, name: str) -> Axis:
        """The axis called ``"x"``, ``"y"`` or ``"z"``."""
        if name not in ("x", "y", "z"):
            raise GridError(f"an axis is 'x', 'y' or 'z', got {name!r}")
        return self.axes["xyz".index(name)]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        axes = {name: [axis.lower_kpc, axis.upper_kpc, axis.n] for name, axis in zip("xyz", self.axes, strict=True)}
        return {**axes, "frame": self.frame.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CartesianGrid:
        """The record that `to_dict` wrote."""
        x, y, z = (Axis(*data[name]) for name in "xyz")
        return cls(x, y, z, Frame.from_dict(data["frame"]))


def _check_edges(edges_kpc: npt.NDArray[np.float64]) -> None:
    if edges_kpc.ndim != 1 or edges_kpc.size < 2:
        raise GridError(f"shell edges must be 1-d with at least 2 values, got shape {edges_kpc.shape}")
    if not np.all(np.isfinite(edges_kpc)):
        raise GridError(f"shell edges must be finite, got {edges_kpc[~np.isfinite(edges_kpc)][0]}")
    if not edges_kpc[0] > 0:
        raise GridError(f"shell edges must be positive, got edges[0] = {edges_kpc[0]:g} kpc")
    falling = np.flatnonzero(~(np.diff(edges_kpc) > 0))
    if falling.size:
        i = int(falling[0])
        raise GridError(
            "shell edges must increase strictly, "
            f"got edges[{i}] = {edges_kpc[i]:g} and edges[{i + 1}] = {edges_kpc[i + 1]:g} kpc"
        )
