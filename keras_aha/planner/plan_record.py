"""What a plan says."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """What each chip does in an optimizer step, or in a decode step with a full cache.

    Attributes:
        flops: of matrix products.
        bytes: to and from memory. Of a decode step they can be fewer than `DecodePlan.floor_bytes`, if a chip keeps
            some in its scratchpad memory from step to step.
        collectives: kind → `{"count", "bytes"}`; bytes of what a chip gives or gets, whichever is more.
        seconds: by the roofline; `None` if nothing is known of the chip's speed.
        tokens_per_second: trained or sampled, on all chips.
    """

    flops: int
    bytes: int
    collectives: dict[str, dict[str, int]]
    seconds: float | None
    tokens_per_second: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """The optimizer step.

    Attributes:
        rows: completions of a step, on all chips.
        sequences_per_chip: rows of one micro-batch, on a chip.
        sequence_length: tokens, prompt and completion.
        micro_batches: of a step.
        argument_bytes: what the step takes, on a chip: weights, adapters, the optimizer's moments, the batch.
        step: `None` if the compiler found no room for it.
    """

    rows: int
    sequences_per_chip: float
    sequence_length: int
    micro_batches: int
    argument_bytes: int
    step: StepEstimate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """Sampling one token for each row.

    Attributes:
        rows: that are decoded at a time, on all chips.
        sequences_per_chip: the same, on a chip.
        cache_length: tokens of keys and values that each row has room for, its prompt included.
        argument_bytes: what a step takes, on a chip: weights, adapters merged, and the cache.
        floor_bytes: what a step must read at least: the whole cache, and every weight that is not only looked up.
        step: `None` if the compiler found no room for it.
        prefill_seconds: of reading the prompts of as many rows, by the roofline.
    """

    rows: int
    sequences_per_chip: int
    cache_length: int
    argument_bytes: int
    floor_bytes: int
    step: StepEstimate | None = None
    prefill_seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """Time by the roofline, all completions of full length, and what it costs if a price is known.

    A rollout's time includes that of judges in the process.
    """

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
        topology: as it was asked for.
        device_kind: as JAX calls the devices.
        chips: JAX devices; of TPU v2, v3 and v7x two are on a chip.
        hbm_limit_bytes: the most that programs may take of a chip's memory.
        phases: phase of the run → part → bytes on a chip.
        train, decode: see there.
        run: `None` if nothing is known of the device's speed, or if a step does not fit.
        compile_seconds: that tracing and compiling took, on this machine; 0 if nothing was compiled.
        notes: what the numbers rest upon.
        advice: what to change, in this order, if it does not fit.
    """

    preset: str
    topology: str
    device_kind: str
    chips: int
    hbm_limit_bytes: int
    phases: dict[str, dict[str, int]]
    train: TrainPlan
    decode: DecodePlan
    run: RunEstimate | None
    compile_seconds: float
    notes: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def largest_phase(self) -> str:
        """The phase that takes the most memory."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, int]:
        """Part → bytes on a chip, in the phase that takes the most."""
        return self.phases[self.largest_phase]

    @property
    def hbm_bytes_per_chip(self) -> int:
        """The most that the run takes at a time, of a chip's memory."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether all of the run fits into memory."""
        return self.hbm_bytes_per_chip <= self.hbm_limit_bytes

    def to_dict(self) -> dict:
        """All of it, as JSON can hold it."""
        sums = {"fits": self.fits, "hbm_bytes_per_chip": self.hbm_bytes_per_chip, "parts": self.parts}
        return dataclasses.asdict(self) | sums
