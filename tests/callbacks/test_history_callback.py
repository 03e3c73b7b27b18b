from keras_aha.callbacks.history_callback import HistoryCallback, of_the_machine

import keras
import pandas as pd

# As a run of the first releases wrote it.
OLD = "epoch,reward,accuracy,loss,entropy,kl,val_accuracy,epoch_seconds\n1,0.25,0.2,0.0,1.5,0.01,,3.5\n"


def write(path, *epochs, first=0):
    callback = HistoryCallback(path)
    callback.set_model(keras.Sequential())
    callback.on_train_begin()
    for epoch, logs in enumerate(epochs, start=first):
        callback.on_epoch_end(epoch, dict(logs))
    callback.on_train_end()
    return pd.read_csv(path)


def test_all_that_a_run_can_have_are_columns_from_the_first_row(tmp_path):
    """Also after a resume with other features; a log that an epoch lacks is empty, and so is what is no number."""
    path = tmp_path / "history.csv"
    table = write(path, {"reward": 0.5, "entropy": float("nan")}, {"reward": 0.75, "val_slips": 1.5})
    assert table["val_slips"].isna().tolist() == [True, False] and table["entropy"].isna().all()
    promised = {"failed_rewards", "task_reward", "overlong_penalty", "curriculum_level", "difficulty", "learning_rate"}
    promised |= {"refilled_groups", "refill_tokens", "kl", "importance_weight", "compiles", "tokens_per_second", "mfu"}
    assert promised < set(table) and {"compiles", "mfu", "memory_gb"} < {name for name in table if of_the_machine(name)}
    columns = table.columns.tolist()
    more = {"reward": 1.0, "kl": 0.5, "reward_length": 3.0, "compiles": 0}
    table = write(path, more, {"reward_form": 2.0}, {"reward": 2.0}, first=2)
    assert table.columns.tolist() == [*columns, "reward_length", "reward_form"]  # nothing moves
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5] and table["reward"].dropna().tolist() == [0.5, 0.75, 1.0, 2.0]
    assert table["reward_length"].dropna().tolist() == [3.0] and table["epoch_seconds"].ge(0).all()


def test_an_old_file_is_gone_on_with(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(OLD)
    table = write(path, {"reward": 0.5, "kl": 0.02, "format_rate": 1.0}, first=1)
    assert table.columns[:8].tolist() == OLD.split("\n")[0].split(",")
    assert table[["epoch", "reward", "kl"]].values.tolist() == [[1, 0.25, 0.01], [2, 0.5, 0.02]]
    assert table["format_rate"].isna().tolist() == [True, False]
    assert path.read_text().splitlines()[1].startswith(OLD.splitlines()[1])  # digit by digit
