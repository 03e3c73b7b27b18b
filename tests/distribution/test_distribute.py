"""What `distribute` chooses and refuses. Devices are only named here; `test_meshes.py` runs on some."""

from types import SimpleNamespace

import keras_aha as aha
from keras_aha.distribution.distribute import batch_parts, check_batch

import jax
import keras
import pytest

V5E, V6E, V5P = "TPU v5 lite", "TPU v6 lite", "TPU v5"


def named(count, kind="cpu", processes=1):
    """Devices that can be laid out, though not computed on. A TPU that is not here tells nothing of its memory."""
    stats = dict(memory_stats=lambda: None) if kind == "cpu" else {}
    return [
        SimpleNamespace(platform="cpu", id=i, device_kind=kind, process_index=i * processes // count, **stats)
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def no_distribution_afterwards():
    yield
    keras.distribution.set_distribution(None)


def test_one_device_is_left_alone():
    assert aha.distribute(batch=8, model=1, devices=named(1)) is None
    if len(jax.devices()) == 1:
        assert aha.distribute() is None
    assert keras.distribution.distribution() is None
    assert batch_parts() == 1


@pytest.mark.parametrize("sizes, mesh", [({}, (8, 1)), ({"model": 2}, (4, 2)), ({"batch": 2, "model": 4}, (2, 4))])
def test_the_mesh(sizes, mesh):
    distribution = aha.distribute(**sizes, devices=named(8))
    assert keras.distribution.distribution() is distribution
    assert distribution.device_mesh.shape == mesh and batch_parts() == mesh[0]
    assert distribution.rollouts.device_mesh.shape == (8, 1)  # where each device decodes its rows alone
    assert not distribution.auto_shard_dataset


def test_devices_of_a_process_lie_together():
    devices = named(8, processes=2)
    mesh = aha.distribute(model=2, devices=devices[::-1]).device_mesh
    assert [device.process_index for device in mesh.devices.ravel()] == [0] * 4 + [1] * 4


def split(distribution):
    return distribution.get_tensor_layout("token_embedding/embeddings").axes[1] == "batch"


@pytest.mark.parametrize(
    "preset, kind, splits, rollout_model",
    [
        # Bytes of bfloat16 weights: 5.2, 7.8, 17.1, 18.5 and 54.5 GB; v5e has 16.9 GB, v6e 33.6, v5p 102.8.
        ("gemma2_2b_en", V5E, False, 1),  # two copies, 10.5, are below 12.7
        ("gemma3_4b_text", V5E, True, 1),  # 15.5 are not; an eighth and a whole one, 8.7, are
        ("gemma_7b_en", V5E, True, 4),  # 2.1 and a whole one are not; 2.1 + 4.3
        ("gemma2_9b_en", V5E, True, 4),  # 2.3 + 4.6
        ("gemma2_9b_en", V6E, True, 1),  # 37 of 25.2; 2.3 + 18.5
        ("gemma2_9b_en", V5P, False, 1),
        ("gemma2_27b_en", V6E, True, 8),  # 6.8 + 6.8
        ("gemma2_27b_en", V5P, True, 1),  # 109 of 77; 6.8 + 54.5
    ],
)
def test_what_auto_picks_on_eight_chips(preset, kind, splits, rollout_model):
    distribution = aha.distribute(preset=preset, devices=named(8, kind))
    assert split(distribution) == splits
    assert distribution.rollouts.device_mesh.shape == (8 // rollout_model, rollout_model)
    assert not split(distribution.rollouts)


def test_rollouts_are_split_over_the_devices_of_one_process():
    distribution = aha.distribute(preset="gemma2_27b_en", devices=named(16, V6E, processes=4))
    assert distribution.rollouts.device_mesh.shape == (4, 4)


def test_choices_can_be_made_by_hand():
    distribution = aha.distribute(weights="split", rollout_model=2, devices=named(8))
    assert split(distribution) and distribution.rollouts.device_mesh.shape == (4, 2)
    assert not split(aha.distribute(weights="whole", preset="gemma2_27b_en", devices=named(8, V5E)))


# === Errors ===


@pytest.mark.parametrize(
    "sizes, choices",
    [
        ({"model": 3}, "batch=4, model=2 or batch=2, model=4"),
        ({"batch": 1, "model": 1}, "batch=8, model=1 or batch=4, model=2"),
    ],
)
def test_sizes_that_do_not_multiply_to_the_devices(sizes, choices):
    sentence = f"must be the number of devices, which is 8: choose {choices}. Received: "
    with pytest.raises(ValueError, match=sentence):
        aha.distribute(**sizes, devices=named(8))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch": 0}, r"`batch` must be a positive int\. Received: batch=0"),
        ({"batch": 2.0}, r"Received: batch=2\.0"),
        ({"model": None}, r"`model` must be a positive int\. Received: model=None"),
        ({"weights": "fsdp"}, r"`weights` must be one of auto, whole, split\. Received: weights='fsdp'"),
        ({"rollout_model": 3}, r"of a process, which are 8: choose 1 or 2 or 4 or 8\. Received: rollout_model=3"),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        aha.distribute(**settings, devices=named(8))


@pytest.mark.parametrize(
    "numbers, message",
    [
        ((1, 4, None), r"4 completions of a step.* choose prompts_per_epoch=2\. Received: prompts_per_epoch=1, group"),
        ((5, 4, None), r"20 completions of a step.* choose prompts_per_epoch=4 or 6\. Received"),
        ((4, 4, 4), r"must divide the 16 rows of a step and be a multiple of the 8 devices .*: choose 8\. Received"),
        ((4, 12, 32), r"must divide the 48 rows of a step .*: choose 24 or 48\. Received: micro_batch_size=32"),
    ],
)
def test_batches_that_cannot_be_split(numbers, message):
    aha.distribute(devices=named(8))
    with pytest.raises(ValueError, match=message):
        check_batch(*numbers)
    check_batch(4, 4, 8)
