"""Sentences a second of BERT features: length buckets against batches all padded to the cut, side by side.

    uv run python tests/bench/encode_text.py --checkpoint=FOLDER --sentences=FILE

FILE has a sentence in each line; sentences are cut at 64 tokens. Each round compiles both anew.
"""

import argparse
import time

import jax
import numpy as np
from flax import nnx

from rgjax.encoders.text import encode_tokens
from rgjax.models.bert import Bert, bert_config
from rgjax.models.packing import mean_tokens, pack
from rgjax.models.pretrained import Checkpoint
from rgjax.models.tokenizer import Tokens, tokenize

CUT, BATCH = 64, 32


def padded_loop(forward, params, tokens):
    """What one would write first: batches in the given order, all of CUT tokens, one compiled program."""
    step = jax.jit(lambda params, ids, lengths: forward(params, pack(ids, lengths, BATCH * CUT)))
    ids = np.zeros((len(tokens.ids), CUT), np.int32)
    ids[:, : tokens.ids.shape[1]] = tokens.ids
    found = [
        np.asarray(step(params, ids[rows], tokens.lengths[rows]))
        for rows in np.arange(len(ids) // BATCH * BATCH).reshape(-1, BATCH)
    ]
    return np.concatenate(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    checkpoint = Checkpoint(arguments.checkpoint, ways_out="another folder")
    config = bert_config(checkpoint)
    with open(arguments.sentences, encoding="utf-8-sig") as file:
        tokens = tokenize(checkpoint, config, np.array(file.read().splitlines()), CUT)
    count = len(tokens.ids) // BATCH * BATCH
    tokens = Tokens(tokens.ids[:count], tokens.lengths[:count])
    graph, params = nnx.split(Bert(checkpoint.tensors(), config))

    def forward(params, packed):
        return mean_tokens(nnx.merge(graph, params)(packed), packed)

    ways = {
        "padded": lambda: padded_loop(forward, params, tokens),
        "buckets": lambda: encode_tokens(forward, params, tokens),
    }
    print(f"{count} sentences, mean {tokens.lengths.mean():.1f} tokens; {jax.devices()}, float32")
    features = {name: way() for name, way in ways.items()}  # the first round loads and compiles
    print(f"largest difference of a feature: {np.abs(features['padded'] - features['buckets']).max():.1e}")
    seconds = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        rates = sorted(count / np.array(times))
        print(
            f"{name:>8}: {np.median(rates):7.0f} sentences/s, {rates[0]:.0f} to {rates[-1]:.0f} in {len(rates)} rounds"
        )
    ratios = sorted(np.array(seconds["padded"]) / np.array(seconds["buckets"]))
    print(f"   ratio: {np.median(ratios):7.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
