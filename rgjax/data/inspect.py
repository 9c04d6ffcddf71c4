"""Inspect custom data before training.

    python -m rgjax.data.inspect DIR_OR_TABLE [--columns=ROLE:COLUMN,...] [--rehearse] [--json]

DIR holds one subfolder of images per class, or train/ and test/ (and val/) with such subfolders, or the tables of such
splits, e.g. train.csv and test.csv. A TABLE (.csv, .tsv, .jsonl, .json, .parquet) has the columns path,label or
text,label, and optionally group, split and id. A file of features (.npz, .parquet) has features and labels.

Reports, as training would see the data: examples per class and split, pseudo-classes per class under regrouping, image
sizes and modes, or lengths of texts with a length at which to cut them, unreadable files, and duplicates (in one class,
with different labels, in different splits). Then come the commands that train on the data, with their time on this
machine: a head on the features of a pretrained network, fine-tuning, and training from scratch. Or why that is
impossible yet; the exit code is then 2.

With --rehearse, heads on frozen features tell whether regrouping helps on the data: methods ce, wce, la, rg and rg_wce
on up to five folds, tuned inside each fold. A table and a paragraph compare their scores, and the last line is the
command that validation recommends. The time is estimated before it starts; a second call resumes.

Options:

    --columns=ROLE:COLUMN,...  config.data.columns: columns with other names, e.g. text:sentence,label:sentiment
    --rule=ratio|target        config.regroup.rule (ratio)
    --threshold=N              config.regroup.threshold, in examples (0)
    --rehearse                 compare methods on folds of the data
    --json                     print the report as JSON, and other messages on standard error
"""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgjax.command import Parser, run
from rgjax.config import AUTO, FIELDS, method_config
from rgjax.console import local_path, progress
from rgjax.data.commands import Data, missing_weights, training_commands
from rgjax.data.custom import list_images, list_sentences, normal_form
from rgjax.data.dataset import Source
from rgjax.data.feature_file import holds_features, read_features
from rgjax.data.features import list_features
from rgjax.data.images import map_in_threads
from rgjax.data.lengths import BERT_TOKENS, Cuts, text_length, token_lengths
from rgjax.data.listing import Listing
from rgjax.data.notes import Note, fewer_groups, notes_on
from rgjax.data.pictures.decode import Encoded, Examined, Unreadable, examine
from rgjax.data.places import locate
from rgjax.data.rehearsal import Subject, rehearse
from rgjax.data.splits import SPLITS, split, split_strategy
from rgjax.data.tables.columns import Columns
from rgjax.data.tables.reader import open_table
from rgjax.errors import UserError, first_few
from rgjax.storage.files import digest

_RULE, _THRESHOLD = FIELDS["regroup.rule"], FIELDS["regroup.threshold"]
_MAX_LENGTH = FIELDS["data.max_length"].default
_DUPLICATES = {
    "in one class": "duplicates in one class",
    "in several classes": "duplicates with different labels",
    "in several parts": "duplicates in different splits (leaks)",
}


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("data", nargs="?", metavar="DIR_OR_TABLE")
    parser.add_argument("--columns", default="")
    parser.add_argument("--rule", choices=_RULE.choices, default=_RULE.default)
    parser.add_argument("--threshold", type=int, default=_THRESHOLD.default)
    parser.switch("rehearse")
    parser.switch("json")
    options = parser.parse(argv)
    if not options.data:
        parser.error("DIR_OR_TABLE is missing")
    if options.threshold < (options.rule == "target"):
        raise UserError(f"--threshold={options.threshold}: too low; pass at least {int(options.rule == 'target')}")
    examined = examine_place(options.data, Columns.parse(options.columns, "--columns"))
    report = report_on(examined, options.rule, options.threshold)
    if not options.json:
        print(readable(report))
    if options.rehearse and not report["problem"]:
        report["rehearsal"] = rehearse(examined.subject, sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(report, indent=2, allow_nan=False))
    return 2 if report["problem"] else report.get("rehearsal", {"code": 0})["code"]


class Examinee(NamedTuple):
    """Data whose content has been read.

    Attributes:
        name: the folder, table or file.
        columns: the columns that are not named after their roles.
        kind: "images", "text" or "features".
        listing: the examples that can be read.
        hashes: of the content of each.
        properties: of the content, for the report.
        tokens: the mean length of a text as it is read; 1 for others.
        width: how many features a file of features has.
    """

    name: str
    columns: Columns
    kind: str
    listing: Listing
    hashes: list[str]
    properties: dict[str, Any]
    tokens: float = 1
    width: int = 0

    @property
    def source(self) -> Source:
        return self.listing.source(np.zeros(len(self.listing.items)), "")

    @property
    def options(self) -> list[str]:
        """The words that each command on the data needs."""
        options = [f"--config.data.columns={self.columns.spec}"] if self.columns.names else []
        options += ["--config.data.unreadable=skip"] if self.properties["unreadable"] else []
        if (max_length := self.properties.get("max_length", 0)) > _MAX_LENGTH:
            options.append(f"--config.data.max_length={max_length}")
        return options

    @property
    def subject(self) -> Subject:
        """The data, for a rehearsal."""
        options = self.options
        if self.properties.get("max_length") == _MAX_LENGTH:  # the same in all folds
            options.append(f"--config.data.max_length={_MAX_LENGTH}")
        listing = self.listing
        content = digest(*self.hashes, *listing.labels, *listing.ids, repr((listing.group_ids, listing.splits)))
        return Subject(self.name, self.kind, self.source, options, self.tokens, self.width, content)


def examine_place(name: str, columns: Columns) -> Examinee:
    """Read a folder, table or file. Raises UserError if it holds no examples."""
    kind = kind_of(name, columns)
    examine_kind = {"images": _examine_images, "text": _examine_sentences, "features": _examine_features}[kind]
    return examine_kind(name, columns)


def inspect(
    name: str, rule: str = _RULE.default, threshold: int = _THRESHOLD.default, columns: Columns | None = None
) -> dict[str, Any]:
    """The report on a folder or table, ready for JSON.

    Args:
        name: the folder or table.
        rule: config.regroup.rule.
        threshold: config.regroup.threshold.
        columns: the columns that are not named after their roles.

    Raises:
        UserError: if `name` holds no examples.
    """
    return report_on(examine_place(name, columns or Columns()), rule, threshold)


def report_on(examined: Examinee, rule: str, threshold: int) -> dict[str, Any]:
    """The report on data, ready for JSON; arguments as of `inspect`."""
    listing, source, kind = examined.listing, examined.source, examined.kind
    counts = Counter(listing.labels)
    splits, problem, commands = None, None, []
    try:
        splits = _split_names(source)
        options = examined.options
        if (rule, threshold) != (_RULE.default, _THRESHOLD.default):
            options += [f"--config.regroup.rule={rule}", f"--config.regroup.threshold={threshold}"]
        data = Data(kind, len(listing.items), splits.count("train"), examined.tokens)
        commands = training_commands(examined.name, data, options)
    except UserError as error:
        problem = str(error)
    classes = _class_counts(listing, splits, rule, threshold)
    notes = (*listing.notes, *(() if splits is None else _notes_on_groups(classes, rule, threshold)))
    return {
        "data": examined.name,
        "kind": kind,
        "rows": len(listing.items),
        "split": split_strategy(source),
        "imbalance": round(max(counts.values()) / min(counts.values()), 2),
        "classes": classes,
        **examined.properties,
        "equal": _duplicates(listing, examined.hashes, splits),
        "notes": [note.as_json() for note in notes if note.kind != "unreadable_row"],  # listed above
        "problem": problem,
        "next": commands[0]["command"] if commands else None,
        "commands": commands,
        "install": missing_weights(kind) if commands else "",
    }


def kind_of(name: str, columns: Columns) -> str:
    """Whether the folder, tables or file hold "images", "text" or "features"."""
    if name and holds_features(local_path(name)):
        return "features"
    tables = locate(name).tables
    return "text" if tables and open_table(tables[0], columns).content() == "text" else "images"


def _examine_images(name: str, columns: Columns) -> Examinee:
    listing = list_images(name, columns, "skip")

    def hash_and_examine(image: Encoded) -> tuple[str, Examined]:
        try:
            content = image.read_bytes() if isinstance(image, Path) else image
        except OSError as error:
            raise Unreadable(error.strerror) from error
        pixels = content.tobytes() if isinstance(content, np.ndarray) else content
        return hashlib.sha256(pixels).hexdigest(), examine(content)

    results = list(progress(map_in_threads(hash_and_examine, listing.items), "read", len(listing.items), unit="image"))
    readable_images = [result for result in results if not isinstance(result, Unreadable)]
    unreadable = {
        identity: str(result)
        for identity, result in zip(listing.ids, results, strict=True)
        if isinstance(result, Unreadable)
    }
    if not readable_images:
        raise UserError(f"{listing.where}: none of the {len(results)} images can be read: {first_few(unreadable)}")
    hashes, examined = map(list, zip(*readable_images, strict=True))
    modes, widths, heights, remarks = map(list, zip(*examined, strict=True))
    properties = {
        "modes": dict(Counter(modes).most_common()),
        "widths": _range(widths),
        "heights": _range(heights),
        "unreadable": {**listing.faults, **unreadable},
    }
    listing = listing.select(np.array([identity not in unreadable for identity in listing.ids]))
    listing = replace(listing, notes=(*listing.notes, *notes_on(zip(listing.ids, remarks, strict=True))))
    return Examinee(name, columns, "images", listing, hashes, properties)


def _examine_sentences(name: str, columns: Columns) -> Examinee:
    listing = list_sentences(name, columns, "skip")
    tokens, counted = token_lengths(listing.items)
    max_length = text_length(AUTO, tokens, BERT_TOKENS)
    cuts = Cuts(max_length)
    cuts.add(listing.ids, tokens)
    properties = {
        "words": _quantiles([len(text.split()) for text in listing.items]),
        "tokens" if counted else "estimated tokens": _quantiles(tokens),
        "characters": _range([len(text) for text in listing.items]),
        "max_length": max_length,
        "unreadable": dict(listing.faults),
    }
    listing = replace(listing, notes=(*listing.notes, *cuts.notes()))
    hashes = [hashlib.sha256(normal_form(text).encode()).hexdigest() for text in listing.items]
    tokens_read = float(np.minimum(tokens, max_length).mean())
    return Examinee(name, columns, "text", listing, hashes, properties, tokens=tokens_read)


def _examine_features(name: str, columns: Columns) -> Examinee:
    if columns.names:
        raise UserError(f"{columns.flag}={columns.spec}: a file of features has fixed names; leave the option out")
    file = read_features(name, "DIR_OR_TABLE")
    hashes = [hashlib.sha256(vector.tobytes()).hexdigest() for vector in file.features]
    width = file.features.shape[1]
    properties = {"features": width, "unreadable": {}}
    return Examinee(name, columns, "features", list_features(file), hashes, properties, width=width)


def _range(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _quantiles(values: Sequence[int] | np.ndarray) -> dict[str, float]:
    p90, p99 = np.quantile(values, (0.9, 0.99), method="inverted_cdf").tolist()
    return _range(np.asarray(values).tolist()) | {"p90": p90, "p99": p99}


def _split_names(source: Source) -> list[str]:
    """The split of each example under the default config."""
    names = np.empty(len(source.labels), "U5")
    for name, indices in zip(SPLITS, split(source, method_config("ce", {"data.split": "auto"}).data), strict=True):
        names[indices] = name
    return names.tolist()


def _class_counts(listing: Listing, splits: list[str] | None, rule: str, threshold: int) -> dict[str, dict[str, int]]:
    """Count the examples of each class, in all and by split, and its pseudo-classes.

    Args:
        listing: the examples.
        splits: the split of each example; None reports no splits and no pseudo-classes.
        rule: config.regroup.rule.
        threshold: config.regroup.threshold.
    """
    report = {name: {"all": number} for name, number in sorted(Counter(listing.labels).items())}
    if listing.subclasses:
        pairs = {pair for pair in zip(listing.labels, listing.subclasses, strict=True) if pair[1]}
        numbers = Counter(name for name, _ in pairs)
        report = {name: counts | {"subclasses": numbers[name]} for name, counts in report.items()}
    if splits is None:
        return report
    # Imported here: JAX takes seconds, and most mistakes are reported before.
    from rgjax.regroup import cluster_counts

    counts = Counter(zip(listing.labels, splits, strict=True))
    train = np.array([counts[name, "train"] for name in report])
    for name, groups in zip(report, cluster_counts(train, rule, threshold, min_size=None).tolist(), strict=True):
        report[name] |= {split: counts[name, split] for split in SPLITS} | {"groups": groups}
    return report


def _notes_on_groups(classes: dict[str, dict[str, int]], rule: str, threshold: int) -> tuple[Note, ...]:
    from rgjax.regroup import cluster_counts, least_size  # imported here, as above

    train, groups = (np.array([counts[key] for counts in classes.values()]) for key in ("train", "groups"))
    asked = cluster_counts(train, rule, threshold, max_groups=int(train.max()))
    return fewer_groups(classes, asked, groups, least_size(None, int(train.min())))


def _duplicates(listing: Listing, hashes: Iterable[str], splits: list[str] | None) -> dict[str, list[list[str]]]:
    """Sets of ids with equal content: in one class, across classes, across splits."""
    indices_of: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(hashes):
        indices_of[content].append(index)
    report: dict[str, list[list[str]]] = {"in one class": [], "in several classes": [], "in several parts": []}
    for indices in indices_of.values():
        if len(indices) < 2:
            continue
        ids = [listing.ids[index] for index in indices]
        labels = {listing.labels[index] for index in indices}
        report["in one class" if len(labels) == 1 else "in several classes"].append(ids)
        if splits is not None and len({splits[index] for index in indices}) > 1:
            report["in several parts"].append(ids)
    return report


def readable(report: dict[str, Any]) -> str:
    """The report as text."""
    classes = report["classes"]
    width = max(8, *(len(name) for name in classes)) + 2
    columns = [column for column in ("all", *SPLITS, "groups") if column in next(iter(classes.values()))]
    lines = [f"{report['data']}: {report['rows']} examples in {len(classes)} classes, split {report['split']}", ""]
    lines.append(f"  {'class':<{width}}" + "".join(f"{column:>9}" for column in columns))
    for name, counts in classes.items():
        lines.append(f"  {name:<{width}}" + "".join(f"{counts[column]:>9}" for column in columns))
    lines += ["", f"  imbalance: the largest class has {report['imbalance']:g} times the examples of the smallest"]
    if "groups" in columns:
        # K-means may make smaller groups, which are merged: how many is known after the clustering.
        lines.append(f"  pseudo-classes under RG: at most {sum(counts['groups'] for counts in classes.values())}")
    if subclasses := [f"{name} {counts['subclasses']}" for name, counts in classes.items() if counts.get("subclasses")]:
        fix = "--config.regroup.clustering=given takes them as pseudo-classes"
        lines.append(f"  subclasses: {first_few(subclasses)}; {fix}")
    if "modes" in report:
        lines.append("  modes: " + ", ".join(f"{mode} {number}" for mode, number in report["modes"].items()))
    for name in ("widths", "heights", "words", "tokens", "estimated tokens", "characters"):
        if name in report:
            values = report[name]
            most = f"; 90 % up to {values['p90']}, 99 % up to {values['p99']}" if "p90" in values else ""
            lines.append(f"  {name}: {values['min']} to {values['max']}, median {values['median']:g}{most}")
    if "features" in report:
        lines.append(f"  features: {report['features']}")
    if "max_length" in report:
        lines.append(f"  recommended data.max_length: {report['max_length']} tokens")
    for where, heading in _DUPLICATES.items():
        if sets := report["equal"][where]:
            lines.append(f"  {heading} ({len(sets)}): " + first_few(" = ".join(ids) for ids in sets))
    if unreadable := report.get("unreadable"):
        lines.append(f"  unreadable ({len(unreadable)}); remove them, or train with --config.data.unreadable=skip:")
        lines += [f"    {name}: {reason}" for name, reason in unreadable.items()]
    lines += [f"  {note['text']}" for note in report["notes"]]
    if report["problem"]:
        return "\n".join([*lines, "", f"  cannot train on this yet: {report['problem']}"])
    return "\n".join([*lines, "", *_next(report)])


def _next(report: dict[str, Any]) -> Iterator[str]:
    """The lines that recommend what to do next."""
    yield "next, from quick to slow on this machine:"
    if report["install"]:
        yield f"  {report['install']}: the Hugging Face hub is unavailable, and these weights work without it"
    train = sum(counts["train"] for counts in report["classes"].values())
    for command in report["commands"]:
        fits = f"; fits {train} training examples" if command["fits"] else ""
        yield f"  {command['time']}: {command['does']}{fits}"
        yield f"    {command['command']}"


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
