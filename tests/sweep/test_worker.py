"""What a worker changes in the settings of its runs."""

import jax
import pytest

from rgjax import experiment
from rgjax.config import MAX_LAYERS, method_config
from rgjax.storage import programs
from rgjax.sweep import worker


@pytest.mark.parametrize(("platform", "asked", "layers"), [("gpu", 0, MAX_LAYERS), ("gpu", 3, 3), ("cpu", 0, 0)])
def test_a_sweep_unrolls_all_layers_on_gpus(platform, asked, layers, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(method_config("rg", {"model.unroll_layers": asked}).to_json())
    trials = []
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(programs, "cache_programs", lambda: None)
    monkeypatch.setattr(experiment, "run_population", trials.extend)
    worker._train([tmp_path])
    assert trials[0].config.model.unroll_layers == layers
