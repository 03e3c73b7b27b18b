"""What TensorBoard's own reader finds in the files."""

import types

import keras_aha  # noqa: F401  chooses the JAX backend
from keras_aha.callbacks.tensorboard_callback import TensorBoardCallback
from keras_aha.tasks import Score

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

VERDICTS = [("correct", "correct", "no_answer", "correct"), ("wrong\ud800", "correct", "correct", "correct")]


def rollout(epoch):
    return types.SimpleNamespace(
        lengths=np.array([3, 5, 7, 7]),
        rewards=np.array([0.0, 1.0, np.nan, 1.0], "float32"),
        scores=[Score(0.0, False, verdict) for verdict in VERDICTS[epoch]],
    )


def write(folder, epochs, state=None, **hyper_parameters):
    callback = TensorBoardCallback(folder, hyper_parameters, write_graph=False)
    callback.set_state(state or callback.get_state())
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=0))
    callback.set_model(model)
    callback.set_params({"epochs": 2})
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        model.rollout = rollout(epoch)
        callback.on_epoch_end(epoch, {"reward": 0.5})
    return callback.get_state()


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def values(events, tag):
    return {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}


def test_a_run_that_goes_on_knows_the_verdicts_so_far(tmp_path):
    write(tmp_path, [1], write(tmp_path, [0], a=1), a=1)
    events, tags = read(tmp_path / "train"), ("correct", "no_answer", "wrong\\ud800")
    shares = {tag: {k: float(v) for k, v in values(events, f"verdict/{tag}").items()} for tag in tags}
    assert shares == {"correct": {0: 0.75, 1: 0.75}, "no_answer": {0: 0.25, 1: 0.0}, tags[2]: {1: 0.25}}
    assert len(list((tmp_path / "hyper_parameters").iterdir())) == 1
    for tag, lowest, highest, count in (("completion_length", 3, 7, 4), ("reward", 0, 1, 3)):
        for buckets in values(events, tag).values():  # (left, right, count) each
            assert buckets[:, 2].sum() == count
            assert (buckets[:, 0].min(), buckets[:, 1].max()) == (lowest, highest)


def test_hyper_parameters_as_their_tab_reads_them(tmp_path):
    write(tmp_path, [0], **{"a.rate": 0.5, "a.list": (1, 2), "b": None, "c": True})
    content = read(tmp_path / "hyper_parameters").SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["a.rate"].number_value == 0.5 and found["c"].bool_value is True
    assert (found["a.list"].string_value, found["b"].string_value) == ("(1, 2)", "None")
