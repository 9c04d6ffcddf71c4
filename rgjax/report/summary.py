"""The result of a run, or of several seeds, as a table for the terminal."""

import numpy as np


def format_result(result: dict) -> str:
    """The content of result.json as a table."""
    test, by_aggregation, timing = result["test"], result["test_by_aggregation"], result["timing"]
    lines = [
        f"\n{result['dataset']}, {result['method']}, seed {result['seed']}: "
        f"{result['num_classes']} classes, {result['num_pseudo_classes']} pseudo-classes, "
        f"{result['aggregate']} aggregation; test set of {test['n']}",
        "",
        f"  {'class':<16}{'train':>8}{'test':>8}{'AP %':>8}{'95 % interval':>18}{'chance':>9}",
    ]
    for name, ap in test["ap"].items():
        counts = f"{result['train_counts'][name]:>8}{test['counts'][name]:>8}"
        lines.append(f"  {name:<16}{counts}{_columns(ap, test['ap_ci'][name], test['chance_ap'][name])}")
    tuned = result.get("test_tuned_by_aggregation", {})  # runs of older versions have none
    aggregations = "; ".join(
        f"{how}: BA {format_percent(scores['ba'])}, "
        + (f"tuned BA {format_percent(tuned[how]['ba'])}, " if tuned else "")
        + f"macro AP {format_percent(scores['macro_ap'])}"
        for how, scores in by_aggregation.items()
    )
    val, chance = result["val"], 1 / result["num_classes"]
    lines += [
        f"  {'macro AP':<32}{_columns(test['macro_ap'], test['macro_ap_ci'])}",
        f"  {'balanced accuracy':<32}{_columns(test['ba'], test['ba_ci'], chance)}",
        *(_tuned_lines(test, result["test_tuned"], chance) if tuned else ()),
        "",
        f"  by aggregation: {aggregations}",
        f"  validation: BA {format_percent(val['ba'])}, macro AP {format_percent(val['macro_ap'])}",
        f"  time: {timing['total_s']:.1f} s in total, {timing['train_s']:.1f} s training, "
        f"{timing['compile_s']:.1f} s compiling",
    ]
    if skipped := result.get("skipped_steps"):
        lines.append(f"  skipped: {skipped} steps with a loss or gradient that was not finite")
    return "\n".join(lines)


def _tuned_lines(test: dict, tuned: dict, chance: float) -> list[str]:
    """BA at tuned thresholds; precision, recall and F1 of each class, at argmax too."""
    scores = ("precision", "recall", "f1")
    lines = [
        f"  {'at tuned thresholds':<32}{_columns(tuned['ba'], tuned['ba_ci'], chance)}",
        "",
        f"  {'':<16}{'argmax, %':>30}{'tuned thresholds, %':>30}",
        f"  {'class':<16}" + "".join(f"{name:>10}" for name in ("precision", "recall", "F1") * 2),
    ]
    for name in test["recall"]:
        values = (format_percent(labels[score][name]) for labels in (test, tuned) for score in scores)
        lines.append(f"  {name:<16}" + "".join(f"{value:>10}" for value in values))
    return lines


def format_population(results: list[dict]) -> str:
    """The results of several seeds as a table."""
    first, count = results[0], len(results)
    lines = [
        f"\n{first['dataset']}, {first['method']}, {count} seeds: {first['num_classes']} classes, "
        f"{first['num_pseudo_classes']} pseudo-classes, {first['aggregate']} aggregation; "
        f"test set of {first['test']['n']}",
        "",
        f"  {'seed':<16}{'BA %':>8}{'tuned BA %':>12}{'macro AP %':>12}{'val BA %':>10}",
    ]
    scores = [
        (result["test"]["ba"], result.get("test_tuned", {}).get("ba"), result["test"]["macro_ap"], result["val"]["ba"])
        for result in results
    ]
    columns = np.array(scores, float)  # an undefined score, None, becomes NaN
    rows = [(str(result["seed"]), row) for result, row in zip(results, columns, strict=True)]
    rows += [("mean", columns.mean(axis=0)), ("standard dev.", columns.std(axis=0, ddof=1))]
    for name, (ba, tuned_ba, macro_ap, val_ba) in rows:
        tuned = "-" if np.isnan(tuned_ba) else f"{100 * tuned_ba:.1f}"  # runs of older versions have none
        lines.append(f"  {name:<16}{100 * ba:>8.1f}{tuned:>12}{100 * macro_ap:>12.1f}{100 * val_ba:>10.1f}")
    timing = first["timing"]
    trained = f"{timing['trials']} seeds as one program" if timing["trials"] > 1 else "the first seed"
    lines += ["", f"  time: {timing['train_s']:.1f} s training {trained}, {timing['compile_s']:.1f} s compiling"]
    if skipped := sum(result.get("skipped_steps", 0) for result in results):
        lines.append(f"  skipped: {skipped} steps of all seeds with a loss or gradient that was not finite")
    return "\n".join(lines)


def format_percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _columns(value: float | None, bounds: list | None, chance: float | None = None) -> str:
    """A score, its interval and its chance level, aligned."""
    low_high = "-" if not bounds or bounds[0] is None else f"[{format_percent(bounds[0])}, {format_percent(bounds[1])}]"
    return f"{format_percent(value):>8}{low_high:>18}" + ("" if chance is None else f"{format_percent(chance):>9}")
