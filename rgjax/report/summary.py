"""The result of a run, or of several seeds, as a table on the terminal."""

import numpy as np


def readable(result: dict) -> str:
    """The result of a run as a table for people."""
    test, other = result["test"], result["test_by_aggregation"]
    lines = [
        f"\n{result['dataset']}, {result['method']}, seed {result['seed']}: "
        f"{result['num_classes']} classes, {result['num_pseudo_classes']} pseudo-classes, "
        f"{result['aggregate']} aggregation; test set of {test['n']}",
        "",
        f"  {'class':<16}{'train':>8}{'test':>8}{'AP %':>8}{'95 % interval':>18}{'chance':>9}",
    ]
    for name, ap in test["ap"].items():
        counts = f"{result['train_counts'][name]:>8}{test['counts'][name]:>8}"
        lines.append(f"  {name:<16}{counts}{figures(ap, test['ap_ci'][name], test['chance_ap'][name])}")
    lines.append(f"  {'macro AP':<32}{figures(test['macro_ap'], test['macro_ap_ci'])}")
    lines.append(f"  {'balanced accuracy':<32}{figures(test['ba'], test['ba_ci'], 1 / result['num_classes'])}")
    both = ", ".join(f"{how}: BA {percent(s['ba'])}, macro AP {percent(s['macro_ap'])}" for how, s in other.items())
    timing = result["timing"]
    lines += [
        "",
        f"  by aggregation: {both}",
        f"  validation: BA {percent(result['val']['ba'])}, macro AP {percent(result['val']['macro_ap'])}",
        f"  time: {timing['total_s']:.1f} s in all, {timing['train_s']:.1f} s training, "
        f"{timing['compile_s']:.1f} s compiling",
    ]
    if skipped := result.get("skipped_steps"):
        lines.append(f"  skipped: {skipped} steps, whose loss or gradient was not finite")
    return "\n".join(lines)


def readable_population(results: list[dict]) -> str:
    """The results of several seeds as a table for people."""
    first, count = results[0], len(results)
    lines = [
        f"\n{first['dataset']}, {first['method']}, {count} seeds: {first['num_classes']} classes, "
        f"{first['num_pseudo_classes']} pseudo-classes, {first['aggregate']} aggregation; test set of "
        f"{first['test']['n']}",
        "",
        f"  {'seed':<16}{'BA %':>8}{'macro AP %':>12}{'val BA %':>10}",
    ]
    rows = [(result["test"]["ba"], result["test"]["macro_ap"], result["val"]["ba"]) for result in results]
    columns = np.array(rows, float)  # None, of what is undefined, becomes NaN
    named = [(str(result["seed"]), row) for result, row in zip(results, columns, strict=True)]
    named += [("mean", columns.mean(axis=0)), ("standard dev.", columns.std(axis=0, ddof=1))]
    for name, (ba, macro_ap, val_ba) in named:
        lines.append(f"  {name:<16}{100 * ba:>8.1f}{100 * macro_ap:>12.1f}{100 * val_ba:>10.1f}")
    timing = first["timing"]
    together = f"{timing['trials']} seeds as one program" if timing["trials"] > 1 else "the first seed"
    lines += ["", f"  time: {timing['train_s']:.1f} s training {together}, {timing['compile_s']:.1f} s compiling"]
    if skipped := sum(result.get("skipped_steps", 0) for result in results):
        lines.append(f"  skipped: {skipped} steps of the seeds, whose loss or gradient was not finite")
    return "\n".join(lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def figures(value: float | None, bounds: list | None, chance: float | None = None) -> str:
    """A value, its interval and its chance level, as columns."""
    spread = "-" if not bounds or bounds[0] is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"
    return f"{percent(value):>8}{spread:>18}" + ("" if chance is None else f"{percent(chance):>9}")
