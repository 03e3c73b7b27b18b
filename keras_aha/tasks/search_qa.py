"""`SearchQA`: questions that a policy answers after it has searched a corpus, also known as agentic RAG."""

import operator
import re
from collections.abc import Sequence
from os import PathLike
from typing import Any

from keras_aha.tasks.answer_match import answer_words, exact_match, f1, holds
from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import split_rows
from keras_aha.tasks.qa_readers import Question, read_questions
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.template import named_templates, resolve_template
from keras_aha.tasks.tools.passages import Passage, clean_id
from keras_aha.tasks.tools.search import Search
from keras_aha.tasks.turn import Observation, Turn

_CITATION = re.compile(r"\[([^\[\]\n]+)\]")
_RESULT = re.compile(rf"^{_CITATION.pattern} ", re.MULTILINE)


class SearchQA(Task):
    """Questions with a `Search` over the corpus that answers them; a quarter is held out, or a file of its own is.

    A policy ends a turn with `<search>words</search>`, reads passages in `<result> </result>`, and at last answers in
    `<answer> </answer>`. The reward lies in [0, 1]: (points + `wrong_penalty`) / (1 + `wrong_penalty`), less costs.
    Points are 1 for a right answer, 0 for one that is not known, and −`wrong_penalty` for a wrong one.

    Args:
        file: the questions: a path, or several, see `read_questions`; or the questions themselves.
        corpus: what is searched, see `read_passages`. The form `"hotpotqa"` brings its own.
        held_out_file: another file, all of whose questions are held out.
        form: of the files: `"rows"`, `"natural_questions"`, `"hotpotqa"`, `"frames"`, `"legalbench_rag"` or `"crag"`.
        closed_book: whether the policy must answer without the search; a baseline.
        metric: `"em"`, exact match, or `"f1"`, for which a wrong answer earns its F1. The best of a question's answers
            counts.
        results, snippet_length: of a search, see `Search`.
        max_searches: in a completion.
        search_cost: is taken away for every search after the free ones.
        free_searches: how many cost nothing.
        wrong_penalty: how much worse a wrong answer is than none; 1 is CRAG's rule, by which an answer that is not
            known earns a half. If the corpus has no answer, it is the right one.
        unknown: the words of an answer that is not known.
        citation_reward: the part of the reward that citations earn, `[id]` of passages inside the answer: the share of
            those cited that hold an answer, or are among the question's `supports`.
        search_tag, result_tag: the names of the tags.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the field `{question}`.
        seed: any integer; it changes the order of the questions, never which are held out.

    Raises:
        ValueError: if an argument is out of range, a file not readable, or no question left to train on.
    """

    def __init__(
        self,
        file: str | PathLike | Sequence[str | PathLike] | Sequence[Question],
        corpus: str | PathLike | Sequence[Passage] | None = None,
        held_out_file: str | PathLike | Sequence[str | PathLike] | None = None,
        form: str = "rows",
        *,
        closed_book: bool = False,
        metric: str = "em",
        results: int = 3,
        snippet_length: int = 300,
        max_searches: int = 4,
        search_cost: float = 0.0,
        free_searches: int = 2,
        wrong_penalty: float = 0.0,
        unknown: str = "I don't know",
        citation_reward: float = 0.0,
        search_tag: str = "search",
        result_tag: str = "result",
        template: str = "plain",
        seed: int = 0,
    ):
        numbers = dict(max_searches=max_searches - 1, free_searches=free_searches, search_cost=search_cost)
        numbers |= dict(wrong_penalty=wrong_penalty, citation_reward=citation_reward, rest=1 - citation_reward)
        if metric not in ("em", "f1") or min(numbers.values()) < 0 or not (search_tag + result_tag).isidentifier():
            raise ValueError(
                "`metric` must be em or f1, `max_searches` 1 or more, `free_searches` and costs 0 or more, "
                "`citation_reward` from 0 to 1, and tags names. Received: "
                f"metric={metric!r}, {', '.join(f'{key}={value!r}' for key, value in numbers.items())}, "
                f"search_tag={search_tag!r}, result_tag={result_tag!r}"
            )
        self.closed_book, self.metric, self.max_searches = closed_book, metric, max_searches
        self.search_cost, self.free_searches, self.wrong_penalty = search_cost, free_searches, wrong_penalty
        self.unknown, self.citation_reward, self.seed = unknown, citation_reward, seed
        self._begin, self._end = f"<{search_tag}>", f"</{search_tag}>"
        self._around = f"\n<{result_tag}>", f"</{result_tag}>\n"
        self._format_string = self._template(template)
        questions, passages = _read(file, "file", form)
        held_out = None if held_out_file is None else _read(held_out_file, "held_out_file", form)
        self._training, self._held_out = split_rows(
            questions, operator.attrgetter("canonical"), seed, held_out and held_out[0]
        )
        passages |= held_out[1] if held_out else {}
        if not self._training or not (closed_book or passages or corpus is not None):
            raise ValueError(
                "`file` must leave a question to train on, and `corpus` be given, which only the form hotpotqa "
                f"brings. Received: {len(questions)} questions, form={form!r}, corpus={corpus!r}"
            )
        self.search = None
        if not closed_book:
            corpus = [*passages.values()] if corpus is None else corpus
            self.search = Search(corpus, name=search_tag, results=results, snippet_length=snippet_length)
            self._passages = {passage.id: passage for passage in self.search.passages}

    def _template(self, template: str) -> str:
        rule = f"You may search: end with {self._begin}words{self._end}, and passages follow inside "
        rule += f"{self._around[0].strip()} {self._around[1].strip()}, each behind its [id]. "
        rule = ("" if self.closed_book else rule) + "Think inside <think> </think> tags, then give only the answer"
        rule += ", and the [id] of each passage that shows it," if self.citation_reward else ""
        rule += f" inside <answer> </answer> tags, or <answer>{self.unknown}</answer> if there is none."
        rule = "{question}\n" + rule.replace("{", "{{").replace("}", "}}")
        return resolve_template(template, named_templates(rule, compact="{question}"), {"question": "Where?"})

    def problem(self, index: int) -> Question:
        return self._training[check_index(index) % len(self._training)]

    def prompt(self, problem: Question) -> str:
        return self._format_string.format(question=problem.text)

    def held_out(self, n: int) -> HeldOut:
        return HeldOut(self, self._held_out[: max(operator.index(n), 0)]).held_out(n)

    def problem_count(self) -> int:
        return len(self._training)

    def labels(self, problem: Question) -> dict[str, int | float | str]:
        return {} if problem.category is None else {"category": problem.category}

    def reference(self, problem: Question) -> str:
        return " or ".join(problem.answers) or self.unknown

    def answer(self, completion: str) -> str | None:
        """Returns the words that are compared, without what stands in brackets."""
        return " ".join(answer_words(_CITATION.sub(" ", read_answer(completion).text or ""))) or None

    # === Turns ===

    @property
    def max_turns(self) -> int:
        return 1 if self.closed_book else self.max_searches + 1

    @property
    def turn_ends(self) -> tuple[str, ...]:
        return () if self.closed_book else (self._end,)

    def respond(self, problem: Question, turns: Sequence[Turn]) -> Observation | None:
        """Returns what a search finds, if the last turn ends with one."""
        text = turns[-1].text.rstrip()
        if self.closed_book or not text.endswith(self._end):
            return None
        _, begin, words = text.removesuffix(self._end).rpartition(self._begin)
        found = self.search.call(problem, words) if begin else f"Write {self._begin}words{self._end}."
        return Observation(found, *self._around, tool=self.search.name, is_error=not begin)

    def score(self, problem: Question, completion: str) -> Score:
        return self.score_turns(problem, [Turn(completion)])

    def score_turns(self, problem: Question, turns: Sequence[Turn]) -> Score:
        """Scores the answer of the last turn, see `SearchQA`; nothing that a passage says is an answer.

        Text after the answer takes 0.1 away, and so does a second answer tag (see `answer_tag`). Verdicts: `no_answer`,
        `correct`, `missing` (it says that it is not known, and it is), `partly_right` (by F1), `made_up` (the corpus
        has no answer), `wrong_answer`.
        """
        answer = read_answer(turns[-1].text)
        if answer.text is None:
            return Score(0.0, False, "no_answer")
        shown = {name for turn in turns if turn.observation for name in _RESULT.findall(turn.observation.text)}
        cited = shown & set(_CITATION.findall(answer.text))
        text = _CITATION.sub(lambda mark: " " if mark[1] in shown else mark[0], answer.text).strip()
        expected = problem.answers or (self.unknown,)
        if any(exact_match(text, right) for right in expected):
            verdict, points = "correct", 1.0
        elif exact_match(text, self.unknown):
            verdict, points = "missing", self.wrong_penalty / (1 + self.wrong_penalty)
        else:
            points = max((f1(text, right) for right in problem.answers), default=0.0) * (self.metric == "f1")
            verdict = "partly_right" if points else "wrong_answer" if problem.answers else "made_up"
        if self.citation_reward and problem.answers and self.search:
            passages = [self._passages[name] for name in cited if name in self._passages]
            share = sum(_supports(problem, passage) for passage in passages) / max(len(cited), 1)
            points *= 1 - self.citation_reward * (1 - share)
        searches = sum(turn.observation is not None for turn in turns)
        costs = answer.deduction + self.search_cost * max(searches - self.free_searches, 0)
        return Score(max(points - costs, 0.0), verdict == "correct", verdict)


def _supports(problem: Question, passage: Passage) -> bool:
    is_named = bool(passage.names & set(map(clean_id, problem.supports)))
    return is_named or any(holds(passage.text, answer) for answer in problem.answers)


def _read(file: Any, key: str, form: str) -> tuple[list[Question], dict[str, Passage]]:
    own = isinstance(file, Sequence) and bool(file) and all(isinstance(question, Question) for question in file)
    return ([*file], {}) if own else read_questions(file, key, form)
