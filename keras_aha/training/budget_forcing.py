"""Budget forcing (s1, arXiv:2501.19393): where thinking would end, a word such as "Wait" stands and it goes on."""

from keras_aha.decoding import Completions
from keras_aha.decoding.stop_table import stop_table

import numpy as np

THINK_END = "</think>"


def think_on(
    model, token_ids, padding_mask, completions: Completions, word_ids, *, max_completion_length: int, rows, **sampling
) -> tuple[Completions, np.ndarray]:
    """Takes the end of each completion's thinking back, puts a word there, and samples what then follows.

    The cut is before the token in which the first `</think>` begins. A completion that never ends its thinking, or has
    no room for the word and a token more, stays as it is. What is read is padded to a quarter, a half, or the whole of
    C, so that few programs are compiled; keys and values take the memory of completions up to twice as long.

    Args:
        model: a `GRPOModel`.
        token_ids, padding_mask: `(B, L)`, left-padded prompts, one a completion.
        completions: B of them, as `model.generate` or this function returned them.
        word_ids: see `word_to_ids`.
        max_completion_length: C, of a completion with all that was thought before.
        rows: `(B,)` integers, numbers of the rows for their random keys.
        **sampling: other arguments of `PolicySampler.generate`, with an `iteration` that no call before had, since with
            the same random keys the same would be said again.

    Returns:
        B completions, log-probs 0 at the tokens of the word, and `(B,)` bool: which of them thought on.
    """
    thought = thinking_lengths(model, completions)
    begun = thought + len(word_ids)
    going = np.flatnonzero((thought >= 0) & (begun < max_completion_length))
    longest = begun[going].max(initial=0)
    room = next(room for room in (-(-max_completion_length // part) for part in (4, 2, 1)) if room >= longest)
    width = token_ids.shape[1] + room
    prompt_ids, prompt_mask = np.zeros((2, len(going), width), "int32")
    for ids, mask, row in zip(prompt_ids, prompt_mask, going, strict=True):
        prompt = token_ids[row][padding_mask[row] > 0]
        read = np.concatenate([prompt, completions.token_ids[row, : thought[row]], word_ids])
        ids[-len(read) :], mask[-len(read) :] = read, 1
    # Also if no row goes on: with several processes the others may wait for this one.
    sampling |= dict(max_completion_length=max_completion_length, rows=rows[going])
    more = model.generate(prompt_ids, prompt_mask, **sampling)
    joined = Completions(*(x.copy() for x in completions))
    for i, row in enumerate(going):
        length = min(more.lengths[i], max_completion_length - begun[row])
        end = begun[row] + length
        for old, new in ((joined.token_ids, more.token_ids), (joined.log_probs, more.log_probs)):
            old[row, thought[row] :] = 0
            old[row, begun[row] : end] = new[i, :length]
        joined.token_ids[row, thought[row] : begun[row]] = word_ids
        joined.lengths[row] = end
        joined.stopped[row] = more.stopped[i] and length == more.lengths[i]
    return joined, np.isin(np.arange(len(thought)), going)


def thinking_lengths(model, completions: Completions) -> np.ndarray:
    """Tokens of each completion before the one in which its first `</think>` begins, `(B,)`; -1 where there is none."""
    table = stop_table(model.tokenizer, model.policy.backbone.vocabulary_size, (), (THINK_END,))
    found = len(table) - 1
    rows, length = completions.token_ids.shape
    state, begins, thought = np.zeros(rows, "int64"), np.zeros(rows, "int64"), np.full(rows, -1)
    for position in range(length):
        token = completions.token_ids[:, position]
        # What is matched so far begins in this token if the token alone would match as much: "<" is in it only once.
        begins = np.where(table[state, token] == table[0, token], position, begins)
        state = table[state, token].astype("int64")
        thought = np.where((state == found) & (thought < 0) & (position < completions.lengths), begins, thought)
    return thought


def word_to_ids(tokenizer, word: str) -> list[int]:
    """The token ids of `word`; none for an empty one, after which a policy thinks on, or ends its thinking anew.

    It raises ValueError if the tokenizer cannot write it, or it ends the thinking.
    """
    ids = [int(token_id) for token_id in tokenizer([word])[0]] if word else []
    if THINK_END in word or (ids and tokenizer.detokenize([ids])[0] != word):
        raise ValueError(
            f"The word to think on with must be one that the vocabulary can write, without {THINK_END}. "
            f"Received: {word!r}"
        )
    return ids
