"""A plan as people read it: a table, and plain words for a newcomer."""

import math

from keras_aha.planner.plan_record import Plan

_PARTS = {
    "weights": "weights",
    "adapters_and_optimizer": "adapters and optimizer",
    "merged_weights": "weights of rollouts",
    "cache": "keys and values",
    "batch": "batch",
    "activations": "activations",
    "program": "program",
}


def in_a_line(plan: Plan) -> str:
    """One line, such as a recipe's comment holds."""
    fits = "fits" if plan.fits else "does not fit"
    memory = f"{_gb(plan.hbm_bytes_per_chip)} of {_gb(plan.hbm_limit_bytes)} a chip"
    line = f"{plan.preset} on {_place(plan)}: {fits}, {memory}"
    run = plan.run
    if run is not None:
        line += f"; at best {_time(run.epoch_seconds)} an epoch, {_time(run.run_seconds)} for {run.epochs}"
        line += "" if run.run_price is None else f", costing {run.run_price:.2f}"
    return line


def in_a_table(plan: Plan) -> str:
    """All numbers, a few lines a topic."""
    lines = [in_a_line(plan), "", *_memory_lines(plan), *_train_lines(plan), *_decode_lines(plan), *_run_lines(plan)]
    if plan.advice:
        lines += ["", "To make it fit, in this order:"]
        lines += [f"  {i}. {advice}" for i, advice in enumerate(plan.advice, 1)]
    return "\n".join([*lines, "", *plan.notes])


def _memory_lines(plan: Plan) -> list[str]:
    unit, name = (1e9, "GB") if plan.hbm_bytes_per_chip >= 1e9 else (1e6, "MB")

    def line(name, sizes):
        return f"  {name:26s}" + "".join(f"{size / unit:12.2f}" for size in sizes)

    phases = plan.phases.values()
    head = f"  {f'memory a chip, {name}':26s}" + "".join(f"{phase:>12s}" for phase in plan.phases)
    rows = [line(f"  {words}", [parts[part] for parts in phases]) for part, words in _PARTS.items()]
    return [head, *rows, line("  all", [sum(parts.values()) for parts in phases])]


def _train_lines(plan: Plan) -> list[str]:
    train = plan.train
    at_a_time = f"{train.sequences_per_chip:g} a chip at a time"
    lines = [f"  train step    {train.rows} rows of {train.sequence_length} tokens, {at_a_time}"]
    if train.flops is not None:
        lines.append(f"    a chip      {_work(train.flops, train.bytes)}{_told(train.collectives)}")
    if train.seconds_estimate is not None:
        speed = f"{train.tokens_per_second_estimate:,.0f} tokens/s"
        lines.append(f"    at best     {_time(train.seconds_estimate)}, {speed}")
    return lines


def _decode_lines(plan: Plan) -> list[str]:
    decode = plan.decode
    room = f"room for {decode.cache_length} tokens each"
    lines = [f"  decode step   {decode.rows} rows, {decode.sequences_per_chip} a chip, {room}"]
    if decode.bytes_per_step is not None:
        floor = f"{decode.bytes_per_step / decode.floor_bytes_per_step:.2f} of the least"
        work = _work(decode.flops_per_step, decode.bytes_per_step)
        lines.append(f"    a chip      {work}, {floor}{_told(decode.collectives)}")
    if decode.seconds_per_step_estimate is not None:
        speed = f"{decode.tokens_per_second_estimate:,.0f} tokens/s"
        lines.append(f"    at best     {_time(decode.seconds_per_step_estimate)}, {speed}")
    return lines


def _run_lines(plan: Plan) -> list[str]:
    lines, run = [], plan.run
    if run is not None:
        parts = f"rollout {_time(run.rollout_seconds)}, update {_time(run.update_seconds)}"
        lines.append(f"  epoch         at best {_time(run.epoch_seconds)}: {parts}")
        lines.append(f"  run           at best {_time(run.run_seconds)} for {run.epochs} epochs and their evaluations")
        if run.run_price is not None:
            lines.append(f"  price         {run.epoch_price:.2f} an epoch, {run.run_price:.2f} the run")
    return [*lines, f"  compiled      in {plan.compile_seconds:.0f} s"]


def in_plain_words(plan: Plan) -> str:
    """What the numbers mean, for someone who has never trained a large model."""
    train, decode = plan.train, plan.decode
    chips = "the one chip" if plan.chips == 1 else f"each of the {plan.chips} chips"
    phase = max(plan.phases, key=lambda name: sum(plan.phases[name].values()))
    where = {"train": "the update", "merge": "the moment when adapters are merged"}.get(phase, "the rollout")
    largest = sorted(plan.parts, key=plan.parts.get, reverse=True)[:3]
    parts = "; ".join(f"{_gb(plan.parts[part])} of {_EXPLAINED[part]}" for part in largest if plan.parts[part])
    paragraphs = [
        f"Training {plan.preset} repeats one thing: the model writes completions for a few problems (the rollout), "
        "each is scored, and the weights are changed so that what scored well becomes likelier (the update). Both have "
        f"to fit into the memory of {chips} of {_place(plan)}.",
        f"A chip has room for {_gb(plan.hbm_limit_bytes)}. The most is needed in {where}: "
        f"{_gb(plan.hbm_bytes_per_chip)}. The largest parts of that: {parts}. "
        + ("So it fits." if plan.fits else "So it does not fit."),
        f"In an update each chip works on {train.sequences_per_chip:g} sequences of {train.sequence_length} tokens "
        f"at a time. In the rollout it writes {decode.sequences_per_chip} completions at once, one token of each in a "
        "step. A step has to read all weights and all keys and values, at least "
        f"{_gb(decode.floor_bytes_per_step)}, and that is what its time depends on.",
    ]
    if plan.run is not None:
        run = plan.run
        cost = "" if run.run_price is None else f" and cost {run.run_price:.2f}"
        paragraphs.append(
            f"At the very best an epoch takes {_time(run.epoch_seconds)}: the rollout {_time(run.rollout_seconds)}, "
            f"the update {_time(run.update_seconds)}. The recipe's {run.epochs} epochs, with evaluations, then take "
            f"{_time(run.run_seconds)}{cost}. No program reaches a chip's published speed: be prepared for two or "
            "three times as long."
        )
    if plan.advice:
        paragraphs.append("What to change, in this order: " + "; ".join(plan.advice) + ".")
    return "\n\n".join(paragraphs)


_EXPLAINED = {
    "weights": "weights",
    "adapters_and_optimizer": "what is trained: adapters, and what the optimizer remembers of their gradients",
    "merged_weights": "weights that rollouts have for themselves, with the adapters multiplied in",
    "cache": "keys and values, which is what the model remembers of each token that it has read",
    "batch": "the batch itself",
    "activations": "activations, which are the intermediate results that an update computes gradients from",
    "program": "the compiled program itself",
}


def _place(plan: Plan) -> str:
    return "this machine" if plan.topology == "local" else plan.topology


def _work(flops: int, moved: int) -> str:
    return f"{flops / 1e12:.2f} TFLOP, {_gb(moved)} to and from memory"


def _told(collectives: dict) -> str:
    if not collectives:
        return ", nothing between chips"
    kinds = (f"{found['count']} {kind} of {_gb(found['bytes'])}" for kind, found in collectives.items())
    return ", " + ", ".join(kinds) + " between chips"


def _gb(size: float) -> str:
    """Of 10⁹ bytes, or of 10⁶ where that is too little to see."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
