"""A finished run as a function: from images or sentences to class probabilities."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from flax import nnx

from rgjax.data.augment import prepare_images
from rgjax.errors import UserError, unknown
from rgjax.losses import class_stats, scale_logits
from rgjax.models.factory import word_pieces
from rgjax.models.packing import unpacked
from rgjax.models.tokenizer import Tokens
from rgjax.predict.run import FinishedRun, load_run
from rgjax.regroup import AGGREGATIONS, aggregate
from rgjax.sharding import in_batches, on_devices

Rows: TypeAlias = np.ndarray | Sequence[Any]

_SENTENCES, _PIXELS = 32, 2**19  # of a batch on a CPU: a ResNet34 reads 128 digits at once in half the time of 4 x 32
_ON_ACCELERATORS = 256  # rows a device
_SHORTEST = 16  # tokens that the shortest sentences are padded to


class Outputs(NamedTuple):
    """Of n rows the class `probabilities` [n, C], the pseudo-class `logits` [n, K] as the run's predictions.npz has
    them, and the penultimate `features` [n, D]; float32."""

    probabilities: np.ndarray
    logits: np.ndarray
    features: np.ndarray


class Predictor:
    """The trained network of a run: `Predictor.from_run(workdir)(images) -> class probabilities [n, C]`.

    Rows are uint8 images [n, S, S, 3] of the run's size, as `data.decode.decode` makes them, or n sentences. They go
    through the network `batch_size` at a time, the last batch filled up; sentences by length, padded to 16, 32, 64, ...
    tokens. `aggregate` ("max", "sum") overrules the run's.
    """

    def __init__(self, run: FinishedRun, *, aggregate: str = "", batch_size: int = 0):
        devices = jax.local_device_count()
        per_device = -(-batch_size // devices) or _rows_per_device(run)
        self.run, self.batch_size = run, per_device * devices
        self.aggregate = aggregate or run.config.regroup.aggregate
        if self.aggregate not in AGGREGATIONS:
            raise unknown("aggregation", self.aggregate, AGGREGATIONS)
        self._stats = class_stats(run.config.loss, run.regrouping)
        self.word_pieces = (
            word_pieces(run.config.model, run.config.data.max_length) if run.kind == "sentences" else None
        )
        self._forward = on_devices(self.forward, run.params)

    @classmethod
    def from_run(
        cls,
        workdir: Path,
        *,
        aggregate: str = "",
        batch_size: int = 0,
        dtype: str = "",
    ) -> "Predictor":
        """The predictor of a finished run, computing in `dtype` if given.

        Raises UserError for a folder that holds none, or a damaged one.
        """
        require_finished(workdir)
        run = load_run(workdir, flag="--workdir", dtype=dtype)
        return cls(run, aggregate=aggregate, batch_size=batch_size)

    def __call__(self, rows: Rows) -> np.ndarray:
        """Class probabilities [n, C]; the classes' names are `run.class_names`."""
        return self.outputs(rows).probabilities

    def logits(self, rows: Rows) -> np.ndarray:
        """Pseudo-class logits [n, K], with the run's post-hoc adjustment if it has one."""
        return self.outputs(rows).logits

    def outputs(self, rows: Rows) -> Outputs:
        return self.start(rows)()

    def start(self, rows: Rows) -> Callable[[], Outputs]:
        """Begin with the rows; the function that is returned waits for what comes of them."""
        if not len(rows):
            raise ValueError("there are no rows")
        inputs = self.word_pieces(np.array(rows)) if self.word_pieces else self._images(rows)
        lengths = inputs.lengths if isinstance(inputs, Tokens) else np.zeros(len(inputs), int)
        order = in_batches(np.argsort(lengths, kind="stable"), self.batch_size)
        started = [self._forward(self._batch(inputs, batch)) for batch in order]

        def finish() -> Outputs:
            found = [np.concatenate([np.asarray(batch) for batch in part]) for part in zip(*started, strict=True)]
            places = np.argsort(order.ravel()[: len(rows)])
            return Outputs(*(of_rows[places] for of_rows in found))

        return finish

    def forward(self, params, batch) -> Outputs:
        """What the network makes of uint8 images [B, S, S, 3] or of Tokens, to be traced."""
        config, regrouping = self.run.config, self.run.regrouping
        model = nnx.merge(self.run.graph, *params, copy=True)
        features = model.features(unpacked(batch) if isinstance(batch, Tokens) else prepare_images(batch))
        logits = scale_logits(config.loss, self._stats, model.head(features)[:, : regrouping.num_pseudo_classes])
        classes = aggregate(logits, regrouping.parent, self.aggregate)
        return Outputs(jax.nn.softmax(classes), logits, features)  # type: ignore[arg-type]  # traced arrays

    def _images(self, rows) -> np.ndarray:
        images, size = np.asarray(rows), self.run.config.data.image_size
        if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise ValueError(f"these are {images.dtype} {images.shape}, not uint8 images (n, {size}, {size}, 3)")
        return images

    def _batch(self, inputs: np.ndarray | Tokens, rows: np.ndarray):
        if not isinstance(inputs, Tokens):
            return inputs[rows]
        ids, lengths = inputs.ids[rows], inputs.lengths[rows]
        width = _SHORTEST
        while width < lengths.max():
            width *= 2
        width = min(width, self.run.config.data.max_length)
        ids = ids[:, :width]
        return Tokens(np.pad(ids, ((0, 0), (0, width - ids.shape[1]))), lengths)


def _rows_per_device(run: FinishedRun) -> int:
    if jax.default_backend() != "cpu":
        return _ON_ACCELERATORS
    return _SENTENCES if run.kind == "sentences" else max(8, min(128, _PIXELS // run.config.data.image_size**2))


def require_finished(workdir: Path) -> None:
    """Raise UserError, with the way out, where a folder holds no finished run."""
    if not workdir.is_dir():
        raise UserError(f"--workdir: there is no folder {workdir}")
    if (workdir / "result.json").exists():
        return
    if seeds := sorted(path.parent for path in workdir.glob("seed-*/config.json")):
        raise UserError(f"{workdir} holds the runs of {len(seeds)} seeds: give one of them, such as {seeds[0]}")
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds no run: give the --workdir of a finished one")
    raise UserError(
        f"the run in {workdir} is not finished: python -m rgjax.main with its --config and --workdir={workdir} goes on "
        "with it"
    )
