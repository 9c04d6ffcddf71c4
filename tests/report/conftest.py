import pytest
from sweeps import Sweep, write_sweep

from rgjax.report.__main__ import render


@pytest.fixture
def sweep_of(tmp_path):
    """Makes a Sweep in a folder of the test's own."""
    return lambda **how: Sweep(tmp_path, **how)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory):
    """A finished sweep and its report; not to be written to."""
    folder = write_sweep(tmp_path_factory.mktemp("sweep"))
    render(folder)
    return folder
