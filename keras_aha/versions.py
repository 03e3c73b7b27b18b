"""The oldest versions that keras-aha works with, checked without importing them."""

import re
from importlib import metadata

# Package → oldest version, as in pyproject.toml, and what is wrong with those before it.
OLDEST = {
    # Keras 3.14.1 makes adapters in the kernel's dtype, 3.15.0 in float32 (pull request 22559).
    "keras": (
        "3.15",
        "before it LoRA's adapters had the dtype of their kernels, and Adam did not move them in bfloat16 "
        "(keras-hub's issue 2629)",
    ),
    # keras-hub 0.29.0 does not split the prompts of `generate`, 0.29.1 does (read).
    "keras-hub": (
        "0.32",
        "keras-aha drives the layers and caches of its models, which were others before it, and until 0.29.0 each of "
        "several devices computed all that generate() did (its pull request 2749)",
    ),
    "jax": ("0.10", "keras-aha was never tried with older ones"),
}
# A package that a JAX for accelerators brings, and the extra that brings it: they are updated together.
_EXTRAS = {"libtpu": "tpu", "jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13"}


def check_versions() -> None:
    """Raises ImportError where an installed package is too old; what is not installed is not looked at."""
    installed = {package: _installed(package) for package in OLDEST}
    old = {package: found for package, found in installed.items() if found and _is_older(found, OLDEST[package][0])}
    if not old:
        return
    reasons = "; ".join(f"{package} {OLDEST[package][0]} or later, as {OLDEST[package][1]}" for package in old)
    packages = " ".join(f'"{_with_extra(package)}>={OLDEST[package][0]}"' for package in old)
    received = ", ".join(f"{package} {found}" for package, found in old.items())
    raise ImportError(
        f"keras-aha needs {reasons}: run `pip install -U {packages}` and start Python again. Received: {received}"
    )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_older(version: str, oldest: str) -> bool:
    return _numbers(version) < _numbers(oldest)


def _numbers(version: str) -> list[int]:
    """`[3, 15]` of "3.15.0.dev1": a release to come counts as that release."""
    numbers = [int(number) for number in re.match(r"[\d.]*", version)[0].split(".") if number]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def _with_extra(package: str) -> str:
    extras = [extra for brought, extra in _EXTRAS.items() if package == "jax" and _installed(brought)]
    return f"{package}[{','.join(extras)}]" if extras else package
