"""A plan as people read it: a table, and plain words for a newcomer."""

import math

from keras_aha.names import preset_name
from keras_aha.planner.plan_record import Plan, StepEstimate

# Part of the memory → its name in the table, and what it is.
_PARTS = {
    "weights": ("weights", "weights"),
    "adapters_and_optimizer": (
        "adapters and optimizer",
        "adapters, which are what is trained, and what the optimizer remembers of their gradients",
    ),
    "teacher": ("teacher", "weights of the teacher"),
    "judges": ("judges", "weights of the judges"),
    "merged_weights": ("weights of rollouts", "weights that only rollouts use, as kernels with the adapters in them"),
    "cache": ("keys and values", "keys and values, which are what the model remembers of each token that it has read"),
    "batch": ("batch", "the batch itself"),
    "activations": (
        "activations",
        "activations, which are the intermediate results that an update computes gradients from",
    ),
    "program": ("program", "the compiled program itself"),
}


def in_a_line(plan: Plan) -> str:
    """One line, such as a recipe's comment holds."""
    fits = "fits" if plan.fits else "does not fit"
    memory = f"{in_gb(plan.hbm_bytes_per_chip)} of {in_gb(plan.hbm_limit_bytes)} a chip"
    line = f"{preset_name(plan.preset)} on {_place(plan)}: {fits}, {memory}"
    if run := plan.run:
        line += f"; at best {in_time(run.epoch_seconds)} an epoch, {in_time(run.run_seconds)} for {run.epochs}"
        line += "" if run.run_price is None else f", costing {run.run_price:.2f}"
    return line


def in_a_table(plan: Plan) -> str:
    """All numbers, a few lines a topic."""
    train, decode, run = plan.train, plan.decode, plan.run
    at_a_time = f"{train.sequences_per_chip:g} a chip at a time"
    room = f"room for {decode.cache_length} tokens each"
    lines = [in_a_line(plan), "", *_memory_lines(plan)]
    lines.append(f"  train step    {train.rows} rows of {train.sequence_length} tokens, {at_a_time}")
    lines += _step_lines(train.step)
    lines.append(f"  decode step   {decode.rows} rows, {decode.sequences_per_chip} a chip, {room}")
    lines += _step_lines(decode.step, decode.floor_bytes)
    if run is not None:
        parts = f"rollout {in_time(run.rollout_seconds)}, update {in_time(run.update_seconds)}"
        lines.append(f"  epoch         at best {in_time(run.epoch_seconds)}: {parts}")
        lines.append(
            f"  run           at best {in_time(run.run_seconds)} for {run.epochs} epochs and their evaluations"
        )
        if run.run_price is not None:
            lines.append(f"  price         {run.epoch_price:.2f} an epoch, {run.run_price:.2f} the run")
    if plan.compile_seconds:
        lines.append(f"  compiled      in {plan.compile_seconds:.0f} s")
    if plan.advice:
        lines += ["", "To make it fit, in this order:"]
        lines += [f"  {i}. {advice}" for i, advice in enumerate(plan.advice, 1)]
    return "\n".join([*lines, "", *plan.notes])


def _memory_lines(plan: Plan) -> list[str]:
    unit, name = (1e9, "GB") if plan.hbm_bytes_per_chip >= 1e9 else (1e6, "MB")

    def line(title, sizes):
        return f"  {title:26s}" + "".join(f"{size / unit:12.2f}" for size in sizes)

    phases = plan.phases.values()
    head = f"  {f'memory a chip, {name}':26s}" + "".join(f"{phase:>12s}" for phase in plan.phases)
    others = [part for part in ("teacher", "judges") if not any(parts[part] for parts in phases)]  # which it has not
    titles = {part: title for part, (title, _) in _PARTS.items() if part not in others}
    rows = [line(f"  {title}", [parts[part] for parts in phases]) for part, title in titles.items()]
    return [head, *rows, line("  all", [sum(parts.values()) for parts in phases])]


def _step_lines(step: StepEstimate | None, floor_bytes: int | None = None) -> list[str]:
    if step is None:
        return ["    a chip      its program does not fit"]
    floor = "" if floor_bytes is None else f" ({step.bytes / floor_bytes:.2f} times the least possible)"
    kinds = [f"{sums['count']} {kind} of {in_gb(sums['bytes'])}" for kind, sums in step.collectives.items()]
    work = f"{step.flops / 1e12:.2f} TFLOP, {in_gb(step.bytes)} to and from memory{floor}"
    lines = [f"    a chip      {work}, {', '.join(kinds) or 'nothing'} between chips"]
    if step.seconds is not None:
        lines.append(f"    at best     {in_time(step.seconds)}, {step.tokens_per_second:,.0f} tokens/s")
    return lines


def in_plain_words(plan: Plan) -> str:
    """What the numbers mean, for someone who has never trained a large model."""
    train, decode = plan.train, plan.decode
    chips = "the one chip" if plan.chips == 1 else f"each of the {plan.chips} chips"
    phases = {"train": "the update", "merge": "the moment when adapters are merged"}
    phases["judge"] = "the judging of completions"
    largest = sorted(plan.parts, key=plan.parts.get, reverse=True)[:3]
    parts = "; ".join(f"{in_gb(plan.parts[part])} of {_PARTS[part][1]}" for part in largest if plan.parts[part])
    paragraphs = [
        f"Training {preset_name(plan.preset)} repeats one thing. The model writes completions for a few problems: this "
        "is the rollout. Each completion is scored. Then the weights are changed so that completions with a high score "
        f"become more likely: this is the update. Both have to fit into the memory of {chips} of {_place(plan)}.",
        f"A chip has room for {in_gb(plan.hbm_limit_bytes)}. The most is needed in "
        f"{phases.get(plan.largest_phase, 'the rollout')}: {in_gb(plan.hbm_bytes_per_chip)}. The largest parts of "
        f"that: {parts}. " + ("So it fits." if plan.fits else "So it does not fit."),
        f"In an update each chip works on {train.sequences_per_chip:g} sequences of {train.sequence_length} tokens "
        f"at a time. In the rollout it writes {decode.sequences_per_chip} completions at once, one token of each in a "
        f"step. A step has to read all weights and all keys and values, at least {in_gb(decode.floor_bytes)}. Its time "
        "depends mostly on that.",
    ]
    if run := plan.run:
        cost = "" if run.run_price is None else f" and cost {run.run_price:.2f}"
        paragraphs.append(
            f"At the very best an epoch takes {in_time(run.epoch_seconds)}: the rollout {in_time(run.rollout_seconds)},"
            f" the update {in_time(run.update_seconds)}. The recipe's {run.epochs} epochs, with evaluations, then take "
            f"{in_time(run.run_seconds)}{cost}. No program reaches a chip's published speed: expect two or three times "
            "as long."
        )
    if plan.advice:
        paragraphs.append("What to change, in this order: " + "; ".join(plan.advice) + ".")
    return "\n\n".join(paragraphs)


def _place(plan: Plan) -> str:
    return "this machine" if plan.topology == "local" else plan.topology


def in_gb(size: float) -> str:
    """Of 10⁹ bytes; of 10⁶ if that is too little to see."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def in_time(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
