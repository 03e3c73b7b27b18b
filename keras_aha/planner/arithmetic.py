"""`ByHand`: the programs of a run, by arithmetic, for devices whose compiler is not here."""

from collections.abc import Callable

from keras_aha.decoding.self_attention import at_a_time
from keras_aha.distribution.distribute import batch_parts
from keras_aha.models.flops import forward_flops, update_flops
from keras_aha.models.policy import rematerialised_blocks
from keras_aha.planner.judging import JudgeShapes
from keras_aha.planner.layouts import bytes_on_a_device
from keras_aha.planner.memory import read_by_decoding
from keras_aha.planner.program import Program
from keras_aha.planner.rollout_shapes import RolloutShapes
from keras_aha.recipes.recipe import Recipe

import jax.numpy as jnp
import numpy as np

_LOGITS = 4 * 2**28  # bytes: a chunk of them, and what softmax and gradient make of it


class ByHand:
    """Estimates what a `Compiler` would measure. Nothing is compiled."""

    def __init__(self, recipe: Recipe):
        remat = rematerialised_blocks(recipe.model.preset, recipe.model.dtype, recipe.training.remat)
        self.recompute = bool(remat)
        self.reference = recipe.loss.kl_coef > 0

    def train_step(self, model, state, batch) -> Callable[[], Program]:
        """A function that returns the step of a device's rows, whose activations are held a micro-batch at a time."""
        backbone = model.policy.backbone
        (all_rows, new), (prompts, length) = batch["completion_ids"].shape, batch["prompt_ids"].shape
        rows, share = all_rows // batch_parts(), prompts / all_rows  # a prompt is read once for the rows that share it
        size = (model.micro_batch_size or all_rows) // batch_parts()
        counted = np.full(rows, length + new), np.full(rows, new), share
        passes = 1 + self.recompute + self.reference
        flops = update_flops(backbone, *counted) + (passes - 1) * forward_flops(backbone, *counted)
        if model.teacher is not None:
            hint = batch.get("teacher_prompt_ids", batch["prompt_ids"]).shape[1]
            read = np.full(rows, hint + new), np.full(rows, new), share
            flops += forward_flops((model.teacher.policy or model.policy).backbone, *read)
        tokens, pairs = new + share * length, at_a_time(new) * (new + length) + share * at_a_time(length) * length
        activations = self._activations(backbone, size * tokens, size * pairs)
        arguments = bytes_on_a_device((state, batch))
        moved = rows // size * ((2 + passes) * arguments + 3 * activations)
        return lambda: Program(arguments, activations + _LOGITS, int(flops), moved)

    def prefill(self, shapes: RolloutShapes) -> Program:
        """Of reading the prompts."""
        backbone = shapes.decoder.backbone
        prompts, length = shapes.prompts[0].shape
        prompts = -(-prompts // shapes.parts)
        flops = forward_flops(backbone, np.full(prompts, length), np.zeros(prompts))
        weights, pairs = bytes_on_a_device(shapes.weights), prompts * at_a_time(length) * length
        return Program(weights, _block(backbone, prompts * length, pairs), int(flops), weights)

    def judge(self, shapes: JudgeShapes) -> Program:
        """Of reading texts."""
        rows, length = shapes.token_ids.sharding.shard_shape(shapes.token_ids.shape)
        flops = forward_flops(shapes.backbone, np.full(rows, length), np.ones(rows))
        weights, pairs = bytes_on_a_device(shapes.weights), rows * at_a_time(length) * length
        return Program(weights, _block(shapes.backbone, rows * length, pairs), int(flops), weights)

    def segment(self, shapes: RolloutShapes) -> Program:
        """Of a decode step."""
        backbone, rows = shapes.decoder.backbone, shapes.rows_per_part
        ones, full = np.ones(rows), np.full(rows, shapes.cache_length)
        # A token meets those before it: the difference of reading n tokens and n - 1.
        flops = forward_flops(backbone, full, ones) - forward_flops(backbone, full - 1, 0 * ones)
        arguments = read_by_decoding(shapes) + bytes_on_a_device(shapes.cache)
        logits = 3 * 4 * rows * backbone.vocabulary_size
        return Program(arguments, logits, int(flops), arguments)

    def _activations(self, backbone, tokens: float, pairs: float) -> int:
        """Bytes that a backward pass needs: inputs of the blocks, and the inside of one if it is computed again."""
        layers = backbone.num_layers
        inputs = layers * int(tokens) * backbone.hidden_dim * _itemsize(backbone)
        return inputs + _block(backbone, tokens, pairs) * (1 if self.recompute else layers)


def _block(backbone, tokens: float, pairs: float) -> int:
    """Bytes of the inside of a block: five arrays as wide as its feed-forward layer, two of attention weights.

    Args:
        backbone: of a Gemma.
        tokens: those that the block reads.
        pairs: of a token and one that it may attend to, masked or not, whose logits are held at a time.
    """
    gate = backbone.transformer_layers[0].gating_ffw.partial_output_shape[-1]
    return int(5 * tokens * gate + 2 * backbone.num_query_heads * pairs) * _itemsize(backbone)


def _itemsize(backbone) -> int:
    return jnp.dtype(backbone.compute_dtype).itemsize
