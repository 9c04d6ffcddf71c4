"""A benchmark: what this repository takes for a piece of work, and what the best known alternatives take for it."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
PAUSE = 0.25  # until the threads of the other library have stopped waiting for work, which some do spinning


class Case(NamedTuple):
    """Two ways of doing the same work; each call waits until its result is there.

    `theirs` is None where the library to compare with is not installed; of several alternatives the fastest counts.
    `facts` go to the report as they are (sizes, precision), but for two that the runner reads: `per_call`, the
    units of work in one call of either way (1 where missing), and `flops`, the floating-point operations of a unit.
    """

    ours: Callable[[], None]
    theirs: Callable[[], None] | dict[str, Callable[[], None]] | None
    facts: dict[str, Any]


def measure(
    case: Case,
    rounds: int | None,
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Seconds per unit of either way, in turns, so that whatever else slows the machine down slows both.

    `rounds` None stands for as many as fit in `budget` seconds, within limits.
    """
    theirs = case.theirs if isinstance(case.theirs, dict) else {"theirs": case.theirs} if case.theirs else {}
    ways = [case.ours, *theirs.values()]
    for way in ways:
        way()  # compiles, and fills the caches and memory pools
    seconds: list[list[float]] = [[] for _ in ways]
    start = clock()
    while not _enough(len(seconds[0]), clock() - start, rounds, budget):
        for way, times in zip(ways, seconds, strict=True):
            sleep(PAUSE)
            way()  # the first call after another library's pays for memory that one gave back; in use there is none
            before = clock()
            way()
            times.append((clock() - before) / case.facts.get("per_call", 1))
    ours, *others = seconds
    return _report(case.facts, ours, dict(zip(theirs, others, strict=True)))


def _enough(done: int, elapsed: float, rounds: int | None, budget: float) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MOST_ROUNDS or (done >= LEAST_ROUNDS and elapsed >= budget)


def _report(facts: dict[str, Any], ours: list[float], theirs: dict[str, list[float]]) -> dict[str, Any]:
    report = {"ours": median(ours), "theirs": None, "ratio": None} | _range("ours", ours)
    if theirs:
        fastest = min(theirs, key=lambda name: median(theirs[name]))
        report |= {"theirs": median(theirs[fastest]), "fastest": fastest} | _range("theirs", theirs[fastest])
        report["ratio"] = report["ours"] / report["theirs"]
        # Of the rounds one by one: both ways of a round saw the same machine.
        report |= _range("ratio", [a / b for a, b in zip(ours, theirs[fastest], strict=True)])
    if len(theirs) > 1:
        report["alternatives"] = {name: {"median": median(times)} | _range("", times) for name, times in theirs.items()}
    if "flops" in facts:
        rates = {f"{way}_gflops": facts["flops"] / report[way] / 1e9 for way in ("ours", "theirs") if report[way]}
        report |= rates
    return report | {"rounds": len(ours)} | facts


def _range(name: str, values: list[float]) -> dict[str, float]:
    prefix = f"{name}_" if name else ""
    return {f"{prefix}min": min(values), f"{prefix}max": max(values)}
