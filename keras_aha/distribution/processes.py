"""Several processes that train one policy, one a host of a TPU slice: what is whose, and what all of them have made."""

import contextlib
import io
import json

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this is the process that prints, and writes files."""
    return jax.process_index() == 0


def share(count: int) -> slice:
    """Which of `count` things are this process's: adjacent ones, as many as the others' or one more."""
    each, more = divmod(count, jax.process_count())
    first = jax.process_index() * each + min(jax.process_index(), more)
    return slice(first, first + each + (jax.process_index() < more))


def any_of(flag: bool) -> bool:
    """Whether it is so in any process; all of them must call it, as it waits for them."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.int32(flag)).any())


@contextlib.contextmanager
def together():
    """What fails in one process fails in all of them, with its sentence: ValueError or OSError. All must enter it."""
    failure = None
    try:
        yield
    except (ValueError, OSError) as error:
        failure = error
    sentences = gather_records([] if failure is None else [str(failure)])
    if failure is not None:
        raise failure
    if sentences:
        raise ValueError(sentences[0])


def gather_rows(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all processes, in their order and of any numbers, of each array. All of them must call it."""
    if jax.process_count() == 1:
        return arrays
    file = io.BytesIO()
    np.savez(file, **arrays)
    parts = [np.load(io.BytesIO(part), allow_pickle=False) for part in _gather(file.getvalue())]
    return {name: np.concatenate([part[name] for part in parts]) for name in arrays}


def gather_records(records: list) -> list:
    """The same of a list of what JSON can hold."""
    if jax.process_count() == 1:
        return records
    return [record for part in _gather(json.dumps(records).encode()) for record in json.loads(part)]


def _gather(message: bytes) -> list[bytes]:
    lengths = multihost_utils.process_allgather(np.int32(len(message)))
    padded = np.zeros(lengths.max(), "uint8")
    padded[: len(message)] = np.frombuffer(message, "uint8")
    parts = multihost_utils.process_allgather(padded)
    return [part[:length].tobytes() for part, length in zip(parts, lengths, strict=True)]
