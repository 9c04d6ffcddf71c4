"""Training programs as preflight lowers them, on random inputs: speed, share of the prediction, equal bits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.command import load_file
from rgjax.config import Config
from rgjax.models.tokenizer import Tokens
from rgjax.preflight.estimate import estimate
from rgjax.preflight.flops import step_flops
from rgjax.preflight.program import lowered_program, spec_task
from rgjax.preflight.targets import CARDS, Target
from rgjax.sharding import stack
from rgjax.training.setup import make_augmentation, make_hyper, make_schedule
from tests.accelerator.figures import Figures, speed

CONFIGS = Path(__file__).parents[2] / "configs"
MEMORY = 2**50  # all inputs lie on the device
TINY_IMAGES = {"model.name": "resnet10", "model.width": 8, "data.image_size": 16, "train.batch_size": 8}
TINY_TEXT = {
    "model.checkpoint": str(Path(__file__).parents[1] / "models" / "checkpoints" / "bert"),
    "train.batch_size": 2,
    "data.max_length": 16,
}


def resnet224(figures: Figures) -> None:
    measure(figures, "ham10000:rg, batch 256", read("ham10000", figures, {"train.batch_size": 256}, TINY_IMAGES))


def resnet32(figures: Figures) -> None:
    for stem in ("imagenet", "cifar"):
        changes = {"model.stem": stem, "train.batch_size": 256}
        measure(
            figures,
            f"cifar100_binary:rg, {stem} stem, batch 256",
            read("cifar100_binary", figures, changes, TINY_IMAGES),
        )


def bert(figures: Figures) -> None:
    for batch in (32, 128):
        config = read("phrasebank", figures, {"train.batch_size": batch}, TINY_TEXT)
        measure(figures, f"phrasebank:rg, batch {batch}", config)


def population(figures: Figures) -> None:
    for trials in (1, 8):
        changes = {"model.stem": "imagenet", "train.batch_size": 256, "population": trials}
        tiny = TINY_IMAGES | {"population": min(trials, 2)}
        measure(
            figures,
            f"cifar100_binary:rg, {trials} trials as one program",
            read("cifar100_binary", figures, changes, tiny),
        )
    one, several = (figures.get(f"cifar100_binary:rg, {trials} trials as one program") for trials in (1, 8))
    figures.add("population", gain=several["examples_per_s"] / one["examples_per_s"])


def read(name: str, figures: Figures, changes: dict[str, Any], tiny: dict[str, Any]) -> Config:
    """A config file with some changes, `tiny` after the others if the smallest sizes are asked for."""
    config = load_file(str(CONFIGS / f"{name}.py")).get_config("rg")
    config.update_from_flattened_dict(changes | (tiny if figures.tiny else {}))
    return config


def measure(figures: Figures, case: str, config: Config) -> None:
    """Speed of a config's program, its share of preflight's prediction, and whether it repeats its bits."""
    program = TrainingProgram(config)
    figures.add(case, **speed(program, config.population * config.train.batch_size, tiny=figures.tiny))
    seconds, card = figures.get(case)["step_ms"] / 1000, card_here()
    if card:
        target = Target(card.title, card, 1)
        predicted = estimate(config, target, jax.devices()[:1]).predicted_step_s
        peak = sum(n / (card.float32 if dtype == "float32" else card.bfloat16) for dtype, n in program.flops.items())
        figures.add(case, mfu=peak / seconds, predicted_step_ms=1000 * predicted, of_prediction=predicted / seconds)
    figures.add(case, same_bits=program.repeats(2 if figures.tiny else 20))


def card_here() -> Any:
    """The card of this machine among those that preflight knows."""
    kind = jax.devices()[0].device_kind
    return next((card for card in CARDS.values() if card.title.startswith(kind)), None)


class TrainingProgram:
    """The compiled program of a config with a state and inputs; call it to train for some steps."""

    def __init__(self, config: Config):
        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        task = spec_task(config)
        traced, lowered = lowered_program(config, task, jax.devices()[:1], platform, MEMORY)
        self.flops = step_flops(traced.jaxpr.jaxpr, platform, 1)
        self._compiled = lowered.compile()

        # What the program is called with: of state and inputs, preflight knows the shapes alone.
        (state, _, data, _, _), _ = lowered.args_info
        rng = np.random.default_rng(0)
        self._state = jax.tree.map(np.zeros_like, jax.tree.map(_blank, state))
        self._state = self._state.replace(
            params=jax.tree.map(lambda x: 0.02 * rng.standard_normal(x.shape, np.float32), self._state.params),
            alive=np.ones_like(self._state.alive),
        )
        inputs = jax.tree.map(lambda x: rng.integers(0, 50, x.shape, x.dtype), data.inputs)
        if isinstance(task.inputs, Tokens):
            inputs = Tokens(inputs.ids, np.resize(task.inputs.lengths, inputs.lengths.shape))
        schedule, trials = make_schedule(config, task.examples_per_epoch(config)), range(config.population)
        [augmentation] = make_augmentation([config], task)
        hyper = make_hyper(config, schedule, task.class_stats(config.loss), augmentation)
        examples = [np.asarray(part) for part in task.examples]
        data = jax.device_put(
            data._replace(inputs=inputs, **dict(zip(("indices", "labels", "pool"), examples, strict=True)))
        )
        key = jnp.stack([jax.random.key(trial) for trial in trials])
        self._rest = data, jax.device_put(stack([hyper for _ in trials])), key
        self._reset()

    def __call__(self, steps: int) -> None:
        self._trained, totals = self._compiled(self._trained, jnp.int32(steps), *self._rest)
        if not np.isfinite(np.asarray(totals.loss)).all():
            raise ValueError("the loss is not finite")

    def repeats(self, steps: int) -> bool:
        """Whether two trainings from the same state end with the same bits."""
        ends = []
        for _ in range(2):
            self._reset()
            self(steps)
            ends.append([np.asarray(leaf) for leaf in jax.tree.leaves((self._trained.params, self._trained.opt_state))])
        return all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))

    def _reset(self) -> None:
        self._trained = jax.device_put(self._state)


def _blank(info: Any) -> np.ndarray:
    return np.zeros(info.shape, info.dtype)
