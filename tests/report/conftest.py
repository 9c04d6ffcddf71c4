import pytest

from rgjax.report.__main__ import render
from tests.support.sweeps import Sweep, write_sweep


@pytest.fixture
def sweep_of(tmp_path):
    """Makes a Sweep in the test's temporary folder."""
    return lambda **how: Sweep(tmp_path, **how)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory):
    """A finished sweep and its report, read only."""
    folder = write_sweep(tmp_path_factory.mktemp("sweep"))
    render(folder)
    return folder
