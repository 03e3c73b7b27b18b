"""`Teacher`: a frozen model whose distribution the policy learns from, on its own samples."""

import contextlib
import math
import string

from keras_aha.distribution.fsdp import gathering
from keras_aha.losses.checks import check_choice, is_number
from keras_aha.training.log_probs import check_positions, teacher_states
from keras_aha.training.policy_model import mark_as_built

import keras_hub

KLS = ("exact", "sampled")


class Teacher:
    """On-policy distillation: another model reads the policy's completions, and the KL to it is a term of the loss.

        model = GRPOModel(policy, teacher=Teacher(load_policy("gemma3_instruct_4b", dtype="bfloat16")))
        model.compile("adam", loss=GRPOLoss(teacher_coef=1.0, surrogate_coef=0.0))  # the teacher alone

    It is the reverse KL, KL(π‖π_T), at the tokens that the policy has sampled: GKD, arXiv:2306.13649; MiniLLM,
    arXiv:2306.08543; https://thinkingmachines.ai/blog/on-policy-distillation/. The teacher reads completions in the
    train step, and again in each of `updates_per_rollout`.

    | `kl`      | value at a position                       | gradient                                               |
    |-----------|-------------------------------------------|--------------------------------------------------------|
    | "exact"   | Σᵥ π(v) (log π(v) − log π_T(v))           | its own                                                |
    | "sampled" | log π(o) − log π_T(o) of the token o drawn | log(π(o)/π_T(o)) ∇log π(o), in the mean that of "exact" |

    Args:
        policy: a keras-hub `CausalLM` with the policy's vocabulary, of any size, quantized or with adapters or not. All
            of it is frozen. `None` takes the policy that is trained, at its current weights, which needs a `hint`.
        temperature: divides the teacher's logits; the policy's are divided by that of the rollout.
        kl: "exact" or "sampled".
        hint: a format string with `{prompt}` and `{solution}`, what the teacher reads in place of the prompt. The
            policy reads nothing of it. `None` gives the teacher the prompt.

    Raises:
        ValueError: for an argument outside of these.
    """

    def __init__(self, policy=None, *, temperature: float = 1.0, kl: str = "exact", hint: str | None = None):
        if not (is_number(temperature) and 0 < temperature < math.inf):
            raise ValueError(f"`temperature` must be a finite number above 0. Received: temperature={temperature!r}")
        check_choice("kl", kl, KLS)
        if hint is not None and not _is_hint(hint):
            raise ValueError(
                "`hint` must be a text with {prompt} and {solution} and no other braces, or with these doubled. "
                f"Received: hint={hint!r}"
            )
        if policy is None and hint is None:
            raise ValueError(
                "`hint` must be given if the policy is its own teacher, for else there is nothing to learn from it: "
                'hint="{prompt}{solution}" with words of your own. Received: policy=None, hint=None'
            )
        self.policy = policy
        self.temperature = temperature
        self.kl = kl
        self.hint = hint
        if policy is not None:
            for variable in policy.variables:
                variable.trainable = False
            mark_as_built(policy)
            check_positions(policy)

    @property
    def variables(self) -> list:
        """Those that are not the policy's."""
        return [] if self.policy is None else self.policy.variables

    @contextlib.contextmanager
    def reading(self, policy, batch, scope):
        """What it makes of the completions of a micro-batch; in the block its head is there, see `fsdp.gathering`.

        Args:
            policy: that is trained.
            batch: as `GRPOModel.train_step` takes it, with `teacher_prompt_ids` and `teacher_prompt_mask` if there is a
                hint.
            scope: the `keras.StatelessScope` that holds the values of all variables.

        Yields:
            `TeacherStates`.
        """
        prompts = [batch.get(f"teacher_{name}", batch[name]) for name in ("prompt_ids", "prompt_mask")]
        arguments = *prompts, batch["completion_ids"], self.temperature, self.kl == "exact"
        if self.policy is None:
            with gathering(policy, scope, batch["temperature"]):
                states = teacher_states(policy, *arguments)
            yield states
        else:
            with gathering(self.policy, scope, batch["temperature"]):
                yield teacher_states(self.policy, *arguments)

    def check_vocabulary(self, policy) -> None:
        """Raises ValueError unless a token id means the same to the teacher and to `policy`, which is another model."""
        if self.policy is None:
            return
        if self.policy.backbone is policy.backbone:
            raise ValueError(
                "A teacher must be another model than the policy, or None for the policy itself at its current "
                f"weights. Received: policy={policy.name!r} for both"
            )
        names = [f"{kind.backbone.name} of {kind.name}" for kind in (self.policy, policy)]
        teacher, student = (_pieces(kind.preprocessor) for kind in (self.policy, policy))
        trimmed = "a trimmed vocabulary is trimmed for both, or for neither"
        if teacher is not None and student is not None and teacher != student:
            sizes = f"{len(teacher)} and {len(student)} pieces"
            pairs = enumerate(zip(teacher, student, strict=False))
            first = next((f"piece {i} is {a!r} and {b!r}, " for i, (a, b) in pairs if a != b), "")
            raise ValueError(
                "A teacher must have the policy's vocabulary: choose one of the same family, and note that "
                f"{trimmed}. Received: {first}{sizes}, of {names[0]} (teacher) and {names[1]} (policy)"
            )
        width, own_width = (kind.backbone.vocabulary_size for kind in (self.policy, policy))
        if width < own_width or (self.kl == "exact" and width != own_width):
            raise ValueError(
                'The exact KL needs logits of one width; kl="sampled" also takes a teacher of wider ones. '
                f"Received: {width} logits of {names[0]} (teacher) and {own_width} of {names[1]} (policy)"
            )


def _is_hint(hint) -> bool:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(hint) if name is not None]
        hint.format(prompt="", solution="")
    except (TypeError, AttributeError, ValueError, LookupError):
        return False
    return {"prompt", "solution"} == set(fields)


def _pieces(preprocessor) -> list[str] | None:
    """The pieces of a vocabulary by their ids; `None` without a preprocessor."""
    if preprocessor is None:
        return None
    tokenizer = preprocessor.tokenizer
    if isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        return sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.get)
    return list(tokenizer.get_vocabulary())
