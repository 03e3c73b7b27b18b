"""Tasks: problems, their prompts, and exact scores. Standard library only, neither Keras nor JAX."""

from keras_aha.tasks.answer_tag import Answer, read_answer
from keras_aha.tasks.countdown import Countdown, CountdownProblem
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.gym_task import GymProblem, GymTask
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.mixture import MixedProblem, Mixture
from keras_aha.tasks.multiplication import Multiplication, MultiplicationProblem
from keras_aha.tasks.qa_readers import Question
from keras_aha.tasks.row import Row
from keras_aha.tasks.rows import Rows
from keras_aha.tasks.search_qa import SearchQA
from keras_aha.tasks.signs import Signs, SignsProblem
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.turn import Observation, Turn
from keras_aha.tasks.two_hop import TwoHop

__all__ = ["Answer", "Countdown", "CountdownProblem", "DrawnTask"]
__all__ += ["GymProblem", "GymTask", "HeldOut", "MixedProblem", "Mixture", "Multiplication", "MultiplicationProblem"]
__all__ += ["Observation", "Row", "Rows", "Score", "Signs", "SignsProblem", "Task", "Turn", "read_answer"]
__all__ += ["Question", "SearchQA", "TwoHop"]
