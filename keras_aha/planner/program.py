"""A program, compiled and measured."""

import dataclasses
import re

from keras_aha.planner.hlo import Collectives, collectives, hbm_bytes, loop_bytes, matrix_flops

import jax


class TooLarge(Exception):
    """The compiler found no way to run a program in a device's memory.

    Attributes:
        temp_bytes: what it would hold beside its arguments, where the compiler says so.
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
        compiler_bytes: the same by the compiler's own count, which counts the body of a loop once and what lies in
            scratchpad memory too.
        collectives: by kind, those that run at all.
    """

    argument_bytes: int
    temp_bytes: int
    output_bytes: int
    code_bytes: int
    flops: int
    bytes: int
    compiler_bytes: int
    collectives: dict[str, Collectives]

    @property
    def collective_bytes(self) -> int:
        """Bytes of all collectives."""
        return sum(counted.bytes for counted in self.collectives.values())


def measure(compiled: jax.stages.Compiled, turns: int = 1, one_turn: bool = False) -> Program:
    """Measures a compiled program.

    Args:
        compiled: of `jax.jit`.
        turns: of loops that run as often as data say, see `hlo.matrix_flops`.
        one_turn: whether bytes are those of one turn of its loop; else of all of it.
    """
    text, memory = compiled.as_text(), compiled.memory_analysis()
    counted = collectives(text, turns)
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    beside = memory.peak_memory_in_bytes - memory.argument_size_in_bytes - output
    return Program(
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=max(memory.temp_size_in_bytes, beside),  # the former can leave something out
        output_bytes=output,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=matrix_flops(text, turns),
        bytes=loop_bytes(text) if one_turn else hbm_bytes(text, turns),
        compiler_bytes=int(compiled.cost_analysis()["bytes accessed"]),
        collectives={kind: found for kind, found in counted.items() if found.executions},
    )


def compile_program(lowered: jax.stages.Lowered, argument_bytes: int) -> jax.stages.Compiled:
    """Compiles a lowered program.

    Args:
        lowered: of `jax.jit`.
        argument_bytes: of what it takes, on one device.

    Raises:
        TooLarge: if the compiler finds no way to fit it into memory.
    """
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
