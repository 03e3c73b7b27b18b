"""`TwoHop`: a made corpus in which every answer takes two searches, in the words of the embedded model's vocabulary."""

import random
from itertools import product

from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.qa_readers import Question
from keras_aha.tasks.search_qa import SearchQA
from keras_aha.tasks.tools.passages import Passage
from keras_aha.tasks.tools.search import TOO_COMMON
from keras_aha.tasks.turn import Turn

_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
_MOST = 499  # people


class TwoHop(SearchQA):
    """A person has a place, and a place a number: `kib>>?` asks for the number of the place of `kib`.

    The corpus has a passage for each fact, `kib: azo` and `azo: 57`. Those of held-out people stand nowhere else, so
    that who does not search can only guess.

    Args:
        people: how many, and as many places.
        unanswerable: the share of places that have no number.
        world: any integer; it changes the facts.
        template, settings: as `SearchQA` takes them. In a few tokens a policy says `<q>kib</q>`, reads one passage in
            `<r> </r>`, and answers `no` if there is no number.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, *, people: int = 320, unanswerable: float = 0.1, world: int = 0, template: str = "compact", **settings
    ):
        if not isinstance(people, int) or not 8 <= people <= _MOST or not 0 <= unanswerable <= 0.5:
            raise ValueError(
                f"`people` must be from 8 to {_MOST}, and `unanswerable` from 0 to 0.5. "
                f"Received: people={people!r}, unanswerable={unanswerable!r}"
            )
        rng = random.Random(stable_hash("two hops", world))
        names = rng.sample(_names(_CONSONANTS, _VOWELS, _CONSONANTS), people)
        places = rng.sample(_names(_VOWELS, _CONSONANTS, _VOWELS), people)
        self._places = dict(zip(names, places, strict=True))
        self._numbers = {place: str(rng.randint(0, 100)) for place in places[round(unanswerable * people) :]}
        facts = [*self._places.items(), *self._numbers.items()]
        rng.shuffle(facts)
        passages = [Passage(str(index), text, title) for index, (title, text) in enumerate(facts)]
        ids = {passage.title: passage.id for passage in passages}
        questions = []
        for name, place in self._places.items():
            answers = (self._numbers[place],) if place in self._numbers else ()
            supports = tuple(ids[title] for title in (name, place) if title in ids)
            questions.append(Question(f"{name}>>?", answers, supports, "answer" if answers else "no answer"))
        few_tokens = dict(results=1, unknown="no", search_tag="q", result_tag="r", template=template)
        super().__init__(questions, passages, **few_tokens | settings)

    def worked_turns(
        self,
        problem: Question,
        rng: random.Random,
        *,
        guess_rate: float = 0.0,
        give_up_rate: float = 0.0,
        slip_rate: float = 0.0,
    ) -> list[Turn]:
        """Returns two searches and the answer; in a closed book a guess.

        Args:
            guess_rate: probability of answering at once, with a number at random.
            give_up_rate: probability of that after the first search.
            slip_rate: probability for each search that it asks for another name; what follows builds on it.
        """
        turns, name, number = [], problem.text.removesuffix(">>?"), str(rng.randint(0, 100))
        if self.closed_book or rng.random() < guess_rate:
            return [Turn(f"</think>\n<answer>{number}</answer>")]
        gives_up = rng.random() < give_up_rate
        for facts in [self._places] if gives_up else [self._places, self._numbers]:
            name = rng.choice([*facts]) if rng.random() < slip_rate else name
            turns.append(Turn(f"{self._begin}{name}{self._end}"))
            turns[-1] = Turn(turns[-1].text, self.respond(problem, turns))
            name = facts.get(name, self.unknown)
        return [*turns, Turn(f"</think>\n<answer>{number if gives_up else name}</answer>")]


def _names(*letters: str) -> list[str]:
    return [name for name in map("".join, product(*letters)) if name not in TOO_COMMON]
