"""Activations beyond the range of float16, as those of Gemma 3 are: float32 trains, float16 is refused by its name.

github.com/unslothai/unsloth/issues/2040, 2044
"""

from commands import ROOT, SMALL, refused, run


def check(folder):
    save_large(folder / "large")
    flags = ["--epochs", 2, "--set", f"model.preset={folder / 'large'}", *SMALL]
    result = run("fit", "--log-dir", folder / "float32", *flags)
    assert result.returncode == 0, result.stdout
    return refused(run("fit", "--log-dir", folder / "float16", *flags, "--set", "model.dtype=float16"), "float16")


def save_large(folder):
    import keras_aha  # noqa: F401  chooses JAX

    import keras_hub

    policy = keras_hub.models.GemmaCausalLM.from_preset(str(ROOT / "presets" / "countdown_tiny"))
    kernel = policy.backbone.get_layer("decoder_block_1").ffw_linear.kernel
    kernel.assign(kernel * (3e4 / float(abs(kernel.numpy()).max())))
    policy.save_to_preset(str(folder))
