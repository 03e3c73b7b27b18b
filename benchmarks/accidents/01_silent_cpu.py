"""A machine with a GPU that JAX does not see: the run says in a sentence that it computes on the CPU.

github.com/jax-ml/jax/issues/22070, 10192, 17624
"""

from commands import SMALL, run


def check(folder):
    result = run("fit", "--log-dir", folder / "run", "--epochs", 1, *SMALL, TPU_ACCELERATOR_TYPE="v5e-8")
    assert result.returncode == 0, result.stdout
    (warning,) = [line for line in result.stdout.split("\n") if "TPU" in line]
    assert "  devices    1 × cpu" in result.stdout.lower(), result.stdout
    return warning
