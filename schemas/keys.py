"""Keys: the addresses of random numbers.

A key is 64 bits. ``fold`` derives the key of a sub-stream (a stage, a layer, a round) by hashing,
so that streams do not overlap and no state is kept. The numbers below one key are addressed by
global sample row, unit and draw: see ``deepstrata.ops.random``.
"""

from hashlib import blake2b
from operator import index
from typing import NamedTuple


class Key(NamedTuple):
    """The address of a stream of random numbers: 64 bits."""

    seed: int


def fold(key: Key, *path: int | str) -> Key:
    """Return the key of a sub-stream: ``fold(key, "pretrain", layer, round)``."""
    # NumPy's integers and strings have another repr than Python's, and must not have another key.
    plain = tuple(str(p) if isinstance(p, str) else int(index(p)) for p in path)
    digest = blake2b(repr((int(key.seed), plain)).encode(), digest_size=8).digest()
    return Key(int.from_bytes(digest, "little"))
