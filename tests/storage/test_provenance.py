import json
import subprocess

import jax
import pytest

from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.storage.files import provenance

CONFIG = method_config("ce", {})


def test_provenance_names_code_versions_and_inputs(tmp_path):
    provenance.write(tmp_path / "p.json", CONFIG, data="abc")
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["packages"]["jax"] == jax.__version__
    assert written["fingerprints"] == {"data": "abc"}
    assert len(written["devices"]) == jax.device_count()


@pytest.mark.parametrize("error", [OSError("no git"), subprocess.CalledProcessError(128, "git")])
def test_provenance_outside_a_checkout(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    provenance.write(tmp_path / "p.json", CONFIG)
    assert json.loads((tmp_path / "p.json").read_text())["git"] is None


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    path = tmp_path / "w" / "provenance.json"
    provenance.write(path, CONFIG, data="abc", regrouping="d")
    provenance.write(path, CONFIG, data="abc", regrouping="d")
    with pytest.raises(UserError, match="was begun with another data: use another --workdir"):
        provenance.write(path, CONFIG, data="xyz", regrouping="d")
