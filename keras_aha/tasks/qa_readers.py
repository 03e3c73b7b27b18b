"""`Question`, and `read_questions`, which reads them from our own rows and from the files of public benchmarks."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from urllib.parse import unquote

from keras_aha.files import local_path, read_text
from keras_aha.names import suggestion
from keras_aha.tasks.rows_file import read_rows
from keras_aha.tasks.tools.passages import Passage, clean_id

_NOT_KNOWN = "i don't know"  # as CRAG says it


@dataclass(frozen=True)
class Question:
    """What is asked, and what is right.

    Attributes:
        text: the question.
        answers: each of them is right; `()` if the corpus has no answer.
        supports: ids, files or titles of the passages from which it is answered, if they are known.
        category: by which held-out results are grouped; `None` if questions have none.
    """

    text: str
    answers: tuple[str, ...]
    supports: tuple[str, ...] = field(default=(), repr=False)
    category: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def canonical(self) -> tuple[str, str]:
        """What makes two questions the same puzzle."""
        return "question", " ".join(self.text.split())


def read_questions(
    files: str | PathLike | Sequence[str | PathLike], key: str, form: str
) -> tuple[list[Question], dict[str, Passage]]:
    """Reads questions, and the passages that stand beside them, by id; ValueError names the first wrong row.

    Args:
        files: see `read_rows`; LegalBench-RAG is one JSON file.
        key: the argument's name, as errors show it.
        form: `"rows"`, whose columns are `question`, `answers`, and `supports`, `category` if you like; or that of
            `"natural_questions"` (NQ-open), `"hotpotqa"`, `"frames"`, `"legalbench_rag"`, `"crag"`.
    """
    if form not in _FORMS:
        near = suggestion(form, _FORMS)
        raise ValueError(f"`form` must be one of {', '.join(_FORMS)}{near}. Received: form={form!r}")
    needed, optional, read = _FORMS[form]
    if form == "legalbench_rag":
        return list(_legalbench_rag(files, key)), {}
    table, questions, passages = read_rows(files, key, needed, optional), [], {}
    for index, row in enumerate(table):
        try:
            questions.append(read(row))
            passages |= {passage.id: passage for passage in _context(row)} if form == "hotpotqa" else {}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{table.place(index)} is no row of the form {form}: {error!r}") from error
    return questions, passages


def _rows(row) -> Question:
    return Question(row["question"], _several(row["answers"]), _several(row["supports"]), row["category"])


def _natural_questions(row) -> Question:
    return Question(row["question"], _several(row["answer"]))


def _hotpotqa(row) -> Question:
    facts = json.loads(row["supporting_facts"] or "[]")  # pairs, or lists beside each other in Parquet
    titles = facts["title"] if isinstance(facts, dict) else [title for title, _ in facts]
    return Question(row["question"], (row["answer"],), tuple(dict.fromkeys(titles)), row["type"])


def _context(row) -> Iterator[Passage]:
    context = json.loads(row["context"])
    for title, sentences in zip(*context.values(), strict=True) if isinstance(context, dict) else context:
        yield Passage(clean_id(title), " ".join(sentence.strip() for sentence in sentences), title)


def _frames(row) -> Question:
    pages = re.findall(r"/wiki/(.+?)(?:[#?].*?)?(?=['\"]?(?:,\s|\]|$))", row["wiki_links"] or "")
    titles = tuple(unquote(page).replace("_", " ") for page in pages)
    return Question(row["Prompt"], (row["Answer"],), titles, row["reasoning_types"])


def _crag(row) -> Question:
    answers = tuple(dict.fromkeys([row["answer"], *_several(row["alt_ans"])]))
    return Question(row["query"], () if row["answer"].lower() == _NOT_KNOWN else answers, (), row["question_type"])


def _legalbench_rag(file, key: str) -> Iterator[Question]:
    try:
        for test in json.loads(read_text(local_path(file, key)))["tests"]:
            answers = tuple(snippet["answer"] for snippet in test["snippets"])
            files = tuple(dict.fromkeys(snippet["file_path"] for snippet in test["snippets"]))
            yield Question(test["query"], answers, files, files[0].partition("/")[0] if files else None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"`{key}` must be of LegalBench-RAG: {error!r}. Received: {key}={str(file)!r}") from error


def _several(text: str | None) -> tuple[str, ...]:
    """The texts of a cell: a list of them, as JSON, or one."""
    texts = json.loads(text) if text and text.startswith("[") else [text]
    return tuple(str(text) for text in texts if text not in ("", None))


_FORMS = {
    "rows": (("question", "answers"), ("supports", "category"), _rows),
    "natural_questions": (("question", "answer"), (), _natural_questions),
    "hotpotqa": (("question", "answer", "context"), ("supporting_facts", "type"), _hotpotqa),
    "frames": (("Prompt", "Answer"), ("wiki_links", "reasoning_types"), _frames),
    "legalbench_rag": ((), (), None),
    "crag": (("query", "answer"), ("alt_ans", "question_type"), _crag),
}
