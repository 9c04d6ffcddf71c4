"""Costs and recalls as users write them."""

import numpy as np
import pytest

from rgjax.decision import read_goal
from rgjax.errors import UserError

CLASSES = ("nv", "mel", "basal, nodular: a")
COSTS = np.array([[0, 1, 2], [9.5, 0, 3], [4, 5, 0]])


@pytest.mark.parametrize(
    "text",
    [
        'true,nv,mel,"basal, nodular: a"\nnv,0,1,2\nmel,9.5,0,3\n"basal, nodular: a",4,5,0\n',
        '\ufeff,mel,nv,"basal, nodular: a"\r\n"basal, nodular: a",5,4,0\r\n\r\nmel,0,9.5,3\r\nnv,1,0,2',
        "\tnv\tmel\tbasal, nodular: a\nnv\t0\t1\t2\nmel\t9.5\t0\t3\nbasal, nodular: a\t4\t5\t0\n",
        ";nv;mel;basal, nodular: a\nnv;0;1;2\nmel;9,5;0;3\nbasal, nodular: a;4;5;0\n",
        '{"nv": {"nv": 0, "mel": 1, "basal, nodular: a": 2}, "mel": {"mel": 0, "nv": 9.5, "basal, nodular: a": 3}, '
        '"basal, nodular: a": {"nv": 4, "mel": 5, "basal, nodular: a": 0}}',
    ],
    ids=["csv", "other order", "tabs", "semicolons", "json"],
)
def test_costs_are_read_in_any_order_and_format(text, tmp_path):
    (tmp_path / "costs").write_text(text)
    goal = read_goal(str(tmp_path / "costs"), "", CLASSES)
    np.testing.assert_array_equal(goal.costs, COSTS)
    assert goal.rule == "costs"
    assert goal.as_json(CLASSES)["costs"]["mel"] == {"nv": 9.5, "mel": 0.0, "basal, nodular: a": 3.0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (",nv,mel\nnv,0,1\nmel,-2,0\n", "the cost '-2' of mel predicted as nv is no number from 0 on"),
        (",nv,mel\nnv,0,one\nmel,2,0\n", "the cost 'one' of nv predicted as mel"),
        (",nv,mel\nnv,0,inf\nmel,2,0\n", "the cost 'inf'"),
        (",nv,mel\nnv,0,\nmel,2,0\n", "the cost ''"),
        (",nv,mle\nnv,0,1\nmel,2,0\n", r"predicted classes of the row nv: unknown class 'mle' \(did you mean 'mel'"),
        (",nv,mel\nnv,0,1\n", "true classes: mel missing"),
        (",nv,mel\nnv,0,1\nmel,2,0\nmel,3,0\n", "true classes: mel twice"),
        (",nv,mel\nnv,0\nmel,2,0\n", "the row 'nv' has 2 cells, the first line 3"),
        ("", "true classes: nv, mel missing"),
        ("{", "neither JSON nor a table"),
        ('{"nv": 3, "mel": {"nv": 1, "mel": 0}}', "it must be"),
        ('{"nv": {"nv": 0, "mel": [1]}, "mel": {"nv": 1, "mel": 0}}', "of nv predicted as mel is no number"),
        (b"\xff\xfe\x00", "neither JSON nor a table"),
        (None, "cannot be read: No such file"),
    ],
)
def test_bad_costs_are_a_line(text, says, tmp_path):
    path = tmp_path / "costs.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says) as error:
        read_goal(str(path), "", ("nv", "mel"))
    assert str(error.value).startswith(f"config.decision.costs={path}")


def test_recalls_are_read():
    goal = read_goal("", "mel:0.9, basal, nodular: a : .8,nv:1", CLASSES)
    assert goal.min_recall == {"mel": 0.9, "basal, nodular: a": 0.8, "nv": 1.0}
    assert goal.as_json(CLASSES) == {"rule": "recall", "min_recall": goal.min_recall}
    assert read_goal("", "", CLASSES).as_json(CLASSES) == {"rule": "balanced accuracy"}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mel", "'mel' is not CLASS:RECALL"),
        ("mel:", "'' is no recall above 0 and up to 1"),
        ("mel:90", "'90' is no recall"),
        ("mel:0", "'0' is no recall"),
        ("mel:nan", "'nan' is no recall"),
        ("mle:0.9", "unknown class 'mle' .did you mean 'mel'"),
        ("mel:0.9,mel:0.8", "mel occurs twice"),
        ("mel:0.9,", "'0.9,' is no recall"),
    ],
)
def test_bad_recalls_are_a_line(spec, says):
    with pytest.raises(UserError, match=says):
        read_goal("", spec, CLASSES)


def test_costs_and_recalls_exclude_each_other():
    with pytest.raises(UserError, match="set one of them"):
        read_goal("costs.csv", "mel:0.9", CLASSES)


def test_missed_recalls_are_named():
    goal = read_goal("", "mel:0.9,nv:0.5", ("nv", "mel"))
    assert goal.missed({"nv": 0.5, "mel": 0.9}) == ""
    assert goal.missed({"nv": 0.25, "mel": None}) == "mel has no examples, nv reaches 0.25"
