"""A program, compiled and measured."""

import dataclasses
import re

from keras_aha.planner.hlo import collectives, hbm_bytes, hbm_traffic, matrix_flops

import jax


class TooLarge(Exception):
    """The compiler found no way to run a program in a device's memory.

    Attributes:
        temp_bytes: what it would hold beside its arguments, if the compiler says so.
    """

    def __init__(self, temp_bytes: int | None):
        super().__init__("The program needs more memory than the device has.")
        self.temp_bytes = temp_bytes


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled program takes and does, on one device.

    Attributes:
        argument_bytes, temp_bytes: of its arguments, and of what it holds beside them while it runs.
        output_bytes: of results that do not take the place of an argument.
        code_bytes: of the program itself.
        flops: operations of matrix products.
        bytes: read from and written to the device's main memory.
        collectives: see `hlo.collectives`.
    """

    argument_bytes: int
    temp_bytes: int
    flops: int
    bytes: int
    output_bytes: int = 0
    code_bytes: int = 0
    collectives: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


def measure(compiled: jax.stages.Compiled, turns: int = 1, one_turn: bool = False) -> Program:
    """Measures a compiled program.

    Args:
        turns: of loops that run as often as data say, see `ProgramText.runs`.
        one_turn: whether bytes are those of one turn of its loop; else of all of it.
    """
    text, memory = compiled.as_text(), compiled.memory_analysis()
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    beside = memory.peak_memory_in_bytes - memory.argument_size_in_bytes - output
    moved = sum(read + written for read, written, _ in hbm_traffic(text)) if one_turn else hbm_bytes(text, turns)
    return Program(
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=max(memory.temp_size_in_bytes, beside),  # the former can leave something out
        flops=matrix_flops(text, turns),
        bytes=moved,
        output_bytes=output,
        code_bytes=memory.generated_code_size_in_bytes,
        collectives=collectives(text, turns),
    )


def compile_program(lowered: jax.stages.Lowered, argument_bytes: int) -> jax.stages.Compiled:
    """Compiles a program with so many bytes of arguments on a device; TooLarge if the compiler cannot make it fit."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(_temp_bytes(str(error), argument_bytes)) from error


def _temp_bytes(message: str, argument_bytes: int) -> int | None:
    """The bytes beside its arguments that a program would need, in either of the compiler's wordings."""
    number = r"([\d.]+)([KMGT])"
    if used := re.search(rf"Used {number} of [\d.]+[KMGT] hbm", message):
        return max(0, _bytes(*used.groups()) - argument_bytes)
    temporaries = re.search(rf"\({number}\) exceeds available", message)
    return temporaries and _bytes(*temporaries.groups())


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit])
