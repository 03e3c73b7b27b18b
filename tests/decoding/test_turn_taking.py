"""Completions in several turns: what was drawn is what the policy says of the whole text, however rows wait."""

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.decoding import batch as batches
from keras_aha.decoding import buckets, decoder_for, generate, generate_turns_with_cache, row_keys, slow_turns
from keras_aha.training.policy_sampler import PolicySampler

import numpy as np
import pytest
from sampling_oracle import drawn, forward_log_probs, uniforms
from told import Told

PROMPTS, GROUP, LENGTH = 5, 4, 48
NEAR_TIE = 2e-5


def make(policy, vocabulary_size):
    rng = np.random.default_rng(0)
    mask = (np.arange(18) >= rng.integers(0, 12, (PROMPTS, 1))).astype("int32")
    ids = rng.integers(4, vocabulary_size, mask.shape).astype("int32") * mask
    table = np.zeros((2, vocabulary_size), "int8")
    table[0, rng.permutation(vocabulary_size)[: vocabulary_size // 6]] = table[1] = 1
    weights = PolicySampler(policy).merged_values()
    keys = row_keys(0, 0, np.arange(PROMPTS * GROUP))
    return (ids, mask, keys), dict(group_size=GROUP, max_completion_length=LENGTH, stop_table=table), weights


def run(policy, answers, path=generate, **settings):
    arrays, fixed, weights = make(policy, policy.backbone.vocabulary_size)
    first = decoder_for(policy.backbone) if path is generate else policy
    return path(first, weights, *arrays, answers=answers, **fixed | settings)


def assert_drawn_by_the_policy(policy, completions, answers):
    """Each turn is what the row's keys draw from the policy's distribution after all before; the rest was told."""
    (ids, mask, keys), fixed, _ = make(policy, policy.backbone.vocabulary_size)
    log_probs = forward_log_probs(policy, (ids, mask), completions)
    tokens, margins = drawn(np.exp(log_probs), uniforms(keys, LENGTH))
    read = np.arange(LENGTH) < completions.lengths[:, None]
    own = read & ~completions.observed
    assert (margins[own & (tokens != completions.token_ids)] < NEAR_TIE).all()
    expected = np.take_along_axis(log_probs, completions.token_ids[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(completions.log_probs, np.where(own, expected, 0), atol=1e-4)
    for row, turns in answers.turns.items():
        pieces = []
        for turn, said in enumerate(turns, start=1):
            pieces += [(said, False), (answers.words(row, turn), True)]
        tokens = [token for piece, _ in pieces if piece is not None for token in piece]
        told = [is_told for piece, is_told in pieces if piece is not None for _ in piece]
        length = completions.lengths[row]
        ended = pieces[-1][0] is None
        if ended:
            assert length == len(tokens) and completions.stopped[row]
        common = min(length, len(tokens))
        assert completions.token_ids[row, :common].tolist() == tokens[:common]
        assert completions.observed[row, :common].tolist() == told[:common]
        stops = fixed["stop_table"][0]
        assert all(stops[said[-1]] and not stops[said[:-1]].any() for said in turns)


@pytest.mark.parametrize("shape", ("gemma", "gemma_2", "gemma_3", "gemma_4"))
def test_turns_are_drawn_as_the_policy_says(make_policy, shape):
    policy, answers = make_policy(shape), Told()
    completions = run(policy, answers)
    assert max(map(len, answers.turns.values())) == 3 and completions.observed.any(axis=1).sum() > 5
    assert_drawn_by_the_policy(policy, completions, answers)
    no_longer = completions.lengths == LENGTH
    assert not completions.stopped[no_longer & ~np.isin(np.arange(len(no_longer)), list(answers.turns))].any()


@pytest.mark.parametrize("settings", ({}, dict(max_rows=8), dict(max_rows=2)), ids=str)
@pytest.mark.parametrize("late", (0, 2, 40))
def test_rows_wait_for_each_other_in_no_way(make_policy, monkeypatch, settings, late):
    """Whatever way rows take: in smaller buckets, shared prompts, freed places, with answers now or much later."""
    policy = make_policy("gemma_2", sliding_window_size=9)
    expected = run(policy, Told())
    monkeypatch.setattr(buckets, "_NEW_TOKENS", 12)
    monkeypatch.setattr(batches, "SHARED_PROMPT", 1)
    answers = Told(late)
    completions = run(policy, answers, **settings)
    assert_drawn_by_the_policy(policy, completions, answers)
    same = (completions.token_ids == expected.token_ids).all(axis=1)
    assert (~same).sum() <= 1  # after a near tie, which was looked at above
    np.testing.assert_allclose(completions.log_probs[same], expected.log_probs[same], atol=1e-5)
    assert (completions.stopped == expected.stopped)[same].all()


def test_nothing_is_compiled_after_warming_up(make_policy):
    policy = make_policy("gemma_2")
    decoder = decoder_for(policy.backbone)
    arrays, fixed, weights = make(policy, policy.backbone.vocabulary_size)
    for settings in ({}, dict(max_rows=8)):
        generate(decoder, weights, *arrays, answers=Told(), warm_up=True, **fixed | settings)
        counter = CompileCounter()
        for answers in (Told(late=3), Told(turns=6), Told(max_turn_length=2)):
            generate(decoder, weights, *arrays, answers=answers, **fixed | settings)
        assert counter.count == 0
        counter.close()


def test_a_turn_that_is_too_long_ends_its_completion(make_policy):
    policy, answers = make_policy("gemma"), Told(max_turn_length=4)
    completions = run(policy, answers)
    cut = ~completions.stopped
    assert cut.any() and completions.stopped.any()
    for row in np.flatnonzero(cut):
        said = completions.lengths[row] - np.flatnonzero(completions.observed[row]).max(initial=-1) - 1
        assert said == 4
    assert all(len(turn) <= 4 for turns in answers.turns.values() for turn in turns)


def test_the_slow_path_takes_the_same_turns(make_policy, monkeypatch):
    policy, answers, slow = make_policy("gemma"), Told(), Told(late=1)
    completions = run(policy, answers)
    rows, generate_with_cache = [], slow_turns.generate_with_cache

    def spy(policy, weights, token_ids, *arguments, **settings):
        rows.append(len(token_ids))
        return generate_with_cache(policy, weights, token_ids, *arguments, **settings)

    monkeypatch.setattr(slow_turns, "generate_with_cache", spy)
    others = run(policy, slow, generate_turns_with_cache)
    assert len(rows) > 2 and set(rows) <= {20, 5}  # for which programs are compiled, however many rows go on
    assert [slow_turns._rows_of_a_program(n, 64) for n in (64, 17, 16, 5, 4, 1)] == [64, 64, 16, 16, 4, 4]
    assert (completions.token_ids == others.token_ids).all() and answers.turns == slow.turns
    np.testing.assert_allclose(completions.log_probs, others.log_probs, atol=1e-5)
    for one, other in zip(completions[2:], others[2:], strict=True):
        np.testing.assert_array_equal(one, other)
