"""The default run on one device, on meshes of eight and in several processes: the same, and as good.

    python benchmarks/meshes.py                 five epochs of each, minutes
    python benchmarks/meshes.py --epochs 30     the whole run of each, most of an hour on two cores

Devices are virtual ones of a CPU, and processes talk over loopback, so nothing is to be learned here about speed. For
each layout: whether the first epoch has the token ids and rewards of one device, by how much its loss differs, by how
much the adapters differ after five epochs on the rollouts that one device made, and sampled held-out accuracy, before
and as the run measures it.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import keras_aha  # noqa: F401  chooses the backend

import jax
import keras
import numpy as np
import pandas as pd

RECORDED = 5
LAYOUTS = {  # [distribution], devices a process, processes
    "one device": ({}, 1, 1),
    "8×1": ({}, 8, 1),
    "4×2": ({"model": 2}, 8, 1),
    "2×4": ({"model": 4}, 8, 1),
    "4×2, weights split": ({"model": 2, "weights": "split", "rollout_model": 2}, 8, 1),
    "2 processes, 8×1": ({}, 4, 2),
    "4 processes, 4×2": ({"model": 2}, 2, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=RECORDED, help="of the run (default: %(default)s)")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), metavar="NAME")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run(args)
        return
    print(f"{'':20s}{'token ids':>12s}{'rewards':>10s}{'loss':>10s}{'adapters':>10s}  held-out accuracy")
    with tempfile.TemporaryDirectory() as folder:
        for name in ["one device", *(name for name in args.layouts if name != "one device")]:
            start(name, folder, args.epochs)
            report(name, Path(folder))


# === The processes ===


def start(name: str, folder: str, epochs: int) -> None:
    """Runs the processes of a layout and waits for them."""
    _, devices, processes = LAYOUTS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # XLA's threads, which it takes from this, else from the number of cores: a device that waits for another holds one,
    # and with too few of them all wait for ever.
    environment["NPROC"] = str(4 * devices)
    command = [sys.executable, __file__, "--child", name, folder, "--epochs", str(epochs), "--port", str(port)]
    children = [
        subprocess.Popen([*command, "--process", str(i)], env=environment, stdout=subprocess.DEVNULL, stderr=log)
        for i in range(processes)
        for log in [open(Path(folder, f"{name}-{i}.log"), "w+")]  # noqa: SIM115
    ]
    for i, child in enumerate(children):
        if child.wait():
            sys.exit(Path(folder, f"{name}-{i}.log").read_text())


def run(args) -> None:
    """Both parts, in a process of its own."""
    from keras_aha.distribution import processes
    from keras_aha.distribution.distribute import whole
    from keras_aha.recipes.recipe import Recipe
    from keras_aha.runs.experiment import Experiment
    from keras_aha.runs.run import Run

    (name, folder), alone = args.child, args.child[0] == "one device"
    settings, _, count = LAYOUTS[name]
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(f"127.0.0.1:{args.port}", count, args.process)
    changes = [f"distribution.{key}={value}" for key, value in settings.items()]
    recipe = Recipe.load("countdown_tiny").override([*changes, f"training.epochs={args.epochs}"])
    experiment = Experiment(recipe)
    recorder = Recorder(folder if alone else None)
    experiment.rollouts.on_epoch_begin = recorder.after(experiment.rollouts.on_epoch_begin, experiment)
    training_run = Run(experiment, Path(folder, name))
    history = training_run.fit().history
    before = training_run.before[0]["correct"].mean()

    experiment = Experiment(recipe)
    dataset = Recorded(folder, processes.share(len(recorder.first["rewards"])))
    experiment.model.fit(dataset, epochs=RECORDED, callbacks=[dataset.callback], shuffle=False, verbose=0)
    variables = experiment.model.trainable_variables
    with whole(variables):
        adapters = np.concatenate([np.asarray(variable.value).ravel() for variable in variables])
    if processes.is_first():
        accuracy = np.array([before, *pd.Series(history["val_accuracy"])])
        np.savez(
            Path(folder, name, "run.npz"), loss=history["loss"][0], adapters=adapters, val=accuracy, **recorder.first
        )


class Recorder:
    """Keeps the first rollout, and writes what is trained on in the first few epochs."""

    def __init__(self, folder):
        self.folder, self.first, self.epoch = folder, None, 0

    def after(self, on_epoch_begin, experiment):
        def record(epoch, logs=None):
            on_epoch_begin(epoch, logs)
            rollout = experiment.model.rollout
            self.first = self.first or {"token_ids": rollout.token_ids, "rewards": rollout.rewards}
            if self.folder and epoch < RECORDED:
                np.savez(Path(self.folder, f"rollout-{epoch}.npz"), **rollout.batch())

        return record


class Recorded(keras.utils.PyDataset):
    """A recorded rollout each epoch, this process's rows of it."""

    def __init__(self, folder, own):
        super().__init__()
        self.folder, self.own = folder, own
        self.callback = keras.callbacks.LambdaCallback(on_epoch_begin=self.load)

    def load(self, epoch, logs=None):
        arrays = np.load(Path(self.folder, f"rollout-{epoch}.npz"))
        self.batch = {name: arrays[name][self.own] for name in arrays.files}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


def report(name: str, folder: Path) -> None:
    """A line of the table."""
    found, alone = (np.load(folder / layout / "run.npz") for layout in (name, "one device"))
    same = ["same" if np.array_equal(found[key], alone[key]) else "OTHERS" for key in ("token_ids", "rewards")]
    apart = [np.abs(found[key] - alone[key]).max() for key in ("loss", "adapters")]
    accuracy = " → ".join(f"{value:.1%}" for value in found["val"])
    print(f"{name:20s}{same[0]:>12s}{same[1]:>10s}{apart[0]:10.1e}{apart[1]:10.1e}  {accuracy}", flush=True)


if __name__ == "__main__":
    main()
