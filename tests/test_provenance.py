import json
import subprocess

import jax
import pytest

from rgjax import provenance


def test_provenance_names_code_versions_and_inputs(tmp_path):
    provenance.write(tmp_path / "p.json", data="abc")
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["packages"]["jax"] == jax.__version__
    assert written["fingerprints"] == {"data": "abc"}
    assert len(written["devices"]) == jax.device_count()


@pytest.mark.parametrize("error", [OSError("no git"), subprocess.CalledProcessError(128, "git")])
def test_provenance_outside_a_checkout(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    provenance.write(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["git"] is None
