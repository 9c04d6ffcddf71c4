"""A study in plain words: who is ahead, how surely, and whether regrouping helped."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rgjax.errors import plural
from rgjax.report.comparison import (
    METRICS,
    Comparison,
    all_pairs,
    contestants,
    estimate,
    means,
    metrics_of,
    planned_comparisons,
    rank_studies,
    shared_scores,
)
from rgjax.report.runs import Entry
from rgjax.report.statistics import Estimate
from rgjax.report.study import CE, Study, chosen_settings, count_statuses

_IN_WORDS = {"test_macro_ap": "macro AP", "test_ba": "BA at argmax", "test_tuned_ba": "BA at tuned thresholds"}
_SPELLED_OUT = {"test_macro_ap": "macro average precision (AP)", "test_ba": "balanced accuracy (BA) at argmax"}


def paragraphs(studies: Sequence[Study]) -> list[str]:
    """One paragraph on each study, and one on the ranks over several data sets."""
    return [text for text in (*map(in_words, studies), ranks_in_words(studies)) if text]


def in_words(study: Study) -> str:
    """One paragraph on a study."""
    entries = contestants(study)
    sentences = [_scope(study, entries), _caveats(study, entries)]
    if entries:
        pairs = all_pairs(study)
        sentences += [_ahead(study, metric, pairs) for metric in metrics_of(study)]
        if "test_tuned_ba" not in metrics_of(study):
            sentences.append("No run has tuned thresholds; runs by older versions lack them.")
        sentences += [_budget(study, entries), _regrouping(study, entries)]
    return " ".join(sentence for sentence in sentences if sentence)


def _scope(study: Study, entries: Sequence[Entry]) -> str:
    name = study.name if study.name == study.dataset else f"{study.dataset} ({study.name})"
    if not entries:
        return f"{name}: no reported run has finished."
    names = _list(entry.name for entry in entries)
    compared = names if len(entries) < 4 else f"{len(entries)} methods"
    if len(entries) == 1:
        return f"{name}: {names} alone, {study.design.removesuffix(' each')}."
    return f"{name}: {compared}, {study.design}."


def _caveats(study: Study, entries: Sequence[Entry]) -> str:
    """What is not done yet, and which runs are compared."""
    sentences, counts = [], count_statuses([study])
    if counts["done"] < (total := sum(counts.values())):
        sentences.append(f"Only {counts['done']} of {total} runs are done, so this may change.")
    shared = shared_scores(study, "test_ba")
    if few := _list(entry.name for entry in entries if entry not in shared):
        sentences.append(f"{few}: too few runs in common with the others to be compared.")
    n = max((len(scores) for scores in shared.values()), default=0)
    if any(len(study.finished(entry)) > n for entry in shared):
        sentences.append(f"The others are compared on the {plural(n, 'run')} that all of them have.")
    return " ".join(sentences)


# Who is ahead


def _ahead(study: Study, metric: str, pairs: Sequence[Comparison]) -> str:
    """The leader in a metric, by how much, over the next one and over CE."""
    scores = {entry: estimate(study, values) for entry, values in shared_scores(study, metric).items()}
    order = sorted(scores, key=lambda entry: -scores[entry].mean)
    if not order:
        return ""
    top = [entry for entry in order if scores[entry].mean > scores[order[0]].mean - 1e-9]
    start, percent = f"In {(_IN_WORDS | _SPELLED_OUT)[metric]}, ", f"{100 * scores[top[0]].mean:.1f}"
    if len(order) == 1:
        interval = means(study, top[0])[metric].interval
        bounds = f" (95 % interval {_bounds(interval)})" if interval else ""
        return f"{start}{top[0].name} has {percent}{bounds}."
    if len(top) > 1:
        return f"{start}{_list(entry.name for entry in top)} are level at {percent}."
    rivals = dict.fromkeys((order[1], CE) if CE in order[1:] else order[1:2])
    differences = [(rival, _difference(pairs, top[0], rival, metric)) for rival in rivals]
    margins = [
        f"by {100 * each.mean:.1f} points over {rival.name} ({_certainty(each)}{_doubt(each)})"
        for rival, each in differences
    ]
    return f"{start}{top[0].name} is ahead with {percent}, {' and '.join(margins)}."


def _difference(pairs: Iterable[Comparison], first: Entry, second: Entry, metric: str) -> Estimate:
    for pair in pairs:
        if {pair.first, pair.second} == {first, second}:
            return pair.differences[metric] if pair.first == first else -pair.differences[metric]
    raise ValueError(f"no pair of {first} and {second}")


def _certainty(difference: Estimate) -> str:
    """How sure a difference is."""
    if difference.n == 1:
        return "one pair of runs, so no certainty"
    if difference.interval is None or difference.p_holm is None:
        return f"the same in all {difference.n} pairs of runs, so no interval"
    p = "below 0.001" if difference.p_holm < 0.001 else f"{difference.p_holm:.{3 if difference.p_holm < 0.1 else 2}f}"
    return f"95 % interval {_bounds(difference.interval)}, adjusted p {p}"


def _doubt(difference: Estimate) -> str:
    """What to add where there is no evidence of a difference."""
    if difference.differs or difference.p is None:
        return ""
    return ": no evidence of a difference" if difference.p >= 0.05 else ": no evidence after the adjustment"


# After what tuning


def _budget(study: Study, entries: Sequence[Entry]) -> str:
    by_budget: dict[str, list[str]] = defaultdict(list)
    for chosen in chosen_settings(study):
        if chosen.entry in entries:
            by_budget[chosen.budget].append(chosen.entry.name)
    if set(by_budget) == {"0"}:
        return "No tuning runs are recorded."
    parts = [f"{'none' if budget == '0' else budget} for {_list(names)}" for budget, names in by_budget.items()]
    rule = f" (chosen by {study.selected_by})" if study.selected_by else ""
    return f"Tuning runs{' of all folds' if study.unit == 'folds' else ''}{rule}: {'; '.join(parts)}."


# Whether regrouping helped


def _regrouping(study: Study, entries: Sequence[Entry]) -> str:
    regrouped = [entry for entry in entries if entry.regroups]
    if not regrouped:
        return "No method regroups, so this says nothing about regrouping."
    pairs = [
        pair
        for pair in planned_comparisons(study)
        if pair.first in regrouped and pair.second == Entry(pair.first.baseline)
    ]
    if not pairs:
        names = _list(entry.name for entry in regrouped)
        return f"Whether regrouping helped cannot be said: {names} without regrouping has no run to compare with."
    by_metric = {
        metric: [(pair, pair.differences[metric]) for pair in pairs if metric in pair.differences]
        for metric in metrics_of(study)
    }
    known = [difference for differences in by_metric.values() for _, difference in differences]
    describe = _effects if any(each.differs for each in known) else _margins
    parts = [f"in {_IN_WORDS[metric]}, {describe(items)}" for metric, items in by_metric.items() if items]
    return f"Did regrouping help here? {_verdict(known)}: {'; '.join(parts)}.{_threshold_only(pairs)}"


def _verdict(differences: Sequence[Estimate]) -> str:
    gains = {each.mean > 0 for each in differences if each.differs}
    if all(each.n == 1 for each in differences):
        return "One pair of runs cannot tell"
    if len(gains) == 2:
        return "It helped and it hurt"
    if gains == {True}:
        return "Yes" if all(each.differs for each in differences) else "In part"
    return "No, it hurt" if gains else "No evidence"


def _effects(items: Sequence[tuple[Comparison, Estimate]]) -> str:
    """For which pairs there is evidence that regrouping helped, or hurt, in a metric."""
    groups = {
        "it helped ": [item for item in items if item[1].differs and item[1].mean > 0],
        "it hurt ": [item for item in items if item[1].differs and item[1].mean < 0],
        "no evidence for ": [item for item in items if not item[1].differs],
    }
    return ", ".join(word + _margins(members) for word, members in groups.items() if members)


def _margins(items: Sequence[tuple[Comparison, Estimate]]) -> str:
    if len(items) > 2 and not items[0][1].differs:
        low, *_, high = sorted(100 * difference.mean for _, difference in items)
        return f"{_list(pair.first.name for pair, _ in items)} (differences from {low:+.1f} to {high:+.1f})"
    texts = []
    for pair, each in items:
        certainty = "" if each.n == 1 else f", {_certainty(each)}"
        texts.append(f"{pair.first.name} ({100 * each.mean:+.1f} against {pair.second.name}{certainty})")
    return _list(texts)


def _threshold_only(pairs: Sequence[Comparison]) -> str:
    """A note on gains in BA at argmax that neither ranking nor tuned thresholds show."""

    def gains(pair: Comparison, metric: str) -> bool:
        difference = pair.differences.get(metric)
        return difference is not None and difference.differs and difference.mean > 0

    names = [
        pair.first.name
        for pair in pairs
        if {"test_tuned_ba", "test_macro_ap"} <= pair.differences.keys()
        and gains(pair, "test_ba")
        and not gains(pair, "test_tuned_ba")
        and not gains(pair, "test_macro_ap")
    ]
    if not names:
        return ""
    return (
        f" The gain of {_list(names)} in BA at argmax shows neither in macro AP nor at tuned thresholds: it may be "
        "the threshold alone."
    )


# Several data sets


def ranks_in_words(studies: Sequence[Study]) -> str:
    """One paragraph on the ranks over several data sets; empty for one."""
    sentences, count = [], 0
    for metric in METRICS:
        if ranking := rank_studies(studies, metric):
            ranks = ranking.ranks
            order = sorted(range(len(ranking.entries)), key=lambda i: ranks.means[i])
            names = ", ".join(f"{ranking.entries[i].name} {ranks.means[i]:.2f}" for i in order)
            evidence = "evidence of a difference" if ranks.p < 0.05 else "no evidence of a difference"
            sentences.append(f"By {_IN_WORDS[metric]}: {names} (p {ranks.p:.3f}: {evidence}).")
            count = ranks.num_datasets
    return f"Mean ranks over {count} data sets, 1 is the best. {' '.join(sentences)}" if sentences else ""


# Words


def _bounds(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _list(names: Iterable[str]) -> str:
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last
