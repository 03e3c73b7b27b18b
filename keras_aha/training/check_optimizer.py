"""What of Keras's optimizers a `GRPOModel` cannot train with."""

import keras

_REFUSED = {
    "gradient_accumulation_steps": "Gradients are accumulated over micro-batches: leave `gradient_accumulation_steps` "
    "out and set `GRPOModel(policy, micro_batch_size=…)`, in a recipe training.micro_batch_size.",
    "use_ema": "Keras puts averaged weights in place as `fit` ends, after the last evaluation and the last checkpoint: "
    "leave `use_ema` out, so that the policy that is saved is the one that was measured.",
    "loss_scale_factor": "`loss_scale_factor` must be left out: a GRPOModel scales its loss by itself, and the factor "
    "would divide updates.",
}


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises ValueError if a `GRPOModel` cannot train with an optimizer, or not as its arguments promise."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "A GRPOModel scales the loss by itself: give it the optimizer inside, and leave a global float16 policy of "
            f"`keras.config.set_dtype_policy` out. Received: {optimizer.name}"
        )
    for name, sentence in _REFUSED.items():
        value = vars(optimizer)[name]
        if value is not None and value is not False:
            raise ValueError(f"{sentence} Received: {name}={value}")
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        bound = vars(optimizer)[name]
        if bound is not None and not bound > 0:  # which Keras takes as no bound
            raise ValueError(f"`{name}` must be above 0, or left out. Received: {name}={bound}")
