"""Tasks: problems, their prompts, and exact scores. Standard library only, neither Keras nor JAX."""

from keras_aha.tasks.countdown import Countdown, CountdownProblem
from keras_aha.tasks.multiplication import Multiplication, MultiplicationProblem
from keras_aha.tasks.task import Score, Task

__all__ = ["Countdown", "CountdownProblem", "Multiplication", "MultiplicationProblem", "Score", "Task"]
