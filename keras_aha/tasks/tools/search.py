"""`Search`: finds passages of a corpus by the words of a query, by BM25."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from keras_aha.files import whole_folder
from keras_aha.tasks.tools.passages import Passage, read_passages
from keras_aha.tasks.tools.tool import Tool

NOTHING_FOUND = "nothing found"
TOO_COMMON = frozenset("a an and are as at be but by for if in into is it no not of on or such that the their".split())
TOO_COMMON |= frozenset("then there these they this to was will with".split())  # Lucene's list
_WORD = re.compile(r"\w+")
_SMALL = 2000  # passages, which are indexed sooner than a file is opened
_LONGEST_QUERY = 1000  # characters; what follows is not looked for


class Search(Tool):
    """A search over a corpus, by BM25 (Robertson et al., 1994) as the package bm25s computes it, extra `search`.

    A result is a line, `[id] title: text`, best first, equal ones in the order of the corpus; `nothing found` if no
    passage has a word of the query. Words of the title count twice. The index of a large corpus is kept in
    `~/.cache/keras-aha/search` under a checksum of the corpus.

    Args:
        corpus: a folder of texts, a file of rows, or passages, see `read_passages`.
        name: as a call writes it.
        results: how many passages are shown at most.
        snippet_length: how many characters of each, around words of the query.

    Raises:
        ValueError: if an argument is out of range, the corpus cannot be read, or bm25s is not installed.
    """

    description = "Finds passages by words."
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}

    def __init__(
        self,
        corpus: str | PathLike | Sequence[Passage],
        *,
        name: str = "search",
        results: int = 3,
        snippet_length: int = 300,
    ):
        if not all(isinstance(number, int) and number >= 1 for number in (results, snippet_length)):
            raise ValueError(
                "`results` and `snippet_length` must be 1 or more. "
                f"Received: results={results!r}, snippet_length={snippet_length!r}"
            )
        self.name = name
        self.results = results
        self.snippet_length = snippet_length
        self.passages = read_passages(corpus)
        self._bm25s = _import_bm25s()
        self._index = _open_index(self._bm25s, self.passages)

    def call(self, problem: Any, query: str) -> str:
        words = [*dict.fromkeys(word for word in _words(query[:_LONGEST_QUERY]) if word in self._index.vocab_dict)]
        if not words:
            return NOTHING_FOUND
        scores = self._index.get_scores(words)
        last = (-scores).argpartition(worst := min(self.results, len(scores)) - 1)[worst]
        found = (scores >= scores[last]).nonzero()[0]  # no other can be among the best
        best = found[(-scores[found]).argsort(kind="stable")][: self.results]
        return "\n".join(self._line(self.passages[i], set(words)) for i in best if scores[i] > 0)

    def _line(self, passage: Passage, words: set[str]) -> str:
        title, text = " ".join(passage.title.split()), " ".join(passage.text.split())
        hits = [hit.start() for hit in _WORD.finditer(text) if hit[0].casefold() in words][:100]
        length = self.snippet_length
        start = max(hits, key=lambda at: sum(at <= hit < at + length for hit in hits), default=0)
        start = min(start, max(len(text) - length, 0)) if hits and hits[-1] >= length else 0
        snippet = "…" * (start > 0) + text[start : start + length] + "…" * (start + length < len(text))
        return f"[{passage.id}] {title}: {snippet}" if title else f"[{passage.id}] {snippet}"


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.casefold()) if word not in TOO_COMMON]


# === The index ===


def _import_bm25s():
    """bm25s without JAX, with which it would run a program as it is imported, before devices are chosen."""
    if bm25s := sys.modules.get("bm25s"):
        return bm25s
    jax = sys.modules.get("jax")
    sys.modules["jax"] = None
    try:
        import bm25s
    except ImportError as error:
        raise ValueError(f'bm25s is not installed: pip install "keras-aha[search]". Received: {error}') from error
    finally:
        del sys.modules["jax"]
        if jax is not None:
            sys.modules["jax"] = jax
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG
    return bm25s


def _open_index(bm25s, passages: Sequence[Passage]):
    """The index of `passages`, from the user's cache if it is there and whole; else it is built, and kept."""
    import tqdm.auto

    folder = _cache_folder(f"{bm25s.__version__}{sorted(TOO_COMMON)}", passages) if len(passages) > _SMALL else None
    with contextlib.suppress(Exception):  # whatever a broken file makes of it
        index = folder and bm25s.BM25.load(folder, show_progress=False)
        if index and index.scores["num_docs"] == len(passages) > index.scores["indices"].max():
            return index
    index = bm25s.BM25(backend="numpy")
    visible = len(passages) > _SMALL and sys.stderr.isatty()
    bar = tqdm.auto.tqdm(passages, "Words of passages", leave=False, disable=not visible)
    words = [_words(f"{passage.title} {passage.title} {passage.text}") or [""] for passage in bar]
    index.index(words, show_progress=visible)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError), whole_folder(folder) as part:  # another process may write it meanwhile
            index.save(part, show_progress=False)
    return index


def _cache_folder(version: str, passages: Sequence[Passage]) -> Path | None:
    """The folder of an index, by the checksum of what it is made of; `None` without a home."""
    checksum = hashlib.sha256(version.encode())
    for passage in passages:
        checksum.update(json.dumps(passage).encode())
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return cache / "keras-aha" / "search" / checksum.hexdigest()
