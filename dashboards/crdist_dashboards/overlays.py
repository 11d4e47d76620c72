"""What is drawn over a map to find one's way: the Sun, the Galactic centre, the solar circle and the spiral arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crdist.frames import Frame
from crdist_dashboards.records import Curve, Mark

__all__ = ["ALL", "ARMS_REFERENCE", "Overlay", "marks_and_curves", "spiral_arms"]

Overlay = Literal["sun", "centre", "solar circle", "spiral arms"]

ALL: tuple[Overlay, ...] = ("sun", "centre", "solar circle", "spiral arms")

ARMS_REFERENCE = "spiral arms: Reid et al. 2019, ApJ 885, 131"

ARMS_HEIGHT_KPC = 0.5
"""Arms are drawn on planes no farther from the mid-plane than this."""

NEAR_KPC = 0.5
"""A place farther from a plane than this is marked as projected on it."""

ARMS_R0_KPC = 8.15
"""Distance to the Galactic centre that the arms were fitted with (Reid et al. 2019)."""


@dataclass(frozen=True, slots=True)
class _Arm:
    """A logarithmic spiral ln(R / R_kink) = -(azimuth - azimuth_kink) tan(pitch) whose pitch changes at the kink."""

    name: str
    first_deg: float
    """Azimuth about the Galactic centre where its masers begin: 0 towards the Sun, growing with Galactic rotation."""
    last_deg: float
    kink_deg: float
    kink_kpc: float
    pitch_below_deg: float
    pitch_above_deg: float


# Reid et al. 2019, ApJ 885, 131, Table 2
ARMS = (
    _Arm("3-kpc", 15.0, 18.0, 15.0, 3.52, -4.2, -4.2),
    _Arm("Norma", 5.0, 54.0, 18.0, 4.46, -1.0, 19.5),
    _Arm("Scutum-Centaurus", 0.0, 104.0, 23.0, 4.91, 14.1, 12.1),
    _Arm("Sagittarius-Carina", 2.0, 97.0, 24.0, 6.04, 17.1, 1.0),
    _Arm("Local", -8.0, 34.0, 9.0, 8.26, 11.4, 11.4),
    _Arm("Perseus", -23.0, 115.0, 40.0, 8.87, 10.3, 8.7),
    _Arm("Outer", -16.0, 71.0, 18.0, 12.24, 3.0, 9.4),
)


def marks_and_curves(
    frame: Frame,
    axis: str,
    at_kpc: float | None,
    extent: tuple[float, float, float, float],
    overlays: Sequence[str] = ALL,
) -> tuple[tuple[Mark, ...], tuple[Curve, ...]]:
    """What to draw over a plane.

    Parameters
    ----------
    frame : Frame
        Of the plane.
    axis : {"x", "y", "z"}
        Axis that the plane lies across.
    at_kpc : float or None, kpc
        Its place there; None for a projection.
    extent : tuple of float, kpc
        Left, right, bottom, top; what lies outside is left out.
    overlays : sequence of str
        Those that are wanted, of `ALL`. The solar circle and the arms belong to planes across z.

    Returns
    -------
    marks, curves
    """
    across, up = ("xyz".index(name) for name in "xyz" if name != axis)
    left, right, bottom, top = extent
    marks = []
    for kind, name, place in (("sun", "Sun", frame.sun_kpc), ("centre", "Galactic centre", frame.centre_kpc)):
        x, y = place[across], place[up]
        if kind not in overlays or not (left <= x <= right and bottom <= y <= top):
            continue
        far = at_kpc is not None and axis != "z" and abs(place["xyz".index(axis)] - at_kpc) > NEAR_KPC
        marks.append(Mark("sun" if kind == "sun" else "centre", x, y, f"{name}, projected" if far else name))
    if axis != "z":
        return tuple(marks), ()
    curves = []
    if "solar circle" in overlays:
        angle = np.linspace(0.0, 2.0 * math.pi, 1441)
        circle = frame.r0_kpc * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
        x, y, _ = _in_frame(circle, frame).T
        curves.append(Curve("solar circle", *_inside(x, y, extent), "solar circle"))
    if "spiral arms" in overlays and (at_kpc is None or abs(at_kpc - frame.centre_kpc[2]) <= ARMS_HEIGHT_KPC):
        curves += [Curve("spiral arm", *_inside(arm.x, arm.y, extent), arm.label) for arm in spiral_arms(frame)]
    return tuple(marks), tuple(curve for curve in curves if np.isfinite(curve.x).any())


@lru_cache(maxsize=16)
def spiral_arms(frame: Frame) -> tuple[Curve, ...]:
    """The spiral arms in the mid-plane, as far as masers with parallaxes trace them.

    Notes
    -----
    Fits of Reid et al. 2019, ApJ 885, 131, Table 2: logarithmic spirals whose pitch angle changes at a kink. Radii are
    scaled by this frame's R0 over theirs, 8.15 kpc, so that the arms keep their distance from the Sun in units of R0.

    Examples
    --------
    >>> local = {arm.label: arm for arm in spiral_arms(Frame(r0_kpc=8.15))}["Local"]
    >>> towards_sun = abs(local.y).argmin()
    >>> print(f"{-local.x[towards_sun]:.1f} kpc")
    8.5 kpc
    """
    curves = []
    for arm in ARMS:
        azimuth = np.union1d(np.linspace(arm.first_deg, arm.last_deg, 361), [arm.kink_deg])
        pitch = np.where(azimuth < arm.kink_deg, arm.pitch_below_deg, arm.pitch_above_deg)
        radius = arm.kink_kpc * np.exp(-np.radians(azimuth - arm.kink_deg) * np.tan(np.radians(pitch)))
        radius *= frame.r0_kpc / ARMS_R0_KPC
        angle = np.radians(azimuth)
        points = np.stack([-radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(radius)], axis=-1)
        x, y, _ = _in_frame(points, frame).T
        curves.append(Curve("spiral arm", x, y, arm.name))
    return tuple(curves)


def _in_frame(points: npt.NDArray[np.float64], frame: Frame) -> npt.NDArray[np.float64]:
    """Galactocentric points in a frame."""
    return frame.from_heliocentric(frame.galactocentric.to_heliocentric(points))


def _inside(
    x: npt.NDArray[Any], y: npt.NDArray[Any], extent: tuple[float, float, float, float]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    left, right, bottom, top = extent
    within = (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
    return np.where(within, x, np.nan), np.where(within, y, np.nan)
