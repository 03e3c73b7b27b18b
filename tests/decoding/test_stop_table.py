"""The table must stop a row where its text, decoded token after token, first contains a stop string."""

from keras_aha.decoding.stop_table import stop_table
from keras_aha.models.tiny_gemma import vocabulary

import keras_hub
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

MERGED = ["ab", "aab", "bc", ">\n", "r>", "er>\n\n", "n<a", "</", "</answer>\n\n", "é…", "né", "n n", "  ", "\n\n"]
BPE_SPECIAL = ["<|eot|>", "<|of text|>", "<｜end▁of｜>"]  # the second and third are not written as bytes
GPT2 = {"\n": "Ċ", " ": "Ġ", "é": "Ã©", "…": "âĢ¦"}


def sentence_pieces(**options):
    """The embedded vocabulary with pieces that merge across borders, every byte, a control and an unused piece."""
    model = sentencepiece_model.ModelProto.FromString(vocabulary())
    kind = model.SentencePiece
    pieces = [(piece.replace(" ", "▁"), kind.NORMAL) for piece in [*MERGED, "é", "…"]]
    pieces += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    for piece, piece_type in [*pieces, ("<control>", kind.CONTROL), ("<unused0>", kind.UNUSED)]:
        if piece not in {known.piece for known in model.pieces}:
            model.pieces.add(piece=piece, score=-float(len(model.pieces)), type=piece_type)
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.byte_fallback = True
    return keras_hub.tokenizers.GemmaTokenizer(proto=model.SerializeToString(), **options)


def byte_pairs():
    """Every byte, pieces that merge across borders, special tokens, and ids that nothing has."""
    alphabet = [chr(c) for c in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]]
    merged = [piece.translate(str.maketrans(GPT2)) for piece in MERGED]
    ids = {piece: n for n, piece in enumerate([*alphabet, *merged])}
    ids |= {piece: len(ids) + 5 + n for n, piece in enumerate(BPE_SPECIAL)}
    return keras_hub.tokenizers.BytePairTokenizer(ids, merges=["a b", "b c"], unsplittable_tokens=BPE_SPECIAL)


@pytest.fixture(scope="module")
def tokenizer():
    return sentence_pieces()


@pytest.fixture(scope="module")
def size(tokenizer):
    return tokenizer.vocabulary_size()


@pytest.fixture(scope="module", params=["sentence_piece", "sentence_piece_tf", "byte_pair"])
def each(request):
    """A tokenizer and one more than its last id."""
    if request.param == "byte_pair":
        tokenizer = byte_pairs()
        return tokenizer, max(tokenizer.vocabulary.values()) + 1
    tokenizer = sentence_pieces(_allow_python_workflow=request.param == "sentence_piece")
    return tokenizer, tokenizer.vocabulary_size()


def ids_of(tokenizer, *pieces):
    ids = [tokenizer.token_to_id(piece.replace(" ", "▁")) for piece in pieces]
    assert [tokenizer.id_to_token(i) for i in ids] == [piece.replace(" ", "▁") for piece in pieces]
    return ids


def tokens_until_stop(table, row):
    """How many tokens of `row` the table lets through, the stopping one included; `None` if it does not stop."""
    state = 0
    for n, token in enumerate(row, start=1):
        state = table[state, token]
        if state == len(table) - 1:
            return n
    return None


def tokens_until_text(tokenizer, row, stop_strings, stop_token_ids=()):
    """The same by decoding prefix after prefix."""
    for n, text in enumerate(tokenizer.detokenize([row[:n] for n in range(1, len(row) + 1)]), start=1):
        if row[n - 1] in stop_token_ids or any(string in text for string in stop_strings):
            return n
    return None


@pytest.mark.parametrize(
    "pieces, strings, stop",
    [
        (["a", "b", "bc"], ["bbc", "abbcd"], 3),  # from the longer string's beginning back into the shorter
        (["</", "a", "n", "<pad>", "s", "w", "e", "<control>", "r>"], ["</answer>"], 9),
        (["a", "<eos>", "<pad>", "<control>"], ["<eos>", "<pad>", "<control>"], None),  # control pieces are no text
        (["a", "<unk>"], ["⁇"], 2),
        (["<0xE2>", "<0x80>", "<pad>", "<0xA6>"], ["…"], None),  # decodes to � three times
        (["<0xC3>", "<0xE2>", "<0x80>", "<0xA6>"], ["…"], 4),
    ],
)
def test_where_a_row_stops(tokenizer, size, pieces, strings, stop):
    row = ids_of(tokenizer, *pieces)
    assert tokens_until_text(tokenizer, row, strings) == stop
    assert tokens_until_stop(stop_table(tokenizer, size, [], strings), row) == stop


def test_without_strings_there_are_two_states_and_any_tokenizer_will_do():
    table = stop_table(object(), 10, [1, 7, 10, 700])  # stop tokens that the model does not have do nothing
    assert table.tolist() == [[0, 1, 0, 0, 0, 0, 0, 1, 0, 0], [1] * 10]


def test_a_model_with_another_vocabulary(tokenizer, size):
    """Ids beyond the tokenizer's are no text; of a smaller vocabulary the table is the beginning."""
    a, b = ids_of(tokenizer, "a", "b")
    table = stop_table(tokenizer, size + 5, [size + 4], ["ab"])
    assert table.shape == (3, size + 5)
    np.testing.assert_array_equal(table[:, size : size + 4], np.arange(3)[:, None].repeat(4, axis=1))
    assert tokens_until_stop(table, [a, size + 2, b]) == 3
    assert tokens_until_stop(table, [a, size + 4]) == 2
    np.testing.assert_array_equal(stop_table(tokenizer, 50, [size + 4], ["ab"]), table[:, :50])


@pytest.mark.parametrize("length, states, dtype", [(126, 127, "int8"), (127, 128, "int16")])
def test_the_smallest_dtype_that_holds_the_states(tokenizer, length, states, dtype):
    string = "</answer>".ljust(length, "!")
    table = stop_table(tokenizer, 100, [1], [string])
    assert table.dtype == dtype and len(table) == states
    assert table.min() == 0 and table.max() == states - 1
    # A string that contains another adds no states.
    np.testing.assert_array_equal(stop_table(tokenizer, 100, [1], [string, string + "n", "n" + string]), table)


def test_every_piece_is_the_text_that_the_tokenizer_makes_of_it(each):
    """One stop string a piece: its text between two others; the pieces that are part of a character come by pairs."""
    tokenizer, size = each
    x = tokenizer.token_to_id("x")
    texts = tokenizer.detokenize([[x, token, x] for token in range(size)])
    whole = [token for token in range(size) if "\N{REPLACEMENT CHARACTER}" not in texts[token]]
    assert size - len(whole) == 128  # the bytes that are no ASCII
    for token in whole:
        assert tokens_until_stop(stop_table(tokenizer, size, [], [texts[token]]), [x, token, x]) == 3


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_row_stops_where_its_text_first_contains_a_stop_string(each, data):
    tokenizer, size = each
    row = data.draw(st.lists(st.sampled_from(often(tokenizer)) | st.integers(0, size - 1), min_size=1, max_size=24))
    whole = tokenizer.detokenize([row])[0]
    strings = data.draw(st.lists(parts_of(whole) | st.text("abcn<>/ \né…", min_size=1, max_size=3), max_size=4))
    stop_token_ids = data.draw(st.lists(st.integers(0, size - 1) | st.sampled_from(row[-2:]), max_size=2))
    table = stop_table(tokenizer, size, stop_token_ids, strings)
    assert np.all(table[-1] == len(table) - 1)  # stopped is never left
    assert tokens_until_stop(table, row) == tokens_until_text(tokenizer, row, strings, stop_token_ids)


def often(tokenizer):
    """Ids whose texts join to what the drawn strings are made of."""
    byte_pieces = ["<0xC3>", "<0xA9>", "<0xE2>", "<0x80>", "<0xA6>", "Ã", "©", "â", "Ģ", "¦"]
    names = [*"abcn<>/", "<pad>", "<unk>", *MERGED, *byte_pieces, *BPE_SPECIAL]
    names += [name.replace(" ", "▁") for name in names] + [name.translate(str.maketrans(GPT2)) for name in names]
    known = set(tokenizer.get_vocabulary())
    return sorted({tokenizer.token_to_id(name) for name in names if name in known})


def parts_of(text):
    """Substrings of `text` of up to eight characters, without those that stand for invalid bytes."""
    parts = {text[i:j] for i in range(len(text)) for j in range(i + 1, min(i + 8, len(text)) + 1)}
    parts = sorted(part for part in parts if "\N{REPLACEMENT CHARACTER}" not in part)
    return st.sampled_from(parts) if parts else st.nothing()


@pytest.mark.parametrize("strings", [["</answer>", ""], [b"</answer>"], "</answer>"])
def test_what_is_no_list_of_texts_is_refused(tokenizer, strings):
    with pytest.raises(ValueError, match="texts in a list, none empty. Received: stop_strings=") as error:
        stop_table(tokenizer, 10, [1], strings)
    assert str(error.value).endswith(repr(strings))


def test_strings_need_a_tokenizer_whose_bytes_are_known():
    with pytest.raises(ValueError, match="Stop strings need a SentencePieceTokenizer or a BytePairTokenizer"):
        stop_table(keras_hub.tokenizers.UnicodeCodepointTokenizer(), 10, [1], ["a"])
