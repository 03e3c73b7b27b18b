"""What a policy learns from beside its task: `[[rewards]]` and `[teacher]`."""

from dataclasses import MISSING, field

from keras_aha.recipes.rules import WORD, above_zero, at_least, one_of, rule, section
from keras_aha.recipes.values import RecipeError


@section
class Reward:
    """A table `[[rewards]]`: a reward beside the task's own, see `RolloutCallback`: a function, or a judge.

    Attributes:
        name: of its column, `reward_NAME`.
        function: where it stands, as `module:function`.
        judge: in its place, a model that gives a number: a preset, a run's folder, or a folder of Hugging Face that
            holds a model `…ForSequenceClassification`; or the address of a server, `http://…/v1`. Every other key is an
            argument of `ModelJudge`, `RewardModel` or `EndpointJudge`.
        weight: beside that of the task's own reward, `rollouts.task_weight`. A reward of weight 0 is only logged.
    """

    name: str = rule(
        'of letters, digits, - and _, but not "task", which is the task\'s own',
        lambda name: WORD.fullmatch(name) and name != "task",
        default=MISSING,
    )
    function: str | None = None
    judge: str | None = None
    weight: float = 1.0
    arguments: dict = field(default_factory=dict)

    def __post_init__(self):
        if (self.function is None) == (self.judge is None):
            raise RecipeError(
                f"The reward {self.name!r} needs a function or a judge, one of them. Received: "
                f"function={self.function!r}, judge={self.judge!r}"
            )
        if self.function is not None and self.arguments:
            raise RecipeError(
                f"The reward {self.name!r} is a function, which takes no keys of a judge. Received: {self.arguments}"
            )


@section
class Teacher:
    """Another model whose distribution the policy learns from, on what the policy itself wrote, see `Teacher`.

    Attributes:
        preset: as in `[model]`, or the folder of a run, whose last policy it is. `"self"` is the policy itself, which
            needs a `hint`; "none" is no teacher.
        weight: of the divergence in the loss. `loss.surrogate_coef = 0` learns from the teacher alone.
        dtype: of its weights, as in `[model]`; "none" takes the policy's. A run has its own.
        quantization: of its weights, which are not trained anyway. A run has its own.
    """

    preset: str | None = None
    weight: float = at_least(0, default=1.0)
    temperature: float = above_zero(default=1.0)
    kl: str = one_of("exact", "sampled")
    hint: str | None = None
    dtype: str | None = None
    quantization: str | None = rule('"int8", "int4" or "none"', ("int8", "int4").__contains__, default=None)

    def __post_init__(self):
        if self.preset == "self" and self.hint is None:
            raise RecipeError(
                "A policy teaches itself by what it is told more: set teacher.hint, a text with {prompt} and {solution}"
                ' in it. Received: teacher.preset="self", teacher.hint="none"'
            )
        if self.preset == "self" and (self.dtype or self.quantization):
            raise RecipeError(
                "teacher.dtype and teacher.quantization are of another model's weights: leave them out. Received: "
                f'teacher.preset="self", teacher.dtype={self.dtype!r}, teacher.quantization={self.quantization!r}'
            )
