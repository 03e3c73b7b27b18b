"""Keras would put averaged weights in place as `fit` ends, after the last evaluation: that is refused, not saved.

github.com/keras-team/keras/issues/18949
"""

from commands import SMALL, refused, run


def check(folder):
    averaged = ["--set", "optimizer.config.use_ema=true", "--set", "optimizer.config.ema_momentum=0.9"]
    result = run("fit", "--log-dir", folder / "run", "--epochs", 2, *SMALL, *averaged)
    assert not (folder / "run").exists()
    return refused(result, "leave `use_ema` out, so that the policy that is saved")
