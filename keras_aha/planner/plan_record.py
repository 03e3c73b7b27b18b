"""What a plan says."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """An optimizer step, on each chip; what the compiler could not fit has no numbers.

    Attributes:
        sequences_per_chip: of one micro-batch.
        sequence_length: tokens, prompt and completion.
        rows: of a step, on all chips.
        micro_batches: of a step.
        argument_bytes: what the step takes: weights, adapters, the optimizer's moments, the batch.
        temp_bytes: what it holds beside that.
        flops: of matrix products in a step.
        bytes: to and from memory.
        collectives: kind → `{"count", "bytes"}` in a step; bytes of what a chip gives or gets, whichever is more.
        seconds_estimate: of a step, by the roofline.
        tokens_per_second_estimate: trained, on all chips.
    """

    sequences_per_chip: float
    sequence_length: int
    rows: int
    micro_batches: int
    argument_bytes: int
    temp_bytes: int | None = None
    flops: int | None = None
    bytes: int | None = None
    collectives: dict | None = None
    seconds_estimate: float | None = None
    tokens_per_second_estimate: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """Sampling one token for each row, on each chip.

    Attributes:
        sequences_per_chip: decoded at a time.
        cache_length: tokens of keys and values that each of them has room for, its prompt included.
        rows: on all chips.
        argument_bytes: what a step takes: weights, adapters merged, and the cache.
        cache_bytes: of the cache.
        floor_bytes_per_step: every weight once, without tables that are only looked up, and the whole cache once: what
            a step must read at least.
        bytes_per_step: to and from memory, as `bytes_note` says.
        bytes_per_step_compiler: by the compiler's own count.
        flops_per_step, temp_bytes, collectives: see `TrainPlan`.
        seconds_per_step_estimate: by the roofline, with a full cache.
        prefill_seconds_estimate: of reading the prompts of as many rows.
        tokens_per_second_estimate: sampled, on all chips, without prefill.
    """

    sequences_per_chip: int
    cache_length: int
    rows: int
    argument_bytes: int
    cache_bytes: int
    floor_bytes_per_step: int
    bytes_per_step: int | None = None
    bytes_per_step_compiler: int | None = None
    bytes_note: str = ""
    flops_per_step: int | None = None
    temp_bytes: int | None = None
    collectives: dict | None = None
    seconds_per_step_estimate: float | None = None
    prefill_seconds_estimate: float | None = None
    tokens_per_second_estimate: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """Time by the roofline, all completions of full length, and what it costs where a price is known."""

    rollout_seconds: float
    update_seconds: float
    epoch_seconds: float
    epochs: int
    run_seconds: float
    epoch_price: float | None = None
    run_price: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe on a topology: what fits, how fast it can be at best.

    Attributes:
        preset: the recipe's.
        topology, device_kind: as it was asked for, and as JAX calls its devices.
        chips: JAX devices; of TPU v2, v3 and v7x two are on a chip.
        fits: whether all of the run fits into memory.
        hbm_bytes_per_chip: the most that it takes at a time.
        hbm_limit_bytes: the most that a program may take.
        parts: bytes by part, of the phase that takes the most; their sum is `hbm_bytes_per_chip`.
        phases: the same of each phase.
        train, decode: see there.
        run: see `RunEstimate`; `None` where nothing is known of the device's speed.
        compile_seconds: that tracing and compiling took, on this machine.
        notes: what the numbers rest upon.
        advice: what to change, in this order, if it does not fit.
    """

    preset: str
    topology: str
    device_kind: str
    chips: int
    fits: bool
    hbm_bytes_per_chip: int
    hbm_limit_bytes: int
    parts: dict[str, int]
    phases: dict[str, dict[str, int]]
    train: TrainPlan
    decode: DecodePlan
    run: RunEstimate | None
    compile_seconds: float
    notes: tuple[str, ...]
    advice: tuple[str, ...]

    def to_dict(self) -> dict:
        """All of it, as JSON can hold it."""
        return dataclasses.asdict(self)
