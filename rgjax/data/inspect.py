"""Look at data of your own before training on them.

    python -m rgjax.data.inspect DIR_OR_TABLE [--rule=ratio|target] [--threshold=ROWS] [--json]

DIR has a subfolder of images for each class, or train/ and test/ (and val/) with such; TABLE (.csv, .tsv, .jsonl) has
the columns path,label or text,label, and perhaps group and split. Tells the rows of each class and of each part of the
split that training would use; how many groups regrouping would make of each class, by the config's regroup.rule and
regroup.threshold; sizes and modes of images, lengths of sentences; what is there twice: in one class, in several
(conflicting labels), in several parts of the split (leaks); and which files cannot be read.
"""

import argparse
import hashlib
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rgjax.console import exit_codes, progress
from rgjax.data.custom import Listing, list_images, list_sentences, normal_form, place
from rgjax.data.dataset import Source
from rgjax.data.decode import Unreadable, examine
from rgjax.data.images import in_threads
from rgjax.data.splits import automatic, split
from rgjax.data.tables import read_table
from rgjax.errors import UserError, first_few

RULES = ("ratio", "target")
PARTS = ("train", "val", "test")
_BATCH = {"images": 256, "text": 32}  # of the config files


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; python -m rgjax.data.inspect --help lists what is understood")


def main(argv: list[str]) -> None:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("place", nargs="?")
    parser.add_argument("--rule", choices=RULES, default="ratio")
    parser.add_argument("--threshold", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_args(argv)
    if options.help:
        print(__doc__)
        return
    if not options.place:
        raise UserError("a folder or table is missing: python -m rgjax.data.inspect DIR_OR_TABLE")
    if options.threshold < (options.rule == "target"):
        raise UserError(f"--threshold={options.threshold} is too low: rows, 1 or more with --rule=target")
    found = inspect(options.place, options.rule, options.threshold)
    print(json.dumps(found, indent=2, allow_nan=False) if options.json else readable(found))


def inspect(name: str, rule: str = "ratio", threshold: int = 0) -> dict[str, Any]:
    """All that is told of the data, ready for JSON. Raises UserError for what is no data set."""
    kind = kind_of(name)
    listing, hashes, about = _images(list_images(name)) if kind == "images" else _sentences(list_sentences(name))
    counts = Counter(listing.labels)
    source = listing.source(np.zeros(len(listing.items)), "")
    parts, problem, command = None, None, None
    try:
        parts = _parts_of(source)
        command = _next(name, kind, parts.count("train"), rule, threshold)
    except UserError as error:
        problem = str(error)
    return {
        "data": name,
        "kind": kind,
        "rows": len(listing.items),
        "split": automatic(source),
        "imbalance": round(max(counts.values()) / min(counts.values()), 2),
        "classes": _classes(listing, parts, rule, threshold),
        **about,
        "equal": _equal(listing, hashes, parts),
        "notes": list(listing.notes),
        "problem": problem,
        "next": command,
    }


def kind_of(name: str) -> str:
    """What the rows are: "images" or "text"."""
    where = place(name)
    if where.is_dir():
        return "images"
    columns = read_table(where, ("label",))[0]
    if ("path" in columns) == ("text" in columns):
        both = "both columns" if "path" in columns else "neither of the columns"
        raise UserError(f"{where} has {both} path and text: name images by path, or sentences by text")
    return "images" if "path" in columns else "text"


def _images(listing: Listing[Path]) -> tuple[Listing, list[str], dict[str, Any]]:
    """The rows that can be read, their hashes, and what is told of the images."""

    def look(path: Path) -> tuple[str, str, int, int]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Unreadable(error.strerror) from error
        return hashlib.sha256(content).hexdigest(), *examine(content)

    seen = list(progress(in_threads(look, listing.items), "read", len(listing.items), unit="image"))
    unreadable = {i: str(one) for i, one in zip(listing.ids, seen, strict=True) if isinstance(one, Unreadable)}
    looked = [one for one in seen if not isinstance(one, Unreadable)]
    if not looked:
        raise UserError(f"none of the {len(seen)} images of {listing.where} can be read: {first_few(unreadable)}")
    hashes, modes, widths, heights = map(list, zip(*looked, strict=True))
    about = {
        "modes": dict(Counter(modes).most_common()),
        "widths": _spread(widths),
        "heights": _spread(heights),
        "unreadable": unreadable,
    }
    return listing.only(np.array([identity not in unreadable for identity in listing.ids])), hashes, about


def _sentences(listing: Listing[str]) -> tuple[Listing, list[str], dict[str, Any]]:
    about = {
        "words": _spread([len(text.split()) for text in listing.items]),
        "characters": _spread([len(text) for text in listing.items]),
    }
    return listing, [hashlib.sha256(normal_form(text).encode()).hexdigest() for text in listing.items], about


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _parts_of(source: Source) -> list[str]:
    """The part of each row, by the defaults of a run. Raises UserError where a class is too small."""
    names = np.empty(len(source.labels), "U5")
    for name, rows in zip(PARTS, split(source, "auto", seed=0, test_fraction=0.2, val_fraction=0.2), strict=True):
        names[rows] = name
    return names.tolist()


def _classes(listing: Listing, parts: list[str] | None, rule: str, threshold: int) -> dict[str, dict[str, int]]:
    """Rows of each class, and of each of its parts, and the groups that its training rows would be split into."""
    found = {name: {"all": number} for name, number in sorted(Counter(listing.labels).items())}
    if parts is None:
        return found
    # Imported here: JAX takes seconds, and most mistakes are told before.
    from rgjax.regroup import cluster_counts

    counts = Counter(zip(listing.labels, parts, strict=True))
    train = np.array([counts[name, "train"] for name in found])
    for name, groups in zip(found, cluster_counts(train, rule, threshold).tolist(), strict=True):
        found[name] |= {part: counts[name, part] for part in PARTS} | {"groups": groups}
    return found


def _equal(listing: Listing, hashes: Iterable[str], parts: list[str] | None) -> dict[str, list[list[str]]]:
    """Sets of ids of equal content: in one class, in several classes, and those of either in several parts."""
    alike: dict[str, list[int]] = defaultdict(list)
    for row, content in enumerate(hashes):
        alike[content].append(row)
    found: dict[str, list[list[str]]] = {"in one class": [], "in several classes": [], "in several parts": []}
    for rows in alike.values():
        if len(rows) < 2:
            continue
        ids = [listing.ids[row] for row in rows]
        found["in one class" if len({listing.labels[row] for row in rows}) == 1 else "in several classes"].append(ids)
        if parts is not None and len({parts[row] for row in rows}) > 1:
            found["in several parts"].append(ids)
    return found


def _next(name: str, kind: str, training_rows: int, rule: str, threshold: int) -> str:
    words = [
        "uv",
        "run",
        "python",
        "-m",
        "rgjax.main",
        f"--config=configs/{kind}.py",
        f"--config.data.manual_dir={name}",
    ]
    if (rule, threshold) != ("ratio", 0):
        words += [f"--config.regroup.rule={rule}", f"--config.regroup.threshold={threshold}"]
    if training_rows < _BATCH[kind]:
        words.append(f"--config.train.batch_size={max(2, 2 ** int(np.log2(max(1, training_rows / 4))))}")
    return shlex.join(words)


def readable(found: dict[str, Any]) -> str:
    """The report for people."""
    classes = found["classes"]
    width = max(8, *(len(name) for name in classes)) + 2
    columns = [column for column in ("all", *PARTS, "groups") if column in next(iter(classes.values()))]
    lines = [f"{found['data']}: {found['rows']} rows in {len(classes)} classes, split {found['split']}", ""]
    lines.append(f"  {'class':<{width}}" + "".join(f"{column:>9}" for column in columns))
    for name, counts in classes.items():
        lines.append(f"  {name:<{width}}" + "".join(f"{counts[column]:>9}" for column in columns))
    lines += ["", f"  the largest class is {found['imbalance']:g} times the smallest"]
    if "groups" in columns:
        lines.append(f"  pseudo-classes under RG: {sum(counts['groups'] for counts in classes.values())}")
    if "modes" in found:
        lines.append("  modes: " + ", ".join(f"{mode} {number}" for mode, number in found["modes"].items()))
    for what in ("widths", "heights", "words", "characters"):
        if what in found:
            spread = found[what]
            lines.append(f"  {what}: {spread['min']} to {spread['max']}, median {spread['median']:g}")
    for where, sets in found["equal"].items():
        if sets:
            warning = {"in several classes": ", which label is right?", "in several parts": ", leaks"}.get(where, "")
            lines.append(f"  equal {where} ({len(sets)}{warning}): " + first_few(" = ".join(ids) for ids in sets))
    if unreadable := found.get("unreadable"):
        lines.append(f"  {len(unreadable)} cannot be read; remove them, or train with --config.data.unreadable=skip:")
        lines += [f"    {name}: {reason}" for name, reason in unreadable.items()]
    lines += [f"  {note}" for note in found["notes"]]
    if found["problem"]:
        return "\n".join([*lines, "", f"  this cannot be trained on yet: {found['problem']}"])
    return "\n".join([*lines, "", "next:", f"  {found['next']}"])


def cli() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with exit_codes():
        main(sys.argv[1:])


if __name__ == "__main__":
    cli()
