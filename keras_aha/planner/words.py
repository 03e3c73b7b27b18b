"""A plan as people read it: a table, and plain words for a newcomer."""

import math

from keras_aha.planner.record import Plan

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
    line = f"{plan.preset} on {plan.topology}: {fits}, {_gb(plan.hbm_bytes_per_chip)} of {_gb(plan.hbm_limit_bytes)} a chip"
    if plan.run is None:
        return line
    line += f"; at best {_time(plan.run.epoch_seconds)} an epoch, {_time(plan.run.run_seconds)} for {plan.run.epochs}"
    return line if plan.run.run_price is None else f"{line}, costing {plan.run.run_price:.2f}"


def in_a_table(plan: Plan) -> str:
    """All numbers, a few lines a topic."""
    train, decode = plan.train, plan.decode
    lines = [in_a_line(plan), "", f"  {'memory a chip, GB':26s}" + "".join(f"{phase:>12s}" for phase in plan.phases)]
    for part, name in _PARTS.items():
        row = [parts[part] for parts in plan.phases.values()]
        lines.append(f"    {name:24s}" + "".join(f"{size / 1e9:12.2f}" for size in row))
    lines.append(f"    {'all':24s}" + "".join(f"{sum(parts.values()) / 1e9:12.2f}" for parts in plan.phases.values()))
    lines.append(
        f"  train step    {train.rows} rows of {train.sequence_length} tokens, {train.sequences_per_chip:g} a chip at a time"
    )
    if train.flops is not None:
        lines.append(f"    a chip      {_work(train.flops, train.bytes)}{_told(train.collectives)}")
    if train.seconds_estimate is not None:
        lines.append(
            f"    at best     {_time(train.seconds_estimate)}, {train.tokens_per_second_estimate:,.0f} tokens/s"
        )
    lines.append(
        f"  decode step   {decode.rows} rows, {decode.sequences_per_chip} a chip, {decode.cache_length} tokens of keys and values"
    )
    if decode.bytes_per_step is not None:
        floor = decode.bytes_per_step / decode.floor_bytes_per_step
        lines.append(
            f"    a chip      {_work(decode.flops_per_step, decode.bytes_per_step)}, {floor:.2f} of weights once and "
            f"keys and values once{_told(decode.collectives)}"
        )
    if decode.seconds_per_step_estimate is not None:
        speed = decode.tokens_per_second_estimate
        lines.append(f"    at best     {_time(decode.seconds_per_step_estimate)} a token, {speed:,.0f} tokens/s")
    if plan.run is not None:
        run = plan.run
        rollout, update = _time(run.rollout_seconds), _time(run.update_seconds)
        lines.append(f"  epoch         at best {_time(run.epoch_seconds)}: rollout {rollout}, update {update}")
        lines.append(f"  run           at best {_time(run.run_seconds)} for {run.epochs} epochs and their evaluations")
        if run.run_price is not None:
            lines.append(f"  price         {run.epoch_price:.2f} an epoch, {run.run_price:.2f} the run")
    lines.append(f"  compiled      in {plan.compile_seconds:.0f} s")
    if plan.advice:
        lines += ["", "To make it fit, in this order:"]
        lines += [f"  {i}. {advice}" for i, advice in enumerate(plan.advice, 1)]
    return "\n".join([*lines, "", *plan.notes])


def in_plain_words(plan: Plan) -> str:
    """What the numbers mean, for someone who has never trained a large model."""
    train, decode, run = plan.train, plan.decode, plan.run
    phase = max(plan.phases, key=lambda name: sum(plan.phases[name].values()))
    largest = sorted(plan.parts, key=plan.parts.get, reverse=True)[:3]
    parts = ", ".join(f"{_gb(plan.parts[part])} {_EXPLAINED[part]}" for part in largest if plan.parts[part])
    where = {"train": "the update of the weights", "merge": "the moment when adapters are merged"}
    paragraphs = [
        f"Training {plan.preset} repeats one thing: the model writes completions for a few problems (the rollout), each is "
        "scored, and the weights are changed so that what scored well becomes likelier (the update). Both have to fit "
        f"into the memory of each of the {plan.chips} chips of {plan.topology}.",
        f"A chip has room for {_gb(plan.hbm_limit_bytes)}. The most is needed in {where.get(phase, 'the rollout')}: "
        f"{_gb(plan.hbm_bytes_per_chip)}. The largest parts of that are {parts}. "
        + ("So it fits." if plan.fits else "So it does not fit."),
        f"In an update each chip works on {train.sequences_per_chip:g} sequences of {train.sequence_length} tokens at a time. "
        f"In the rollout it writes {decode.sequences_per_chip} completions at once, one token of each per step; a step has "
        f"to read all weights and all keys and values, at least {_gb(decode.floor_bytes_per_step)}, which is what its time "
        "depends on.",
    ]
    if run is not None:
        faster, slower = sorted(
            [("the rollout", run.rollout_seconds), ("the update", run.update_seconds)], key=lambda x: x[1]
        )
        paragraphs.append(
            f"At the very best an epoch takes {_time(run.epoch_seconds)}: {faster[0]} {_time(faster[1])}, {slower[0]} "
            f"{_time(slower[1])}. The recipe's {run.epochs} epochs, with evaluations, then take {_time(run.run_seconds)}"
            + (f" and cost {run.run_price:.2f}. " if run.run_price is not None else ". ")
            + "No program reaches a chip's published speed: be prepared for two or three times as long."
        )
    if plan.advice:
        paragraphs.append("What to change, in this order: " + "; ".join(plan.advice) + ".")
    return "\n\n".join(paragraphs)


_EXPLAINED = {
    "weights": "of weights",
    "adapters_and_optimizer": "of what is trained: adapters, and the optimizer's memory of their gradients",
    "merged_weights": "of weights that rollouts have for themselves, with the adapters multiplied in",
    "cache": "of keys and values, which is what the model remembers of each token that it has read",
    "batch": "of the batch itself",
    "activations": "of activations, which are the intermediate results that an update computes gradients from",
    "program": "of the compiled program itself",
}


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
