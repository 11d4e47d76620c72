"""The places that runs need: a folder for files, a store in it, the loopback network and unix sockets."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crdist.doctor.findings import Finding
from crdist.errors import CrdistError

__all__ = ["check_network", "check_scratch", "check_store_in", "filesystem_of"]

SCRATCH_BYTES = 1024**3
"""Less free space than this is worth a note: the blocks of one product take about as much."""
SOCKET_PATH_BYTES = 107
"""Longest path of a unix socket without its closing zero: unix(7)."""

MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
SHARED_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.sshfs", "9p", "afs", "panfs"}
)


def check_scratch(folder: Path) -> list[Finding]:
    """Whether a folder can be written, how much is free, and what kind of file system it is on.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Returns
    -------
    list of Finding
        The first is ``broken`` where nothing can be written.
    """
    advice = "give another folder with --scratch"
    if not folder.is_dir():
        return [Finding("scratch", "broken", f"{folder}: no such folder", advice)]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1024**2))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [Finding("scratch", "broken", f"{folder}: cannot be written ({error.strerror or error})", advice)]
    kind = filesystem_of(folder)
    text = f"{folder}: {free / 1024**3:.1f} GiB free, {kind or 'unknown file system'}"
    findings = [Finding("scratch", "ok", text)]
    if free < SCRATCH_BYTES:
        findings.append(Finding("scratch", "note", f"{folder}: less than 1 GiB is free", "free some space"))
    if kind in MEMORY_FILESYSTEMS:
        text = f"{folder}: is held in memory ({kind}), which what is written there takes from the run"
        findings.append(Finding("scratch", "note", text, "use a folder on a disk for large runs"))
    if kind in SHARED_FILESYSTEMS:
        text = f"{folder}: is on a network ({kind}), where locks may be slow or missing"
        findings.append(
            Finding("scratch", "note", text, "results may go there; set 'scratch' of jobs to a node's disk")
        )
    return findings


def check_store_in(folder: Path) -> Finding:
    """Write a small posterior store, read it back, check its checksums, and remove it.

    Parameters
    ----------
    folder : Path
        Where; nothing is left there.
    """
    # numbers of a fixed seed, with zeros among them: nothing but the disk may change a bit
    values = np.random.default_rng(1).gamma(0.3, size=(192, 8, 4)).astype(np.float32)
    try:
        with tempfile.TemporaryDirectory(prefix="crdist-doctor-", dir=folder, ignore_cleanup_errors=True) as aside:
            found = _written_and_read(Path(aside) / "posterior.zarr", values)
    except (CrdistError, OSError) as error:
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        advice = "free space or quota, or give another folder with --scratch"
        return Finding("store", "broken", f"{folder}: a small posterior cannot be written there ({words})", advice)
    if found:
        return Finding(
            "store", "broken", f"{folder}: a small posterior came back wrong ({found})", "do not compute here"
        )
    text = f"a posterior of {values.nbytes // 1024} KiB was written, read back the same to the bit, and removed"
    return Finding("store", "ok", text)


def check_network(folder: Path) -> list[Finding]:
    """Whether a program here can talk to itself: over the loopback interface, and over a unix socket.

    Parameters
    ----------
    folder : Path
        Where the dashboard would make its socket.
    """
    findings = []
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5.0)
            with socket.create_connection(server.getsockname()[:2], timeout=5.0):
                server.accept()[0].close()
        findings.append(Finding("network", "ok", "127.0.0.1 can be listened on and reached"))
    except OSError as error:
        text = f"127.0.0.1 cannot be listened on or reached ({error.strerror or error}): no workers, no dashboard"
        findings.append(Finding("network", "broken", text, "ask for the loopback interface in this container"))
    try:
        with tempfile.TemporaryDirectory(prefix="crdist-", dir=folder) as aside:
            path = Path(aside) / "socket"
            if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
                text = f"{folder}: its name is too long for a unix socket, {SOCKET_PATH_BYTES} bytes at most"
                advice = "set TMPDIR to a shorter path, or 'crdist serve --socket'"
                return [*findings, Finding("network", "note", text, advice)]
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                server.bind(str(path))
                server.listen()
                client.connect(str(path))
        findings.append(Finding("network", "ok", f"unix sockets work in {folder}"))
    except OSError as error:
        text = f"{folder}: holds no unix socket ({error.strerror or error}), which 'crdist serve' listens on"
        findings.append(Finding("network", "note", text, "set TMPDIR to a folder on a disk, or 'crdist serve --tcp'"))
    return findings


def filesystem_of(folder: Path, mounts: str | None = None) -> str:
    """Kind of the file system that holds a folder, such as ``ext4`` or ``lustre``; empty where it cannot be told.

    Parameters
    ----------
    folder : Path
        An existing folder.
    mounts : str, optional
        The system's table of mounts in the form of ``/proc/self/mountinfo``; default: this process's own.

    Examples
    --------
    >>> table = "1 0 8:1 / / rw - ext4 /dev/sda rw\\n2 1 0:9 / /data rw shared:7 - lustre mds:/data rw"
    >>> filesystem_of(Path("/data/me"), table), filesystem_of(Path("/database"), table)
    ('lustre', 'ext4')
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
    place, best, kind = folder.resolve(), -1, ""
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        if not dash or len(before.split()) < 5:
            continue
        point = Path(before.split()[4].replace("\\040", " "))
        # a later mount at the same point hides the earlier
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def _written_and_read(path: Path, values: npt.NDArray[np.float32]) -> str:
    """What is wrong with a store that was written and read again; empty where nothing is."""
    from crdist.check import check_store
    from crdist.grids import SphericalGrid
    from crdist.schema import Variable, versions
    from crdist.store import create_posterior, open_for_reading, posterior_shards, write_shard

    grid = SphericalGrid.log_spaced(4, values.shape[1], 0.05, 2.0)
    variable = Variable("density", "cm-3", "number density")
    provenance = {"versions": versions(), "source": {"name": "crdist doctor", "bytes": 0, "sha256": ""}}
    header = create_posterior(path, grid, [variable], n_sample=values.shape[2], layout="packed", provenance=provenance)
    for shard in posterior_shards(header):
        write_shard(header, variable.name, shard, values[shard.region])
    problems = check_store(path)
    if problems:
        return str(problems[0])
    read = np.asarray(open_for_reading(path, variable.name)[...])
    return "" if read.tobytes() == values.tobytes() else "other values than were written, though the checksums fit"
