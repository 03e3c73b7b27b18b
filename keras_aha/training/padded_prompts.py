"""`PaddedPrompts`: a task's prompts as token ids of one length; what cannot be used is found before training."""

from collections.abc import Iterable, Iterator, Sequence

from keras_aha.models.special_tokens import prompt_ids
from keras_aha.tasks.task import Task
from keras_aha.training.ask import TaskError, ask, ask_problem, ask_prompt, shown, warn
from keras_aha.training.rollout import PROMPT_MULTIPLE

import numpy as np
import tqdm.auto

_AT_ONCE = 1000  # prompts tokenized in a call


class PaddedPrompts:
    """Tokenizes prompts, padded to one `length`, which only grows, so that programs need not be compiled again.

    A problem can be used if it can be made, and its prompt is a text of at most `limit` tokens. `left_out` is how many
    could not be used by `problems` since it was last set to 0.
    """

    def __init__(self, task: Task, limit: int):
        self.task = task
        self.limit = limit
        self.length = self.left_out = 0
        self._looked_at = set()

    def look_at(self, tokenizer, numbers: Iterable[int]) -> None:
        """Raises TaskError if problems of these numbers cannot be used, and tells how many; finds the length of all."""
        numbers = tuple(numbers)
        if (numbers, tokenizer.vocabulary_size()) in self._looked_at:  # before the weights were loaded
            return
        first, count = None, 0
        for some in at_once(numbers):
            _, failures = self._usable(tokenizer, some)
            first, count = first or next(iter(failures), None), count + len(failures)
        if count > 1:
            raise TaskError(f"{count} of {len(numbers)} problems cannot be used: {first}") from first
        if first:
            raise first
        self._looked_at.add((numbers, tokenizer.vocabulary_size()))

    def problems(self, tokenizer, numbers: Iterable[int], rated: bool = False) -> list:
        """The problems of these numbers. If one cannot be used, that of half its number takes its place, or of half of
        that, down to 0; there is a warning, and it is counted in `left_out`. If they are to be `rated`, one whose
        difficulty is no number cannot be used either.

        It raises TaskError if the problem of number 0 cannot be used.
        """
        usable, failures = self._usable(tokenizer, numbers, rated)
        if failures:
            self.left_out += len(failures)
            warn(f"An earlier problem takes the place of each that cannot be used, such as one here: {failures[0]}")
        places = list(numbers)
        while lacking := {place for place in places if place not in usable}:
            if 0 in lacking:
                raise failures[0]
            earlier, failures = self._usable(tokenizer, {place // 2 for place in lacking}, rated)
            usable |= earlier
            places = [place // 2 if place in lacking else place for place in places]
        return [usable[place] for place in places]

    def tokenize(self, model, problems: list) -> tuple[np.ndarray, np.ndarray]:
        """`(token_ids, padding_mask)`, each `(len(problems), length)` int32."""
        prompts = [self.text(problem) for problem in problems]
        token_ids, padding_mask = model.tokenize(prompts, multiple=PROMPT_MULTIPLE)
        self.length = max(self.length, token_ids.shape[1])
        pad = [(0, 0), (self.length - token_ids.shape[1], 0)]
        return np.pad(token_ids, pad), np.pad(padding_mask, pad)

    def text(self, problem) -> str:
        """The prompt of a problem. Raises TaskError if it is none."""
        return ask_prompt(self.task, problem)

    def _usable(self, tokenizer, numbers, rated=False) -> tuple[dict, list[TaskError]]:
        """Problems by number, and why others cannot be used."""
        asked, failures = {}, []
        for number in numbers:
            try:
                problem = ask_problem(self.task, number)
                if rated:  # which may take seconds each
                    ask(self.task, "difficulty", problem, "a number", int | float | np.number)
                asked[number] = problem, self.text(problem)
            except TaskError as error:
                failures.append(error)
        rows = prompt_ids(tokenizer, [prompt for _, prompt in asked.values()]) if asked else []
        usable = {}
        for (number, (problem, _)), row in zip(asked.items(), rows, strict=True):
            if len(row) <= self.limit:
                usable[number] = problem
                self.length = max(self.length, -(-len(row) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE)
            else:
                sentence = f"A prompt has {len(row)} tokens, more than the limit: raise max_prompt_length, choose "
                sentence += "another template, or let rollouts.long_prompts=skip leave such problems of a list out. "
                received = f"Received: max_prompt_length={self.limit}, problem {number}: {shown(problem)}"
                failures.append(TaskError(sentence + received))
        return usable, failures


def at_once(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts of `numbers`, as many as are tokenized in a call; on a terminal a bar is shown if that takes a while."""
    for start in tqdm.auto.trange(0, len(numbers), _AT_ONCE, desc="prompts", delay=5, leave=False, disable=None):
        yield numbers[start : start + _AT_ONCE]
