"""What is counted in a program's text, against numbers by hand."""

from keras_aha.planner.hlo import collectives, hbm_bytes, hbm_traffic, matrix_flops

import jax
import jax.numpy as jnp
from conftest import AS_FOR_USERS


def test_a_loop_counts_as_often_as_it_runs():
    def step(x, w):
        outer = jnp.einsum("bij,bjk->bik", x, x)
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), outer, length=7)[0]

    compiled = jax.jit(step).lower(jnp.ones((3, 8, 8)), jnp.ones((8, 8))).compile(AS_FOR_USERS)
    assert matrix_flops(compiled.as_text()) == (1 + 7) * 2 * 3 * 8 * 8 * 8


CONVOLUTION = """
ENTRY %main (x: f32[4,10,6], w: f32[3,6,5]) -> f32[4,5,5] {
  %x = f32[4,10,6]{2,1,0} parameter(0)
  %w = f32[3,6,5]{2,1,0} parameter(1)
  ROOT %y = f32[4,5,5]{2,1,0} convolution(%x, %w), window={size=3 stride=2 pad=1_0}, dim_labels=b0f_0io->b0f
}
"""


def test_a_convolution_counts_what_meets_no_padding():
    # Of 5 outputs of 3 products each, the first meets one zero of padding.
    assert matrix_flops(CONVOLUTION) == 2 * 4 * 6 * 5 * (5 * 3 - 1)


KERNEL = """
ENTRY %main (q: bf16[2,4,2,10,8], k: bf16[2,4,16,8]) -> bf16[2,4,2,10,8] {
  %q = bf16[2,4,2,10,8]{4,3,2,1,0} parameter(0)
  %k = bf16[2,4,16,8]{3,2,1,0} parameter(1)
  ROOT %splash_mqa_fwd.1 = bf16[2,4,2,10,8]{4,3,2,1,0} custom-call(%q, %k, %k), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/jvp(window=9)/pallas_call"}
}
"""


def test_a_kernel_counts_the_pairs_that_see_each_other():
    # The first of 10 queries sees 7 of the 16 keys, the second 8, and with this window the others 9.
    assert matrix_flops(KERNEL) == 2 * 2 * (2 * 4 * 2) * (7 + 8 + 8 * 9) * 8


ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}
"""
LOOP = """
%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[8]{0} get-tuple-element(%s), index=1
  %start = f32[8]{0} all-reduce-start(%v), to_apply=%add
  %done = f32[8]{0} all-reduce-done(%start)
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %done)
}

ENTRY %main (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = (s32[], f32[8]{0}) parameter(0)
  ROOT %loop = (s32[], f32[8]{0}) while(%x), condition=%less, body=%bodyTRIPS
}
"""


def test_collectives_in_a_loop():
    text = ADD + LESS + LOOP.replace("TRIPS", ', backend_config={"known_trip_count":{"n":"12"}}')
    assert collectives(text) == {"all-reduce": {"count": 12, "bytes": 12 * 32}}
    assert collectives(ADD + LESS + LOOP.replace("TRIPS", "")) == collectives(text)  # the condition has the number, too


NOT_ALL = """
%less (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  %v = f32[8]{0} get-tuple-element(%s), index=1
  %sum = f32[8]{0} all-reduce(%v), to_apply=%add
  ROOT %lt = pred[] custom-call(%sum)
}
"""
LESS = """
%less (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  %limit = s32[] constant(12)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}
"""


def test_loops_that_run_as_often_as_data_say_take_turns():
    text = ADD + NOT_ALL + LOOP.replace("TRIPS", "")
    assert collectives(text, turns=5) == {"all-reduce": {"count": 10, "bytes": 10 * 32}}  # those of the condition too

    def step(i, x):
        once = jax.lax.fori_loop(0, i, lambda _, x: jnp.tanh(x @ x), x)
        return jax.lax.fori_loop(i, 5, lambda _, x: jnp.tanh(x @ x @ x), once)

    compiled = jax.jit(step).lower(1, jnp.ones((8, 8))).compile(AS_FOR_USERS)
    assert matrix_flops(compiled.as_text(), turns=5) == 5 * 2 * 2 * 8**3


def test_of_branches_the_longest_counts():
    def step(i, x):
        return jax.lax.switch(i, [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x)

    compiled = jax.jit(step).lower(1, jnp.ones((8, 8))).compile(AS_FOR_USERS)
    assert matrix_flops(compiled.as_text()) == 2 * 2 * 8**3
    either = jax.jit(lambda i, x: jax.lax.cond(i > 0, lambda x: jnp.dot(x, x), jnp.cos, x)).lower(1, jnp.ones((8, 8)))
    assert matrix_flops(either.compile(AS_FOR_USERS).as_text()) == 2 * 8**3


GATHER = """
ENTRY %main (x: f32[4,2]) -> f32[32,2] {
  %x = f32[4,2]{1,0} parameter(0)
  %start = (f32[4,2]{1,0}, f32[32,2]{1,0}) all-gather-start(%x), dimensions={0}
  %done = f32[32,2]{1,0} all-gather-done(%start)
  %moved = (f32[32,2]{1,0}, f32[32,2]{1,0}, u32[], u32[]) collective-permute-start(%done)
  %y = f32[32,2]{1,0} collective-permute-done(%moved)
  ROOT %z = f32[4,2]{1,0} reduce-scatter(%y), to_apply=%add
}
"""


def test_bytes_of_a_collective_are_those_of_its_larger_side():
    kinds = ("all-gather", "collective-permute", "reduce-scatter")
    assert collectives(ADD + GATHER) == dict.fromkeys(kinds, {"count": 1, "bytes": 32 * 2 * 4})


TRAFFIC = """
%nothing (h: f32[8,16]) -> f32[8,16] {
  ROOT %h = f32[8,16]{1,0} parameter(0)
}

%greedy (v: f32[16,16]) -> f32[8,16] {
  %v = f32[16,16]{1,0:S(1)} parameter(0)
  ROOT %part = f32[8,16]{1,0} slice(%v), slice={[0:8], [0:16]}
}

%body (s: (s32[], f32[8,16], f32[16,16])) -> (s32[], f32[8,16], f32[16,16]) {
  %s = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %h = f32[8,16]{1,0} get-tuple-element(%s), index=1
  %w = f32[16,16]{1,0} get-tuple-element(%s), index=2
  %near = (f32[16,16]{1,0:S(1)}, f32[16,16]{1,0}, u32[]) copy-start(%w)
  %v = f32[16,16]{1,0:S(1)} copy-done(%near)
  %drawn = f32[8,16]{1,0} conditional(%i, %h, %v), branch_computations={%nothing, %greedy}
  %next = f32[8,16]{1,0} dot(%drawn, %v), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) tuple(%i, %next, %w)
}

ENTRY %main (x: (s32[], f32[8,16], f32[16,16])) -> (s32[], f32[8,16], f32[16,16]) {
  %x = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[8,16]{1,0}, f32[16,16]{1,0}) while(%x), condition=%less, body=%body
}
"""


def test_a_weight_that_is_fetched_into_scratchpad_moves_once_a_turn():
    turn = 4 * (16 * 16 + 8 * 16 + 8 * 16)  # the weight, the hidden state in and out
    branch = 4 * 8 * 16  # what the larger branch writes, of a weight in scratchpad
    less = LESS.replace("f32[8]{0}", "f32[8,16]{1,0}, f32[16,16]{1,0}").replace("f32[8]", "f32[8,16], f32[16,16]")
    text = less.replace("12", "3") + TRAFFIC
    traffic = hbm_traffic(text)
    assert sum(read + written for read, written, _ in traffic) == turn + branch
    assert {x.op for _, _, x in traffic} == {"copy-start", "slice", "dot"}
    condition = 4 + 4 + 1  # the count, its limit, and what the comparison writes
    assert hbm_bytes(text) == 3 * (turn + branch + condition)
