"""A task for random models: Countdown's puzzles and prompts, with a reward that such a model earns now and then."""

from keras_aha.tasks.countdown import Countdown
from keras_aha.tasks.task import Score

COUNTDOWN = dict(num_numbers=3, max_number=10, template="compact")


class DigitHunt(Countdown):
    """Digits written count: each is a share of the reward, and so many of them are right."""

    share, right = 0.1, 6

    def score(self, problem, completion):
        digits = sum(character.isdigit() for character in completion)
        correct = digits >= self.right
        return Score(min(1.0, digits * self.share), correct, "correct" if correct else "wrong_value")
