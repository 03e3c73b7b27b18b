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


def test_logs_that_an_epoch_lacks_stay_empty_and_a_file_is_added_to(tmp_path):
    path = tmp_path / "history.csv"
    write(path, {"reward": 0.5}, {"reward": 0.75, "val_slips": 1.5})
    write(path, {"reward": 1.0, "mfu": 0.5})
    table = pd.read_csv(path)
    assert table["reward"].tolist() == [0.5, 0.75, 1.0]
    assert table["val_slips"].isna().tolist() == [True, False, True]
    assert "mfu" not in table and table["epoch_seconds"].ge(0).all()
    path.write_text("reward,epoch\n0.5,1\n")  # of an earlier version
    write(path, {"reward": 0.75, "val_accuracy": 1.0})
    assert path.read_text() == "reward,epoch\n0.5,1\n0.75,1\n"
