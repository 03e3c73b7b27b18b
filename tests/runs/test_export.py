import functools
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

from keras_aha.models import hugging_face
from keras_aha.models.abstract_backbone import abstract_backbone, scale_queries
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.export import export
from keras_aha.runs.export.chat_template import chat_template
from keras_aha.runs.export.merged import merge
from keras_aha.runs.export.model_card import ModelCard, as_text, fenced
from keras_aha.runs.export.peft_folder import write_peft
from keras_aha.runs.export.transformers_folder import write_transformers
from keras_aha.tasks import Countdown, Multiplication
from keras_aha.tasks.chat import write_chat

import jinja2.sandbox
import keras_hub
import ml_dtypes
import numpy as np
import pytest
from finished_runs import SHAPES, logits, make_run, trained
from hugging_face_oracle import HuggingFaceOracle
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import export as script  # noqa: E402

TOKENS = [2, 12, 18, 116, 19, 13, 22, 14, 6, 24, 182, 16, 188, 23, 11, 24, 5]  # longer than the windows


@pytest.fixture(scope="module", params=SHAPES)
def exported(request, make_policy, tmp_path_factory):
    """A run, its folders, and the logits of its policy."""
    run = make_run(make_policy, tmp_path_factory.mktemp(f'{request.param} "a"'), request.param)
    expected = logits(trained(run), TOKENS)
    other = run / "export" / "part-peft" / "mine"  # a folder of the user's
    other.mkdir(parents=True)
    folders = export(run, run / "export")
    other.rmdir()
    other.parent.rmdir()
    assert sorted(os.listdir(run / "export")) == ["keras", "peft", "transformers"]
    assert [folder.name for folder in folders] == ["keras", "transformers", "peft"]
    return run, run / "export", expected


@pytest.fixture(scope="module")
def make_shallow(make_policy):
    return functools.partial(make_policy, num_layers=1)


# === What the files compute ===


def test_merged_weights_compute_the_policy_by_hugging_faces_rules(exported):
    _, out, expected = exported
    oracle = HuggingFaceOracle(out / "transformers")
    np.testing.assert_allclose(oracle.logits(TOKENS), expected, atol=1e-4)
    assert not oracle.unread


def test_adapters_beside_the_base_compute_the_policy_by_pefts_rule(exported):
    _, out, expected = exported
    base = HuggingFaceOracle(out / "peft" / "base")
    assert np.abs(base.logits(TOKENS) - expected).max() > 0.1  # the adapters matter
    adapted = HuggingFaceOracle(out / "peft" / "base", out / "peft")
    np.testing.assert_allclose(adapted.logits(TOKENS), expected, atol=1e-4)
    config = json.loads((out / "peft" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("base", 2, 3.0)


def test_the_preset_computes_the_policy(exported):
    _, out, expected = exported
    policy = keras_hub.models.CausalLM.from_preset(str(out / "keras"))
    np.testing.assert_allclose(logits(policy, TOKENS), expected, atol=1e-5)


def test_a_quantized_base_is_merged_as_it_computes(make_shallow, tmp_path):
    run = make_run(make_shallow, tmp_path, model__quantization="int4")  # which has embeddings in int8
    policy = trained(run)
    expected = logits(policy, TOKENS)
    merged = merge(policy, Recipe.load(run / RECIPE))
    assert merged is not policy
    np.testing.assert_allclose(logits(merged, TOKENS), expected, atol=1e-4)


def test_a_run_without_adapters_has_merged_weights_alone(make_shallow, tmp_path):
    run = make_run(make_shallow, tmp_path, rank=0)
    with pytest.raises(ValueError, match="PEFT holds adapters, and the run has none.*Received: lora.rank=0"):
        export(run, tmp_path / "out", ["peft"])
    assert [folder.name for folder in export(run, tmp_path / "out")] == ["keras", "transformers"]
    oracle = HuggingFaceOracle(tmp_path / "out" / "transformers")
    np.testing.assert_allclose(oracle.logits(TOKENS), logits(trained(run), TOKENS), atol=1e-4)


def test_bfloat16_stays(make_policy, tmp_path):
    backbone = make_policy(dtype="bfloat16").backbone
    assert hugging_face.config(backbone, [1])["dtype"] == "bfloat16"
    tensors = hugging_face.tensors(backbone)
    save_file(tensors, tmp_path / "model.safetensors")
    read = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in read.values()} == {np.dtype(ml_dtypes.bfloat16)}
    name = "model.layers.1.mlp.up_proj.weight"
    assert np.array_equal(read[name], np.asarray(backbone.get_layer("decoder_block_1").gating_ffw_2.kernel).T)


# === What surrounds them ===


def test_pieces_that_are_never_split_and_ends_are_named(exported):
    _, out, _ = exported
    config = json.loads((out / "transformers" / "tokenizer_config.json").read_text())
    added = {token["content"]: (int(i), token["special"]) for i, token in config["added_tokens_decoder"].items()}
    assert added["▁yes\n"] == (10, False)
    assert added["<end_of_turn>"] == (5, True)
    for folder in ("transformers", "peft/base"):
        config = json.loads((out / folder / "generation_config.json").read_text())
        assert config == {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0}


@pytest.mark.parametrize("library", ["keras", "transformers", "peft"])
def test_a_card_says_what_was_measured(library, exported):
    run, out, _ = exported
    card = (out / library / "README.md").read_text()
    _, metadata, _ = card.split("---\n", 2)
    assert f"library_name: {'keras-hub' if library == 'keras' else library}\n" in metadata
    assert "license:" not in metadata and "base_model:" not in metadata  # a folder's are not known
    assert "| 25.0% (12.5% to 37.5%) | 37.5% (25.0% to 50.0%) |" in card
    assert "| accuracy, sampled, the answer in whatever form | 62.5% | 62.5% |\n| completions in" in card
    assert "On 8 held-out puzzles, which are never trained on, 2 completions sampled of each" in card
    assert "with a reward that a program checks and nothing else.\n" in card
    assert 'preset = "base"' in card and "num_numbers = 3" in card and str(run.parent) not in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert "each once to make" in code and "[1, 5]" in code


# === Chat templates ===

BEFORE, BETWEEN = "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"


def render(template, messages, add_generation_prompt=True):
    """As transformers does."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refuse(sentence):
        raise jinja2.TemplateError(sentence)

    settings = dict(bos_token="<bos>", messages=messages, add_generation_prompt=add_generation_prompt)
    return environment.from_string(template).render(settings, raise_exception=refuse)


TEMPLATES = ["gemma", BEFORE + " {numbers}\n{target} \n" + BETWEEN]
TEMPLATES += [BEFORE + "{numbers} {target}" + BETWEEN + "\"'{{%\\ü\u2028\U0001f600"]


@pytest.mark.parametrize("task", [*(Countdown(template=x) for x in TEMPLATES), Multiplication(template="gemma")])
def test_a_chat_template_writes_the_prompts_of_the_training(task):
    prompts = [task.prompt(task.problem(i)) for i in range(3)]
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt.removeprefix(BEFORE).partition(BETWEEN)[0]}]
        assert render(chat_template(prompts, "gemma"), messages) == "<bos>" + prompt


CONTENTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from([" a\n", "{{ x }}", "<h1>\n"])


@pytest.mark.parametrize("form", ["gemma", "functiongemma"])
@given(system=st.none() | CONTENTS, contents=st.lists(CONTENTS, min_size=1, max_size=5))
@settings(deadline=None)
def test_a_chat_template_and_write_chat_agree(form, system, contents):
    messages = [dict(role="system", content=system)] * (system is not None)
    messages += [dict(role=["user", "assistant"][i % 2], content=content) for i, content in enumerate(contents)]
    template, asks = chat_template([BEFORE + "a" + BETWEEN], form), messages[-1]["role"] == "user"
    text = "<bos>" + "".join(x.text for x in write_chat(messages, form)) + ("" if asks else "\n")
    assert render(template, messages, add_generation_prompt=asks) == text


@pytest.mark.parametrize("roles", [["assistant"], ["user", "user"], ["user", "tool"], ["system", "assistant"]])
def test_a_chat_template_refuses_what_write_chat_does(roles):
    messages = [{"role": role, "content": "a"} for role in roles]
    with pytest.raises(ValueError, match="must"):
        write_chat(messages, "gemma")
    with pytest.raises(jinja2.TemplateError, match="must speak in turn"):
        render(chat_template([BEFORE + "a" + BETWEEN], "gemma"), messages)


@pytest.mark.parametrize("template", ["plain", "compact", "chatml", BEFORE + "{numbers}" + BETWEEN + "{target} is"])
def test_other_prompts_have_none(template):
    task = Countdown(template=template)
    prompts = [task.prompt(task.problem(i)) for i in range(8)]
    assert chat_template(prompts, "gemma") is chat_template(prompts, None) is None


@pytest.mark.parametrize("template", ["gemma", "compact"])
def test_folders_bring_the_chat_template(template, make_shallow, tmp_path):
    run = make_run(make_shallow, tmp_path, task__template=template)
    export(run, tmp_path / "out", ["transformers", "peft"])
    for folder in ("transformers", "peft", "peft/base"):
        config = json.loads((tmp_path / "out" / folder / "tokenizer_config.json").read_text())
        assert ("chat_template" in config) == (template == "gemma")
    for folder in ("transformers", "peft"):
        card = (tmp_path / "out" / folder / "README.md").read_text()
        assert ("`tokenizer.apply_chat_template`" in card) == (template == "gemma")
        assert ("There is no chat template" in card) == (template == "compact")


# === Names ===


LICENSES = {"countdown_tiny": "apache-2.0", "gemma2_2b_en": "gemma", "gemma4_2b": "apache-2.0", "./mine": None}
LICENSES |= dict.fromkeys(["kaggle://keras/gemma3/keras/gemma3_1b/3", "hf://google/gemma-2-2b-it"], "gemma")
LICENSES |= {
    "/kaggle/input/gemma2_2b_en/2": "gemma",
    "hf://google/gemma-4-E2B-it": "apache-2.0",
    "hf://you/yours": None,
}


@pytest.mark.parametrize("preset, licence", LICENSES.items())
def test_the_license_is_the_bases(preset, licence):
    recipe = Recipe.load("countdown_tiny").override(f'model.preset="{preset}"')
    assert ModelCard(None, recipe, None, None, {}, {}, None, None).license == licence


def test_text_from_outside_is_text():
    assert as_text("<i x=y> [a](b:c) ![c](d) `e` *f* | g\n# h \x1b[31m \u202e") == (
        r"\<i x\=y\> \[a\]\(b\:c\) \!\[c\]\(d\) \`e\` \*f\* \| g" + "\ufffd\\# h \ufffd\\[31m \ufffd"
    )
    assert fenced("a\n```\n<b>\n", "toml") == "````toml\na\n```\n<b>\n````"


def test_a_hostile_run_makes_a_harmless_card(make_shallow, tmp_path):
    template = "{numbers} {target} ``` \n```\n# x <script>"
    run = make_run(make_shallow, tmp_path, task__template=template, rollouts__stop_strings=["<b>"])
    reward = 'rewards=[{name="polite", function="mine:f", weight=0.5}, {name="seen", function="mine:f", weight=0}]'
    Recipe.load(run / RECIPE).override(reward).dump(run / RECIPE)
    summary = json.loads((run / "summary.json").read_text())
    summary["heldout_before"]["mean_reward_polite"], summary["heldout_after"]["mean_reward_polite"] = 0.25, 0.75
    (run / "summary.json").write_text(json.dumps(summary))
    run = run.rename(tmp_path / "<b>[x](y)")
    (folder,) = export(run, tmp_path / "out", ["keras"])
    card = (folder / "README.md").read_text()
    assert "\n# \\<b\\>\\[x\\]\\(y\\)\n" in card
    assert "checks, and beside it another (`polite`, weight 0.5), of which only the first is a proof.\n" in card
    assert "\n| `reward_polite`, sampled, mean | 0.25 | 0.75 |\n" in card and "nothing else" not in card
    blocks = card.split("````")  # a fence longer than the template's
    assert len(blocks) == 5
    assert not any(word in "".join(blocks[::2]) for word in ("<script>", "<b>"))


@pytest.mark.parametrize(
    "preset, name",
    [
        ("gemma_2b_en", "google/gemma-2b"),
        ("gemma_1.1_instruct_7b_en", "google/gemma-1.1-7b-it"),
        ("gemma2_instruct_9b_en", "google/gemma-2-9b-it"),
        ("gemma3_1b", "google/gemma-3-1b-pt"),
        ("gemma3_instruct_4b_text", "google/gemma-3-4b-it"),
        ("kaggle://keras/gemma2/keras/gemma2_2b_en/2", "google/gemma-2-2b"),
        ("hf://someone/her-gemma", "someone/her-gemma"),
        ("./gemma", None),
        ("models/gemma2_2b_en", None),  # which may have been trained
        ("/kaggle/input/keras/gemma2/keras/gemma2_2b_en/2", "google/gemma-2-2b"),
        ("/hub/models--google--gemma-2-2b-it/snapshots/0a1b", "google/gemma-2-2b-it"),
    ],
)
def test_names_on_the_hub(preset, name):
    assert hugging_face.hub_name(preset) == name


@pytest.mark.parametrize(
    "preset", ["gemma3_4b", "gemma3_instruct_12b_text", "kaggle://keras/gemma3/keras/gemma3_27b/3"]
)
def test_a_base_that_sees_on_the_hub_has_another_class(preset):
    backbone = abstract_backbone(preset, "bfloat16")
    assert hugging_face.base_class_name(preset, backbone) == "Gemma3ForConditionalGeneration"
    assert hugging_face.base_class_name("./gemma", backbone) == hugging_face.class_name(backbone)
    for other in ("gemma3_1b", "gemma2_27b_en", "gemma3_270m"):
        backbone = abstract_backbone(other, "bfloat16")
        assert hugging_face.base_class_name(other, backbone) == hugging_face.class_name(backbone)


def test_adapters_beside_a_base_that_sees_are_named_as_its_layers_are(make_policy, tmp_path):
    write_peft(make_policy("gemma_3", lora_rank=2).backbone, tmp_path, "base", "Gemma3ForConditionalGeneration")
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert "base_model.model.model.language_model.layers.5.self_attn.q_proj.lora_A.weight" in names
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert re.fullmatch(config["exclude_modules"], "model.vision_tower.encoder.layers.0.self_attn.q_proj")
    assert not re.fullmatch(config["exclude_modules"], "model.language_model.layers.0.self_attn.q_proj")


def test_an_attached_base_is_named_and_not_copied_and_no_place_is_told(make_shallow, tmp_path):
    run = make_run(make_shallow, tmp_path)
    attached = tmp_path / 'with "quotes"' / "gemma2_2b_en" / "2"
    attached.parent.mkdir(parents=True)
    (tmp_path / "base").rename(attached)
    places = {"model.preset": attached, "lora.start": tmp_path / 'with "quotes"' / "earlier"}
    changes = [f"{key}={json.dumps(str(path))}" for key, path in places.items()]
    Recipe.load(run / RECIPE).override(changes).dump(run / RECIPE)
    (folder,) = export(run, tmp_path / "out", ["peft"])
    card = (folder / "README.md").read_text()
    assert 'license: gemma\nbase_model: "google/gemma-2-2b"\n' in card and "\n\ngemma2\\_2b\\_en, trained on" in card
    assert 'preset = "gemma2_2b_en"' in card and 'start = "earlier"' in card and "quotes" not in card
    assert "were not compared with the published ones" in card
    assert not (folder / "base").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "google/gemma-2-2b"


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_base_may_move_and_another_is_refused(quantization, make_shallow, tmp_path):
    run = make_run(make_shallow, tmp_path, model__quantization=quantization)
    moved, other = (tmp_path / "base").rename(tmp_path / "moved"), tmp_path / "other"
    make_shallow(seed=1).save_to_preset(str(other))
    with pytest.raises(ValueError, match=r"There is no such folder.* \(--set model.preset=FOLDER\)"):
        export(run, tmp_path / "out", ["keras"])
    with pytest.raises(ValueError, match=r"not what the run began with.*Received: model\.preset='.*other'"):
        export(run, tmp_path / "out", ["keras"], changes=[f'model.preset="{other}"'])
    with pytest.raises(ValueError, match="It would be another run.*Received: task.template"):
        export(run, tmp_path / "out", ["keras"], changes=["task.template=plain"])
    (folder,) = export(run, tmp_path / "out", ["keras"], changes=[f'model.preset="{moved}"'])
    assert 'preset = "moved"' in (folder / "README.md").read_text()


# === What is refused ===


NAMES = dict(code_gemma_2b_en="Gemma", gemma2_27b_en="Gemma2", gemma3_270m="Gemma3", gemma3_27b="Gemma3")


@pytest.mark.parametrize("preset, name", NAMES.items())
def test_published_gemmas_up_to_3_have_a_class(preset, name):
    assert hugging_face.class_name(abstract_backbone(preset, "bfloat16")) == f"{name}ForCausalLM"


def test_others_have_none():
    with pytest.raises(ValueError, match="Gemma, Gemma 2 and Gemma 3: take the format keras. Received: a Gemma4"):
        hugging_face.class_name(abstract_backbone("gemma4_2b", "bfloat16"))


@pytest.mark.parametrize("preset, scale", [("gemma2_9b_en", 256), ("gemma2_27b_en", 144), ("gemma3_27b", 168)])
def test_queries_are_scaled_as_published(preset, scale):
    backbone = abstract_backbone(preset, "bfloat16")
    assert hugging_face.config(backbone, [1])["query_pre_attn_scalar"] == scale


@pytest.mark.parametrize(
    "preset, scaling", [("gemma3_4b", {"rope_type": "linear", "factor": 8.0}), ("gemma3_1b", None)]
)
def test_rotary_embeddings_are_described_for_both_versions_of_transformers(preset, scaling):
    config = hugging_face.config(abstract_backbone(preset, "bfloat16"), [1])
    old = [config[key] for key in ("rope_scaling", "rope_theta", "rope_local_base_freq")]
    assert old == [scaling, 1_000_000.0, 10_000.0]  # as Google published them
    full, sliding = (config["rope_parameters"][f"{kind}_attention"] for kind in ("full", "sliding"))
    assert full == {"rope_type": "linear", "factor": 8.0 if scaling else 1.0, "rope_theta": 1_000_000.0}
    assert sliding == {"rope_type": "linear", "factor": 1.0, "rope_theta": 10_000.0}


def test_other_scales_of_queries_are_computed_so(make_shallow, tmp_path):
    policy = make_shallow("gemma_2", query_head_dim_normalize=False)
    wrong = logits(policy, TOKENS)
    scale_queries(policy.backbone)
    write_transformers(policy, tmp_path, [1])
    expected = logits(policy, TOKENS)
    assert np.abs(wrong - expected).max() > 1e-3
    np.testing.assert_allclose(HuggingFaceOracle(tmp_path).logits(TOKENS), expected, atol=1e-4)


@pytest.mark.parametrize(
    "shape, architecture",
    [
        ("gemma", dict(final_logit_soft_cap=2.0)),
        ("gemma", dict(use_post_ffw_norm=True)),
        ("gemma", dict(query_head_dim_normalize=False)),
        ("gemma_3", dict(attention_logit_soft_cap=50.0)),  # which transformers would not apply
    ],
)
def test_an_architecture_of_ones_own_has_none(shape, architecture, make_policy):
    with pytest.raises(ValueError, match="take the format keras. Received: a Gemma3?Backbone"):
        hugging_face.class_name(make_policy(shape, **architecture).backbone)


def refused(argv, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        script.main([str(word) for word in argv])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("exported", ["gemma"], indirect=True)
def test_the_script_prints_what_it_wrote_or_refuses_in_a_sentence(exported, tmp_path, capsys):
    run, out, _ = exported
    assert "is there already, and is kept: choose another out. Received: out=" in refused([run], capsys)
    assert "A format is one of keras, transformers, peft. Received: 'gguf'" in refused(
        [run, "--out", tmp_path / "out", "--format", "gguf"], capsys
    )
    assert "the folder has no recipe.toml. Received: " in refused([tmp_path], capsys)
    shutil.copy(run / RECIPE, tmp_path)
    assert "No epoch of the run is saved: let it" in refused([tmp_path], capsys)
    assert not (tmp_path / "export").exists()
    assert script.main([str(run), "--out", str(tmp_path / "out"), "--format", "peft"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'peft'}\n"
    with pytest.raises(ValueError, match="peft is there already, and is kept: choose another out. Received: "):
        export(run, tmp_path / "out", ["keras", "peft"])  # which may be added, and none is replaced
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["peft"]


def test_a_card_tells_no_folders_of_any_task():
    word = '{name="rows", file="/home/ann/rows.jsonl", template="/{prompt}"}'
    changes = [f'tasks=[{word}, {{name="signs"}}]', f"priming.tasks=[{word}]", "model.preset=/home/ann/gemma2_2b_en"]
    changes += ['rewards=[{name="polite", judge="/home/ann/judge"}]', "teacher.preset=/home/ann/teacher"]
    recipe = Recipe.load("countdown_tiny").override(changes)
    text = ModelCard(Path("run"), recipe, 1, None, {}, {}, None, None)._recipe_text()
    assert "/home" not in text and text.count('file = "rows.jsonl"') == text.count('template = "/{prompt}"') == 2
    assert Recipe.from_dict(tomllib.loads(text)).model.preset == "gemma2_2b_en"
