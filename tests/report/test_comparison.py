"""Which runs are paired, which p-values are adjusted together, and what the paragraph says of them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from rgjax.report.comparison import all_pairs, planned_comparisons, rank_studies
from rgjax.report.details import ablation_table, difference_table, rank_tables
from rgjax.report.paragraph import in_words, paragraphs
from rgjax.report.runs import COLUMNS, Entry, RunRecord
from rgjax.report.statistics import estimate_mean
from rgjax.report.study import Study

CE, RG, WCE = Entry("ce"), Entry("rg"), Entry("wce")


def run(method, seed=0, *, split=None, fold=None, variant="", stage=2, status="done", **scores):
    """A run whose split has a seed of its own, unless `split` is given."""
    row = dict.fromkeys(COLUMNS) | {"method": method, "variant": variant, "dataset": "toy", "study": "toy"}
    row |= {"stage": stage, "status": status, "seed": seed, "data_seed": seed if split is None else split, "fold": fold}
    row |= {"train_n": 80, "test_n": 20, "test_ba": 0.5, "test_macro_ap": 0.5} | scores
    config = {"seed": seed, "data.seed": row["data_seed"], "data.fold": fold}
    return RunRecord(Path(), row, config)


def runs(method, scores, **settings):
    """Runs of seeds 0, 1, ... with these scores in all metrics."""
    return [
        run(method, seed, **{"test_ba": x, "test_macro_ap": x, "test_tuned_ba": x, **settings})
        for seed, x in enumerate(scores)
    ]


def difference(study, first, second, metric="test_ba", compare=planned_comparisons):
    return next(c for c in compare(study) if (c.first, c.second) == (first, second)).differences[metric]


def test_seeds_on_one_split_have_the_ordinary_paired_t_test():
    ce, rg = np.random.default_rng(0).random((2, 5))
    result = difference(Study("toy", runs("ce", ce, split=7) + runs("rg", rg, split=7)), RG, CE)
    test = ttest_rel(rg, ce)
    assert (result.mean, result.p) == (pytest.approx(np.mean(rg - ce)), pytest.approx(test.pvalue))
    assert result.interval == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_seeds_with_their_own_splits_have_the_corrected_test():
    ce, rg = np.random.default_rng(0).random((2, 5)) / 10
    result = difference(Study("toy", runs("ce", ce) + runs("rg", rg)), RG, CE)
    plain = ttest_rel(rg, ce).confidence_interval(0.95)
    wider = np.sqrt(1 + 5 * 20 / 80)
    assert result.interval is not None
    assert np.ptp(result.interval) == pytest.approx(wider * (plain.high - plain.low))


def test_folds_are_paired_by_fold_and_draw_and_seeds_of_a_fold_are_averaged():
    rng, study_runs, expected = np.random.default_rng(0), [], []
    for draw in (0, 1):
        for fold in range(3):
            ce, rg = rng.random((2, 2)) / 10
            for seed in (0, 1):
                study_runs += [run("ce", seed, split=draw, fold=fold, test_ba=ce[seed])]
                study_runs += [run("rg", seed, split=draw, fold=fold, test_ba=rg[seed])]
            expected.append(np.mean(rg - ce))
    study = Study("toy", study_runs)
    result, reference = difference(study, RG, CE), estimate_mean(expected, 20 / 80)
    assert (result.n, result.mean, result.p) == (6, pytest.approx(reference.mean), pytest.approx(reference.p))
    assert result.interval == pytest.approx(reference.interval)
    assert study.design == "3 folds, drawn 2 times"


def test_only_runs_with_a_partner_are_compared():
    study = Study("toy", runs("ce", [0.1, 0.2, 0.9]) + runs("rg", [0.3, 0.5]))
    assert difference(study, RG, CE).mean == pytest.approx(0.25)
    assert planned_comparisons(Study("toy", [run("ce", 0), run("rg", 1)])) == []


def test_planned_comparisons_are_each_against_ce_and_regrouping_against_its_counterpart():
    methods = ["ce", "wce", "la", "rg", "rg_wce"]
    study = Study("toy", [each for method in methods for each in runs(method, [0.1, 0.2])])
    pairs = [(c.first.method, c.second.method) for c in planned_comparisons(study)]
    assert pairs == [("wce", "ce"), ("la", "ce"), ("rg", "ce"), ("rg_wce", "ce"), ("rg_wce", "wce")]
    assert len(all_pairs(study)) == 10


def test_p_values_are_adjusted_for_the_comparisons_of_one_metric():
    ce, wce, rg = np.random.default_rng(0).normal([[0.5], [0.5], [0.55]], 0.02, (3, 6))
    study = Study("toy", runs("ce", ce, split=0) + runs("wce", wce, split=0) + runs("rg", rg, split=0))
    small, large = (ttest_rel(scores, ce).pvalue for scores in (rg, wce))
    assert small < 0.05 < large
    assert difference(study, RG, CE).p_holm == pytest.approx(2 * small)
    assert difference(study, WCE, CE).p_holm == pytest.approx(large)


def test_ablations_are_no_contestants_unless_their_method_is_absent():
    random = runs("rg", [0.9, 0.8], variant="random groups")
    with_rg = Study("toy", runs("ce", [0.1, 0.2]) + runs("rg", [0.3, 0.5]) + random)
    assert [(c.first.name, c.second.name) for c in all_pairs(with_rg)] == [("CE", "RG")]
    assert "RG (random groups)" in [c.first.name for c in planned_comparisons(with_rg)]
    alone = Study("toy", runs("ce", [0.1, 0.2]) + random)
    assert [c.second.name for c in all_pairs(alone)] == ["RG (random groups)"]


def test_methods_are_compared_on_the_runs_that_all_of_them_have():
    study = Study("toy", runs("ce", [0.1, 0.2, 0.3]) + runs("rg", [0.2, 0.4]) + runs("wce", [0.9]))
    assert difference(study, CE, RG, compare=all_pairs).mean == pytest.approx(-0.15)
    text = in_words(study)
    assert "WCE: too few runs in common" in text and "on the 2 runs that all of them have" in text


# The paragraph


def test_the_paragraph_names_the_leader_its_margin_and_its_certainty():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.002, (2, 5))
    study = Study("toy", runs("ce", 0.6 + noise[0], split=0) + runs("rg", 0.7 + noise[1], split=0))
    text = in_words(study)
    mean = difference(study, RG, CE)
    assert mean.interval is not None and mean.p is not None and mean.p < 0.001
    low, high = (100 * x for x in mean.interval)
    margin = f"{100 * mean.mean:.1f} points over CE (95 % interval {low:.1f} to {high:.1f}, adjusted p below 0.001)"
    assert f"In BA at tuned thresholds, RG is ahead with 70.0, by {margin}." in text
    assert text.startswith("toy: CE and RG, 5 seeds on one split. In macro average precision (AP), RG is ahead")
    assert "Did regrouping help here? Yes: in macro AP, it helped RG (" in text


def test_the_paragraph_says_where_there_is_no_evidence():
    study = Study("toy", runs("ce", [0.6, 0.7, 0.8]) + runs("rg", [0.7, 0.6, 0.81]))
    text = in_words(study)
    assert text.count(": no evidence of a difference)") == 3
    assert "Did regrouping help here? No evidence: in macro AP, RG (+0.3 against CE, 95 % interval" in text


def test_a_gain_in_ba_at_argmax_alone_is_one_of_the_threshold():
    noise = np.random.default_rng(0).normal(0, 0.002, (2, 5))
    ce, rg = runs("ce", 0.6 + noise[0], split=0), runs("rg", 0.6 + noise[1], split=0)
    for each in rg:
        each.row["test_ba"] += 0.2
    text = in_words(Study("toy", ce + rg))
    assert "Did regrouping help here? In part: in macro AP, no evidence for RG (" in text
    gain = "The gain of RG in BA at argmax shows neither in macro AP nor at tuned thresholds"
    assert text.endswith(f"{gain}: it may be the threshold alone.")


@pytest.mark.parametrize(
    ("study_runs", "sentences"),
    [
        ([], ["toy: no reported run has finished."]),
        (runs("ce", [0.5]), ["toy: CE alone, one run.", "(AP), CE has 50.0.", "No method regroups"]),
        (runs("ce", [0.5], test_ba_low=0.4, test_ba_high=0.6), ["CE has 50.0 (95 % interval 40.0 to 60.0)."]),
        (runs("rg", [0.5]), ["Whether regrouping helped cannot be said: RG without regrouping has no run"]),
        (
            runs("ce", [0.5]) + runs("rg", [0.6]),
            ["by 10.0 points over CE (one pair of runs, so no certainty)", "One pair of runs cannot tell: in macro AP, "
             "RG (+10.0 against CE); "],
        ),
        (runs("ce", [0.5, 0.6]) + runs("wce", [0.5, 0.6]), ["CE and WCE are level at 55.0."]),
        (runs("ce", [0.5, 0.6]) + runs("wce", [0.625, 0.725]), ["over CE (the same in all 2 pairs of runs, so no "]),
        (runs("ce", [0.5], test_tuned_ba=None), ["No run has tuned thresholds; runs by older versions lack them."]),
        ([*runs("ce", [0.5]), run("rg", status="failed")], ["Only 1 of 2 runs are done, so this may change."]),
        (runs("ce", [0.5], test_macro_ap=None), ["In balanced accuracy (BA) at argmax, CE has 50.0."]),
    ],
)  # fmt: skip
def test_the_paragraph_reads_well_with_few_runs(study_runs, sentences):
    text = in_words(Study("toy", study_runs))
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_the_tuning_budget_is_in_the_paragraph():
    tuned = [run("rg", 1000, stage=1, status=status) for status in ("done", "failed")]
    for i, each in enumerate(tuned):
        each.overrides["regroup.threshold"] = i
        each.row["selected_by"] = "validation BA"
    text = in_words(Study("toy", runs("ce", [0.5, 0.6]) + runs("rg", [0.6, 0.6]) + tuned))
    assert "Tuning runs (chosen by validation BA): none for CE; 1 of 2 for RG." in text


# Tables


def test_the_ablation_shows_that_random_groups_move_the_threshold():
    scores = {"test_macro_ap_max": 0.64, "test_macro_ap_sum": 0.64, "test_tuned_ba_max": 0.7, "test_tuned_ba_sum": 0.7}
    ce = runs("ce", [0.52], test_ba_max=0.52, test_ba_sum=0.52, **scores)
    random = runs("rg", [0.8], variant="random groups", test_ba_max=0.8, test_ba_sum=0.55, **scores)
    table = ablation_table(Study("toy", [*ce, *random, *runs("wce", [0.5])]))
    assert table.header == [
        "method", "macro AP, max", "macro AP, sum", "BA, max", "BA, sum", "tuned BA, max", "tuned BA, sum",
    ]  # fmt: skip
    assert [[cell.text for cell in line] for line in table.lines] == [
        ["CE", "64.0", "64.0", "52.0", "52.0", "70.0", "70.0"],
        ["RG (random groups)", "64.0", "64.0", "80.0", "55.0", "70.0", "70.0"],
    ]
    assert ablation_table(Study("toy", ce)).lines == []


def test_metrics_without_a_score_have_no_column():
    study = Study("toy", runs("ce", [0.1, 0.2], test_tuned_ba=None) + runs("rg", [0.3, 0.5], test_tuned_ba=None))
    assert difference_table(study).header == ["method", "minus", "macro AP", "p", "BA", "p", "pairs"]


def test_ranks_are_over_the_methods_that_all_data_sets_have():
    means = {"a": (0.5, 0.6, 0.9), "b": (0.5, 0.7, 0.8), "c": (0.4, 0.4, 0.1)}
    studies = [Study(name, [each for m, x in zip(("ce", "rg", "wce"), values, strict=True) for each in runs(m, [x, x])])
               for name, values in means.items()]  # fmt: skip
    studies[2] = Study("c", [each for each in studies[2].runs if each.entry != WCE])
    ranking = rank_studies(studies, "test_ba")
    assert ranking is not None
    assert (list(ranking.entries), ranking.ranks.means) == ([CE, RG], ((2 + 2 + 1.5) / 3, (1 + 1 + 1.5) / 3))
    table = rank_tables(studies)[1]
    assert [cell.text for cell in table.lines[0]] == ["RG", "1.17", "60.0", "70.0", "40.0"]
    assert "Mean ranks over 3 data sets, 1 is the best." in paragraphs(studies)[-1]
    assert rank_studies(studies[:1], "test_ba") is None
