from keras_aha.callbacks.history_callback import HistoryCallback

import keras
import pandas as pd


def write(path, *epochs):
    callback = HistoryCallback(path)
    callback.set_model(keras.Sequential())
    callback.on_train_begin()
    for epoch, logs in enumerate(epochs):
        callback.on_epoch_end(epoch, dict(logs))
    callback.on_train_end()


def test_logs_that_an_epoch_lacks_stay_empty(tmp_path):
    path = tmp_path / "history.csv"
    write(path, {"reward": 0.5}, {"reward": 0.75, "val_slips": 1.5})
    table = pd.read_csv(path)
    assert table["reward"].tolist() == [0.5, 0.75]
    assert table["val_slips"].isna().tolist() == [True, False]


def test_a_file_of_an_older_version_keeps_its_columns(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,reward,epoch_seconds\n0,0.25,1.0\n")
    write(path, {"reward": 0.5, "val_slips": 1.5})
    table = pd.read_csv(path)
    assert list(table) == ["epoch", "reward", "epoch_seconds"]
    assert table["reward"].tolist() == [0.25, 0.5]
