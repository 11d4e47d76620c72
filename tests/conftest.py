"""Options and fixtures that all tests share."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Compiling a kernel for the first time takes seconds; examples are few and chosen by a fixed seed.
settings.register_profile(
    "crdist",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("crdist")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """Compiling takes most of the time of a tiny inference; all processes of the tests share what they compile."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.getbasetemp()
        # under pytest-xdist each worker has a folder of its own in the run's
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(shared / "compiled"))
        patch.setenv("JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        yield
