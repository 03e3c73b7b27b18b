"""What of Keras's optimizers a `GRPOModel` cannot train with."""

import keras


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises ValueError if a `GRPOModel` cannot train with an optimizer, or not as its arguments promise."""
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "Gradients are accumulated over micro-batches: leave `gradient_accumulation_steps` out and set "
            "`GRPOModel(policy, micro_batch_size=…)`, in a recipe training.micro_batch_size. Received: "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
        )
    if optimizer.use_ema:
        raise ValueError(
            "Keras puts averaged weights in place as `fit` ends, after the last evaluation and the last checkpoint: "
            "leave `use_ema` out, so that the policy that is saved is the one that was measured. Received: use_ema=True"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "A GRPOModel scales the loss by itself: give it the optimizer inside, and leave a global float16 policy of "
            f"`keras.config.set_dtype_policy` out. Received: {optimizer.name}"
        )
    if optimizer.loss_scale_factor is not None:
        raise ValueError(
            "`loss_scale_factor` must be left out: a GRPOModel scales its loss by itself, and the factor would divide "
            f"updates. Received: loss_scale_factor={optimizer.loss_scale_factor}"
        )
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        bound = vars(optimizer)[name]
        if bound is not None and not bound > 0:  # which Keras takes as no bound
            raise ValueError(f"`{name}` must be above 0, or left out. Received: {name}={bound}")
