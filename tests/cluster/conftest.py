"""One private Slurm for the whole session, started by the first test that asks for it."""

import os

import pytest

from cluster.slurm import PrivateSlurm, missing_commands


@pytest.fixture(scope="session")
def _session_slurm(tmp_path_factory):
    missing = missing_commands()
    if missing:
        pytest.skip(f"no Slurm on this machine: {', '.join(missing)} not installed")
    with PrivateSlurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def slurm(_session_slurm, monkeypatch):
    """A Slurm of four idle nodes that this process and its children use; what a test leaves in it is ended."""
    monkeypatch.setenv("SLURM_CONF", str(_session_slurm.conf))
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    _session_slurm.make_idle()
    yield _session_slurm
    _session_slurm.make_idle()
