"""What a decode step moves on a TPU, by the TPU compiler; no TPU is needed.

    pip install libtpu                     the compiler; "keras-aha[tpu]" brings the one that fits jax
    python benchmarks/tpu_decode.py        Gemma2-2B in bfloat16, 64 rows, 1,024 tokens of cache, one v5e chip
    python benchmarks/tpu_decode.py --prompt-length 512     the first 512 of them shared by groups of 16
    python benchmarks/tpu_decode.py --quantization int8     beside it with int8 weights, and the ratio of the two
    python benchmarks/tpu_decode.py --turns                 beside it with a position a row, as in several turns

Compiles one decode step, and `jitted_steps.segment` with its state donated, as `generate` runs it. A step moves at
least the floor: every weight once, and the cache once. Of a loop the body counts, which is a step.

counted: `cost_analysis()`. It takes no notice of where arrays lie: a weight that is prefetched into the chip's
    scratchpad memory counts when the copy starts, when it is done and when it is used.
counted without scratchpad: the same, of the program compiled with nothing in that memory and so nothing prefetched.
HBM: what is read from and written to HBM by the text of the compiled program (`keras_aha.planner.hlo`). Without
    scratchpad it must agree with the count.
"""

import argparse
import os
import time
import weakref
from pathlib import Path

os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TF_CPP_MIN_LOG_LEVEL="3")

from keras_aha.decoding import Sampling, decoder_for
from keras_aha.decoding.decoder import Prompt
from keras_aha.decoding.jitted_steps import Rows, Settings, State, Turns, segment
from keras_aha.decoding.sampling import sample
from keras_aha.models.quantization import abstract_quantized
from keras_aha.planner.hlo import hbm_traffic

import jax
import jax.numpy as jnp
from abstract_gemma import VOCABULARY, gemma2_2b
from jax.experimental import topologies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--cache", type=int, default=1024, help="tokens a row, prompt included (default: %(default)s)")
    parser.add_argument("--prompt-length", type=int, default=0, help="tokens of these that a group shares")
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--programs", nargs="+", choices=("step", "segment"), default=["step", "segment"])
    parser.add_argument("--quantization", choices=("int8",), help="of the weights, to be compared with bfloat16")
    parser.add_argument("--turns", action="store_true", help="compare with rows that speak in turns")
    parser.add_argument("--topology", default="v5e:1x1", help="one chip, as libtpu calls it (default: %(default)s)")
    parser.add_argument("--hlo", type=Path, help="folder for the text of the compiled programs")
    args = parser.parse_args()
    chip = [1] * max(3, args.topology.count("x") + 1)
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=args.topology, chips_per_host_bounds=tuple(chip)
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    backbone = gemma2_2b(args.layers)
    moved = measure(decoder_for(backbone), sharding, args, "bfloat16")
    if args.turns:
        in_turns = measure(decoder_for(backbone), sharding, args, "bfloat16", in_turns=True)
        print("in turns a step moves, of the bytes that it moves with all rows at one position:")
        for (name, label), size in in_turns.items():
            print(f"  {name:10s}{label:28s}{size / moved[name, label]:6.3f}")
    if args.quantization:
        decoder = decoder_for(abstract_quantized(backbone, args.quantization))
        quantized = measure(decoder, sharding, args, args.quantization)
        print(f"{args.quantization} weights move, of the bytes that bfloat16 ones move:")
        for (name, label), size in quantized.items():
            print(f"  {name:10s}{label:28s}{size / moved[name, label]:6.3f}")


def measure(decoder, sharding, args, weights_name: str, in_turns=False) -> dict:
    """Compiles the programs and prints what they move: `(name, way of counting)` → bytes."""
    arguments = abstract_arguments(decoder, args, in_turns)
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    weights, state, _, prompt, _ = arguments
    floor = sum(bytes_of(x) for x in jax.tree.leaves((weights, state.cache, prompt.cache if prompt else ())))
    print(f"{weights_name}, {args.layers} layers, {args.rows} rows, {args.cache} tokens: floor {floor / 1e9:.3f} GB")
    moved = {}
    for name in ["segment"] if in_turns else args.programs:
        lowered = programs(decoder)[name].lower(*arguments)
        begin = time.perf_counter()
        compiled = lowered.compile()
        print(f"{name}, compiled in {time.perf_counter() - begin:.0f} s")
        without = lowered.compile(compiler_options={"xla_msa_enable": False})
        sizes = report(compiled, without, floor, bytes_of(state.cache[0][0]))
        moved |= {(name, label): size for label, size in sizes.items()}
        if args.hlo:
            args.hlo.mkdir(parents=True, exist_ok=True)
            (args.hlo / f"{name}-{weights_name}.txt").write_text(compiled.as_text())
    return moved


def bytes_of(array) -> int:
    return array.size * array.dtype.itemsize


def abstract_arguments(decoder, args, in_turns=False):
    """`(weights, state, rows, prompt, settings)` of `segment`, as shapes."""
    backbone = decoder.backbone
    attention = backbone.transformer_layers[0].attention

    def cache(rows, slots):
        shape = rows, attention.num_key_value_heads, slots, attention.head_dim
        return tuple((jnp.zeros(shape, "bfloat16"), jnp.zeros(shape, "bfloat16")) for _ in decoder.windows)

    def make():
        weights = [jnp.zeros(variable.shape, variable.dtype) for variable in backbone.variables]
        numbers = jnp.zeros(args.rows, "int32")
        hidden = jnp.zeros((args.rows, backbone.hidden_dim), "bfloat16")
        rings = cache(args.rows, args.cache - args.prompt_length)
        index = numbers if in_turns else jnp.int32(0)
        state = State(index, hidden, rings, jnp.zeros(args.rows, bool), numbers)
        turns = Turns(jnp.zeros((args.rows, 256), "int32"), numbers, numbers) if in_turns else None
        rows = Rows(jax.random.split(jax.random.key(0), args.rows), numbers, numbers, turns)
        prompt = None
        if args.prompt_length:
            prompt = Prompt(cache(args.rows // args.group_size, args.prompt_length), jnp.int32(0))
        settings = Settings(jnp.zeros((2, VOCABULARY), "int8"), jnp.float32(1), *[jnp.int32(0)] * 3)
        return weights, state, rows, prompt, settings

    return jax.eval_shape(make)


def programs(decoder):
    """Jitted functions of `(weights, state, rows, prompt, settings)`."""

    def step(weights, state, rows, prompt, settings):
        with decoder.using(weights):
            drawn = sample(decoder.logits(state.hidden), rows.keys, state.index - rows.firsts, settings.temperature)
            hidden, cache = decoder.step(drawn[0], state.index, rows.starts, state.cache, prompt)
        return state._replace(index=state.index + 1, hidden=hidden, cache=cache), drawn

    def whole_segment(*arguments):
        return segment(weakref.ref(decoder), Sampling(), *arguments)

    return {"step": jax.jit(step, donate_argnums=1), "segment": jax.jit(whole_segment, donate_argnums=1)}


def report(compiled, without, floor: int, cache_array: int) -> dict:
    """Prints the counts, the memory, and the lines of the program that the corrected count rests upon."""
    traffic, check = hbm_traffic(compiled.as_text()), hbm_traffic(without.as_text())
    sizes = {
        "counted": compiled.cost_analysis()["bytes accessed"],
        "counted without scratchpad": without.cost_analysis()["bytes accessed"],
        "HBM without scratchpad": sum(read + written for read, written, _ in check),
        "HBM": sum(read + written for read, written, _ in traffic),
    }
    for label, moved in sizes.items():
        print(f"  {label:28s}{moved / 1e9:8.3f} GB{moved / floor:8.3f} of the floor")
    memory = compiled.memory_analysis()
    print(f"  arguments {memory.argument_size_in_bytes / 1e9:.3f} GB", end=", ")
    print(f"outputs beside them {(memory.output_size_in_bytes - memory.alias_size_in_bytes) / 1e6:.1f} MB", end=", ")
    print(f"temporary {memory.temp_size_in_bytes / 1e6:.1f} MB; an array of the cache has {cache_array / 1e6:.1f} MB")
    starts = [x for x in traffic if x[2].op.endswith("-start")]
    updates = [x for x in traffic if x[2].op == "dynamic-update-slice" and x[2].in_place and x[1]]
    others = [x for x in traffic if x not in updates]
    print_lines("prefetched from HBM", starts, largest=lambda x: x[0])
    print_lines("updated in place, by `aliasing_operands`", updates, largest=lambda x: x[1])
    print_lines("read otherwise", [x for x in others if x not in starts], largest=lambda x: x[0])
    print_lines("written otherwise", others, largest=lambda x: x[1])
    return sizes


def print_lines(title, traffic, largest) -> None:
    print(f"  {title}: {sum(map(largest, traffic)) / 1e6:.2f} MB in {len(traffic)} instructions, such as")
    for read, written, instruction in sorted(traffic, key=largest, reverse=True)[:2]:
        print(f"    {read / 1e6:.2f} MB read, {written / 1e6:.2f} written: {str(instruction)[:200]}")


if __name__ == "__main__":
    main()
