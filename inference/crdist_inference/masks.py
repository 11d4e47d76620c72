"""Masks as data: circles on the sky and a rectangle about the Galactic centre, each with where it comes from.

The regions of the published analysis are in ``masks_paper.yaml`` beside this module, which a user may copy and change.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import yaml

from crdist.errors import InputFileError, RecipeError
from crdist_inference.downgrade import check_nside

__all__ = ["CentreRectangle", "Circle", "MaskTable", "PixelRule", "composite", "magellanic_only"]

Pixels = npt.NDArray[np.int64]

PixelRule = Literal["centre", "inclusive"]
"""``centre``: a pixel is masked if its centre lies in a region, its border counted in. ``inclusive``: if any part
of it does, judged by its centre and those of its `FINE`^2 sub-pixels."""

Provenance = Literal["printed", "inferred", "default", "user"]

FINE = 16
"""Sub-pixels along a side of a pixel that decide whether a region touches it."""

PAPER = "masks_paper.yaml"


@dataclass(frozen=True, slots=True)
class Circle:
    """A disc on the sky.

    Raises
    ------
    InputFileError
        If a number is not one, or the disc cannot be.
    """

    name: str
    l_deg: float
    """Galactic longitude of the centre."""
    b_deg: float
    """Galactic latitude of the centre."""
    radius_deg: float
    group: str
    """What it hides: magellanic, pulsar, dust_peak, or a word of the user's."""
    provenance: Provenance = "user"
    """Where the centre comes from: printed in the source, inferred from it, a default, or the user's own."""
    note: str = ""
    """Identification, confidence, other candidates."""

    def __post_init__(self) -> None:
        where = f"mask {self.name!r}"
        for key in ("name", "group"):
            if not (isinstance(getattr(self, key), str) and getattr(self, key).strip()):
                raise InputFileError(f"{where}: {key} must be a word, got {getattr(self, key)!r}")
        for key, lower, upper in (("l_deg", -360.0, 360.0), ("b_deg", -90.0, 90.0), ("radius_deg", 0.0, 180.0)):
            object.__setattr__(self, key, _number(getattr(self, key), f"{where}: {key}", lower, upper))
        if self.radius_deg == 0.0:
            raise InputFileError(f"{where}: radius_deg must be positive, got 0; leave the mask out instead")
        _check_provenance(self.provenance, where)

    def masked(self, nside: int, rule: PixelRule = "centre") -> Pixels:
        """Nested pixels that the disc hides."""
        import healpy

        centre = healpy.ang2vec(self.l_deg, self.b_deg, lonlat=True)
        fine = _fine(nside, rule)
        found = healpy.query_disc(fine, centre, math.radians(self.radius_deg), inclusive=False, nest=True)
        pixels = np.unique(np.asarray(found, dtype=np.int64) // (fine // nside) ** 2)
        if rule == "inclusive":
            # a disc smaller than a sub-pixel may hold no centre of one
            own = [healpy.vec2pix(nside, *centre, nest=True)]
            pixels = np.union1d(np.union1d(pixels, own), self.masked(nside))
        return pixels


@dataclass(frozen=True, slots=True)
class CentreRectangle:
    """The directions with \\|l\\| and \\|b\\| up to a half width each, about the Galactic centre."""

    l_half_width_deg: float
    b_half_width_deg: float
    provenance: Provenance = "user"

    def __post_init__(self) -> None:
        for key, upper in (("l_half_width_deg", 180.0), ("b_half_width_deg", 90.0)):
            value = _number(getattr(self, key), f"mask of the Galactic centre: {key}", 0.0, upper)
            object.__setattr__(self, key, value)
        _check_provenance(self.provenance, "mask of the Galactic centre")

    def masked(self, nside: int, rule: PixelRule = "centre") -> Pixels:
        """Nested pixels that the rectangle hides."""
        import healpy

        fine = _fine(nside, rule)
        upper = min(90.0, self.b_half_width_deg + math.degrees(healpy.max_pixrad(fine)))
        # a strip that surely holds the rectangle: most of the sky need not be looked at
        strip = healpy.query_strip(fine, math.radians(90.0 - upper), math.radians(90.0 + upper))
        longitude, latitude = healpy.pix2ang(fine, strip, lonlat=True)
        # centres on the very border come out of pix2ang a rounding to either side of it
        slack = 1e-9
        inside = np.abs((longitude + 180.0) % 360.0 - 180.0) <= self.l_half_width_deg + slack
        inside &= np.abs(latitude) <= self.b_half_width_deg + slack
        nested = healpy.ring2nest(fine, strip[inside])
        pixels = np.unique(np.asarray(nested, dtype=np.int64) // (fine // nside) ** 2)
        return np.union1d(pixels, self.masked(nside)) if rule == "inclusive" else pixels


@dataclass(frozen=True, slots=True)
class MaskTable:
    """Regions of the sky to leave out.

    Examples
    --------
    >>> table = MaskTable.paper()
    >>> len(table.circles), table.groups
    (39, ('magellanic', 'dust_peak', 'pulsar'))
    >>> int((~table.used(32)).sum()), int((~table.only("magellanic").used(32)).sum())
    (238, 46)
    """

    circles: tuple[Circle, ...]
    centre: CentreRectangle | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "circles", tuple(self.circles))
        repeated = [name for name, count in Counter(circle.name for circle in self.circles).items() if count > 1]
        if repeated:
            raise InputFileError(f"mask {repeated[0]!r} is there more than once; give each a name of its own")

    @classmethod
    def paper(cls) -> MaskTable:
        """The regions of arXiv:2605.22739, Table 1; radii and rectangle are defaults, see the file's text."""
        text = resources.files("crdist_inference").joinpath(PAPER).read_text(encoding="utf-8")
        return cls._from_yaml(text, PAPER)

    @classmethod
    def load(cls, path: str | Path) -> MaskTable:
        """Read a user's table.

        A ``.yaml`` file is like ``masks_paper.yaml``: a list ``circles`` and, if wanted, ``centre``. A ``.csv`` file
        has the columns name, l_deg, b_deg, radius_deg, group and, if wanted, provenance and note; no rectangle.

        Raises
        ------
        InputFileError
            If it cannot be read or an entry is not as described.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in (".csv", ".yaml", ".yml"):
            raise InputFileError(f"{path}: a table of masks is a .csv or .yaml file, got {path.suffix!r}")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InputFileError(f"{path}: cannot be read ({reason})") from error
        return cls._from_csv(text, str(path)) if kind == ".csv" else cls._from_yaml(text, str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MaskTable:
        """The record that `to_dict` wrote.

        Raises
        ------
        InputFileError
            If a key is unknown or missing, or a value impossible.
        """
        unknown = sorted(map(str, set(data) - {"circles", "centre"}))
        if unknown or not isinstance(data.get("circles", []), list | tuple):
            raise InputFileError(f"a table of masks has a list 'circles' and 'centre', got {', '.join(map(str, data))}")
        circles = tuple(_entry(Circle, item, f"circle {i + 1}") for i, item in enumerate(data.get("circles", [])))
        centre = data.get("centre")
        return cls(circles, None if centre is None else _entry(CentreRectangle, centre, "centre"))

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, for provenance and YAML."""
        return {
            "circles": [asdict(circle) for circle in self.circles],
            "centre": None if self.centre is None else asdict(self.centre),
        }

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the circles, in the order of the table."""
        return tuple(dict.fromkeys(circle.group for circle in self.circles))

    def only(self, *groups: str) -> MaskTable:
        """The circles of some groups, without the rectangle.

        Raises
        ------
        RecipeError
            If the table has no such group.
        """
        self._check_groups(groups)
        return MaskTable(tuple(circle for circle in self.circles if circle.group in groups))

    def with_radii(self, **radius_deg: float) -> MaskTable:
        """The same table with other radii, by group: ``with_radii(pulsar=3.0)``.

        Raises
        ------
        RecipeError
            If the table has no such group.
        """
        self._check_groups(tuple(radius_deg))
        circles = (
            replace(circle, radius_deg=radius_deg.get(circle.group, circle.radius_deg)) for circle in self.circles
        )
        return MaskTable(tuple(circles), self.centre)

    def with_centre(self, centre: CentreRectangle | None) -> MaskTable:
        """The same circles with another rectangle about the Galactic centre, or none."""
        return MaskTable(self.circles, centre)

    def used(self, nside: int, rule: PixelRule = "centre") -> npt.NDArray[np.bool_]:
        """Which pixels no region hides.

        Parameters
        ----------
        nside : int
            HEALPix resolution.
        rule : {"centre", "inclusive"}
            What makes a pixel masked, see `PixelRule`.

        Returns
        -------
        ndarray of bool, shape (12 nside^2,), nested

        Raises
        ------
        GridError
            If nside is not a power of two.
        RecipeError
            If there is no such rule, or no pixel is left.
        """
        check_nside(nside)
        if rule not in get_args(PixelRule):
            raise RecipeError(f"a pixel is masked by the rule {' or '.join(get_args(PixelRule))}, got {rule!r}")
        used = np.ones(12 * nside**2, dtype=bool)
        regions: list[Circle | CentreRectangle] = [*self.circles]
        if self.centre is not None:
            regions.append(self.centre)
        for region in regions:
            used[region.masked(nside, rule)] = False
        if not used.any():
            raise RecipeError(f"the masks leave no pixel of the sky at nside {nside}; make them smaller")
        return used

    def _check_groups(self, groups: tuple[str, ...]) -> None:
        for group in groups:
            if group not in self.groups:
                raise RecipeError(f"no group of masks {group!r}; the table has {', '.join(self.groups) or 'none'}")

    @classmethod
    def _from_yaml(cls, text: str, where: str) -> MaskTable:
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" at line {mark.line + 1}" if mark else ""
            raise InputFileError(f"{where}: not valid YAML{line}") from error
        if not isinstance(data, dict):
            raise InputFileError(f"{where}: a table of masks has a list 'circles' and, if wanted, 'centre'")
        return _named(where, cls.from_dict, data)

    @classmethod
    def _from_csv(cls, text: str, where: str) -> MaskTable:
        reader = csv.DictReader(io.StringIO(text), restkey="more values than columns", skipinitialspace=True)
        rows = [{key: value for key, value in row.items() if value not in ("", None)} for row in reader]
        if not rows:
            raise InputFileError(f"{where}: holds no mask; its first line must name the columns")
        return _named(where, cls.from_dict, {"circles": rows})


def composite() -> MaskTable:
    """All regions of the published analysis, with the rectangle about the Galactic centre."""
    return MaskTable.paper()


def magellanic_only() -> MaskTable:
    """The Magellanic Clouds alone: the mask of the paper's Appendix A."""
    return MaskTable.paper().only("magellanic")


def _fine(nside: int, rule: PixelRule) -> int:
    return nside * FINE if rule == "inclusive" else nside


def _named(where: str, build: Any, data: Mapping[str, Any]) -> MaskTable:
    try:
        table: MaskTable = build(data)
    except InputFileError as error:
        raise InputFileError(f"{where}: {error}") from error
    return table


def _entry(record: Any, data: object, where: str) -> Any:
    names = [field.name for field in fields(record)]
    if not isinstance(data, Mapping):
        raise InputFileError(f"{where} must have {', '.join(names)}, got {data!r}")
    unknown = [str(key) for key in data if key not in names]
    if unknown:
        raise InputFileError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(names)}")
    try:
        return record(**data)
    except TypeError as error:
        needed = names[:5] if record is Circle else names[:2]
        missing = [name for name in needed if name not in data]
        raise InputFileError(f"{where} ({data.get('name', 'unnamed')}): {', '.join(missing)} missing") from error


def _number(value: object, what: str, lower: float, upper: float) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputFileError(f"{what} must be a number, got {value!r}") from error
    if isinstance(value, bool) or not lower <= number <= upper:
        raise InputFileError(f"{what} must be between {lower:g} and {upper:g}, got {value!r}")
    return number


def _check_provenance(provenance: object, where: str) -> None:
    if provenance not in get_args(Provenance):
        known = ", ".join(get_args(Provenance))
        raise InputFileError(f"{where}: provenance must be one of {known}, got {provenance!r}")
