"""The benchmark runner's timing on a fake clock, and that the cases run at small sizes."""

import json

import pytest

from tests.bench import ap, balanced, kmeans, resnet
from tests.bench.case import Case, measure
from tests.bench.report import row


class Clock:
    """A clock that the measured functions advance: each first call of a round is free, each second takes `seconds`."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def function(self, name, *seconds):
        remaining = iter(seconds)

        def run():
            self.calls.append(name)
            if self.calls.count(name) % 2:  # the first call of a round is not timed
                self.now += next(remaining)

        return run

    def measure(self, case, rounds):
        return measure(case, rounds, 0.0, clock=lambda: self.now, sleep=lambda seconds: None)


def test_functions_take_turns_and_warm_up():
    clock = Clock()
    case = Case(clock.function("a", 99, 4, 2, 6), clock.function("b", 99, 2, 2, 1), {"per_call": 2})
    result = clock.measure(case, rounds=3)
    assert clock.calls == ["a", "b"] + ["a", "a", "b", "b"] * 3
    assert (result["ours"], result["ours_min"], result["ours_max"]) == (2.0, 1.0, 3.0)
    assert (result["ratio"], result["ratio_min"], result["ratio_max"]) == (2.0, 1.0, 6.0)


def test_missing_library_gives_no_ratio():
    clock = Clock()
    result = json.loads(json.dumps(clock.measure(Case(clock.function("a", 0, 1), None, {}), rounds=1)))
    assert (result["ours"], result["theirs"], result["ratio"]) == (1.0, None, None)
    assert "not installed" in row("case", result)


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        lambda: resnet._data_path(resnet.Shape(16, 8, steps=1)),
        lambda: kmeans._lloyd(300, 5, 1),
        lambda: balanced._step(300, 5),
        lambda: balanced._fit(300, 5),
        ap.ap,
    ],
    ids=["data_path", "kmeans", "balanced_step", "balanced", "ap"],
)
def test_cases_run(case):
    case().ours()
