"""Real servers of the dashboard for tests: their stores, their processes, how to talk to them."""

import contextlib
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import xarray as xr
import zarr

from crdist.frames import Frame
from crdist.schema import PRODUCTS_SCHEMA, SCHEMA_VERSION

N_SAMPLE = 6
START = "import typer; from crdist.commands.serve import serve; typer.run(serve)"
START_SECONDS = 120


def make_store(path, *, status="complete", shift=0.0, seed=1):
    """A small products store with every kind of product; the mean of a voxel tells where it is."""
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.normal(shift, 0.3, N_SAMPLE))
    frame = Frame()
    axes = {"x": np.arange(-11.5, 12.0), "y": np.arange(-11.5, 12.0), "z": np.arange(-2.75, 3.0, 0.5)}
    x, y, z = np.meshgrid(*axes.values(), indexing="ij")
    field = 1e-13 * np.exp(-np.hypot(x, y) / 6 - np.abs(z) + 0.05 * x)[..., None] * factors
    field *= np.exp(rng.normal(0, 0.05, field.shape))
    field[np.hypot(x, y) > 15] = np.nan

    def product(samples, dims, units, *, keep=True, **attrs):
        mean, std = samples.mean(axis=-1), samples.std(axis=-1, ddof=1)
        values = {"mean": mean, "std": std, "significance": mean / std}
        variables = {
            name: (dims, array.astype(np.float32), {"units": "" if name == "significance" else units})
            for name, array in values.items()
        }
        if keep:
            variables["per_sample"] = ((*dims, "sample"), samples.astype(np.float32), {"units": units})
        coords = {name: (name, axes[name], {"units": "kpc"}) for name in dims if name in axes}
        return xr.Dataset(variables, coords, attrs)

    sky = rng.uniform(1e9, 9e9, 192)[:, None] * factors
    sky[3:9] = np.nan
    cells = ("pixel", np.arange(192), {"grid_name": "healpix", "level": 2, "indexing_scheme": "nested"})
    radius = np.arange(0.5, 12.0)
    radial = product(1e-13 * np.exp(-radius / 6)[:, None] * factors, ("radius",), "GeV-1 cm-3", kind="radial")
    vertical = product(
        1e-13 * np.exp(-np.abs(axes["z"]))[:, None] * factors,
        ("z",),
        "GeV-1 cm-3",
        kind="vertical",
        ring_kpc=[8.0, 9.0],
    )
    inside = np.nan_to_num(field, nan=1e-16 * factors.min()) * np.linspace(1.0, 1.1, N_SAMPLE)
    tree = {
        "midplane": product(field[:, :, 6], ("x", "y"), "GeV-1 cm-3", kind="slice", axis="z", at_kpc=0.25),
        "volume": product(field, ("x", "y", "z"), "GeV-1 cm-3", keep=False, kind="volume"),
        "projection_z": product(inside.sum(axis=2), ("x", "y"), "GeV-1 cm-2", kind="projection", axis="z"),
        "projection_y": product(inside.sum(axis=1), ("x", "z"), "GeV-1 cm-2", kind="projection", axis="y"),
        "sky": product(sky, ("pixel",), "GeV-1 cm-2", kind="sky").assign_coords(cell_ids=cells),
        "radial": radial.assign_coords(radius=("radius", radius, {"units": "kpc"})),
        "vertical": vertical,
    }
    quantity = {"name": "n30", "units": "GeV-1 cm-3", "long_name": "cosmic-ray protons at 30 GeV"}
    root = {"schema": PRODUCTS_SCHEMA, "schema_version": SCHEMA_VERSION, "status": status, "quantity": quantity}
    root |= {"n_sample": N_SAMPLE, "frame": frame.to_dict(), "recipe": {"grid": "<b>test</b>"}, "provenance": {}}
    xr.DataTree.from_dict({"/": xr.Dataset(attrs=root), **tree}).to_zarr(path, consolidated=False)
    return path


def set_status(path, status):
    """What a run does when it ends."""
    zarr.open_group(str(path), mode="r+").attrs["status"] = status


class Server:
    """A server in a process of its own; `lines` is what it has printed."""

    def __init__(self, *arguments, environment=None):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", START, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # unbuffered: select sees what has been written, not what a buffer holds already
            bufsize=0,
            env={**os.environ, **(environment or {})},
        )
        self.lines = []
        end = time.monotonic() + START_SECONDS
        while not any("open: " in line for line in self.lines):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            line = self.process.stdout.readline().decode() if ready else ""
            if not line:
                self.process.kill()
                raise AssertionError(f"the server did not start: {self.lines} {self.process.stderr.read().decode()}")
            self.lines.append(line.strip())

    @property
    def url(self):
        return re.search(r"open: (\S+)", " ".join(self.lines))[1]

    @property
    def token(self):
        return self.url.partition("?token=")[2]

    @property
    def port(self):
        return int(re.search(r":(\d+)", self.url)[1])

    @property
    def socket_path(self):
        return re.search(r"5006:(\S+)", " ".join(self.lines))[1]

    def end(self, number=signal.SIGTERM):
        """End it as a user would; returns its status and what it said on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            _, said = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said.decode()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost:5006", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def ask(server, path="/", *, method="GET", unix=False, **headers):
    """Status, headers and body of an answer; a header that is None is left out."""
    connection = (
        UnixConnection(server.socket_path) if unix else http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    )
    given = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host="Host" in given)
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = b"" if answer.status == 101 else answer.read()
        return answer.status, answer.headers, body.decode(errors="replace")
