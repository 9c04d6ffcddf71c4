import json
import subprocess

import jax
import pytest

from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.storage import provenance

CONFIG = json.loads(method_config("ce", {}).to_json())


def test_provenance_records_versions_devices_and_fingerprints(tmp_path):
    provenance.write(tmp_path / "p.json", CONFIG, {"data": "abc"}, [])
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["packages"]["jax"] == jax.__version__
    assert written["fingerprints"] == {"data": "abc"}
    assert len(written["devices"]) == jax.device_count()


@pytest.mark.parametrize("error", [OSError("no git"), subprocess.CalledProcessError(128, "git")])
def test_without_git_the_commit_is_null(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    provenance._git_state.cache_clear()  # each process asks once
    provenance.write(tmp_path / "p.json", CONFIG, {}, [])
    assert json.loads((tmp_path / "p.json").read_text())["git"] is None
    provenance._git_state.cache_clear()


def test_other_inputs_are_refused(tmp_path):
    path = tmp_path / "w" / "provenance.json"
    provenance.write(path, CONFIG, {"data": "abc", "regrouping": "d"}, [])
    provenance.write(path, CONFIG, {"data": "abc", "regrouping": "d"}, [])
    with pytest.raises(UserError, match="its run began with different data; use another --workdir"):
        provenance.write(path, CONFIG, {"data": "xyz", "regrouping": "d"}, [])
