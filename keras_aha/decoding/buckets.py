"""Buckets: the few shapes that programs are compiled for, numbers of rows and lengths of the cache."""

import math
from typing import NamedTuple

_SHRINK = 4  # each number of rows is a quarter of the one before
_FEWEST_ROWS = 4
_NEW_TOKENS = 64  # a cache grows by at least so many
_CACHE_LENGTHS = 4  # for all rows; half as many for each smaller number of rows, whose caches cost less


class Bucket(NamedTuple):
    """Room for `rows` rows of up to `new_tokens` tokens after the prompt."""

    rows: int
    new_tokens: int


def all_buckets(rows: int, max_completion_length: int) -> list[Bucket]:
    """Every bucket that `rows` completions of up to `max_completion_length` tokens may pass through."""
    buckets, lengths = [], _CACHE_LENGTHS
    while rows:
        steps = max(1, min(lengths, max_completion_length // _NEW_TOKENS))
        buckets += [Bucket(rows, math.ceil(max_completion_length * step / steps)) for step in range(1, steps + 1)]
        rows, lengths = next_rows(rows), lengths // 2
    return buckets


def next_rows(rows: int) -> int:
    """The next smaller number of rows; 0 if there is none."""
    fewer = math.ceil(rows / _SHRINK)
    return fewer if _FEWEST_ROWS <= fewer < rows else 0


def smallest(buckets: list[Bucket], rows: int, new_tokens: int) -> Bucket:
    """The bucket with the fewest rows, and then the shortest cache, that holds `rows` rows of `new_tokens` tokens."""
    return min(bucket for bucket in buckets if bucket.rows >= rows and bucket.new_tokens >= new_tokens)
