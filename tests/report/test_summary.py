"""The tables of results for the terminal."""

import json

from rgjax.report.summary import format_population, format_result


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_result_shows_both_kinds_of_labels_and_older_results_the_argmax_alone(sweep_of):
    result = result_of(sweep_of().run("a", "rg"))
    tuned = result["test"] | {"ba": 0.625, "recall": {"rest": 0.75, "8": 0.5}, "precision": {"rest": 0.8, "8": None}}
    both = {"test_tuned": tuned, "test_tuned_by_aggregation": {"max": tuned, "sum": tuned}}
    text = format_result(result | both)
    assert "at tuned thresholds                 62.5" in text and "tuned BA 62.5, macro AP" in text
    line = next(line for line in text.splitlines()[::-1] if line.split()[:1] == ["8"])
    assert line.split()[4:6] == ["-", "50.0"]
    old = {name: value for name, value in result.items() if "tuned" not in name}
    assert "tuned" not in format_result(old) and "by aggregation: max: BA" in format_result(old)
    assert "standard dev." in format_population([result | both, old])
