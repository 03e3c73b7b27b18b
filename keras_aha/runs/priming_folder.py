"""The folder of a preset that is primed: what has begun there, and what completes it."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from keras_aha.callbacks.run_folder import HISTORY, check_no_pattern, checkpoint_folder
from keras_aha.distribution.folder_lock import check_unused
from keras_aha.files import write_whole
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.values import RecipeError
from keras_aha.runs.check_files import saved_epochs
from keras_aha.runs.check_folder import check_new_folder, check_writable
from keras_aha.tasks import Task
from keras_aha.training.examples import Example

import keras_hub

PRIMING = "priming"  # the folder in that of the preset
_BEGAN = "began.json"
_LAST = "config.json"  # the file of a preset without which there is none


def is_primed(out: Path) -> bool:
    """Whether a priming in a folder is complete."""
    return (out / PRIMING / _BEGAN).is_file() and (out / _LAST).is_file()


def read_began(out: Path) -> dict | None:
    """What the priming in a folder began with: its `recipe`, `new`, and the checksum of its `examples`; `None` if there
    is none, or it is complete. ValueError if that cannot be read."""
    path = out / PRIMING / _BEGAN
    if is_primed(out) or not path.with_name(RECIPE).is_file() or not path.is_file():
        return None
    try:
        began = json.loads(path.read_bytes())
        return {"new": began["new"], "examples": began["examples"], "recipe": Recipe.load(path.with_name(RECIPE))}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: begin in another folder. Received: {error!r}") from error


def check_out(out: Path, recipe: Recipe, new: bool, resume: bool) -> None:
    """Raises ValueError unless a priming may begin in a folder, or the one that was stopped there may go on."""
    check_no_pattern(out, "out")
    check_unused(out, "out")
    names = (_BEGAN, f"{_BEGAN}.part")
    if any((out / PRIMING / name).is_file() for name in names) and not (is_primed(out) or saved_epochs(out / PRIMING)):
        shutil.rmtree(out / PRIMING)  # it ended before its first epoch was saved
    began, received = read_began(out), f"Received: out={str(out)!r}"
    if began is None:
        check_new_folder(out, "out")
        return
    if not resume:
        raise ValueError(
            f"{out} holds a priming that was stopped: go on with it by resume=True (--resume), or choose another out. "
            f"{received}, resume=False"
        )
    check_writable(out, "out")
    before, after = ({"new": x["new"], **x["recipe"].flat()} for x in (began, {"new": new, "recipe": recipe}))
    sections = ("new", "model.", "lora.", "task", "priming.")
    changed = [key for key in {**before, **after} if key.startswith(sections) and before.get(key) != after.get(key)]
    if changed:
        lines = "; ".join(f"{key}: {before.get(key)!r} → {after.get(key)!r}" for key in changed)
        raise RecipeError(
            f"It would be another priming than the one that was stopped in {out}: go on with its recipe, which is "
            f"taken if you name none, or choose another out. {received}, {lines}"
        )


def begin(out: Path, recipe: Recipe, new: bool, examples: Task | Sequence[Example]) -> Path:
    """The folder of what a priming saves until it is complete, in which stands what it began with; ValueError if that
    was other `examples`."""
    folder, began, digest = out / PRIMING, read_began(out), hashlib.sha256()
    for example in () if isinstance(examples, Task) else examples:
        for ids in example:
            digest.update(ids.tobytes() + b" ")
    if began is None:
        folder.mkdir(exist_ok=True)
        write_whole(folder / _BEGAN, json.dumps({"new": new, "examples": digest.hexdigest()}))
        recipe.dump(folder / RECIPE)
    elif began["examples"] != digest.hexdigest():
        raise ValueError(
            f"The rows are not those with which the priming in {out} began: put the files back as they were, or choose "
            f"another out. Received: priming.file={recipe.priming.file!r}"
        )
    return folder


def finish(out: Path, policy: keras_hub.models.CausalLM) -> None:
    """Saves the policy and the curve of its loss; the file that makes a folder a preset comes last."""
    folder = out / PRIMING
    part = folder / "preset"
    shutil.rmtree(part, ignore_errors=True)
    policy.save_to_preset(str(part))
    shutil.copy(folder / HISTORY, part / "priming.csv")
    for path in sorted(part.iterdir(), key=lambda path: path.name == _LAST):
        if (out / path.name).is_dir():  # of what was killed here
            shutil.rmtree(out / path.name)
        path.replace(out / path.name)
    part.rmdir()
    shutil.rmtree(checkpoint_folder(folder))
