"""`Teacher`: a frozen model whose distribution the policy learns from, on its own samples."""

import contextlib
import math

from keras_aha.distribution.fsdp import gathering
from keras_aha.losses.checks import check_choice, is_number
from keras_aha.tasks.template import format_fields
from keras_aha.training.log_probs import TeacherStates, check_positions, hidden_states
from keras_aha.training.policy_model import mark_as_built

import jax
import keras_hub

_FIELDS = {"prompt", "solution"}


class Teacher:
    """On-policy distillation: another model reads the policy's completions, and the KL to it is a term of the loss.

        model = GRPOModel(policy, teacher=Teacher(load_policy("gemma3_instruct_4b", dtype="bfloat16")))
        model.compile("adam", loss=GRPOLoss(teacher_coef=1.0, surrogate_coef=0.0))  # the teacher alone

    It is the reverse KL, KL(π‖π_T), at the tokens that the policy has sampled: GKD, arXiv:2306.13649; MiniLLM,
    arXiv:2306.08543; https://thinkingmachines.ai/blog/on-policy-distillation/. The teacher reads completions in the
    train step, and again in each of `updates_per_rollout`.

    Args:
        policy: a keras-hub `CausalLM` with the policy's vocabulary, of any size, quantized or with adapters or not. All
            of it is frozen. `None` takes the policy that is trained, at its current weights, which needs a `hint`.
        temperature: divides the teacher's logits; the policy's are divided by that of the rollout.
        kl: "exact", Σᵥ π(v) (log π(v) − log π_T(v)); or "sampled", of the token o that was drawn alone:
            log π(o) − log π_T(o), with the gradient log(π(o)/π_T(o)) ∇log π(o), in the mean that of "exact".
        hint: a format string with `{prompt}` and `{solution}`, what the teacher reads in place of the prompt. The
            policy reads nothing of it. `None` gives the teacher the prompt.

    Raises:
        ValueError: for an argument outside of these.
    """

    def __init__(self, policy=None, *, temperature: float = 1.0, kl: str = "exact", hint: str | None = None):
        if not (is_number(temperature) and 0 < temperature < math.inf):
            raise ValueError(f"`temperature` must be a finite number above 0. Received: temperature={temperature!r}")
        check_choice("kl", kl, ("exact", "sampled"))
        if policy is None and hint is None:
            raise ValueError("`hint` must be given if the policy is its own teacher. Received: policy=None, hint=None")
        if hint is not None and format_fields(hint) != _FIELDS:
            raise ValueError(f"`hint` must have {{prompt}}, {{solution}} and no other braces. Received: hint={hint!r}")
        self.policy, self.temperature, self.kl, self.hint = policy, temperature, kl, hint
        if policy is not None:
            check_positions(policy)
            mark_as_built(policy)
        for variable in self.variables:
            variable.trainable = False

    @property
    def variables(self) -> list:
        """Those that are not the policy's."""
        return [] if self.policy is None else self.policy.variables

    @contextlib.contextmanager
    def reading(self, policy, batch, scope):
        """Yields `TeacherStates` for a micro-batch of `policy`, which is trained; `scope` is as in `fsdp.gathering`."""
        teacher = policy if self.policy is None else self.policy
        prompts = (batch.get(f"teacher_{name}", batch[name]) for name in ("prompt_ids", "prompt_mask"))
        with contextlib.ExitStack() as head:  # stays gathered while it is used; others do that for the policy's
            with gathering(teacher, scope, batch["temperature"]):
                hidden = jax.lax.stop_gradient(hidden_states(teacher, *prompts, batch["completion_ids"]))
            if self.policy is not None:
                head.enter_context(gathering(teacher, scope, batch["temperature"]))
            yield TeacherStates(hidden, teacher.backbone.token_embedding, self.temperature, self.kl == "exact")

    def check_vocabulary(self, policy) -> None:
        """Raises ValueError unless a token id means the same to the teacher and to `policy`, which is another model."""
        if self.policy is None:
            return
        if self.policy.backbone is policy.backbone:
            raise ValueError("`teacher` must be another model, or Teacher(None, hint=…). Received: the policy itself")
        names = " (teacher) and ".join(f"{kind.backbone.name} of {kind.name}" for kind in (self.policy, policy))
        pieces = [_pieces(kind.preprocessor) for kind in (self.policy, policy)]
        if None not in pieces and pieces[0] != pieces[1]:
            pairs = enumerate(zip(*pieces, strict=False))
            first = next((f"piece {i} is {a!r} and {b!r}, " for i, (a, b) in pairs if a != b), "")
            raise ValueError(
                "A teacher must have the policy's vocabulary: choose one of the same family, and trim both or neither. "
                f"Received: {first}{len(pieces[0])} and {len(pieces[1])} pieces, of {names} (policy)"
            )
        width, own_width = (kind.backbone.vocabulary_size for kind in (self.policy, policy))
        if width < own_width or (self.kl == "exact" and width != own_width):
            raise ValueError(
                'The exact KL needs logits of one width; kl="sampled" also takes a teacher of wider ones. '
                f"Received: {width} and {own_width} logits, of {names} (policy)"
            )


def _pieces(preprocessor) -> list[str] | None:
    """The pieces of a vocabulary by their ids; `None` without a preprocessor."""
    if preprocessor is None:
        return None
    tokenizer = preprocessor.tokenizer
    if isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        return sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.get)
    return list(tokenizer.get_vocabulary())
