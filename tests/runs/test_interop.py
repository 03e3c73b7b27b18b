"""The real transformers and PEFT load what is exported, and compute what Keras does."""

import runpy
from pathlib import Path

from keras_aha.runs.export import export

import numpy as np
import pytest
from finished_runs import SHAPES, logits, make_run, trained

_WHY = "needs `pip install -e '.[interop]'`"
torch = pytest.importorskip("torch", reason=_WHY)
transformers = pytest.importorskip("transformers", reason=_WHY)
peft = pytest.importorskip("peft", reason=_WHY)

PROMPT = "Use 3 9 12 each once to make 24.\n<think>\n"
TEXT = PROMPT + "9-3=6 no\n12*3=36, 36-9=27 no\n</think>\n<answer>12</answer>"
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=SHAPES)
def exported(request, make_policy, tmp_path_factory):
    """The policy of a run, its folders, and the tokenizer in them."""
    run = make_run(make_policy, tmp_path_factory.mktemp(request.param), request.param)
    export(run, run / "export")
    return trained(run), run / "export", transformers.AutoTokenizer.from_pretrained(run / "export" / "transformers")


def load(folder):
    with torch.no_grad():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def compare(model, policy, tokenizer):
    ids = tokenizer(TEXT).input_ids
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0].numpy()
    expected = logits(policy, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert len(np.unique(expected.argmax(axis=-1))) > 3  # so that greedy tokens tell something
    prompt = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        drawn = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
    assert drawn == greedy(policy, prompt.input_ids[0].tolist())


def greedy(policy, ids):
    length = len(ids) + NEW_TOKENS
    while len(ids) < length and ids[-1] not in (1, 5):
        padded = ids + [0] * (length - len(ids))  # one length, for which all is compiled once
        ids = [*ids, int(logits(policy, padded)[len(ids) - 1].argmax())]
    return ids


def test_the_tokenizer_is_the_same(exported):
    policy, out, tokenizer = exported
    in_peft = transformers.AutoTokenizer.from_pretrained(out / "peft" / "base")
    for text in (TEXT, "hello 123 x  y\n\n<end_of_turn>", " yes\nyes no\n 7 77 777 <think>\n<think>"):
        ids = [int(i) for i in policy.preprocessor.tokenizer(text)]
        assert tokenizer(text).input_ids == in_peft(text).input_ids == [2, *ids]
        assert tokenizer.decode(ids) == text


def test_transformers_and_peft_compute_the_policy(exported):
    policy, out, tokenizer = exported
    compare(load(out / "transformers"), policy, tokenizer)
    model = peft.PeftModel.from_pretrained(load(out / "peft" / "base"), out / "peft").eval()
    compare(model, policy, tokenizer)
    compare(model.merge_and_unload(), policy, tokenizer)


def test_adapters_act_beside_a_base_that_sees(tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "accidents" / "20_peft_on_a_multimodal_base.py"
    assert "with the adapters has Keras's logits" in runpy.run_path(str(path))["check"](tmp_path)
