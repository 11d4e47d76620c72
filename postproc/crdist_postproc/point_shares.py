"""Which piece of the samples serves which points, so that every piece is read once and let go at once.

Most points lie so that all cells around them are in one piece, which gives their values. For the others each piece
hands over the samples of the few cells that they need of it. What is kept of a piece is small, however large the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crdist.grids import SphericalGrid
from crdist_postproc.kernels.pieces import Cuts
from crdist_postproc.kernels.points import Interpolation, Places, locate

__all__ = ["BLOCK_POINTS", "Group", "Shares", "needed_cells", "shares_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BLOCK_POINTS = 1 << 16
"""Points that are located at once."""
GROUP_POINTS = 1 << 13
"""Points of a group, whose cells are brought together from several pieces."""


@dataclass(frozen=True)
class Group:
    """Points that need cells of several pieces."""

    points: Integers
    """Their numbers."""
    parts: list[tuple[int, Integers, Integers]]
    """Piece; which of the cells that it hands over; where they belong among the group's."""


@dataclass(frozen=True)
class Shares:
    """What every piece does."""

    alone: dict[int, Integers]
    """By piece, the numbers of the points that it serves alone."""
    handed: dict[int, tuple[Integers, Integers]]
    """By piece, the cells that it hands over: pixels and shells; of integrals pixels and numbers of points."""
    groups: list[Group]

    @property
    def pieces(self) -> list[int]:
        """All that are read."""
        return sorted(self.alone.keys() | self.handed.keys())


def needed_cells(places: Places, how: Interpolation, n_shell: int) -> tuple[Integers, Integers]:
    """Pixels and shells of the cells around points, as the kernels read them.

    Returns
    -------
    pixels, shells : ndarray of int64, shape (n, 4, 2), or (n, 4, 1) of integrals
        Four pixels, and of each the shell below and the one above. Shells are -1 where a cell does not count: where
        one shell alone does, the other may be masked, and is not read.
    """
    here = places.shell
    if how.integrated:
        return places.pixels[:, :, None], np.repeat(here[:, None, None], 4, axis=1)
    inside = here >= 0
    above = np.minimum(here + 1, n_shell - 1)
    both = np.stack(
        [np.where(inside & (places.part < 1.0), here, -1), np.where(inside & (places.part > 0.0), above, -1)], axis=-1
    )
    pixels = np.repeat(places.pixels[:, :, None], 2, axis=2)
    return pixels, np.repeat(both[:, None, :], 4, axis=1)


def shares_of(points_kpc: Floats, grid: SphericalGrid, cuts: Cuts, how: Interpolation) -> Shares:
    """Deal out points of shape (n, 3) to the pieces; a piece's number counts along shells first."""
    n_shell_pieces = len(cuts.shells) - 1
    n = len(points_kpc)
    homes = np.full(n, -1, dtype=np.int64)
    several, pieces, pixels, shells = [], [], [], []
    for first in range(0, n, BLOCK_POINTS):
        places = locate(points_kpc[first : first + BLOCK_POINTS], grid, how)
        pixel, shell = needed_cells(places, how, grid.n_shell)
        piece = (np.searchsorted(cuts.pixels, pixel, side="right") - 1) * n_shell_pieces
        piece += np.searchsorted(cuts.shells, shell, side="right") - 1
        counts = shell >= 0
        home = np.where(counts, piece, -1).max(axis=(1, 2))
        apart = (counts & (piece != home[:, None, None])).any(axis=(1, 2))
        homes[first : first + BLOCK_POINTS] = np.where(apart, -1, home)
        several.append(np.flatnonzero(apart) + first)
        pieces.append(np.where(counts, piece, -1)[apart])
        pixels.append(pixel[apart])
        shells.append(shell[apart])
    numbers = np.concatenate(several) if several else np.empty(0, dtype=np.int64)
    handed: dict[int, tuple[Integers, Integers]] = {}
    groups: list[Group] = []
    if numbers.size:
        piece = np.concatenate(pieces)
        # neighbours in one group, so that few pieces are waited for
        order = np.argsort(piece.reshape(len(piece), -1).max(axis=1), kind="stable")
        numbers, piece = numbers[order], piece[order]
        pixel = np.concatenate(pixels)[order]
        last = np.broadcast_to(numbers[:, None, None], piece.shape) if how.integrated else np.concatenate(shells)[order]
        handed, groups = _handed(numbers, piece, pixel, last)
    return Shares(_alone(homes), handed, groups)


def _alone(homes: Integers) -> dict[int, Integers]:
    inside = np.flatnonzero(homes >= 0)
    order = inside[np.argsort(homes[inside], kind="stable")]
    found, starts = np.unique(homes[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=False))


def _handed(
    numbers: Integers, piece: Integers, pixel: Integers, last: Integers
) -> tuple[dict[int, tuple[Integers, Integers]], list[Group]]:
    """The cells that pieces hand over, each once, and the groups that they go to."""
    wanted = piece >= 0
    keys = np.stack([piece[wanted], pixel[wanted], last[wanted]])
    order = np.lexsort(keys[::-1])
    ordered = keys[:, order]
    new = np.append(True, (ordered[:, 1:] != ordered[:, :-1]).any(axis=0))
    cells = ordered[:, new]
    row = np.full(piece.shape, -1, dtype=np.int64)
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.cumsum(new) - 1
    found, starts = np.unique(cells[0], return_index=True)
    # a piece counts its cells from 0
    row[wanted] = rank - starts[np.searchsorted(found, keys[0])]
    bounds = np.append(starts, cells.shape[1])
    handed = {
        number: (cells[1, bounds[k] : bounds[k + 1]], cells[2, bounds[k] : bounds[k + 1]])
        for k, number in enumerate(found.tolist())
    }
    groups = []
    for first in range(0, len(numbers), GROUP_POINTS):
        part = slice(first, first + GROUP_POINTS)
        own, rows = piece[part].ravel(), row[part].ravel()
        slots = np.flatnonzero(own >= 0)
        slots = slots[np.argsort(own[slots], kind="stable")]
        here, begins = np.unique(own[slots], return_index=True)
        parts = [
            (number, rows[slot], slot) for number, slot in zip(here.tolist(), np.split(slots, begins[1:]), strict=True)
        ]
        groups.append(Group(numbers[part], parts))
    return handed, groups
