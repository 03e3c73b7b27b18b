"""What a learning rate does: KL to the start and relative change of the kernels, after some updates of adapters.

    python benchmarks/learning_rates.py countdown_tiny            the embedded model, two minutes
    python benchmarks/learning_rates.py gemma3_270m_cpu --preset models/gemma3_270m       about ten on two cores

Rates do not carry over by name: Keras draws A otherwise than PEFT, and models differ in depth. What carries over is the
KL of an update. The gradient is that of the policy's own completions, half of which shall be likelier. While updates
agree, the KL grows with the square of rate × updates, so it is shown divided by that as well.
"""

import argparse
import functools
import json

from keras_aha.models import lora
from keras_aha.models.internals import kernel_variable
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.training.linear_gradients import linear_gradients
from keras_aha.training.log_probs import completion_log_probs

import jax
import jax.numpy as jnp
import keras
import numpy as np
from bfloat16_adapters import sample

UPDATES = (1, 3, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--preset", help="weights, in place of the recipe's")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3])
    parser.add_argument("--puzzles", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--length", type=int, default=96)
    args = parser.parse_args()
    recipe = Recipe.load(args.recipe)
    if args.preset:
        recipe = recipe.override(f"model.preset={json.dumps(args.preset)}")
    keras.utils.set_random_seed(0)
    policy = build_policy(recipe)
    print(f"{args.recipe}: {len(policy.backbone.transformer_layers)} layers, rank {recipe.lora.rank}")
    batch = sample(policy, recipe, args.puzzles, args.group, args.length)
    print(f"{'rate':>8} {'updates':>8} {'KL, nats':>10} {'KL / (rate · updates)²':>23} {'‖s A B‖ / ‖W‖':>14}")
    for rate in args.rates:
        for updates, kl, change in movement(policy, batch, rate):
            print(f"{rate:8.0e} {updates:8} {kl:10.1e} {kl / (rate * updates) ** 2:23.0f} {change:14.1e}", flush=True)


def movement(policy, batch, rate):
    """`(updates, KL, relative change)`, in nats a token and on average over kernels."""
    *texts, weights = batch
    trained, frozen = policy.backbone.trainable_variables, policy.backbone.non_trainable_variables
    frozen_values = [variable.value for variable in frozen]

    def scope(values, frozen_values):
        return keras.StatelessScope(list(zip([*trained, *frozen], [*values, *frozen_values], strict=True)))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(values, frozen_values):
        with scope(values, frozen_values), linear_gradients(policy):
            log_probs = completion_log_probs(policy, *texts, jnp.ones(len(weights)))[0]
        return -(weights * log_probs).sum(), log_probs

    @jax.jit
    def relative_change(values, frozen_values):
        with scope(values, frozen_values):
            kernels = [kernel_variable(layer).value for layer in lora.adapted_layers(policy.backbone)]
            merged = [value for _, value in lora.merged_kernels(policy.backbone)]
            norms = [jnp.linalg.norm(m - w) / jnp.linalg.norm(w) for w, m in zip(kernels, merged, strict=True)]
            return jnp.mean(jnp.array(norms))

    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(trained)
    values, state = [variable.value for variable in trained], [variable.value for variable in optimizer.variables]
    for update in range(max(UPDATES) + 1):
        (_, log_probs), gradients = loss(values, frozen_values)
        if update == 0:
            before = log_probs
        if update in UPDATES:
            change = np.where(weights != 0, log_probs - before, 0.0)
            kl = np.sum(np.expm1(change) - change) / np.sum(weights != 0)  # K3 of http://joschu.net/blog/kl-approx.html
            yield update, float(kl), float(relative_change(values, frozen_values))
        values, state = optimizer.stateless_apply(state, gradients, values)


if __name__ == "__main__":
    main()
