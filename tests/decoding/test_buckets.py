import math

from keras_aha.decoding.buckets import Bucket, all_buckets, next_rows, smallest

from hypothesis import given
from hypothesis import strategies as st

many = st.integers(1, 5000)
long = st.integers(1, 20000)


def test_by_hand():
    """Four lengths for all rows, two for a quarter of them, one for the rest; short completions have one length."""
    lengths = {64: (64, 128, 192, 256), 16: (128, 256), 4: (256,)}
    buckets = [Bucket(rows, tokens) for rows in lengths for tokens in lengths[rows]]
    assert all_buckets(64, 256) == buckets
    assert all_buckets(64, 100) == [Bucket(64, 100), Bucket(16, 100), Bucket(4, 100)]
    assert all_buckets(1, 1) == [Bucket(1, 1)]


@given(rows=many, longest=long, data=st.data())
def test_few_buckets_hold_any_number_of_rows_of_any_length_without_much_to_spare(rows, longest, data):
    buckets = all_buckets(rows, longest)
    assert len(set(buckets)) == len(buckets) <= 7 + math.log(rows, 4)
    assert max(buckets) == Bucket(rows, longest)
    assert all(1 <= bucket.rows and 1 <= bucket.new_tokens <= longest for bucket in buckets)
    sizes = sorted({bucket.rows for bucket in buckets}, reverse=True)
    assert all(4 * fewer >= more > fewer for more, fewer in zip(sizes[:-1], sizes[1:], strict=True))
    alive, tokens = data.draw(st.integers(1, rows)), data.draw(st.integers(1, longest))
    bucket = smallest(buckets, alive, tokens)
    assert bucket.rows >= alive and bucket.new_tokens >= tokens
    assert next_rows(bucket.rows) < alive  # a quarter of the rows would not do
