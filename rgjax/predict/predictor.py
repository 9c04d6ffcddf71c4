"""A finished run as a function from images or sentences to class probabilities."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from flax import nnx

from rgjax.data.augment import prepare_images
from rgjax.data.lengths import estimated_tokens
from rgjax.decision import Decision, read_decision
from rgjax.edges.shell import shell_line
from rgjax.errors import UserError, unknown
from rgjax.losses import class_stats, scale_logits
from rgjax.models.packing import unpacked
from rgjax.models.tokenizer import Tokens
from rgjax.predict.run import FinishedRun, load_run
from rgjax.regroup import AGGREGATIONS, aggregate
from rgjax.sharding import OnDevices, in_batches

DECISIONS = ("argmax", "tuned")
Inputs: TypeAlias = np.ndarray | Sequence[Any]  # uint8 images [n, S, S, 3], n sentences, or features [n, D]

# Batch per device. On a CPU, a ResNet-34 reads 128 digits in one batch in half the time of four batches of 32.
_ACCELERATOR_BATCH = 256
_CPU_SENTENCES, _CPU_PIXELS = 32, 2**19
_HEAD_BATCH = 2048  # which its encoder reads in batches of its own
_SHORTEST = 16  # tokens that the shortest sentences are padded to


class Outputs(NamedTuple):
    """Outputs of the network for n inputs, float32.

    Attributes:
        probabilities: of the classes [n, C].
        logits: of the pseudo-classes [n, K], as in the run's predictions.npz.
        features: penultimate ones [n, D].
    """

    probabilities: np.ndarray
    logits: np.ndarray
    features: np.ndarray


class Predictor:
    """The trained network of a run, which predicts class probabilities [n, C].

    `Predictor.from_run(workdir)(inputs)` returns them. The inputs are uint8 images [n, S, S, 3] of the run's size, as
    `rgjax.data.pictures.decode` makes them, n sentences, or features [n, D] for a run on these. The last batch is
    filled up; sentences are sorted by length and padded to 16, 32, 64, ... tokens.
    """

    def __init__(self, run: FinishedRun, *, aggregate: str = "", batch_size: int = 0):
        """Place the network on all local devices.

        Args:
            run: the run.
            aggregate: "max" or "sum"; the run's if empty.
            batch_size: inputs per call of the network, rounded up to the devices; chosen by the hardware if 0.
        """
        devices = jax.local_device_count()
        per_device = -(-batch_size // devices) or _batch_per_device(run)
        self.run, self.batch_size = run, per_device * devices
        self.aggregate = aggregate or run.config.regroup.aggregate
        if self.aggregate not in AGGREGATIONS:
            raise unknown("aggregation", self.aggregate, AGGREGATIONS)
        self._stats = class_stats(run.config.loss, run.counts, run.regrouping.parent)
        self.word_pieces = run.word_pieces
        self._forward = OnDevices(self.forward, run.params)

    @classmethod
    def from_run(
        cls, workdir: Path, *, aggregate: str = "", batch_size: int = 0, dtype: str = "", checkpoint: str = ""
    ) -> "Predictor":
        """Load the predictor of a finished run.

        Args:
            workdir: the folder of the run.
            aggregate: as for `__init__`.
            batch_size: as for `__init__`.
            dtype: the precision of the computations; the run's if empty.
            checkpoint: where the pretrained checkpoint of a run of an older version is now, if it has moved.

        Raises:
            UserError: if the run is not finished or is damaged.
        """
        require_finished(workdir)
        ways_out = "the folder where it is now (--checkpoint=FOLDER)"
        run = load_run(workdir, flag="--workdir", ways_out=ways_out, dtype=dtype, checkpoint=checkpoint)
        return cls(run, aggregate=aggregate, batch_size=batch_size)

    def __call__(self, inputs: Inputs, *, calibrated: bool = False) -> np.ndarray:
        """Class probabilities [n, C]; the names of the classes are `run.class_names`.

        Calibrated ones are those at the temperature and biases of the run's `decision`.
        """
        return self.probabilities(self.outputs(inputs), calibrated=calibrated)

    def predict(self, inputs: Inputs, *, decision: str = "argmax") -> np.ndarray:
        """Names of classes [n]: the likeliest, or if "tuned" those of `decision`."""
        return np.array(self.run.class_names)[self.labels(self.outputs(inputs), decision=decision)]

    def logits(self, inputs: Inputs) -> np.ndarray:
        """Pseudo-class logits [n, K], with the run's post-hoc adjustment if it has one."""
        return self.outputs(inputs).logits

    def outputs(self, inputs: Inputs) -> Outputs:
        return self.start(inputs)()

    @cached_property
    def decision(self) -> Decision:
        """Class offsets, a temperature and biases, which the run fitted on validation.

        Raises UserError if the run is of an older version.
        """
        return read_decision(self.run.workdir, self.aggregate)

    def probabilities(self, outputs: Outputs, *, calibrated: bool) -> np.ndarray:
        """Class probabilities [n, C] of outputs."""
        return self.decision.probabilities(self._class_logits(outputs)) if calibrated else outputs.probabilities

    def labels(self, outputs: Outputs, *, decision: str) -> np.ndarray:
        """Classes [n] of outputs, as indices of `run.class_names`."""
        if decision not in DECISIONS:
            raise unknown("decision", decision, DECISIONS)
        if decision == "tuned":
            return self.decision.predict(self._class_logits(outputs))
        return outputs.probabilities.argmax(axis=1)

    def _class_logits(self, outputs: Outputs) -> np.ndarray:
        return self.run.regrouping.class_logits(outputs.logits, self.aggregate)

    def start(self, inputs: Inputs) -> Callable[[], Outputs]:
        """Compute asynchronously; call the result to wait for the outputs."""
        return self.start_read(self.read(inputs)[0])

    def read(self, inputs: Inputs) -> tuple[np.ndarray | Tokens, np.ndarray]:
        """Inputs as the network reads them, and the tokens [n] without the cut.

        The latter are 0 for images.
        """
        if not len(inputs):
            raise ValueError("no inputs")
        text = self.run.kind == "sentences"
        if self.run.encoder:
            pictures = self.run.encoder.reads == "pictures"
            read = list(inputs) if pictures else np.array(inputs) if text else self._arrays(inputs)
            lengths = estimated_tokens(inputs) if text else np.zeros(len(inputs), np.int32)
            return self.run.encoder.encode(read), lengths
        if self.word_pieces:
            return self.word_pieces.read(np.array(inputs))
        return self._arrays(inputs), np.zeros(len(inputs), np.int32)

    def start_read(self, read: np.ndarray | Tokens) -> Callable[[], Outputs]:
        """`start` for inputs that are read."""
        lengths = read.lengths if isinstance(read, Tokens) else np.zeros(len(read), int)
        order = in_batches(np.argsort(lengths, kind="stable"), self.batch_size)
        started = [self._forward(self._batch(read, indices)) for indices in order]

        def finish() -> Outputs:
            sorted_outputs = (np.concatenate([np.asarray(batch) for batch in x]) for x in zip(*started, strict=True))
            back = np.argsort(order.ravel()[: len(lengths)])
            return Outputs(*(x[back] for x in sorted_outputs))

        return finish

    def forward(self, params, batch) -> Outputs:
        """The outputs for images uint8 [B, S, S, 3], Tokens or features [B, D]; traced."""
        config, regrouping = self.run.config, self.run.regrouping
        model = nnx.merge(self.run.graph, *params, copy=True)
        features = model.features(self._prepared(batch))
        logits = scale_logits(config.loss, self._stats, model.head(features)[:, : regrouping.num_pseudo_classes])
        classes = aggregate(logits, regrouping.parent, self.aggregate)
        return Outputs(jax.nn.softmax(classes), logits, features)  # type: ignore[arg-type]  # traced arrays

    def _prepared(self, batch):
        if isinstance(batch, Tokens):
            return unpacked(batch)
        if self.run.encoder:
            return batch  # features
        seen = self.run.preprocessing
        return prepare_images(batch, normalization=seen and seen.normalize)

    def _arrays(self, inputs) -> np.ndarray:
        if self.run.kind == "features":
            features = np.asarray(inputs, np.float32)
            if features.ndim != 2 or features.shape[1] != self.run.width:
                raise ValueError(f"inputs are {features.shape}, not features (n, {self.run.width})")
            return features
        images, size = np.asarray(inputs), self.run.config.data.image_size
        if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise ValueError(f"inputs are {images.dtype} {images.shape}, not uint8 images (n, {size}, {size}, 3)")
        return images

    def _batch(self, inputs: np.ndarray | Tokens, indices: np.ndarray):
        if not isinstance(inputs, Tokens):
            return inputs[indices]
        ids, lengths = inputs.ids[indices], inputs.lengths[indices]
        width = _SHORTEST
        while width < lengths.max():
            width *= 2
        width = min(width, self.run.config.data.max_length)
        ids = ids[:, :width]
        return Tokens(np.pad(ids, ((0, 0), (0, width - ids.shape[1]))), lengths)


def _batch_per_device(run: FinishedRun) -> int:
    if run.encoder:
        return _HEAD_BATCH
    if jax.default_backend() != "cpu":
        return _ACCELERATOR_BATCH
    if run.kind == "sentences":
        return _CPU_SENTENCES
    return max(8, min(128, _CPU_PIXELS // run.config.data.image_size**2))


def require_finished(workdir: Path) -> None:
    """Raise UserError, with the fix, if a folder holds no finished run."""
    flag = f"--workdir={workdir}"
    if not workdir.is_dir():
        raise UserError(f"{flag}: there is no such folder; give that of a finished run")
    if (workdir / "result.json").exists():
        return
    if seeds := sorted(path.parent for path in workdir.glob("seed-*/config.json")):
        raise UserError(f"{flag}: holds the runs of {len(seeds)} seeds; give one of them, such as {seeds[0]}")
    if not (workdir / "config.json").exists():
        raise UserError(f"{flag}: holds no run; give the folder of a finished run")
    raise UserError(f"{flag}: its run is not finished; rerun {shell_line('main')} with its --config and {flag}")
