"""Published densities of cosmic-ray protons along the Galactocentric radius, to compare a radial profile with."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from crdist.emission import ALPHA, density_at_energy
from crdist.errors import InputFileError
from crdist.schema import Variable
from crdist_dashboards.records import Line, Points

__all__ = ["COLUMNS", "Literature", "in_unit_of", "published", "read_points"]

COLUMNS = ("label", "R_kpc", "R_err", "n30", "n30_lo", "n30_hi", "reference", "note")

NORMALISATION = ("c",)
"""Names of the quantity C, the normalisation of the proton spectrum."""


@dataclass(frozen=True, slots=True)
class Literature:
    """Points with error bars, and values that hold at one place only, drawn as horizontal lines."""

    points: tuple[Points, ...]
    lines: tuple[Line, ...]
    """Of kind ``reference``; they have two equal ordinates, at R = 0 and infinity."""
    notes: tuple[str, ...]
    """Whose they are."""

    def with_(self, other: Literature) -> Literature:
        """These and others; of what has the same label, the others."""
        points = {item.label: item for item in (*self.points, *other.points)}
        lines = {item.label: item for item in (*self.lines, *other.lines)}
        of_points, of_lines = {item.label for item in other.points}, {item.label for item in other.lines}
        # a group of points may replace a line, and the other way round
        for label in of_lines - of_points:
            points.pop(label, None)
        for label in of_points - of_lines:
            lines.pop(label, None)
        replaced = of_points | of_lines
        kept = [note for note in self.notes if note.partition(": ")[0] not in replaced]
        return Literature(tuple(points.values()), tuple(lines.values()), (*kept, *other.notes))


def published() -> Literature:
    """The points that come with crdist, n30 in GeV-1 cm-3.

    Notes
    -----
    Acero et al. 2016, ApJS 223, 26 (rings of diffuse emission); Aharonian et al. 2020, PRD 101, 083018, and Peron et
    al. 2021, ApJ 907, L11 (molecular clouds), digitised; Aguilar et al. 2015, PRL 114, 171103 (AMS-02, at the Sun).
    """
    text = resources.files("crdist_dashboards").joinpath("literature.csv").read_text(encoding="utf-8")
    return _parse(text, "literature.csv")


def read_points(path: str | Path) -> Literature:
    """Points of one's own.

    Parameters
    ----------
    path : path
        CSV with the columns label, R_kpc [kpc], R_err, n30 [GeV-1 cm-3], n30_lo, n30_hi, reference, note; lines that
        start with # are comments. R_err and the ends of the error bar may be empty, or the columns missing. A row
        without R_kpc is drawn as a horizontal line.

    Returns
    -------
    Literature
        Add it to those that come with crdist by ``published().with_(...)``: a label that exists there is replaced.

    Raises
    ------
    InputFileError
        If the file cannot be read, a column is missing, or a row is wrong: with its line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path}: the points cannot be read ({error})") from error
    return _parse(text, str(path))


def in_unit_of(literature: Literature, quantity: Variable) -> Literature | None:
    """The literature in the unit of a quantity; None where that is not the density of cosmic-ray protons.

    Parameters
    ----------
    literature : Literature
        n30 in GeV-1 cm-3.
    quantity : Variable
        ``n30`` [GeV-1 cm-3], or the normalisation ``c`` [cm-3] of the proton spectrum.

    Examples
    --------
    >>> c = in_unit_of(published(), Variable("c", "cm-3", "normalisation C of the cosmic-ray proton spectrum"))
    >>> print(f"{c.lines[0].label}: {c.lines[0].y[0]:.3g}")
    AMS-02 (local interstellar): 6.67e-10
    >>> in_unit_of(published(), Variable("n_h", "cm-3", "hydrogen nuclei")) is None
    True
    """
    units = " ".join(quantity.units.split())
    if quantity.name.lower() == "n30" and units == "GeV-1 cm-3":
        return literature
    if quantity.name.lower() not in NORMALISATION or units != "cm-3":
        return None
    factor = 1.0 / float(density_at_energy(1.0))

    def scaled(item: Points) -> Points:
        return replace(item, y=item.y * factor, y_lower=item.y_lower * factor, y_upper=item.y_upper * factor)

    note = (
        f"literature: n30 divided by {1 / factor:.4g} GeV⁻¹, which is n30 / C for a proton spectrum of slope {ALPHA:g}"
    )
    return Literature(
        tuple(map(scaled, literature.points)),
        tuple(replace(line, y=line.y * factor) for line in literature.lines),
        (*literature.notes, note),
    )


def _parse(text: str, where: str) -> Literature:
    # numbers of lines are those of the file, so comments stay in it
    numbered = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise InputFileError(f"{where}: no rows; the first line has the columns {','.join(COLUMNS)}")
    header = [name.strip() for name in next(csv.reader([numbered[0][1]]))]
    missing = [name for name in ("label", "R_kpc", "n30") if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown:
        what = f"no column {missing[0]}" if missing else f"unknown column {unknown[0]!r}"
        raise InputFileError(f"{where}, line {numbered[0][0]}: {what}; the columns are {','.join(COLUMNS)}")
    groups: dict[str, list[Mapping[str, float | str]]] = {}
    for number, line in numbered[1:]:
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if len(cells) != len(header):
            raise InputFileError(f"{where}, line {number}: {len(cells)} cells, but the header has {len(header)}")
        row = _row(dict(zip(header, cells, strict=True)), f"{where}, line {number}")
        groups.setdefault(str(row["label"]), []).append(row)
    points, lines, notes = [], [], []
    for label, rows in groups.items():
        placed = [row for row in rows if math.isfinite(float(row["R_kpc"]))]
        lines += [
            Line("reference", np.array([0.0, np.inf]), np.full(2, float(row["n30"])), label)
            for row in rows
            if row not in placed
        ]
        cited = _cited(rows)
        if placed:
            points.append(_points(label, placed, cited))
        notes.append(f"{label}: {cited}" if cited else label)
    return Literature(tuple(points), tuple(lines), tuple(notes))


def _row(cells: Mapping[str, str], where: str) -> Mapping[str, float | str]:
    row: dict[str, float | str] = {name: cells.get(name, "") for name in ("label", "reference", "note")}
    if not row["label"]:
        raise InputFileError(f"{where}: a row needs a label")
    for name in ("R_kpc", "R_err", "n30", "n30_lo", "n30_hi"):
        text = cells.get(name, "")
        try:
            row[name] = float(text) if text else math.nan
        except ValueError as error:
            raise InputFileError(f"{where}: {name} is a number, got {text!r}") from error
        value = float(row[name])
        if text and not (math.isfinite(value) and value >= 0):
            raise InputFileError(f"{where}: {name} is a finite number, not negative, got {text}")
    n30 = float(row["n30"])
    if not n30 > 0:
        raise InputFileError(f"{where}: n30 is a positive number in GeV-1 cm-3, got {cells.get('n30', '')!r}")
    if float(row["n30_lo"]) > n30 or float(row["n30_hi"]) < n30:
        bar = f"{row['n30_lo']:g} to {row['n30_hi']:g}"
        raise InputFileError(f"{where}: n30 = {n30:g} lies outside its error bar {bar}")
    return row


def _points(label: str, rows: list[Mapping[str, float | str]], cited: str) -> Points:
    def column(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(row[name]) for row in rows])

    radius, half = column("R_kpc"), column("R_err")
    return Points(
        x=radius,
        y=column("n30"),
        x_lower=np.maximum(radius - half, 0.0),
        x_upper=radius + half,
        y_lower=column("n30_lo"),
        y_upper=column("n30_hi"),
        label=label,
        reference=cited,
    )


def _cited(rows: Iterable[Mapping[str, float | str]]) -> str:
    said = {" (".join(filter(None, (str(row["reference"]), str(row["note"])))): row for row in rows}
    return "; ".join(text + (")" if row["reference"] and row["note"] else "") for text, row in said.items())
