from keras_aha.names import preset_name
from keras_aha.recipes.recipe import RecipeError, recipe_of

import pytest

CACHE = "/home/ann/.cache/huggingface/hub/models--google--gemma-2-2b-it/snapshots/299a8560bedf22ed"


@pytest.mark.parametrize(
    "preset, name, recipe",
    [
        ("gemma2_2b_en", "gemma2_2b_en", "gemma2_2b_en"),
        ("kaggle://keras/gemma2/keras/gemma2_2b_en", "gemma2_2b_en", "gemma2_2b_en"),
        ("kaggle://keras/gemma2/keras/gemma2_2b_en/2", "gemma2_2b_en", "gemma2_2b_en"),
        ("/kaggle/input/models/keras/gemma2/keras/gemma2_2b_en/2", "gemma2_2b_en", "gemma2_2b_en"),
        ("models/gemma3_270m/", "gemma3_270m", "gemma3_270m"),
        ("hf://google/gemma-2-2b-it", "gemma-2-2b-it", "gemma2_instruct_2b_en"),
        (CACHE, "gemma-2-2b-it", "gemma2_instruct_2b_en"),
        ("hf://google/gemma-3-1b-pt", "gemma-3-1b-pt", "gemma3_1b"),
        ("hf://google/gemma-4-E2B", "gemma-4-E2B", "gemma4_2b"),
        ("hf://google/codegemma-2b", "codegemma-2b", "code_gemma_2b_en"),
        ("hf://Qwen/Qwen3-0.6B", "Qwen3-0.6B", "qwen3_0.6b_en"),
        ("hf://google/gemma-2-9b-it", "gemma-2-9b-it", None),
        ("kaggle://keras/gemma2/keras/gemma2_instruct_9b_en/1", "gemma2_instruct_9b_en", None),
        ("2", "names_of_presets", None),
    ],
)
def test_a_preset_has_its_name_and_recipe_wherever_it_lies(preset, name, recipe, tmp_path, monkeypatch):
    (tmp_path / "names_of_presets").mkdir()
    monkeypatch.chdir(tmp_path / "names_of_presets")
    assert preset_name(preset) == name
    if recipe is not None:
        assert recipe_of(preset) == recipe
        return
    with pytest.raises(RecipeError, match=rf"of the name '{name}'.*--recipe.*The nearest are \w.*, .*, .*\. Received"):
        recipe_of(preset)
