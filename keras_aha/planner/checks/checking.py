"""`check`: is all on this machine as it should be? What is predicted, against what is measured."""

import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_aha.distribution.devices import chip
from keras_aha.planner.checks import numerics, speed
from keras_aha.planner.checks.check_record import CheckFinding, CheckReport, first_sentence
from keras_aha.planner.checks.kill_and_resume import EPOCHS, kill_and_resume
from keras_aha.planner.checks.trial import Trial
from keras_aha.planner.plan_text import in_gb
from keras_aha.planner.planning import plan
from keras_aha.planner.topology import find_topology
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.machine import devices_in_words, find_machine
from keras_aha.versions import installed

import jax
import keras

_PACKAGES = ("keras-aha", "keras", "keras-hub", "jax", "jaxlib")
_EMBEDDED = "countdown_tiny"


def check(
    recipe: str | None = None, changes: Iterable[str] = (), *, on_check: Callable[[str], None] = lambda name: None
) -> CheckReport:
    """Says what this machine does, against what the planner predicts: numbers, speed, memory, a kill and a resume.

        print(aha.check())

    Nothing is downloaded: a Gemma's weights are random, those of the embedded model are real. It takes less
    than five minutes on two CPU cores, and should take three to ten on an accelerator, on which it has not run yet. A
    check that ends by an error is a finding, and the others go on.

    Args:
        recipe: name of the recipe whose model, adapters, loss and optimizer are taken; rows and tokens are few. `None`
            takes `gemma2_2b_en` on an accelerator and `gemma3_270m` on a CPU.
        changes: to that recipe, rows and tokens too, see `Recipe.override`. A model that `model.preset` names by a
            handle or a folder is loaded with its own weights.
        on_check: called with the name of each check before it begins.

    Returns:
        A `CheckReport`, which holds versions, kinds of devices and numbers, and nothing personal.

    Raises:
        RecipeError, ValueError: if there is no such recipe, a value cannot be, or the architecture is no Gemma's.
    """
    start, before, findings = time.perf_counter(), keras.distribution.distribution(), []
    embedded, trial = Trial(_small(_EMBEDDED, ())), Trial(_small(recipe, changes))
    plans = []

    def add(name: str, function: Callable[..., CheckFinding], *arguments) -> None:
        on_check(name)
        try:
            findings.append(function(name, *arguments))
        except Exception as error:  # whatever a machine may say
            findings.append(CheckFinding(name, "–", first_sentence(error), "failed"))

    try:
        add("devices", _devices)
        for each in (embedded, trial):  # one after the other: each has a distribution of its own
            add(f"sampler and trainer: {each.name}", numerics.sampler_and_trainer, each)
            add(f"logits in float32: {each.name}", numerics.head, each)
            add(f"all devices as one: {each.name}", numerics.one_device_and_all, each)
        add("time to compile", speed.compiling, trial)
        add("does it fit", _plan, trial, plans)
        planned = trial, plans[0] if plans else None
        add("decode step", speed.decode_step, *planned)
        add("update", speed.update, *planned)
        add("memory of an update", speed.memory, *planned)
        add("peak memory", speed.peak_memory, *planned)
        add("a kill and a resume", _kill_and_resume)
    finally:
        keras.distribution.set_distribution(before)
    versions = {"Python": platform.python_version()} | {name: installed(name) for name in _PACKAGES}
    seconds = time.perf_counter() - start
    return CheckReport(shapes=trial.shapes, versions=versions, findings=tuple(findings), seconds=seconds)


def _small(recipe: str | None, changes: Iterable[str]) -> Recipe:
    """The recipe with few rows and tokens, in a dtype that the devices compute in."""
    is_cpu, count = jax.default_backend() == "cpu", jax.device_count()
    if recipe == _EMBEDDED:
        rows, lengths, micro_batch = (4 * count, 8), (16, 64), "none"
    elif is_cpu:
        rows, lengths, micro_batch = (2 * count, 2), (16, 72), "none"
    else:
        rows, lengths, micro_batch = (4 * count, 16), (128, 128), 16 * count
    keys = ("prompts_per_epoch", "group_size", "max_prompt_length", "max_completion_length")
    sizes = [f"rollouts.{key}={value}" for key, value in zip(keys, rows + lengths, strict=True)]
    sizes += [f"training.micro_batch_size={micro_batch}", "rollouts.max_rows=none", "rollouts.quantization=none"]
    recipe = recipe or ("gemma3_270m" if is_cpu else "gemma2_2b_en")
    dtypes = [change for change in find_machine().changes if change.startswith("model.dtype")]
    alone = ["rewards=[]", "teacher.preset=none"]  # the policy's own numbers are compared
    return Recipe.load(recipe).override([*dtypes, *sizes, *changes, *alone])


# === Checks that need no model ===


def _devices(name: str) -> CheckFinding:
    """Kind and number, and the memory that programs may use, which a GPU's driver and JAX take a part of."""
    topology, device = find_topology("local"), jax.devices()[0]
    known = chip(device.device_kind)
    numbers = dict(platform=device.platform, kind=device.device_kind, count=jax.device_count(), memory=topology.memory)
    numbers |= dict(known_memory=known and int(known.memory))
    measured = f"{devices_in_words()}, {in_gb(topology.memory)} each"
    if known is None:
        return CheckFinding(name, "–", measured, "no prediction", numbers)
    verdict = "right" if 0.5 <= topology.memory / known.memory <= 1.02 else "wrong"
    return CheckFinding(name, f"{in_gb(known.memory)} each at most", measured, verdict, numbers)


def _plan(name: str, trial: Trial, plans: list) -> CheckFinding:
    """Appends the plan to `plans`."""
    plans.append(planned := plan(trial.recipe, "local"))
    room = f"{in_gb(planned.hbm_bytes_per_chip)} of {in_gb(planned.hbm_limit_bytes)}"
    numbers = dict(bytes=planned.hbm_bytes_per_chip, limit_bytes=planned.hbm_limit_bytes, fits=planned.fits)
    fits, ran = ("fits" if planned.fits else "does not fit"), "updated" in vars(trial)
    verdict = "right" if planned.fits == ran else "wrong"
    return CheckFinding(name, f"{fits}, {room}", "an update ran" if ran else "no update ran", verdict, numbers)


def _kill_and_resume(name: str) -> CheckFinding:
    """`kill_and_resume`, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        saved, different = kill_and_resume(Path(folder))
    return CheckFinding(
        name,
        f"the {EPOCHS} epochs of a run without a kill",
        f"killed with {saved} saved, and then {'other ' + ', '.join(different) if different else 'the same'}",
        "wrong" if different else "right",
        dict(epochs=EPOCHS, saved_epochs=saved, different_columns=len(different)),
    )
