"""Damage the files of runs at random, and check that no wrong number is ever read.

    uv run python -m tests.damage --faults=1000 --seed=0

Each fault flips a bit of a file, truncates it, zeroes it or removes it: a cached array, a file of a checkpoint, a file
of a finished run or its manifest, a data set's prepared records. A fault is harmless or noticed; a noticed one makes
the reader use an older checkpoint or recompute. The exit code is 1 if any number read differs from the one written.
"""

import argparse
import logging
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rgjax.storage import manifest
from rgjax.storage.files import read_npz, write_json, write_npz
from rgjax.training.checkpoints import Checkpoints
from rgjax.training.program import TrainState

ARRAYS = {"a": np.arange(100, dtype=np.int32), "names": np.array(["x", "yyy"]), "none": np.zeros((0, 3))}
RESULT = {"test": {"ba": 0.5}, "seed": 0}
RECORDS = [bytes([i]) * 200 for i in range(30)]


def cause(path: Path, rng: random.Random) -> None:
    """One fault in a file."""
    content = bytearray(path.read_bytes())
    match rng.choice(["flip", "flip", "cut", "blank", "gone"]):
        case "flip" if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        case "cut" if content:
            path.write_bytes(content[: rng.randrange(len(content))])
        case "blank":
            path.write_bytes(bytes(len(content)))
        case _:
            path.unlink()


def state(step: int) -> TrainState:
    return TrainState({"w": jnp.full((3, 50), step / 3)}, {"mean": jnp.ones(2)}, (jnp.zeros(3),), jnp.int32(step))


def equal(one: Any, other: Any) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in leaves)


# For each kind of file: how it is written, and how a read after a fault turns out.
def write_arrays(folder: Path) -> None:
    write_npz(folder / "a.npz", **ARRAYS)


def read_arrays(folder: Path) -> str:
    arrays = read_npz(folder / "a.npz")
    if arrays is None:
        return "noticed"
    return "harmless" if arrays.keys() == ARRAYS.keys() and equal(arrays, ARRAYS) else "WRONG"


def write_checkpoints(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(state(step), 1.5 * step)
    checkpoints.close()


def read_checkpoints(folder: Path) -> str:
    checkpoints = Checkpoints(folder)
    restored, seconds, _ = checkpoints.restore(state(0))
    checkpoints.close()
    step = int(restored.step)
    if not equal(restored, state(step)) or seconds != 1.5 * step or step == 0:
        return "WRONG"
    return "harmless" if step == 2 else "noticed"


def write_run(folder: Path) -> None:
    write_json(folder / "result.json", RESULT)
    write_npz(folder / "predictions.npz", **ARRAYS)
    manifest.write(folder, ["result.json", "predictions.npz"])


def read_run(folder: Path) -> str:
    if not manifest.finished(folder):
        return "noticed"
    arrays = read_npz(folder / "predictions.npz")
    return "harmless" if manifest.result(folder) == RESULT and arrays and equal(arrays, ARRAYS) else "WRONG"


def write_records(folder: Path) -> None:
    writer = array_record_module.ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for record in RECORDS:
        writer.write(record)
    writer.close()


def read_records(folder: Path) -> str:
    try:
        reader = array_record_module.ArrayRecordReader(str(folder / "a.array_record"))
        records = list(reader.read_all())
    except Exception:  # rgjax.data prepares them again
        return "noticed"
    return "harmless" if records == RECORDS else "WRONG"


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], str]]] = {
    "cached arrays": (write_arrays, read_arrays),
    "checkpoint": (write_checkpoints, read_checkpoints),
    "finished run": (write_run, read_run),
    "records": (write_records, read_records),
}


def damage(folder: Path, faults: int, seed: int) -> Counter:
    """Counts of (kind, outcome); every kind gets the same number of faults."""
    rng, outcomes = random.Random(seed), Counter()
    for kind, (write, read) in KINDS.items():
        sound = folder / kind
        sound.mkdir()
        write(sound)
        # Only the newest checkpoint: the older one is the fallback.
        part = sound / "2" if kind == "checkpoint" else sound
        files = sorted(path.relative_to(sound) for path in part.rglob("*") if path.is_file())
        for _ in range(faults // len(KINDS)):
            place = folder / "damaged"
            shutil.copytree(sound, place)
            cause(place / rng.choice(files), rng)
            outcomes[kind, read(place)] += 1
            shutil.rmtree(place)
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.disable()  # a warning for each fault
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        outcomes = damage(Path(name), asked.faults, asked.seed)
    for kind in KINDS:
        print(f"{kind:<16}" + "".join(f"{outcomes[kind, what]:>7} {what}" for what in ("noticed", "harmless", "WRONG")))
    print(f"{time.monotonic() - begun:.0f} s")
    raise SystemExit(any(what == "WRONG" for _, what in outcomes))
