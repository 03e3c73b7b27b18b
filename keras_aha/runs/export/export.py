"""`export`: a run as folders for keras-hub, transformers and PEFT."""

import os
import shutil
from pathlib import Path

from keras_aha.models import hugging_face
from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_task import build_task
from keras_aha.runs.experiment import load_trained
from keras_aha.runs.export.merged import merge
from keras_aha.runs.export.model_card import ModelCard
from keras_aha.runs.export.peft_folder import write_peft
from keras_aha.runs.export.transformers_folder import write_transformers
from keras_aha.runs.saved_policy import find_epoch

import keras_hub

FORMATS = ("keras", "transformers", "peft")
_BASE = "base"  # the folder in `peft` of a base that no one else has
_GEMMAS = (keras_hub.models.GemmaBackbone, keras_hub.models.Gemma3Backbone)


def export(log_dir: str | os.PathLike, out: str | os.PathLike, formats=None, epoch: int | str = "last") -> list[Path]:
    """Writes the policy of a run, finished or not, as one folder a format, each with a model card, `README.md`.

    `keras` is a preset of keras-hub, `transformers` a folder for Hugging Face's library: both of merged weights.
    `peft` is the adapters alone; if the base is a folder or the embedded model, which are on no hub, it comes with
    that in `peft/base`. A folder is there when it is whole, and what the run's folder holds is only read.

    Args:
        log_dir: the run's folder, which a `Run` wrote.
        out: where the folders come to lie, made if it is missing.
        formats: some of `FORMATS`; `None` is all that the run can have, so without `"peft"` if it has no adapters.
        epoch: after which epoch: a number, `"best"` or `"last"`, see `find_epoch`. The card says it.

    Returns:
        The paths of the folders.

    Raises:
        RecipeError, ValueError: if that epoch is not saved, the run has no such format, or a folder is there already;
            before weights are loaded.
        OSError: if files cannot be written.
    """
    run, out = Path(log_dir), Path(out)
    recipe = _load_recipe(run)
    number = find_epoch(run, epoch)
    backbone = abstract_backbone(recipe.model.preset, recipe.model.dtype)
    formats = _checked(recipe, backbone, formats)
    folders = {name: out / name for name in formats}
    for folder in folders.values():
        if folder.exists():
            raise ValueError(f"{folder} is there already, and is kept: choose another folder. Received: {str(out)!r}")
    classes = {"keras": type(backbone).__name__.replace("Backbone", "CausalLM")}
    if formats != ("keras",):
        classes["transformers"] = hugging_face.class_name(backbone)
    tokenizer = load_tokenizer(recipe.model.preset)
    ends = {i: tokenizer.id_to_token(i) for i in stop_token_ids(tokenizer, recipe.rollouts.stop_tokens)}
    card = ModelCard(run, recipe, number, build_task(recipe), ends, classes)
    _ = card.summary  # errors of the run's files, before weights are loaded
    policy = load_trained(recipe, run, number or "last")
    out.mkdir(parents=True, exist_ok=True)
    if "peft" in formats:  # before its adapters are merged
        _write(folders["peft"], card, lambda folder: _write_peft(policy.backbone, folder, card))
    if formats != ("peft",):
        policy = merge(policy, recipe)
    if "keras" in formats:
        _write(folders["keras"], card, lambda folder: policy.save_to_preset(str(folder)))
    if "transformers" in formats:
        _write(folders["transformers"], card, lambda folder: write_transformers(policy, folder, list(card.end_tokens)))
    return list(folders.values())


def _load_recipe(run: Path) -> Recipe:
    if not (run / RECIPE).is_file():
        raise ValueError(f"What is exported is a run; the folder has no {RECIPE}. Received: {str(run)!r}")
    return Recipe.load(run / RECIPE)


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
    if set(chosen) - {"keras"}:
        hugging_face.class_name(backbone)
    if recipe.model.quantization and not isinstance(backbone, _GEMMAS):
        raise ValueError(
            f"A quantized base is merged of Gemma, Gemma 2 and Gemma 3. Received: model.quantization="
            f"{recipe.model.quantization!r}, {type(backbone).__name__}"
        )
    return tuple(name for name in FORMATS if name in chosen)


def _write_peft(backbone, folder: Path, card: ModelCard) -> None:
    write_peft(backbone, folder, card.hub_name or _BASE)
    if card.hub_name is None:
        base = build_policy(card.recipe, adapters=False)
        write_transformers(base, folder / _BASE, list(card.end_tokens))


def _write(folder: Path, card: ModelCard, write) -> None:
    part = folder.with_name(f"part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)  # what a kill has left
    write(part)
    card.write(part, folder.name)
    part.rename(folder)
