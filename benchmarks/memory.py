"""The train step's operations by the TPU compiler's program, against numbers by hand; no TPU is needed.

    pip install -e ".[plan]"
    python benchmarks/memory.py            Gemma2-2B as its recipe says, on eight v5e chips; six minutes on two cores

`scripts/plan.py` says the same, and all else that there is to say of memory, bytes and collectives. By hand are
matrix products alone, in forward + recompute + backward. Backward is what activations need, once the products of frozen
weights and twice those of attention; the gradient of the kernels that adapters are added to is counted apart, since
`linear_gradients` does without it.
"""

import argparse
import os

os.environ.update(JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")

from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.planner import in_a_table, plan
from keras_aha.recipes.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4", help="see scripts/plan.py (default: %(default)s)")
    parser.add_argument("--preset", default="gemma2_2b_en", help="a recipe of a Gemma 2 (default: %(default)s)")
    args = parser.parse_args()
    recipe = Recipe.load(args.preset)
    planned = plan(recipe, args.topology)
    print(in_a_table(planned))
    train, prompt = planned.train, planned.train.sequence_length - recipe.rollouts.max_completion_length
    hand = flops_by_hand(
        abstract_backbone(recipe.model.preset, recipe.model.dtype),
        train.rows // planned.chips,
        prompt,
        recipe.rollouts.max_completion_length,
    )
    without = hand["forward"] + hand["recompute"] + hand["backward"]
    print("by hand, TFLOP a chip: " + ", ".join(f"{name} {flops / 1e12:.2f}" for name, flops in hand.items()))
    print(f"counted: {train.step.flops / without:.3f} of forward + recompute + backward", end=", ")
    print(f"{train.step.flops / (without + hand['kernel_gradients']):.3f} with kernel gradients")


def flops_by_hand(backbone, rows: int, prompt_length: int, completion_length: int) -> dict[str, int]:
    """Operations of matrix products, two a multiplication; attention meets all pairs of positions, masked or not."""
    length = prompt_length + completion_length
    heads = backbone.num_query_heads + backbone.num_key_value_heads  # of query and output; of key and value
    features = 2 * heads * backbone.head_dim + 3 * backbone.intermediate_dim // 2
    linear = 2 * rows * length * backbone.hidden_dim * features * backbone.num_layers
    attention = 2 * rows * length**2 * 2 * backbone.num_query_heads * backbone.head_dim * backbone.num_layers
    logits = 2 * rows * completion_length * backbone.hidden_dim * backbone.vocabulary_size
    forward = linear + attention + logits
    return {
        "forward": forward,
        "recompute": forward,
        "backward": linear + 2 * attention + logits,
        "kernel_gradients": linear,
    }


if __name__ == "__main__":
    main()
