"""Says whether a recipe fits on a TPU, a GPU or this machine, how fast it can be, and what it costs, before it is run.

Programs are compiled and not run, so no accelerator and no weights are needed, and no Gemma is downloaded.
"""

import json
import os
import re
import sys
import time

import _cli

_START = time.perf_counter()


def parse(argv):
    parser = _cli.new_parser(__doc__)
    _cli.add_recipe_flags(parser, "gemma2_2b_en")
    words = (
        "a TPU as it is sold (v5e-1, v5e-8, v3-8, v6e-16) or as libtpu lays it out (v5e:2x4); GPUs (t4, t4x2), by "
        "arithmetic; cpu:8 for eight parts of this CPU; local for the accelerators here (default: %(default)s)"
    )
    parser.add_argument("--topology", default="v5e-8", help=words)
    parser.add_argument("--json", type=_cli.path, metavar="FILE", help="write all numbers to this file too")
    words = "in any currency; says what an epoch and a run cost"
    parser.add_argument("--price-per-chip-hour", type=float, metavar="PRICE", help=words)
    words = "find the largest micro-batch and the most rows decoded at a time that fit; compiles several times"
    parser.add_argument("--search", action="store_true", help=words)
    parser.add_argument("--explain", action="store_true", help="say it in plain words as well")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    choose_platform(args.topology)
    with _cli.errors_in_a_sentence():
        _cli.check_new_file(args.json, "--json")
        if args.price_per_chip_hour is not None and not 0 <= args.price_per_chip_hour < float("inf"):
            raise ValueError(f"A price must be 0 or more. Received: --price-per-chip-hour {args.price_per_chip_hour}")
        from keras_aha.recipes.recipe import Recipe

        recipe = Recipe.load(args.recipe).override(args.set)
        with _cli.quiet():
            from keras_aha import planner

            planner.find_topology(args.topology)  # libtpu logs a good deal as it is loaded
        if args.search:
            recipe = planner.search(recipe, args.topology, on_program=progress)
            print(f"largest: --set training.micro_batch_size={recipe.training.micro_batch_size}", end=" ")
            print(f"--set rollouts.max_rows={recipe.rollouts.max_rows}", flush=True)
        plan = planner.plan(recipe, args.topology, price_per_chip_hour=args.price_per_chip_hour, on_program=progress)
        if args.json:
            numbers = plan.to_dict() | {"recipe": args.recipe, "values": recipe.flat()}
            args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    progress("done")
    print(planner.in_a_table(plan))
    limits = recipe.rollouts
    rows = f"{limits.prompts_per_epoch} prompts × {limits.group_size} completions"
    print(f"recipe {args.recipe}: {rows}, at most {limits.max_prompt_length} + {limits.max_completion_length} tokens")
    if args.explain:
        print("", planner.in_plain_words(plan), sep="\n")
    return 0


def choose_platform(topology: str) -> None:
    """Before JAX is imported: the CPU compiles, and has as many devices as are asked for."""
    if topology != "local":
        os.environ["JAX_PLATFORMS"] = "cpu"
    if not topology.startswith(("local", "cpu")):
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a program for devices elsewhere cannot be read back
    if count := re.fullmatch(r"(?:cpu:|[a-z]+\d+x)(\d+)", topology):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count[1]}"


def progress(name: str) -> None:
    """Tells which program is being compiled, and since when, on stderr."""
    print(f"{time.perf_counter() - _START:5.0f} s  {name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _cli.start(main)
