"""Apply a finished run to new images or sentences.

    python -m rgjax.predict --workdir=DIR INPUT...
    python -m rgjax.predict --workdir=DIR --export=FOLDER

INPUT is an image or a folder of images at any depth; for a run of sentences a text file (a sentence a line), a table
(.csv, .tsv, .jsonl) with the column text and perhaps id, or a folder of them; or -, for a sentence or the path of an
image a line on standard input. Every input is a row of the output:

    id                         path, line number or the table's id
    class, p_CLASS, ...        the class, and the probability of each
    group, group_class,        the likeliest pseudo-class, by its number in the run's groups/, its class and its
    group_probability          probability among all pseudo-classes
    neighbor_1, ...           the training rows of that pseudo-class that the network sees as most alike

Options:

    --output=FILE              where rows go, .csv or .jsonl (standard output); FILE.part until all are there
    --format=csv|jsonl         their form, if FILE does not say it (csv)
    --text=SENTENCE            a sentence itself; may be repeated
    --neighbors=N             how many neighbors are told (3); with 0 the run's data set is not asked for
    --aggregate=max|sum        how groups become classes (as in the run)
    --batch-size=N             rows that go through the network at once (256 an accelerator, up to 128 on a CPU)
    --export=FOLDER            instead of predicting, write what needs no rgjax: the network as a program in StableHLO
                               for CPUs, GPUs and TPUs and batches of any size, in float32; its parameters as
                               safetensors; manifest.json, which says what goes in and comes out; and example.py

The exit code is 2, and a line on standard error says why, if an input cannot be read; the others are predicted.
"""

import argparse
import csv
import difflib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import numpy as np

from rgjax.console import configure_logging, exit_codes, local_path
from rgjax.errors import UserError
from rgjax.storage.files import cache_dir

if TYPE_CHECKING:
    from rgjax.predict.inputs import Row
    from rgjax.predict.neighbors import Neighbors
    from rgjax.predict.predictor import Outputs, Predictor

_log = logging.getLogger(__name__)

FORMATS = ("csv", "jsonl")
_AT_ONCE = {"images": 1, "sentences": 8}  # batches; the more sentences, the better they are sorted by length


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists what is understood")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises UserError for every mistake in it."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("inputs", nargs="*", metavar="INPUT")
    parser.add_argument("--workdir", type=local_path)
    parser.add_argument("--output", type=local_path)
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--neighbors", type=int, default=3)
    parser.add_argument("--aggregate", choices=("max", "sum"), default="")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--export", type=local_path)
    known = [action.option_strings[0] for action in parser._actions if action.option_strings]
    options, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        near = difflib.get_close_matches(rest[0].partition("=")[0], known, n=1)
        parser.error(f"unknown option '{rest[0]}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
    if options.workdir is None:
        parser.error("--workdir=DIR of a finished run is missing")
    if options.export and (options.inputs or options.text or options.output):
        parser.error("--export and predicting are two calls")
    if not options.inputs and not options.text and not options.export:
        parser.error("INPUT is missing: files, folders or - for standard input")
    if options.inputs.count("-") > 1:
        parser.error("- is given twice, and there is one standard input")
    for name in options.inputs:
        local_path(name)
    for name in ("neighbors", "batch_size"):
        if getattr(options, name) < 0:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)} is negative")
    if options.output and options.output.is_dir():
        raise UserError(f"--output={options.output} is a folder: give a file")
    options.format = options.format or format_of(options.output)
    return options


def format_of(output: Path | None) -> str:
    if output is None:
        return "csv"
    if output.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"--output={output} ends neither in .csv nor in .jsonl: say which by --format")
    return output.suffix.lower()[1:]


def main(argv: Sequence[str]) -> int:
    if any(word in ("-h", "--help", "-help") for word in argv):
        print(__doc__)
        return 0
    options = parse(argv)
    # Imported here and below: they take seconds, and a mistyped option is to be answered at once.
    import jax
    from absl import logging

    from rgjax.predict.predictor import Predictor

    logging.set_verbosity(logging.WARNING)  # Orbax tells its settings at length
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    how = {"aggregate": options.aggregate, "batch_size": options.batch_size}
    if options.export:
        from rgjax.predict.export import export

        print(*export(Predictor.from_run(options.workdir, dtype="float32", **how), options.export), sep="\n")
        return 0
    predictor = Predictor.from_run(options.workdir, **how)
    if options.text and predictor.run.kind == "images":
        raise UserError(f"--text: the run in {options.workdir} was trained on images")
    neighbors = neighbors_of(predictor) if options.neighbors else None
    with writable(options.output) as file:
        write = Writer(file, options.format, predictor, neighbors, options.neighbors)
        done, refused = predict_all(predictor, rows_of(predictor, options), write)
    unread = f"; {refused} could not be read" if refused else ""
    _log.info(f"predicted {done} of {done + refused}{unread}")
    return 2 if refused else 0


def neighbors_of(predictor: "Predictor") -> "Neighbors | None":
    from rgjax.predict.neighbors import Neighbors

    try:
        return Neighbors.of_run(predictor)
    except UserError as error:
        _log.info(f"neighbors are left empty: {error}")
        return None


def rows_of(predictor: "Predictor", options: argparse.Namespace) -> "Iterator[Row]":
    from rgjax.predict.inputs import images, sentences

    if predictor.run.kind == "sentences":
        return sentences(options.inputs, options.text)
    return images(options.inputs, predictor.run.config.data.image_size)


def predict_all(predictor: "Predictor", rows: "Iterator[Row]", write: "Writer") -> tuple[int, int]:
    """Predict and write all rows in their order; how many were, and how many could not be read."""
    from rgjax.console import progress

    refused, done, started = 0, 0, []
    with progress(what="predict", unit=predictor.run.kind.removesuffix("s")) as bar:
        while some := list(islice(rows, predictor.batch_size * _AT_ONCE[predictor.run.kind])):
            for row in some:
                if row.fault:
                    refused += 1
                    bar.write(f"rgjax: {' '.join(row.fault.split())}", file=sys.stderr)
            # One batch is computed while the next is read.
            if read := [row for row in some if not row.fault]:
                finish = predictor.start([row.content for row in read])
                started.append(([row.id for row in read], finish))
            if len(started) > 1:
                done += write(*started.pop(0))
            bar.update(len(some))
        for last in started:
            done += write(*last)
    return done, refused


class Writer:
    """Writes predictions as rows of a CSV file, or as JSON objects of the same names, one a line."""

    def __init__(self, file: TextIO, form: str, predictor: "Predictor", neighbors: "Neighbors | None", count: int):
        self.file, self.form, self.predictor, self.neighbors, self.count = file, form, predictor, neighbors, count
        self.columns = [
            *("id", "class"),
            *(f"p_{name}" for name in predictor.run.class_names),
            *("group", "group_class", "group_probability"),
            *(f"neighbor_{i + 1}" for i in range(count)),
        ]
        if form == "csv":
            self._write([self.columns])

    def __call__(self, ids: Sequence[str], finish) -> int:
        """Write what becomes of the rows called `ids`; how many they are."""
        found: Outputs = finish()
        names, parent = self.predictor.run.class_names, self.predictor.run.regrouping.parent
        shares = np.exp(found.logits - found.logits.max(axis=1, keepdims=True))
        groups, shares = shares.argmax(axis=1), shares.max(axis=1) / shares.sum(axis=1)
        nearest = self.neighbors.nearest(found.features, groups, self.count) if self.neighbors else [[]] * len(ids)
        self._write(
            [
                identity,
                names[own.argmax()],
                *map(_rounded, own),
                int(group),
                names[parent[group]],
                _rounded(share),
                *(near + [""] * (self.count - len(near))),
            ]
            for identity, own, group, share, near in zip(ids, found.probabilities, groups, shares, nearest, strict=True)
        )
        return len(ids)

    def _write(self, rows: Iterable[list]) -> None:
        if self.form == "csv":
            csv.writer(self.file, lineterminator="\n").writerows(rows)
        else:
            self.file.writelines(json.dumps(dict(zip(self.columns, row, strict=True))) + "\n" for row in rows)
        self.file.flush()


def _rounded(probability: np.floating) -> float:
    return float(f"{probability:.6g}")


@contextmanager
def writable(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is called FILE.part until all is written: so much is there after a failure."""
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore
        yield sys.stdout
        return
    part = output.with_name(f"{output.name}.part")
    with open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file
    os.replace(part, output)


def cli() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    configure_logging()
    with exit_codes(interrupted="; with --output=FILE the rows until then are in FILE.part"):
        try:
            sys.exit(main(sys.argv[1:]))
        except BrokenPipeError:  # who reads the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


if __name__ == "__main__":
    cli()
