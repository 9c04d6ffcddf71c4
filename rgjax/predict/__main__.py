"""Predict images or sentences with a finished run.

    python -m rgjax.predict --workdir=DIR INPUT...
    python -m rgjax.predict --workdir=DIR --export=FOLDER

INPUT is an image, a folder of images at any depth, or a table (.csv, .tsv, .jsonl, .json, .parquet) with a column path
and optionally id. For a run on sentences it is a text file with a sentence per line, a table with a column text and
optionally id, or a folder of such files. For a run on features it is a file of features (.npz, .parquet). "-" reads
sentences or paths of images from standard input, one per line. Each input gives a row of output:

    id                                     path, line number, or id of the table
    class, p_CLASS, ...                    predicted class, and the probability of each class
    group, group_class, group_probability  most likely pseudo-class as numbered in the run's groups/, its class, and its
                                           probability among all pseudo-classes
    neighbor_1, ...                        nearest training examples of that pseudo-class, by the network's features
    decision, temperature                  argmax or tuned, the --decision of the class; the temperature of --calibrated
                                           probabilities, or 1

Options:

    --workdir=DIR       the finished run
    --output=FILE       write to FILE, .csv or .jsonl (standard output); it is FILE.part until it is complete
    --format=csv|jsonl  format of the output, if FILE does not tell (csv)
    --columns=ROLE:COLUMN,...
                        columns of tables with other names, e.g. text:review (the run's data.columns, if they are there)
    --text=SENTENCE     a sentence to predict; may be repeated
    --neighbors=N       number of neighbors (3); 0 does not load the data set
    --decision=argmax|tuned
                        the class is the likeliest one (argmax), or the one that the offsets of the run's decision.json
                        choose (tuned): fitted on validation for balanced accuracy, costs or a recall
    --calibrated        probabilities at the temperature and biases in decision.json, also fitted on validation
    --aggregate=max|sum how pseudo-class logits become class logits (as in the run)
    --batch-size=N      inputs per call of the network (256 per accelerator, up to 128 on a CPU)
    --export=FOLDER     instead of predicting, write files that run without rgjax: the network as a StableHLO program
                        for CPUs, GPUs and TPUs and any batch size, in float32; its parameters as safetensors;
                        manifest.json, which describes inputs and outputs, calibrated probabilities and tuned classes
                        among them; example.py; MODEL_CARD.md, with data, method, scores, decision and limits; and
                        model.onnx, if `uv sync --extra onnx` installed jax2onnx, which takes a minute to load. Of a
                        head on features, this is the head: its inputs are features
    --checkpoint=FOLDER the pretrained checkpoint, if the run is of an older version and the checkpoint has moved

An input that cannot be read is skipped with a line on standard error; the exit code is then 2.
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rgjax.command import Parser, run
from rgjax.console import local_path
from rgjax.errors import UserError, one_line

if TYPE_CHECKING:
    from rgjax.predict.inputs import InputRow
    from rgjax.predict.neighbors import Neighbors
    from rgjax.predict.predictor import Outputs, Predictor
    from rgjax.predict.writer import PredictionWriter

_log = logging.getLogger("rgjax")  # __name__ is "__main__" in a command

FORMATS = ("csv", "jsonl")
# Inputs read ahead, in batches of the network: more sentences are sorted better by length, which saves padding.
_BATCHES_READ = {"images": 1, "features": 1, "sentences": 8}


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(argv)
    # Imported here and below because they take seconds: a mistyped option is reported at once.
    from absl import logging

    from rgjax.predict.predictor import Predictor
    from rgjax.predict.writer import Form, PredictionWriter, open_output
    from rgjax.sharding import require_devices
    from rgjax.storage.programs import cache_programs

    logging.set_verbosity(logging.WARNING)  # Orbax logs its settings
    require_devices()
    cache_programs()
    settings = {name: getattr(options, name) for name in ("aggregate", "batch_size", "checkpoint")}
    if options.export:
        from rgjax.predict.export import export

        predictor = Predictor.from_run(options.workdir, dtype="float32", **settings)
        describe_decision(predictor, options.decision, options.calibrated)  # raises UserError if the run has none
        print(*export(predictor, options.export), sep="\n")
        return 0
    predictor = Predictor.from_run(options.workdir, **settings)
    if options.text and (kind := predictor.run.kind) != "sentences":
        raise UserError(f"--text: the run in {options.workdir} was trained on {kind}; give files of {kind}")
    _log.info(describe_decision(predictor, options.decision, options.calibrated))
    neighbors = load_neighbors(predictor) if options.neighbors else None
    form = Form(options.format, options.decision, options.calibrated, options.neighbors)
    with open_output(options.output) as file:
        writer = PredictionWriter(file, form, predictor, neighbors)
        predicted, unreadable = predict_all(predictor, read_inputs(predictor, options), writer)
    skipped = f"; {unreadable} could not be read" if unreadable else ""
    _log.info(f"predicted {predicted} of {predicted + unreadable}{skipped}")
    return 2 if unreadable else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises UserError for every mistake in it."""
    parser = Parser(__doc__)
    parser.add_argument("inputs", nargs="*", metavar="INPUT")
    parser.add_argument("--workdir", type=local_path)
    parser.add_argument("--output", type=local_path)
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--columns", default="")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--neighbors", type=int, default=3)
    parser.add_argument("--decision", choices=("argmax", "tuned"), default="argmax")
    parser.switch("calibrated")
    parser.add_argument("--aggregate", choices=("max", "sum"), default="")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--export", type=local_path)
    parser.add_argument("--checkpoint", default="")
    options = parser.parse(argv)
    if options.workdir is None:
        parser.error("--workdir=DIR of a finished run is missing")
    if options.export and (options.inputs or options.text or options.output):
        parser.error("--export: does not predict; give INPUT and --output in another call")
    if not options.inputs and not options.text and not options.export:
        parser.error("INPUT is missing: files, folders or - for standard input")
    if options.inputs.count("-") > 1:
        parser.error("-: standard input can be read only once; give - once")
    for name in options.inputs:
        local_path(name)  # raises UserError for the address of a bucket
    for name in ("neighbors", "batch_size"):
        if getattr(options, name) < 0:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)}: must be at least 0")
    if options.output and options.output.is_dir():
        raise UserError(f"--output={options.output}: is a folder; give a file")
    options.format = options.format or output_format(options.output)
    return options


def output_format(output: Path | None) -> str:
    """The format by the output's suffix. Raises UserError for an unknown suffix."""
    if output is None:
        return FORMATS[0]
    if (suffix := output.suffix.lower()[1:]) not in FORMATS:
        raise UserError(f"--output={output}: ends neither in .csv nor in .jsonl; add --format=csv or --format=jsonl")
    return suffix


def describe_decision(predictor: "Predictor", decision: str, calibrated: bool) -> str:
    """Where classes and probabilities come from, in a line.

    Raises UserError if the run lacks what is asked for.
    """
    classes, probabilities = "argmax", "not calibrated"
    if decision == "tuned":
        classes = f"tuned on validation for {predictor.decision.rule}"
    if calibrated:
        probabilities = f"calibrated, at temperature {predictor.decision.temperature:.3g}"
    return f"decision: {classes}; probabilities: {probabilities}"


def load_neighbors(predictor: "Predictor") -> "Neighbors | None":
    """The run's training examples; None, with a message, if they cannot be loaded."""
    from rgjax.predict.neighbors import Neighbors

    try:
        return Neighbors.of_run(predictor)
    except UserError as error:
        _log.info(f"neighbors are left empty: {error}")
        return None


def read_inputs(predictor: "Predictor", options: argparse.Namespace) -> "Iterator[InputRow]":
    from rgjax.data.tables.columns import Columns
    from rgjax.predict.inputs import features, images, sentences

    data = predictor.run.config.data
    # Without the option, the run's columns, or else those of the roles' own names: new tables need not be like the old.
    columns = Columns.parse(options.columns or data.columns, "--columns", optional=not options.columns)
    if predictor.run.kind == "sentences":
        return sentences(options.inputs, options.text, columns)
    if predictor.run.kind == "features":
        return features(options.inputs, predictor.run.width)
    encoder = predictor.run.encoder
    size = 0 if encoder and encoder.reads == "pictures" else data.image_size
    return images(options.inputs, size, data.interpolation, columns)


def predict_all(predictor: "Predictor", rows: "Iterator[InputRow]", writer: "PredictionWriter") -> tuple[int, int]:
    """Predict and write all rows in order.

    Returns the numbers of predicted and of unreadable rows.
    """
    from rgjax.console import progress
    from rgjax.data.lengths import Cuts
    from rgjax.data.notes import notes_on

    predicted, unreadable, kind = 0, 0, predictor.run.kind
    pending: list[tuple[list[str], Callable[[], Outputs]]] = []
    remarks, cuts = [], Cuts(predictor.run.config.data.max_length)
    with progress(what="predict", unit=kind.removesuffix("s")) as bar:
        while chunk := list(islice(rows, predictor.batch_size * _BATCHES_READ[kind])):
            readable = [row for row in chunk if not row.fault]
            for row in chunk:
                if row.fault:
                    _log.warning(one_line(row.fault))
                if row.remarks:
                    remarks.append((row.id, row.remarks))
            # The devices compute this chunk while the host writes the last one and reads the next.
            if readable:
                ids = [row.id for row in readable]
                contents, lengths = predictor.read([row.content for row in readable])
                cuts.add(ids, lengths)
                pending.append((ids, predictor.start_read(contents)))
            if len(pending) > 1:
                ids, finish = pending.pop(0)
                writer.write(ids, finish())
            predicted += len(readable)
            unreadable += len(chunk) - len(readable)
            bar.update(len(chunk))
        for ids, finish in pending:
            writer.write(ids, finish())
    for note in (*notes_on(remarks), *cuts.notes()):
        _log.info(f"note: {note}")
    return predicted, unreadable


def cli() -> None:
    run(main, interrupted="; with --output=FILE the rows written so far are in FILE.part")


if __name__ == "__main__":
    cli()
