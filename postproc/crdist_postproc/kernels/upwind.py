"""Move what is in voxels through their faces: the equations for the fluxes, and the step that follows them."""

from __future__ import annotations

import numpy as np
from numba import njit

from crdist_postproc.kernels.approx import FASTMATH, UNCOUNTED
from crdist_postproc.kernels.lanes import blend_rows, prefer_wide_vectors

__all__ = ["move", "relax"]

N_AROUND = 7
"""A voxel and its six neighbours."""

NOTHING = 1e-12
"""Volume, in voxels, of which no value is told."""


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def relax(volumes, missing, potential, tolerance, most):
    """Solve for the potential whose downhill fluxes bring each voxel what it is missing; return how many steps it took.

    Parameters
    ----------
    volumes : ndarray, shape (nx, ny, nz)
        How much of each voxel there is; what flows between two is proportional to the smaller volume.
    missing : ndarray, shape (nx, ny, nz)
        Adds up to nothing over any voxels that hang together.
    potential : ndarray, shape (nx, ny, nz)
        Zero; gets the solution.
    tolerance : float
        Largest error left.
    most : int
        Steps taken at most.

    Notes
    -----
    Conjugate gradients, with the diagonal as preconditioner.
    """
    nx, ny, nz = volumes.shape
    # a border of nothing spares the loops their ends
    x, y, z = np.zeros((nx + 1, ny, nz)), np.zeros((nx, ny + 1, nz)), np.zeros((nx, ny, nz + 1))
    search = np.zeros((nx + 2, ny + 2, nz + 2))
    left, scaled, applied = np.zeros(volumes.shape), np.zeros(volumes.shape), np.zeros(volumes.shape)
    inverse = np.zeros(volumes.shape)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                here = volumes[i, j, k]
                x[i, j, k] = min(here, volumes[i - 1, j, k]) if i > 0 else 0.0
                y[i, j, k] = min(here, volumes[i, j - 1, k]) if j > 0 else 0.0
                z[i, j, k] = min(here, volumes[i, j, k - 1]) if k > 0 else 0.0
    product = 0.0
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                diagonal = x[i, j, k] + x[i + 1, j, k] + y[i, j, k] + y[i, j + 1, k] + z[i, j, k] + z[i, j, k + 1]
                if diagonal > 0.0:
                    inverse[i, j, k] = 1.0 / diagonal
                    # what flows in is the potential around less that here
                    left[i, j, k] = -missing[i, j, k]
                search[i + 1, j + 1, k + 1] = inverse[i, j, k] * left[i, j, k]
                product += left[i, j, k] * search[i + 1, j + 1, k + 1]
    for step in range(most):
        slope = 0.0
        for i in range(nx):
            for j in range(ny):
                slope += _apply(
                    search[i : i + 3, j : j + 3], x[i, j], x[i + 1, j], y[i, j], y[i, j + 1], z[i, j], applied[i, j]
                )
        if not slope > 0.0:
            return step
        part, product_before = product / slope, product
        largest = product = 0.0
        for i in range(nx):
            for j in range(ny):
                rest, row, own = left[i, j], scaled[i, j], inverse[i, j]
                flow, towards, found = applied[i, j], search[i + 1, j + 1], potential[i, j]
                for k in range(nz):
                    found[k] += part * towards[k + 1]
                    rest[k] -= part * flow[k]
                    row[k] = own[k] * rest[k]
                for k in range(nz):
                    largest = max(largest, abs(rest[k]))
                    product += rest[k] * row[k]
        if largest <= tolerance:
            return step + 1
        again = product / product_before
        for i in range(nx):
            for j in range(ny):
                row, towards = scaled[i, j], search[i + 1, j + 1]
                for k in range(nz):
                    towards[k + 1] = row[k] + again * towards[k + 1]
    return most


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _apply(around, west, east, south, north, vertical, applied):
    """What flows out of a row of voxels downhill; the sum of it times the potential."""
    here, a, b, c, d = around[1, 1], around[0, 1], around[2, 1], around[1, 0], around[1, 2]
    for k in range(applied.size):
        at = here[k + 1]
        flow = west[k] * (at - a[k + 1]) + east[k] * (at - b[k + 1])
        flow += south[k] * (at - c[k + 1]) + north[k] * (at - d[k + 1])
        applied[k] = flow + vertical[k] * (at - here[k]) + vertical[k + 1] * (at - here[k + 2])
    slope = 0.0
    for k in range(applied.size):
        slope += applied[k] * here[k + 1]
    return slope


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def downhill(potential, volumes, x, y, z):
    """Fluxes through the faces between a tile's voxels; those through its own are left alone.

    Parameters
    ----------
    potential : ndarray, shape (nx, ny, nz)
    volumes : ndarray, shape (nx, ny, nz), or empty
        As for `relax`; empty where all are 1.
    x, y, z : ndarray, shapes (nx + 1, ny, nz), (nx, ny + 1, nz) and (nx, ny, nz + 1)
        Get the fluxes, towards larger coordinates.
    """
    nx, ny, nz = potential.shape
    whole = volumes.size == 0
    for i in range(nx):
        for j in range(ny):
            here = potential[i, j]
            if i > 0:
                before, flux = potential[i - 1, j], x[i, j]
                for k in range(nz):
                    flux[k] = before[k] - here[k]
                if not whole:
                    for k in range(nz):
                        flux[k] *= min(volumes[i - 1, j, k], volumes[i, j, k])
            if j > 0:
                before, flux = potential[i, j - 1], y[i, j]
                for k in range(nz):
                    flux[k] = before[k] - here[k]
                if not whole:
                    for k in range(nz):
                        flux[k] *= min(volumes[i, j - 1, k], volumes[i, j, k])
            flux = z[i, j]
            for k in range(1, nz):
                flux[k] = here[k - 1] - here[k]
            if not whole:
                for k in range(1, nz):
                    flux[k] *= min(volumes[i, j, k - 1], volumes[i, j, k])


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def move(lanes, rows, x, y, z, potential, values, coverage):
    """Let fluxes carry the contents of voxels along; what is left are means and volumes.

    Parameters
    ----------
    rows : ndarray, shape (nx + 2, ny + 2, nz + 2, n_column)
        As from `crdist_postproc.kernels.deposit.deposit`, with a voxel around; changed in places.
    x, y, z : ndarray, shapes (nx + 1, ny, nz), (nx, ny + 1, nz) and (nx, ny, nz + 1)
        Volume through the faces, in voxels, towards larger coordinates.
    potential : ndarray, shape (nx, ny, nz)
        Fluxes inside run downhill.
    values : ndarray of float32, shape (nx, ny, nz, n_padded)
        Gets the mean over what a voxel holds.
    coverage : ndarray, shape (nx, ny, nz)
        Gets how much it holds that is not masked, in voxels.

    Returns
    -------
    int
        How many voxels had to wait, see below.

    Notes
    -----
    What flows out of a voxel has the mixture that was put there. From a voxel that loses more than that, flows the
    mixture of it with what flows in: such voxels wait for those uphill. No mixture passes the extremes of its parts.
    """
    prefer_wide_vectors()
    nx, ny, nz = coverage.shape
    n_column, n_padded = rows.shape[3], values.shape[3]
    held, per_volume, open_ = np.empty(rows.shape[:3]), np.empty(rows.shape[:3]), np.empty(rows.shape[:3])
    for a, b, c in np.ndindex(rows.shape[:3]):
        volume = rows[a, b, c, n_padded]
        held[a, b, c] = volume
        per_volume[a, b, c] = 1.0 / volume if volume > 0.0 else 0.0
        open_[a, b, c] = 1.0 - rows[a, b, c, n_padded + 1] * per_volume[a, b, c]
    n_waiting, places, volumes = _mix_waiting(rows, n_padded, x, y, z, potential, held, per_volume, open_)
    weights = np.empty(N_AROUND * nz)
    begin, to, weight_at = np.int64(rows.ctypes.data), np.int64(values.ctypes.data), np.int64(weights.ctypes.data)
    per_z = 8 * n_column
    per_y = per_z * rows.shape[2]
    per_x = per_y * rows.shape[1]
    n_met = 0
    for i in range(nx):
        for j in range(ny):
            covered = coverage[i, j]
            _weigh(
                weights,
                x[i, j],
                x[i + 1, j],
                y[i, j],
                y[i, j + 1],
                z[i, j],
                held[i + 1, j + 1],
                per_volume[i : i + 3, j : j + 3],
                open_[i : i + 3, j : j + 3],
                covered,
            )
            while n_met < n_waiting and places[n_met] < (i * ny + j + 1) * nz:
                k = places[n_met] - (i * ny + j) * nz
                # all that has come in is in the voxel's own mixture
                for q in range(1, N_AROUND):
                    weights[q * nz + k] = 0.0
                weights[k] = volumes[n_met]
                covered[k] = volumes[n_met] * open_[i + 1, j + 1, k + 1]
                n_met += 1
            for k in range(nz):
                scale = 1.0 / covered[k] if covered[k] > NOTHING else 0.0
                for q in range(N_AROUND):
                    weights[q * nz + k] *= scale
            at = begin + (i + 1) * per_x + (j + 1) * per_y + per_z
            for k in range(nz):
                for offset in range(0, n_padded, len(lanes)):
                    blend_rows(
                        lanes,
                        to + 4 * offset,
                        at + 8 * offset,
                        per_x,
                        per_y,
                        per_z,
                        weight_at + 8 * k,
                        8 * nz,
                    )
                to += 4 * n_padded
                at += per_z
            for k in range(nz):
                if not covered[k] > NOTHING:
                    covered[k] = 0.0
                    values[i, j, k] = np.nan
    return n_waiting


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", **UNCOUNTED)
def _weigh(weights, west, east, south, north, vertical, held, per_volume, open_, covered):
    """Parts of a row of voxels and of their six neighbours that come together, and the volume not masked of that."""
    prefer_wide_vectors()
    n = covered.size
    own = per_volume[1, 1]
    v_west, v_east, v_south, v_north = per_volume[0, 1], per_volume[2, 1], per_volume[1, 0], per_volume[1, 2]
    o_west, o_east, o_south, o_north = open_[0, 1], open_[2, 1], open_[1, 0], open_[1, 2]
    o_own = open_[1, 1]
    for k in range(n):
        one, other = west[k], east[k]
        out = max(-one, 0.0) + max(other, 0.0)
        inflow, outflow = max(one, 0.0), max(-other, 0.0)
        weights[n + k] = inflow * v_west[k + 1]
        weights[2 * n + k] = outflow * v_east[k + 1]
        covered[k] = inflow * o_west[k + 1] + outflow * o_east[k + 1]
        weights[k] = held[k + 1] - out
    for k in range(n):
        one, other = south[k], north[k]
        out = max(-one, 0.0) + max(other, 0.0)
        inflow, outflow = max(one, 0.0), max(-other, 0.0)
        weights[3 * n + k] = inflow * v_south[k + 1]
        weights[4 * n + k] = outflow * v_north[k + 1]
        covered[k] += inflow * o_south[k + 1] + outflow * o_north[k + 1]
        weights[k] = weights[k] - out
    for k in range(n):
        one, other = vertical[k], vertical[k + 1]
        out = max(-one, 0.0) + max(other, 0.0)
        inflow, outflow = max(one, 0.0), max(-other, 0.0)
        weights[5 * n + k] = inflow * own[k]
        weights[6 * n + k] = outflow * own[k + 2]
        stays = weights[k] - out
        covered[k] += inflow * o_own[k] + outflow * o_own[k + 2] + stays * o_own[k + 1]
        weights[k] = stays * own[k + 1]


@njit(cache=True, fastmath=FASTMATH, error_model="numpy")
def _mix_waiting(rows, n_padded, x, y, z, potential, held, per_volume, open_):
    """Find voxels that lose more than they hold, and mix them with what flows in, downhill.

    Such a voxel's row becomes one unit of the mixture. Also returns where they are, and how much of it stays there.
    """
    nx, ny, nz = potential.shape
    n_waiting = 0
    places = np.empty(nx * ny * nz, dtype=np.int64)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                out = max(-x[i, j, k], 0.0) + max(x[i + 1, j, k], 0.0) + max(-y[i, j, k], 0.0)
                out += max(y[i, j + 1, k], 0.0) + max(-z[i, j, k], 0.0) + max(z[i, j, k + 1], 0.0)
                if out > held[i + 1, j + 1, k + 1]:
                    places[n_waiting] = (i * ny + j) * nz + k
                    n_waiting += 1
    downward, volumes = np.empty(n_waiting), np.empty(n_waiting)
    for q in range(n_waiting):
        downward[q] = -potential[places[q] // (ny * nz), places[q] // nz % ny, places[q] % nz]
    mixed = np.empty(rows.shape[3])
    for q in np.argsort(downward, kind="mergesort"):
        i, j, k = places[q] // (ny * nz), places[q] // nz % ny, places[q] % nz
        a, b, c = i + 1, j + 1, k + 1
        # what leaves the tile leaves before anything is mixed: the next tile knows nothing of that
        across = (max(-x[i, j, k], 0.0) if i == 0 else 0.0) + (max(x[a, j, k], 0.0) if a == nx else 0.0)
        across += (max(-y[i, j, k], 0.0) if j == 0 else 0.0) + (max(y[i, b, k], 0.0) if b == ny else 0.0)
        across += (max(-z[i, j, k], 0.0) if k == 0 else 0.0) + (max(z[i, j, c], 0.0) if c == nz else 0.0)
        out = max(-x[i, j, k], 0.0) + max(x[a, j, k], 0.0) + max(-y[i, j, k], 0.0)
        out += max(y[i, b, k], 0.0) + max(-z[i, j, k], 0.0) + max(z[i, j, c], 0.0)
        own = max(1.0 - across * per_volume[a, b, c], 0.0)
        west = max(x[i, j, k], 0.0) * per_volume[a - 1, b, c]
        east = max(-x[a, j, k], 0.0) * per_volume[a + 1, b, c]
        south = max(y[i, j, k], 0.0) * per_volume[a, b - 1, c]
        north = max(-y[i, b, k], 0.0) * per_volume[a, b + 1, c]
        below = max(z[i, j, k], 0.0) * per_volume[a, b, c - 1]
        above = max(-z[i, j, c], 0.0) * per_volume[a, b, c + 1]
        for s in range(mixed.size):
            mixed[s] = (
                own * rows[a, b, c, s]
                + west * rows[a - 1, b, c, s]
                + east * rows[a + 1, b, c, s]
                + south * rows[a, b - 1, c, s]
                + north * rows[a, b + 1, c, s]
                + below * rows[a, b, c - 1, s]
                + above * rows[a, b, c + 1, s]
            )
        volume = mixed[n_padded]
        scale = 1.0 / volume if volume > 0.0 else 0.0
        for s in range(mixed.size):
            rows[a, b, c, s] = scale * mixed[s]
        held[a, b, c] = per_volume[a, b, c] = 1.0
        open_[a, b, c] = 1.0 - rows[a, b, c, n_padded + 1]
        volumes[q] = max(volume - (out - across), 0.0)
    return n_waiting, places[:n_waiting], volumes
