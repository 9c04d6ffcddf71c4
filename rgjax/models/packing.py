"""Batches of sentences without padding: their tokens stand in one row, and only attention sees the sentences.

Half of the places of a padded batch of news sentences are padding, and every layer but attention works on each token
for itself: packed, a training step of MiniLM-L6 takes 0.6 s instead of 1.0 s (batch 32 of 64, two CPU cores).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgjax.models.tokenizer import Tokens


class Packed(NamedTuple):
    """A batch of B sentences of up to T tokens as one row of P tokens: `ids` [P] and `positions` [P] of the tokens,
    `slots` [B, T] the place of each in the row, `places` [P] its place in the flat [B * T]. Places out of range
    stand for padding, at either side. `lengths` [B] int32, all at least 1."""

    ids: jax.Array
    positions: jax.Array
    slots: jax.Array
    places: jax.Array
    lengths: jax.Array


def pack(ids: jax.Array | np.ndarray, lengths: jax.Array | np.ndarray, budget: int) -> Packed:
    """Pack right-padded sentences `ids` [B, T] with `lengths` [B] into `budget` tokens; they must not have more."""
    ids, lengths = jnp.asarray(ids), jnp.asarray(lengths)
    batch, longest = ids.shape
    ends = jnp.cumsum(lengths)
    within = jnp.arange(longest, dtype=jnp.int32)[None]
    slots = jnp.where(within < lengths[:, None], (ends - lengths)[:, None] + within, budget)
    token = jnp.arange(budget, dtype=jnp.int32)
    sentence = jnp.minimum(jnp.searchsorted(ends, token, side="right").astype(jnp.int32), batch - 1)
    positions = jnp.minimum(token - (ends - lengths)[sentence], longest - 1)
    places = jnp.where(token < ends[-1], sentence * longest + positions, batch * longest)
    return Packed(gather_rows(ids.reshape(-1), places), positions, slots, places, lengths)


def unpacked(tokens: Tokens) -> Packed:
    """A batch of padded sentences as a row that holds their padding too: for any B and T, known or not."""
    ids, lengths = jnp.asarray(tokens.ids), jnp.asarray(tokens.lengths)
    batch, longest = ids.shape
    places = jnp.arange(batch * longest, dtype=jnp.int32)
    return Packed(ids.reshape(-1), places % longest, places.reshape(batch, longest), places, lengths)


def prepare_tokens(tokens: Tokens, keys=None, *, budget: int) -> Packed:
    """The network's input from a batch of padded sentences. Text is not augmented: the keys are not used."""
    return pack(tokens.ids, tokens.lengths, budget)


def gather_rows(x: jax.Array, places: jax.Array) -> jax.Array:
    """`x[places]` for x [N, ...], zero where a place is out of range."""
    return x.at[places].get(mode="fill", fill_value=0)


def first_tokens(hidden: jax.Array, packed: Packed) -> jax.Array:
    """Hidden states [B, D] of each sentence's first token, [CLS]."""
    return hidden[packed.slots[:, 0]]


def mean_tokens(hidden: jax.Array, packed: Packed) -> jax.Array:
    """Mean hidden state [B, D] of each sentence's tokens, [CLS] and [SEP] included, in float32."""
    sentences = gather_rows(hidden, packed.slots).astype(jnp.float32)
    return sentences.sum(axis=1) / packed.lengths[:, None].astype(jnp.float32)
