"""`stop_table`: stop tokens and stop strings as a table that token ids drive, so that a sampler never sees text."""

import keras_hub
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model


def stop_table(tokenizer, vocabulary_size: int, stop_token_ids, stop_strings=()) -> np.ndarray:
    """Compiles what ends a completion: it begins in state 0, and each token leads to `table[state, token_id]`.

    The last state, S - 1, means stopped and is never left. A row enters it at a stop token, or at the token with which
    the detokenized completion first contains a stop string, even if the string begins and ends inside of pieces. The
    other states are beginnings of stop strings: the automaton of Aho and Corasick (doi:10.1145/360825.360855) over
    bytes of UTF-8, because a character may be spread over several tokens.

    Text is what `tokenizer.detokenize` makes of the completion, with two exceptions: a space at the very beginning
    counts here, though Llama 2's removes it, and U+FFFD, which stands for invalid UTF-8, does not.

    Args:
        tokenizer: a `keras_hub.tokenizers.SentencePieceTokenizer` or `BytePairTokenizer`; any, if there are no strings.
        vocabulary_size: V of the model. Ids beyond the tokenizer's vocabulary count as no text.
        stop_token_ids: ids that end a completion; those of V and more, which are never sampled, do nothing.
        stop_strings: a list of texts that end a completion.

    Returns:
        `(S, V)`, int8 if that holds S, else int16 or int32. S is 2 without strings, and at most one more than the bytes
        of all strings together.

    Raises:
        ValueError: if a stop string is empty or no `str`, or if there is one and the tokenizer is of another kind.
    """
    patterns = _patterns(stop_strings)
    beginnings = {pattern[:n] for pattern in patterns for n in range(len(pattern))} | {b""}
    # In the same order in every process, so that all hosts of a run have the same table.
    prefixes = sorted(beginnings, key=lambda prefix: (len(prefix), prefix))
    pieces = _piece_bytes(tokenizer, vocabulary_size) if patterns else [b""] * vocabulary_size
    table = _over_pieces(_automaton(patterns, prefixes), pieces)
    if isinstance(tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        # It joins adjacent byte pieces only: a character with a control piece between its bytes is lost.
        unfinished = [state for state, text in enumerate(prefixes) if text.decode(errors="ignore").encode() != text]
        control = [token_id for token_id, piece in enumerate(pieces) if not piece]
        table[np.ix_(unfinished, control)] = 0
    table[:, [token_id for token_id in stop_token_ids if token_id < vocabulary_size]] = len(table) - 1
    return table


def _patterns(stop_strings) -> list[bytes]:
    """The strings in UTF-8, without those that contain another: the other stops the row first."""
    is_text = isinstance(stop_strings, str)  # it would be taken for its characters
    if is_text or not all(isinstance(string, str) and string for string in stop_strings):
        raise ValueError(f"`stop_strings` must be texts in a list, none empty. Received: stop_strings={stop_strings!r}")
    patterns = {string.encode() for string in stop_strings}
    return [pattern for pattern in patterns if not any(other in pattern for other in patterns - {pattern})]


def _automaton(patterns: list[bytes], prefixes: list[bytes]) -> np.ndarray:
    """The state after one byte, `(S, 256)`. State s: of all prefixes, `prefixes[s]` is the longest end of the text."""
    stopped = len(prefixes)
    states = {prefix: state for state, prefix in enumerate(prefixes)} | dict.fromkeys(patterns, stopped)
    signed = np.min_scalar_type(-len(prefixes) - 2)  # the smallest type that holds all states
    automaton = np.zeros((stopped + 1, 256), signed)
    automaton[stopped] = stopped
    for state, prefix in enumerate(prefixes):
        for byte in set(b"".join(patterns)):
            text = prefix + bytes([byte])
            automaton[state, byte] = next(states[text[n:]] for n in range(len(text) + 1) if text[n:] in states)
    return automaton


def _over_pieces(automaton: np.ndarray, pieces: list[bytes]) -> np.ndarray:
    """The state after all bytes of a piece, `(S, V)`."""
    lengths = np.array([len(piece) for piece in pieces])
    text = np.frombuffer(b"".join(pieces), "uint8")
    longest_first = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[longest_first]
    # Byte n of every piece that has one: of the first so many pieces in `longest_first`.
    columns = [text[starts[: np.count_nonzero(lengths > n)] + n] for n in range(lengths.max())]
    table = np.empty((len(automaton), len(pieces)), automaton.dtype)
    for state in range(len(automaton)):  # one by one: NumPy makes an index of eight bytes of each element
        states = np.full(len(pieces), state, automaton.dtype)
        for column in columns:
            states[: len(column)] = automaton[states[: len(column)], column]
        table[state, longest_first] = states
    return table


def _piece_bytes(tokenizer, vocabulary_size: int) -> list[bytes]:
    """The text of each id, V entries; in bytes, because some ids are a part of a character."""
    if isinstance(tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        pieces = _sentence_piece_bytes(tokenizer.proto)
    elif isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        pieces = _byte_pair_bytes(tokenizer.vocabulary)
    else:
        raise ValueError(
            "Stop strings need a SentencePieceTokenizer or a BytePairTokenizer, whose pieces are bytes of text. "
            f"Received: tokenizer={tokenizer!r}"
        )
    return (pieces + [b""] * (vocabulary_size - len(pieces)))[:vocabulary_size]


def _sentence_piece_bytes(proto: bytes) -> list[bytes]:
    """As `SentencePieceProcessor.Decode`: a control piece is no text, and the unknown one is " ⁇ " by default."""
    model = sentencepiece_model.ModelProto.FromString(proto)
    kind = model.SentencePiece
    special = {
        kind.CONTROL: lambda piece: b"",
        kind.UNKNOWN: lambda piece: model.trainer_spec.unk_surface.encode(),
        kind.BYTE: lambda piece: bytes.fromhex(piece[3:5]),  # of <0x0A>
    }
    return [special.get(x.type, lambda piece: piece.replace("▁", " ").encode())(x.piece) for x in model.pieces]


def _byte_pair_bytes(vocabulary: dict[str, int]) -> list[bytes]:
    """GPT-2 writes a byte as a visible character; a token with other characters, a special one, is its own text."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(0x100) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for token, token_id in vocabulary.items():
        is_bytes = byte_of.keys() >= set(token)
        pieces[token_id] = bytes(byte_of[character] for character in token) if is_bytes else token.encode()
    return pieces
