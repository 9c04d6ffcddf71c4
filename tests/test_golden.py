"""One training step of a tiny network on digits, compared with recorded numbers.

A difference means that training computes something else. If that is intended, record the new numbers and commit them:

    RENEW_GOLDEN=1 uv run pytest tests/test_golden.py
"""

import json
import os
from pathlib import Path

import numpy as np

from tests.support.finished import finish, predictions

GOLDEN = Path(__file__).with_suffix(".json")


def test_one_step_gives_the_recorded_numbers(tmp_path):
    workdir = finish(tmp_path, "rg", **{"train.steps": 1})
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    logits = predictions(workdir)["test_logits"]
    step = {"train_loss": row["train_loss"], "logits": logits[:3].tolist(), "mean": float(np.abs(logits).mean())}
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(step, indent=2) + "\n")
    recorded = json.loads(GOLDEN.read_text())
    for name, value in recorded.items():
        np.testing.assert_allclose(step[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{name}\n{__doc__}")
