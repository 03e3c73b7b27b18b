"""How much of float32's progress bfloat16 makes: adapters beside the kernel, and as Keras adds them to it.

    python benchmarks/bfloat16_adapters.py      the embedded model, on two cores about five minutes

Both start from the same bfloat16 weights and adapters, and raise or lower the log-probs of the same completions. Keras
computes x · bf16(W + s A B), in which small changes are lost; ours is `models.adapters_beside`.
"""

import contextlib

from keras_aha import GRPOModel, load_policy
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_task import build_task
from keras_aha.training.linear_gradients import linear_gradients
from keras_aha.training.log_probs import completion_log_probs

import jax
import jax.numpy as jnp
import keras
import numpy as np

RATES = (1e-5, 1e-4, 1e-3)
UPDATES = (1, 3, 10, 30)
PUZZLES, GROUP, LENGTH = 32, 4, 96


def main() -> None:
    policies = {}
    for dtype in ("float32", "bfloat16"):
        keras.utils.set_random_seed(0)
        policies[dtype] = load_policy("countdown_tiny", dtype=dtype)
    for variable, other in zip(*(policy.backbone.variables for policy in policies.values()), strict=True):
        variable.assign(keras.ops.cast(other.value, "float32"))
    batch = sample(policies["float32"], Recipe.load("countdown_tiny"), PUZZLES, GROUP, LENGTH)
    print(f"{'rate':>8} {'updates':>8} {'float32, nats':>14} {'beside':>8} {'Keras':>8}")
    for rate in RATES:
        expected = progress(policies["float32"], linear_gradients, batch, rate)
        beside = progress(policies["bfloat16"], linear_gradients, batch, rate)
        of_keras = progress(policies["bfloat16"], contextlib.nullcontext, batch, rate)
        for row in zip(UPDATES, expected, beside / expected, of_keras / expected, strict=True):
            print(f"{rate:8.0e} {row[0]:8} {row[1]:14.2e} {row[2]:8.2f} {row[3]:8.2f}", flush=True)


def sample(policy, recipe, puzzles, group, length):
    """`(prompt_ids, prompt_mask, completion_ids, weights)`; half of the completions shall be likelier than they are."""
    model, task = GRPOModel(policy), build_task(recipe)
    prompts, mask = model.tokenize([task.prompt(task.problem(i)) for i in range(puzzles)])
    completions = model.generate(prompts, mask, group_size=group, max_completion_length=length)
    live = np.arange(length) < completions.lengths[:, None]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(len(live), 1))
    return prompts, mask, completions.token_ids, jnp.asarray(signs * live / live.sum(), "float32")


def progress(policy, forward, batch, rate):
    """How far the loss has fallen after `UPDATES` of Adam, by the forward pass of the block `forward(policy)`."""
    *texts, weights = batch
    trained, frozen = policy.backbone.trainable_variables, policy.backbone.non_trainable_variables

    @jax.jit
    @jax.value_and_grad
    def loss(values, frozen_values):
        pairs = [*zip(trained, values, strict=True), *zip(frozen, frozen_values, strict=True)]
        with keras.StatelessScope(pairs), forward(policy):
            return -(weights * completion_log_probs(policy, *texts, jnp.ones(len(weights)))[0]).sum()

    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(trained)
    values, state = [variable.value for variable in trained], [variable.value for variable in optimizer.variables]
    losses = []
    for _ in range(max(UPDATES) + 1):
        value, gradients = loss(values, [variable.value for variable in frozen])
        losses.append(float(value))
        values, state = optimizer.stateless_apply(state, gradients, values)
    return losses[0] - np.array([losses[update] for update in UPDATES])


if __name__ == "__main__":
    main()
