"""`export`: a run as folders for keras-hub, transformers and PEFT."""

import os
from collections.abc import Iterable
from pathlib import Path

from keras_aha.distribution.folder_lock import FolderLock
from keras_aha.files import local_path, whole_folder
from keras_aha.models import hugging_face
from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.recipes.changes import check_changes
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_task import build_task, task_files
from keras_aha.runs.check_folder import check_new_folder
from keras_aha.runs.check_marks import fitting_form
from keras_aha.runs.export.chat_template import chat_template
from keras_aha.runs.export.merged import merge
from keras_aha.runs.export.model_card import ModelCard
from keras_aha.runs.export.peft_folder import write_peft
from keras_aha.runs.export.transformers_folder import write_tokenizer, write_transformers
from keras_aha.runs.saved_policy import find_epoch
from keras_aha.runs.sources import BASE
from keras_aha.runs.trained_policy import load_trained

import keras_hub

FORMATS = ("keras", "transformers", "peft")
_BASE = "base"  # the folder in `peft` of a base that no one else has
_GEMMAS = (keras_hub.models.GemmaBackbone, keras_hub.models.Gemma3Backbone)


def export(
    log_dir: str | os.PathLike,
    out: str | os.PathLike,
    formats: Iterable[str] | None = None,
    epoch: int | str = "last",
    *,
    changes: Iterable[str] = (),
) -> list[Path]:
    """Writes the policy of a run, finished or not, as one folder a format, each with a model card, `README.md`.

    `keras` is a preset of keras-hub, `transformers` a folder for Hugging Face's library: both of merged weights.
    `peft` is the adapters and the tokenizer; if the base is a folder of your own or the embedded model, on no hub, it
    comes with that in `peft/base`. A folder is there when it is whole, and what the run's folder holds is only read.

    Args:
        log_dir: the run's folder, which a `Run` wrote.
        out: where the folders come to lie, made if it is missing.
        formats: some of `FORMATS`; `None` is all that the run can have, so without `"peft"` if it has no adapters.
        epoch: after which epoch: a number, `"best"` or `"last"`, see `find_epoch`. The card says it.
        changes: to the recipe, if its preset or a file lies elsewhere now: `["model.preset=models/gemma2_2b_en"]`.

    Returns:
        The paths of the folders.

    Raises:
        RecipeError, ValueError: if that epoch is not saved, the run has no such format, or a folder is there already;
            before weights are loaded.
        OSError: if files cannot be written.
    """
    run, out = local_path(log_dir, "log_dir"), local_path(out, "out")
    with FolderLock(out, "out"):
        return _export(run, out, formats, epoch, changes)


def _export(run: Path, out: Path, formats, epoch, changes) -> list[Path]:
    recipe, number = _load_recipe(run, changes), find_epoch(run, epoch)
    backbone = abstract_backbone(recipe.model.preset, recipe.model.dtype)
    formats = _checked(recipe, backbone, formats)
    folders = {name: out / name for name in formats}
    for folder in folders.values():
        check_new_folder(folder, "out")
    classes = {"keras": type(backbone).__name__.replace("Backbone", "CausalLM")}
    if formats != ("keras",):
        classes["transformers"] = hugging_face.class_name(backbone)
    if "peft" in formats:
        classes["peft"] = hugging_face.base_class_name(recipe.model.preset, backbone)
    tokenizer = load_tokenizer(recipe.model.preset)
    ends = {i: tokenizer.id_to_token(i) for i in stop_token_ids(tokenizer, recipe.rollouts.stop_tokens)}
    task, hub_name = build_task(recipe), hugging_face.hub_name(recipe.model.preset)
    template = chat_template([task.prompt(task.problem(i)) for i in range(8)], fitting_form(tokenizer))
    card = ModelCard(run, recipe, number, task, ends, classes, hub_name, template)
    _ = card.summary  # errors of the run's files, before weights are loaded
    policy = load_trained(recipe, run, number)
    if "peft" in formats:  # before its adapters are merged
        _write(folders["peft"], card, lambda folder: _write_peft(policy, folder, card))
    if formats != ("peft",):
        policy = merge(policy, recipe)
    if "keras" in formats:
        _write(folders["keras"], card, lambda folder: policy.save_to_preset(str(folder)))
    if "transformers" in formats:
        _write(folders["transformers"], card, lambda folder: write_transformers(policy, folder, ends, template))
    return list(folders.values())


def _load_recipe(run: Path, changes: Iterable[str]) -> Recipe:
    if not (run / RECIPE).is_file():
        raise ValueError(f"What is exported is a run; the folder has no {RECIPE}. Received: {str(run)!r}")
    began = Recipe.load(run / RECIPE)
    recipe = began.override(changes)
    check_changes(began, recipe, may_move={BASE, "lora.start", *task_files(began)})
    return recipe


def _checked(recipe: Recipe, backbone, formats) -> tuple[str, ...]:
    """The formats, in the order of `FORMATS`."""
    chosen = formats or (FORMATS if recipe.lora.rank else FORMATS[:2])
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise ValueError(f"A format is one of {', '.join(FORMATS)}. Received: {unknown[0]!r}")
    if "peft" in chosen and not recipe.lora.rank:
        raise ValueError(
            "PEFT holds adapters, and the run has none, as it has trained every weight: take keras or transformers. "
            "Received: lora.rank=0"
        )
    if recipe.model.quantization and not isinstance(backbone, _GEMMAS):
        raise ValueError(
            f"A quantized base is merged of Gemma, Gemma 2 and Gemma 3. Received: model.quantization="
            f"{recipe.model.quantization!r}, {type(backbone).__name__}"
        )
    return tuple(name for name in FORMATS if name in chosen)


def _write_peft(policy, folder: Path, card: ModelCard) -> None:
    write_peft(policy.backbone, folder, card.hub_name or _BASE, card.class_names["peft"])
    write_tokenizer(policy.preprocessor.tokenizer, folder, card.chat_template)
    if card.hub_name is None:
        base = build_policy(card.recipe, adapters=False)
        write_transformers(base, folder / _BASE, card.end_tokens, card.chat_template)


def _write(folder: Path, card: ModelCard, write) -> None:
    with whole_folder(folder) as part:
        write(part)
        card.write(part, folder.name)
