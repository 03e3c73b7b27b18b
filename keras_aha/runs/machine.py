"""The machine that this runs on: which recipe suits it, and when its sessions end."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

from keras_aha.distribution.devices import peak_flops
from keras_aha.recipes.recipe import Recipe

# Where sessions end: what is set there, after how many hours to stop in time, where files outlive a session (on Colab a
# mounted Drive alone), and where weights may be attached.
# kaggle.com/docs/notebooks: 12 hours, 9 on a TPU; research.google.com/colaboratory/faq.html: at most 12.
_HOSTS = {
    "Kaggle": ("KAGGLE_KERNEL_RUN_TYPE", 8.5, "/kaggle/working", "/kaggle/input"),
    "Colab": ("COLAB_RELEASE_TAG", 11.5, "/content/drive/MyDrive", None),
}
_TPU_FILES = ("/dev/accel0", "/dev/vfio/0")  # of TPU v2 to v4, and of later ones
_GPU_FILE = "/dev/nvidia0"
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a notebook needs to know of the machine.

    Attributes:
        name: in words.
        recipe: the name of one in `presets/`.
        changes: to that recipe, for `Recipe.override`: weights that are attached here need no download, and a GPU
            without bfloat16 (T4, V100) takes float16.
        max_hours: for `Run`, counted from the session's start; `None` if sessions do not end.
        folder: where runs may be kept; what is in it outlives a session, if sessions end.
    """

    name: str
    recipe: str
    changes: tuple[str, ...]
    max_hours: float | None
    folder: Path


def find_machine(recipe: str | None = None) -> Machine:
    """The machine here, by JAX's devices and by what Kaggle and Colab set in the environment.

    Variables must not exist yet if there are several devices, see `distribute`; the devices themselves may.

    Args:
        recipe: another one than the machine's, which is `gemma2_2b_en` on eight TPU chips, `gemma3_1b` on fewer,
            `gemma3_270m` on a GPU and `countdown_tiny` on a CPU.
    """
    import jax

    devices = jax.devices()
    device, count = devices[0], len(devices)
    if recipe is None:
        tpu = "gemma2_2b_en" if count >= 8 else "gemma3_1b"
        recipe = {"tpu": tpu, "gpu": "gemma3_270m"}.get(device.platform, "countdown_tiny")
    host = _host()
    _, hours, kept, attached = _HOSTS.get(host, (None, None, None, None))
    weights = attached and _find_preset(Path(attached), Recipe.load(recipe).model.preset)
    halves = [dtype for dtype in ("bfloat16", "float16") if peak_flops(device.device_kind, dtype)]
    return Machine(
        name=devices_in_words() + (f" on {host}" if host else ""),
        recipe=recipe,
        changes=(
            *([f"model.preset={json.dumps(str(weights))}"] if weights else []),
            *(['model.dtype="float16"'] if halves == ["float16"] else []),
        ),
        max_hours=hours,
        folder=Path(kept if kept and Path(kept).is_dir() else "runs"),
    )


def devices_in_words() -> str:
    """Number and kind of the devices that JAX computes on: `8 × TPU v5 lite`."""
    import jax

    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind}"


def unused_accelerator() -> str | None:
    """What to do if JAX computes on the CPU of a machine that has an accelerator, unless the user chose so."""
    import jax

    if jax.default_backend() != "cpu" or jax.config.jax_platforms == "cpu":
        return None
    has_plugin = any(map(importlib.util.find_spec, _CUDA_PLUGINS))
    if "TPU_ACCELERATOR_TYPE" in os.environ or any(map(os.path.exists, _TPU_FILES)):
        name, installed, extra = "a TPU", importlib.util.find_spec("libtpu"), "tpu"
        remedy = "another process holds it: end that one, or restart the notebook's kernel"
    elif has_plugin or os.path.exists(_GPU_FILE):
        name, installed, extra = "a GPU", has_plugin, "cuda"
        remedy = "see what `python -c \"import jax; jax.devices('cuda')\"` says of its driver"
    else:
        return None
    if not installed:
        remedy = f"install what JAX needs for it: pip install 'keras-aha[{extra}]'"
    return f"JAX computes on the CPU, and this machine has {name}, or what a program needs for one; {remedy}."


def keep_compiled_programs(log_dir: str | os.PathLike) -> None:
    """Lets JAX keep its compiled programs beside a run on Kaggle and Colab, where nothing else outlives a session."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if _host() is not None:
        compilation_cache.reset_cache()  # another folder may be in use
        jax.config.update("jax_compilation_cache_dir", str(Path(log_dir).absolute().parent / "compiled"))


def session_hours() -> float | None:
    """After how many hours to stop on Kaggle and Colab, where sessions end; `None` elsewhere."""
    host = _host()
    return _HOSTS[host][1] if host else None


def _host() -> str | None:
    return next((name for name, (variable, *_) in _HOSTS.items() if variable in os.environ), None)


def _find_preset(folder: Path, name: str) -> Path | None:
    """The newest version of a preset in a folder of Kaggle's, which ends in `…/keras/gemma2/keras/gemma2_2b_en/2`."""
    versions = [path.parent for path in folder.glob(f"**/{name}/*/config.json") if path.parent.name.isdigit()]
    return max(versions, key=lambda path: int(path.name), default=None)
