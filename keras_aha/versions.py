"""The versions of other packages that keras-aha works with, checked without importing them."""

from importlib import metadata

from packaging.version import Version

# Package → its oldest version, its first one that is too new, and what is wrong with older ones; as in pyproject.toml.
SUPPORTED = {
    # Keras 3.14.1 makes adapters in the kernel's dtype, 3.15.0 in float32 (pull request 22559).
    "keras": (
        *("3.15", "3.16"),
        "before it LoRA's adapters had the dtype of their kernels, and Adam did not move them in bfloat16 "
        "(keras-hub's issue 2629)",
    ),
    "keras-hub": (
        *("0.32", "0.33"),
        "keras-aha drives the layers and caches of its models, which were others before it, and until 0.29.0 each of "
        "several devices computed all that generate() did (its pull request 2749)",
    ),
    "jax": ("0.10", "0.13", "keras-aha was never tried with older versions"),
}
# A package that a JAX for accelerators brings, and the extra that brings it: they are updated together.
_EXTRAS = {"libtpu": "tpu", "jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13"}


def check_versions() -> None:
    """Raises ImportError if an installed package is too old or too new. Packages that are not installed pass."""
    reasons, packages, received = [], [], []
    for package, (oldest, too_new, why) in SUPPORTED.items():
        version = installed(package)
        if version is None:
            continue
        base = Version(Version(version).base_version)  # a release to come, such as 3.15.0.dev1, counts as that release
        if base < Version(oldest):
            reasons.append(f"{package} {oldest} or later, because {why}")
        elif base >= Version(too_new):
            reasons.append(f"{package} before {too_new}, because it was never tried with newer versions")
        else:
            continue
        extras = ",".join(extra for brought, extra in _EXTRAS.items() if package == "jax" and installed(brought))
        packages.append(f'"{package}{extras and f"[{extras}]"}>={oldest},<{too_new}"')
        received.append(f"{package} {version}")
    if reasons:
        raise ImportError(
            f"keras-aha needs {'; '.join(reasons)}: run `pip install -U {' '.join(packages)}` and start Python again. "
            f"Received: {', '.join(received)}"
        )


def installed(package: str) -> str | None:
    """Of a package; `None` if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
