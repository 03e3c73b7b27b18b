from keras_aha.decoding import Completions
from keras_aha.training import budget_forcing
from keras_aha.training.budget_forcing import think_on, thinking_lengths, word_to_ids
from keras_aha.training.grpo_model import GRPOModel

import numpy as np
import pytest

LENGTH = 10
CUTS = ["</think>\n", "<", "/", "t", "h", "i", "n", "k", ">", "<think>\n", "x"]


@pytest.fixture(scope="module")
def model(gemma):
    return GRPOModel(gemma)


@pytest.fixture
def generate(model, monkeypatch):
    """A function that says what the model will generate, one list of pieces a row; it returns the calls made."""

    def say(*rows, stopped=True):
        calls = []

        def spy(token_ids, padding_mask, **settings):
            calls.append((token_ids, padding_mask, settings))
            return completions_of(model, *rows, stopped=stopped)

        monkeypatch.setattr(model, "generate", spy)
        return calls

    return say


def ids_of(model, pieces):
    return [model.tokenizer.token_to_id(piece.replace(" ", "▁")) for piece in pieces]


def completions_of(model, *rows, stopped=True):
    token_ids = np.zeros((len(rows), LENGTH), "int32")
    for ids, row in zip(token_ids, rows, strict=True):
        ids[: len(row)] = ids_of(model, row)
    lengths = np.array([len(row) for row in rows], "int32")
    log_probs = -np.where(np.arange(LENGTH) < lengths[:, None], np.arange(1.0, LENGTH + 1), 0).astype("float32")
    return Completions(token_ids, log_probs, lengths, np.full(len(rows), stopped), np.zeros(token_ids.shape, bool))


def pieces_of(model, completions):
    rows = zip(completions.token_ids, completions.lengths, strict=True)
    return [[model.tokenizer.id_to_token(int(i)).replace("▁", " ") for i in ids[:length]] for ids, length in rows]


def test_words(model):
    wait = word_to_ids(model.tokenizer, "Wait")
    assert wait == ids_of(model, "Wait")
    assert word_to_ids(model.tokenizer, " no\n") == ids_of(model, [" no\n"])
    assert word_to_ids(model.tokenizer, "") == []


@pytest.mark.parametrize("word", ["Wäit", "等", "a</think>b", "\ttab"])
def test_words_that_cannot_be(model, word):
    with pytest.raises(ValueError, match="must be one that the vocabulary can write, without </think>. Received: "):
        word_to_ids(model.tokenizer, word)


def test_thinking_ends_where_the_text_says(model):
    """By the text of each beginning of a completion, whose pieces split the tag in any way."""
    rng = np.random.default_rng(0)
    rows = [
        [*"x", *"</think>", *"x"],
        [*"<<", "</think>\n", *"x"],
        [*"</t", "</think>\n", "</think>\n"],
        [*"</think"],
        *(rng.choice(CUTS, LENGTH, p=[0.05, *[0.13] + [0.09] * 7, 0.09, 0.1]).tolist() for _ in range(100)),
    ]
    found = thinking_lengths(model, completions_of(model, *rows)).tolist()
    assert found[:4] == [1, 2, 3, -1]
    short = completions_of(model, ["x", "</think>\n"])._replace(lengths=np.array([1], "int32"))
    assert thinking_lengths(model, short).tolist() == [-1]  # what lies behind the end is not read
    assert -1 in found[4:] and len(set(found)) > 5
    for row, length in zip(rows, found, strict=True):
        begins = "".join(row).find("</think>")
        ends = np.cumsum([len(piece) for piece in row])
        assert length == (-1 if begins < 0 else np.searchsorted(ends, begins, side="right"))


def test_thinking_goes_on_by_hand(model, generate):
    prompt = model.tokenize(["Use 1 2 each once to make 3.\n"] * 3 + ["1"])
    before = completions_of(model, "ab", ["1", "</think>\n", "2"], ["</think>\n"], [*"12345678", "</think>\n"])
    calls = generate([*"45", "</think>\n", "7"], ["x"])
    after, going = think_on(
        model, *prompt, before, ids_of(model, "WW"), max_completion_length=LENGTH, rows=np.arange(20, 24), iteration=9
    )
    assert going.tolist() == [False, True, True, False]  # the last has room for the word, and for no token more
    assert pieces_of(model, after) == [[*"ab"], [*"1WW45", "</think>\n", "7"], [*"WWx"], pieces_of(model, before)[3]]
    assert after.log_probs[1].tolist() == [-1, 0, 0, -1, -2, -3, -4, 0, 0, 0] and not after.token_ids[2, 3:].any()
    assert after.stopped.all()
    ((token_ids, padding_mask, settings),) = calls
    assert settings.pop("rows").tolist() == [21, 22]
    assert settings == {"max_completion_length": LENGTH, "iteration": 9}
    assert token_ids.shape == (2, prompt[0].shape[1] + 3)  # a quarter of the limit
    for row, said in ((0, "1WW"), (1, "WW")):
        read = token_ids[row][padding_mask[row] > 0].tolist()
        assert read == [*prompt[0][0][prompt[1][0] > 0], *ids_of(model, said)]
        assert padding_mask[row].tolist() == sorted(padding_mask[row])


@pytest.mark.parametrize("said, stopped", [("45678", True), ("456789", False), ("4567", True)])
def test_the_limit_is_that_of_the_whole_completion(model, generate, said, stopped):
    prompt = model.tokenize(["1"])
    generate(said)
    before = completions_of(model, [*"123", "</think>\n"])
    after, _ = think_on(model, *prompt, before, ids_of(model, "WW"), max_completion_length=LENGTH, rows=np.arange(1))
    assert pieces_of(model, after) == [[*"123WW", *said[:5]]] and after.stopped.tolist() == [stopped]


@pytest.mark.parametrize("thought, width", [(3, 3), (4, 5), (6, 10)])
def test_what_is_read_has_one_of_three_lengths(model, generate, thought, width):
    prompt = model.tokenize(["1"])
    calls = generate("5")
    before = completions_of(model, [*("1" * thought), "</think>\n"])
    think_on(model, *prompt, before, [], max_completion_length=LENGTH, rows=np.arange(1))
    assert calls[0][0].shape == (1, prompt[0].shape[1] + width)


def test_after_several_waits_only_the_first_end_is_taken_back(model, generate):
    prompt = model.tokenize(["1"])
    completions = completions_of(model, ["</think>\n", *"12", "</think>\n"])
    for wait in range(3):
        generate([str(wait), "</think>\n", "9", "</think>\n"])
        completions, going = think_on(
            model, *prompt, completions, ids_of(model, "W"), max_completion_length=LENGTH, rows=np.arange(1)
        )
        assert going.all()
    assert pieces_of(model, completions) == [["W", "0", "W", "1", "W", "2", "</think>\n", "9", "</think>\n"]]


def test_greedy_and_without_a_word_the_same_is_said_again(model, prompts, monkeypatch):
    """So it is read as it was sampled, behind its prompt, and what follows knows nothing of the padding."""
    prompt = model.tokenize(prompts)
    settings = dict(max_completion_length=LENGTH, temperature=0.0)
    before = model.generate(*prompt, **settings)
    pieces = pieces_of(model, before)[0]
    change = next(i for i in range(1, LENGTH) if pieces[i] != pieces[i - 1])
    monkeypatch.setattr(budget_forcing, "THINK_END", pieces[change - 1] + pieces[change])
    assert thinking_lengths(model, before)[0] == change - 1 > 0
    after, going = think_on(model, *prompt, before, [], rows=np.arange(3), **settings)
    assert going[0]
    np.testing.assert_array_equal(after.token_ids, before.token_ids)
    np.testing.assert_array_equal(after.lengths, before.lengths)
    np.testing.assert_allclose(after.log_probs, before.log_probs, atol=1e-5)
