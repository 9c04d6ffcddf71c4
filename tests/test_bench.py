"""The benchmark runner's timing and report, on cases that take no time: a clock that the ways themselves move on.

And that the cases run at all, at small sizes.
"""

import json

import pytest

from tests.bench import ap, balanced, kmeans, resnet
from tests.bench.case import Case, measure
from tests.bench.report import against_peak, row


class Clock:
    """The first call of a way, and the second call of each turn, take the next of its `seconds`; all are in `calls`."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def way(self, name, *seconds):
        left = iter(seconds)

        def run():
            self.calls.append(name)
            if self.calls.count(name) % 2:  # the first of a turn is not timed
                self.now += next(left)

        return run

    def measure(self, case, rounds=None, budget=0.0):
        return measure(case, rounds, budget, clock=lambda: self.now, sleep=lambda seconds: None)


def test_ways_take_turns_and_the_first_call_does_not_count():
    clock = Clock()
    case = Case(clock.way("a", 99, 4, 2, 6), clock.way("b", 99, 2, 2, 1), {"per_call": 2, "flops": 8e9, "batch": 7})
    result = clock.measure(case, rounds=3)
    assert clock.calls == ["a", "b"] + ["a", "a", "b", "b"] * 3
    expected = {
        "ours": 2.0, "ours_min": 1.0, "ours_max": 3.0,
        "theirs": 1.0, "theirs_min": 0.5, "theirs_max": 1.0, "fastest": "theirs",
        "ratio": 2.0, "ratio_min": 1.0, "ratio_max": 6.0,
        "ours_gflops": 4.0, "theirs_gflops": 8.0, "rounds": 3, "per_call": 2, "flops": 8e9, "batch": 7,
    }  # fmt: skip
    assert result == expected
    assert against_peak(result, 16.0)["theirs_of_peak"] == 0.5


def test_the_fastest_alternative_counts_and_all_are_listed():
    clock = Clock()
    theirs = {"slow": clock.way("slow", 0, 3, 3), "fast": clock.way("fast", 0, 2, 2)}
    result = clock.measure(Case(clock.way("a", 0, 1, 1), theirs, {}), rounds=2)
    assert (result["fastest"], result["theirs"], result["ratio"]) == ("fast", 2.0, 0.5)
    assert result["alternatives"]["slow"] == {"median": 3.0, "min": 3.0, "max": 3.0}
    assert "0.50" in row("case", result)


def test_without_the_other_library_there_is_no_ratio():
    clock = Clock()
    result = json.loads(json.dumps(clock.measure(Case(clock.way("a", 0, 1), None, {}), rounds=1)))
    assert (result["ours"], result["theirs"], result["ratio"]) == (1.0, None, None)
    assert "not installed" in row("case", against_peak(result, 1.0))


@pytest.mark.parametrize(("budget", "rounds"), [(0.0, 3), (5.0, 5), (99.0, 15)])
def test_rounds_are_as_many_as_the_time_allows_within_limits(budget, rounds):
    clock = Clock()
    assert clock.measure(Case(clock.way("a", *[1] * 16), None, {}), budget=budget)["rounds"] == rounds


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
def test_the_cases_run(case):
    case().ours()
