"""Cartesian frames of the Galaxy: Galactocentric or heliocentric, always explicit.

The native grid of every posterior is heliocentric and spherical in Galactic coordinates. Its Cartesian form has
x towards the Galactic centre (l = 0, b = 0), y towards l = 90 deg and z towards the north Galactic pole.
A `Frame` says in which Cartesian frame a product is given and how it follows from that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.errors import GridError

if TYPE_CHECKING:
    from astropy.coordinates import Galactocentric

__all__ = ["R0_KPC", "Frame"]

R0_KPC = 8.178  # GRAVITY Collaboration 2019, A&A 625, L10; the value of the published gas maps


@dataclass(frozen=True, slots=True)
class Frame:
    """A Cartesian frame, with the Sun's place in the Galaxy.

    Parameters
    ----------
    name : {"galactocentric", "heliocentric"}
        ``galactocentric``: origin at the Galactic centre, x pointing from the Sun to the centre, z towards the
        north Galactic pole, right-handed, the Sun at x = -sqrt(r0^2 - z_sun^2), z = z_sun (astropy's convention).
        ``heliocentric``: origin at the Sun, axes along Galactic coordinates, the centre at x = +r0.
    r0_kpc : float, kpc
        Distance from the Sun to the Galactic centre.
    z_sun_kpc : float, kpc
        Height of the Sun above the Galactic mid-plane.
    roll_deg : float, degree
        Rotation about the line from the Sun to the centre, as astropy's ``roll``: 0 keeps the Galactic x-z plane.

    Notes
    -----
    A heliocentric frame carries the same three numbers: profiles about the Galactic centre and the marks on a
    figure need them. No value is ever taken from astropy's defaults, which change with its versions.

    Examples
    --------
    >>> Frame().sun_kpc
    (-8.178, 0.0, 0.0)
    >>> Frame(name="heliocentric").centre_kpc
    (8.178, 0.0, 0.0)
    """

    name: Literal["galactocentric", "heliocentric"] = "galactocentric"
    r0_kpc: float = R0_KPC
    z_sun_kpc: float = 0.0
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("galactocentric", "heliocentric"):
            raise GridError(f"frame name must be 'galactocentric' or 'heliocentric', got {self.name!r}")
        for key in ("r0_kpc", "z_sun_kpc", "roll_deg"):
            if not math.isfinite(getattr(self, key)):
                raise GridError(f"frame {key} must be a finite number, got {getattr(self, key)}")
        if not self.r0_kpc > 0:
            raise GridError(f"frame r0_kpc must be positive, got {self.r0_kpc:g} kpc")
        if not abs(self.z_sun_kpc) < self.r0_kpc:
            raise GridError(
                f"frame z_sun_kpc must be smaller than r0_kpc = {self.r0_kpc:g} kpc, got {self.z_sun_kpc:g} kpc"
            )

    @property
    def rotation(self) -> npt.NDArray[np.float64]:
        """Rotation from heliocentric axes to this frame's axes, shape (3, 3)."""
        if self.name == "heliocentric":
            return np.eye(3)
        sin_tilt = self.z_sun_kpc / self.r0_kpc
        cos_tilt = math.sqrt(1.0 - sin_tilt * sin_tilt)
        roll = math.radians(-self.roll_deg)
        tilt_about_y = np.array([[cos_tilt, 0.0, sin_tilt], [0.0, 1.0, 0.0], [-sin_tilt, 0.0, cos_tilt]])
        roll_about_x = np.array(
            [[1.0, 0.0, 0.0], [0.0, math.cos(roll), math.sin(roll)], [0.0, -math.sin(roll), math.cos(roll)]]
        )
        return np.asarray(tilt_about_y @ roll_about_x, dtype=np.float64)

    @property
    def sun_kpc(self) -> tuple[float, float, float]:
        """Place of the Sun in this frame, kpc."""
        x, y, z = self.from_heliocentric(np.zeros(3))
        return float(x), float(y), float(z)

    @property
    def centre_kpc(self) -> tuple[float, float, float]:
        """Place of the Galactic centre in this frame, kpc."""
        x, y, z = self.from_heliocentric(np.array([self.r0_kpc, 0.0, 0.0]))
        return float(x), float(y), float(z)

    @property
    def galactocentric(self) -> Frame:
        """The Galactocentric frame with the same Sun."""
        return Frame("galactocentric", self.r0_kpc, self.z_sun_kpc, self.roll_deg)

    def from_heliocentric(self, points_kpc: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Coordinates in this frame of heliocentric points, kpc, shape (..., 3)."""
        points = np.asarray(points_kpc, dtype=np.float64)
        if self.name == "heliocentric":
            return points.copy()
        # The roll leaves the centre where it is, so the shift may come first.
        shifted = points - np.array([self.r0_kpc, 0.0, 0.0])
        # + 0.0 turns a negative zero into a zero, which reads better where it is printed
        return np.asarray(shifted @ self.rotation.T + 0.0, dtype=np.float64)

    def to_heliocentric(self, points_kpc: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Heliocentric coordinates of points in this frame, kpc, shape (..., 3)."""
        points = np.asarray(points_kpc, dtype=np.float64)
        if self.name == "heliocentric":
            return points.copy()
        return np.asarray(points @ self.rotation + np.array([self.r0_kpc, 0.0, 0.0]), dtype=np.float64)

    def to_astropy(self) -> Galactocentric:
        """The same Galactocentric frame for astropy, with every parameter given.

        astropy measures the roll from a rounded constant; the difference to the exact orientation of Galactic
        coordinates (3e-5 deg) is put into its ``roll``, so that both agree to rounding.

        Raises
        ------
        GridError
            If this frame is heliocentric: that one is ``astropy.coordinates.Galactic``.
        """
        if self.name == "heliocentric":
            raise GridError("a heliocentric frame is astropy.coordinates.Galactic; only galactocentric frames convert")
        from astropy import units as u
        from astropy.coordinates import CartesianDifferential, Galactocentric, SkyCoord

        centre = SkyCoord(l=0 * u.deg, b=0 * u.deg, frame="galactic").icrs

        def frame(roll_deg: float) -> Galactocentric:
            return Galactocentric(
                galcen_coord=centre,
                galcen_distance=self.r0_kpc * u.kpc,
                z_sun=self.z_sun_kpc * u.kpc,
                roll=roll_deg * u.deg,
                galcen_v_sun=CartesianDifferential([0, 0, 0] * u.km / u.s),
            )

        # Where a point towards l = 90 deg lands without a roll tells how far astropy's zero is off.
        flat = Galactocentric(
            galcen_coord=centre,
            galcen_distance=self.r0_kpc * u.kpc,
            z_sun=0 * u.kpc,
            roll=0 * u.deg,
            galcen_v_sun=CartesianDifferential([0, 0, 0] * u.km / u.s),
        )
        east = SkyCoord(l=90 * u.deg, b=0 * u.deg, distance=1 * u.kpc, frame="galactic").transform_to(flat)
        offset_deg = math.degrees(math.atan2(east.z.to_value(u.kpc), east.y.to_value(u.kpc)))
        return frame(self.roll_deg - offset_deg)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, for the attributes of a store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Frame:
        """The record that `to_dict` wrote.

        Raises
        ------
        GridError
            If a key is unknown or a value impossible.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise GridError(f"a frame has name, r0_kpc, z_sun_kpc and roll_deg, got {sorted(data)}") from error
