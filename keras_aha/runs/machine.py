"""The machine that this runs on: which recipe suits it, and when its sessions end."""

import dataclasses
import json
import os
from pathlib import Path

# Where sessions end: what is set there, after how many hours to stop in time, where files outlive a session (on Colab a
# mounted Drive alone), and where weights may be attached.
# kaggle.com/docs/notebooks: 12 hours, 9 on a TPU; research.google.com/colaboratory/faq.html: at most 12.
_HOSTS = {
    "Kaggle": ("KAGGLE_KERNEL_RUN_TYPE", 8.5, "/kaggle/working", "/kaggle/input"),
    "Colab": ("COLAB_RELEASE_TAG", 11.5, "/content/drive/MyDrive", None),
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a notebook needs to know of the machine.

    Attributes:
        name: in words.
        recipe: the name of one in `presets/`.
        changes: to that recipe, for `Recipe.override`: weights that are attached here need no download.
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
    weights = attached and _find_preset(Path(attached), recipe)
    return Machine(
        name=f"{count} × {device.device_kind}" + (f" on {host}" if host else ""),
        recipe=recipe,
        changes=(f"model.preset={json.dumps(str(weights))}",) if weights else (),
        max_hours=hours,
        folder=Path(kept if kept and Path(kept).is_dir() else "runs"),
    )


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
