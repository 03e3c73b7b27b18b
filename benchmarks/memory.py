"""What the train step needs of a chip, by the TPU compiler; no TPU is needed.

    pip install libtpu                     the compiler; "keras-aha[tpu]" brings the one that fits jax
    python benchmarks/memory.py            Gemma2-2B in bfloat16, 48 rows of 128 + 896 tokens a chip, eight v5e chips
    python benchmarks/memory.py --layers 2 --rows 8           in minutes
    python benchmarks/memory.py --cpu                         the step is run: the peak of a process, a small Gemma

Compiles `GRPOModel.train_step`, its state donated, on the mesh and the layouts of `keras_aha.distribution`, as `fit`
compiles it. Adapters of rank 16 on all linear layers, Adam, no KL.

bytes: of a chip, by `memory_analysis()`: arguments (weights, adapters, Adam's moments, the batch), temporary, all.
operations: of matrix products on a chip in an optimizer step, by the text of the program (`keras_aha.hlo`), against
    forward + recompute + backward by hand. Backward is what activations need, once the products of frozen weights and
    twice those of attention; the gradient of the kernels that adapters are added to is counted apart, since
    `linear_gradients` does without it.
collectives: in the program, and how often they run in a step.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TF_CPP_MIN_LOG_LEVEL="3")

from keras_aha.distribution import distribute
from keras_aha.grpo_model import GRPOModel
from keras_aha.hlo import collectives, matrix_flops
from keras_aha.losses import GRPOLoss

import jax
import keras
import keras_hub
import numpy as np
from abstract_gemma import VOCABULARY, gemma2_2b
from jax.experimental import topologies
from process import forget_peak, peak_mib, resident_mib
from rivals_gemma import ALL_LINEAR, endless_preprocessor, rivals_backbone, rollout_of, variables_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4", help="as libtpu calls it (default: %(default)s)")
    parser.add_argument("--model", type=int, default=1, help="parts of a kernel (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=48, help="rows a chip in a step (default: %(default)s)")
    parser.add_argument("--micro-batch-size", type=int, help="rows of all chips at a time; else all")
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--completion-length", type=int, default=896)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--hlo", type=Path, help="file for the text of the compiled program")
    parser.add_argument("--cpu", action="store_true", help="run a step of a small Gemma here instead")
    parser.add_argument("--json", action="store_true", help="one JSON line on standard output")
    args = parser.parse_args()
    result = run_here(args) if args.cpu else compile_for_tpu(args)
    if args.json:
        print(json.dumps(result), flush=True)
    report(result, sys.stderr if args.json else sys.stdout)


# === On TPU, compiled ===


def compile_for_tpu(args) -> dict:
    """Compiles the step for a topology and counts."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    optimizer = keras.optimizers.Adam(1e-5)  # has real numbers: made before the mesh, which is of no real devices
    distribution = distribute(len(devices) // args.model, args.model, devices)
    # As `policy.build_policy` does for a model of this size.
    with keras.RematScope(mode="list_of_layers", layer_names=[f"decoder_block_{i}" for i in range(args.layers)]):
        backbone = gemma2_2b(args.layers)
    model = abstract_model(backbone, optimizer, args.micro_batch_size)
    state = abstract_state(model, distribution)
    arrays = zeros(args.rows * len(devices), args.prompt_length, args.completion_length)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=distribution.get_data_layout(x.shape).backend_layout)
        for name, x in arrays.items()
    }
    # As Keras's trainer compiles it, which keeps the state where it is.
    shardings = None, jax.tree.map(lambda x: x.sharding, state)
    lowered = jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings).lower(state, batch)
    begin = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begin
    text = compiled.as_text()
    if args.hlo:
        args.hlo.write_text(text)
    turns = args.rows * len(devices) // args.micro_batch_size if args.micro_batch_size else 1
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "topology": args.topology,
        "chips": len(devices),
        "layers": args.layers,
        "rows": args.rows,
        "length": args.prompt_length + args.completion_length,
        "compile_s": round(seconds),
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "total_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs,
        "flops": matrix_flops(text, turns),
        "by_hand": flops_by_hand(model.policy.backbone, args.rows, args.prompt_length, args.completion_length),
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "collectives": collectives(text, turns),
    }


def abstract_model(backbone, optimizer, micro_batch_size: int | None) -> GRPOModel:
    """The compiled model, none of whose variables has a value."""
    with keras.StatelessScope(initialize_variables=False):
        # `compile=False`: it would make an optimizer, which has numbers.
        policy = keras_hub.models.GemmaCausalLM(
            backbone=backbone, preprocessor=endless_preprocessor(256), compile=False
        )
        backbone.enable_lora(16, target_layer_names=ALL_LINEAR)
        for variable in backbone.variables:
            variable._initialize_layout()  # as Keras does when it gives a variable its value; the optimizer's follow it
        model = GRPOModel(policy, micro_batch_size)
        model.compile(optimizer, GRPOLoss())
    return model


def abstract_state(model: GRPOModel, distribution):
    """What `train_step` takes, as shapes with shardings."""

    def abstract(variable):
        layout = distribution.get_variable_layout(variable)
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=layout.backend_layout)

    return jax.tree.map(abstract, variables_of(model))


def zeros(rows: int, prompt_length: int, completion_length: int) -> dict:
    """A batch with nothing in it, all completions of full length."""
    prompts, completions, row = np.zeros((rows, prompt_length)), np.zeros((rows, completion_length)), np.zeros(rows)
    return rollout_of(prompts, completions, row + completion_length, completions, row, row).batch()


def flops_by_hand(backbone, rows: int, prompt_length: int, completion_length: int) -> dict[str, int]:
    """Operations of matrix products, two a multiplication; attention meets all pairs of positions, masked or not."""
    length = prompt_length + completion_length
    heads = backbone.num_query_heads + backbone.num_key_value_heads  # of query and output; of key and value
    features = 2 * heads * backbone.head_dim + 3 * backbone.intermediate_dim // 2
    linear = 2 * rows * length * backbone.hidden_dim * features * backbone.num_layers
    attention = 2 * rows * length**2 * 2 * backbone.num_query_heads * backbone.head_dim * backbone.num_layers
    logits = 2 * rows * completion_length * backbone.hidden_dim * VOCABULARY
    forward = linear + attention + logits
    return {
        "forward": forward,
        "recompute": forward,
        "backward": linear + 2 * attention + logits,
        "kernel_gradients": linear,
    }


# === On CPU, run ===


def run_here(args) -> dict:
    """Peak memory of one step of the rivals' Gemma, beyond what the process held before; compiled by then."""
    policy = keras_hub.models.GemmaCausalLM(backbone=rivals_backbone(), preprocessor=endless_preprocessor(512))
    policy.backbone.enable_lora(16, target_layer_names=ALL_LINEAR)
    model = GRPOModel(policy, args.micro_batch_size)
    model.compile(keras.optimizers.Adam(1e-5), GRPOLoss())
    state = jax.tree.map(lambda variable: variable.value, variables_of(model))
    batch = jax.tree.map(jax.numpy.asarray, zeros(args.rows, args.prompt_length, args.completion_length))
    compiled = jax.jit(model.train_step, donate_argnums=0).lower(state, batch).compile()
    forget_peak()
    before = resident_mib()
    jax.block_until_ready(compiled(state, batch))
    return {
        "rows": args.rows,
        "length": args.prompt_length + args.completion_length,
        "before_mib": before,
        "peak_mib": peak_mib() - before,
        "temp_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
    }


def report(result: dict, file) -> None:
    """A few readable lines."""
    if "peak_mib" in result:
        line = "{rows} × {length} tokens: the step takes {peak_mib} MiB, of which {temp_mib} by the compiler"
        print(line.format(**result), file=file, flush=True)
        return
    print(
        "{layers} layers, {rows} rows of {length} tokens a chip on {topology}, compiled in {compile_s} s".format(
            **result
        ),
        file=file,
    )
    sizes = {name: result[f"{name}_bytes"] / 1e9 for name in ("argument", "temp", "total")}
    print("  GB a chip: arguments {argument:.2f}, temporary {temp:.2f}, all {total:.2f}".format(**sizes), file=file)
    hand = result["by_hand"]
    without = hand["forward"] + hand["recompute"] + hand["backward"]
    parts = ", ".join(f"{name} {flops / 1e12:.2f}" for name, flops in hand.items())
    print(f"  TFLOP a chip: {result['flops'] / 1e12:.2f} counted; by hand {parts}", file=file)
    print(
        f"    {result['flops'] / without:.3f} of forward + recompute + backward, "
        f"{result['flops'] / (without + hand['kernel_gradients']):.3f} with kernel gradients; "
        f"{result['kernels']} kernels of Pallas are not counted",
        file=file,
    )
    for kind, (instructions, executions, _) in result["collectives"].items():
        print(f"  {kind}: {instructions} in the program, {executions} in a step", file=file)


if __name__ == "__main__":
    main()
