"""Numbers that are the same in every process and on every machine: for seeds, and for what is held out."""

from hashlib import blake2b

_HELD_OUT_SHARE = 4  # one puzzle in this many is never trained on


def stable_hash(*parts) -> int:
    """64 bits that depend on `repr(parts)` alone; Python's own `hash` of text changes from process to process."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def is_held_out(*canonical) -> bool:
    """Whether a puzzle belongs to the quarter that is never trained on, whatever the seed.

    A quarter and not less: Countdown with three numbers up to 20 has 4,000 such puzzles, with an eighth only 2,000.

    Args:
        *canonical: what makes two problems the same puzzle.
    """
    return stable_hash("held-out", *canonical) % _HELD_OUT_SHARE == 0
