"""The train step against a straightforward one over full logits: same weights, same batch, same optimizer.

    python benchmarks/train_step.py                       8 × 512 tokens, a vocabulary of 256,000
    python benchmarks/train_step.py --lengths uniform     completions of 1 to all of their tokens
    python benchmarks/train_step.py --vocabulary 512 --rows 64 --layers 4

ours: `GRPOModel.train_step`, as `fit` compiles it.
full: logits `(B, T, V)` of the policy's call, a log-softmax over them, the GRPO loss written out, `jax.value_and_grad`.

A Gemma 2 in float32 with adapters of rank 8 on all linear layers, or `--full`; no KL. The two take turns in a process,
and medians of their seconds are compared. Memory is counted twice: as temporary bytes by the compiler, and as the peak
of a process that runs one of them alone (`--child`), less what it held before the step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from keras_aha.losses import GRPOLoss
from keras_aha.models.tiny_gemma import tiny_gemma
from keras_aha.training.grpo_model import GRPOModel

import jax
import jax.numpy as jnp
import keras
import numpy as np
from process import forget_peak, peak_mib, resident_mib
from rivals_gemma import ALL_LINEAR, randomize, rollout_of, variables_of

STEPS = ("ours", "full")
CLIP = 0.2
HEAD = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=256_000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="tokens a row, prompt included (default: %(default)s)")
    parser.add_argument("--prompt-length", type=int, default=128, help="of these (default: %(default)s)")
    parser.add_argument("--lengths", choices=("full", "uniform"), default="full", help="of completions")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=256, help=f"a multiple of {HEAD} (default: %(default)s)")
    parser.add_argument("--micro-batch-size", type=int, help="of ours; the other has all rows at once")
    parser.add_argument("--full", action="store_true", help="train every weight")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--child", choices=STEPS, help="run this one alone, once, and print its peak memory")
    parser.add_argument("--json", action="store_true", help="one JSON line on standard output")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_alone(args)))
        return
    children = {name: run_child(name) for name in STEPS}
    result = compare(args) | {f"{name}_{key}": value for name in STEPS for key, value in children[name].items()}
    result["peak_ratio"] = round(result["ours_peak_mib"] / result["full_peak_mib"], 4)
    if args.json:
        print(json.dumps(result), flush=True)
    report(result, sys.stderr if args.json else sys.stdout)


# === The two steps ===


def build(args) -> GRPOModel:
    """The model, compiled with Adam; all its weights depend on the arguments alone."""
    keras.utils.set_random_seed(0)
    policy = tiny_gemma(
        vocabulary_size=args.vocabulary,
        num_layers=args.layers,
        hidden_dim=args.width,
        intermediate_dim=8 * args.width,  # gate and up together
        num_query_heads=args.width // HEAD,
        num_key_value_heads=1,
        head_dim=HEAD,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        attention_logit_soft_cap=50.0,
        final_logit_soft_cap=30.0,
        use_sliding_window_attention=True,
        sliding_window_size=4096,
    )
    if not args.full:
        policy.backbone.enable_lora(8, target_layer_names=ALL_LINEAR)
    randomize(policy.backbone.variables, seed=0)  # adapters too, whose B is 0 otherwise
    model = GRPOModel(policy, args.micro_batch_size)
    model.compile(keras.optimizers.Adam(1e-4), GRPOLoss(CLIP))
    return model


def random_batch(args) -> dict:
    """What `train_step` takes. The policy is close to uniform, which is what the log-probs say that sampled."""
    rng = np.random.default_rng(1)
    token_ids = rng.integers(0, args.vocabulary, (args.rows, args.length))
    completions = args.length - args.prompt_length
    lengths = np.full(args.rows, completions)
    if args.lengths == "uniform":
        lengths = np.linspace(1, completions, args.rows).round().astype(int)
        rng.shuffle(lengths)
    log_probs = np.full((args.rows, completions), -np.log(args.vocabulary))
    advantages = rng.normal(size=args.rows)
    prompt_ids, completion_ids = token_ids[:, : args.prompt_length], token_ids[:, args.prompt_length :]
    return rollout_of(prompt_ids, completion_ids, lengths, log_probs, advantages, advantages).batch()


def full_logits_step(model: GRPOModel):
    """The step that anyone would write first; arguments and results are those of `GRPOModel.train_step`."""
    variables = [*model.trainable_variables, *model.non_trainable_variables]

    def loss_of(trainable, non_trainable, batch):
        with keras.StatelessScope(list(zip(variables, [*trainable, *non_trainable], strict=True))):
            token_ids, mask = jnp.hstack([batch["prompt_ids"], batch["completion_ids"]]), batch["completion_mask"]
            padding_mask = jnp.hstack([batch["prompt_mask"], mask.astype("int32")])
            logits = model.policy({"token_ids": token_ids, "padding_mask": padding_mask})
        log_softmax = jax.nn.log_softmax(logits / batch["temperature"][:, None, None])
        log_probs = jnp.take_along_axis(log_softmax[:, :-1], token_ids[:, 1:, None], axis=-1)[..., 0]
        ratio = jnp.exp(log_probs[:, -mask.shape[1] :] - batch["old_log_probs"])
        advantages = batch["advantages"][:, None]
        surrogate = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantages)
        return -jnp.sum(surrogate * mask) / jnp.sum(mask)

    def step(state, batch):
        trainable, non_trainable, optimizer_variables, metric_variables = state
        loss, gradients = jax.value_and_grad(loss_of)(trainable, non_trainable, batch)
        trainable, optimizer_variables = model.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        return {"loss": loss}, (trainable, non_trainable, optimizer_variables, metric_variables)

    return step


def compile_step(name: str, model: GRPOModel, batch: dict):
    """`(program, state)`; the program takes the state's buffers over, as in `fit`."""
    step = model.train_step if name == "ours" else full_logits_step(model)
    state = jax.tree.map(lambda variable: jnp.copy(variable.value), variables_of(model))
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile(), state


# === Measurements ===


def compare(args) -> dict:
    """Medians of seconds, the compiler's temporary bytes, and how far gradients are apart."""
    model, batch = build(args), jax.tree.map(jnp.asarray, random_batch(args))
    programs, states, first, seconds = {}, {}, {}, {name: [] for name in STEPS}
    for name in STEPS:
        programs[name], states[name] = compile_step(name, model, batch)
    for repeat in range(args.repeats + 1):
        for name in STEPS:
            start = time.perf_counter()
            logs, states[name] = jax.block_until_ready(programs[name](states[name], batch))
            if repeat:
                seconds[name].append(time.perf_counter() - start)
            else:
                first[name] = float(logs["loss"]), gradients(model, states[name])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    temporary = {name: programs[name].memory_analysis().temp_size_in_bytes for name in STEPS}
    return {
        "vocabulary": args.vocabulary,
        "rows": args.rows,
        "length": args.length,
        "lengths": args.lengths,
        "ours_s": round(medians["ours"], 3),
        "full_s": round(medians["full"], 3),
        "time_ratio": round(medians["ours"] / medians["full"], 3),
        "loss_difference": abs(first["ours"][0] - first["full"][0]),
        "gradient_difference": largest_difference(first["ours"][1], first["full"][1]),
        "ours_temp_mib": round(temporary["ours"] / 2**20),
        "full_temp_mib": round(temporary["full"] / 2**20),
        "temp_ratio": round(temporary["ours"] / temporary["full"], 4),
    }


def gradients(model: GRPOModel, state) -> list[np.ndarray]:
    """Those of the first step: Adam's first moment is then 1 − β1 of them."""
    moments = zip(model.optimizer.variables, state[2], strict=True)
    return [np.asarray(value) / (1 - model.optimizer.beta_1) for variable, value in moments if "mom" in variable.path]


def largest_difference(ours, full) -> float:
    """Of any weight's gradients, the norm of their difference by their norm."""
    return float(max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(ours, full, strict=True)))


def run_alone(args) -> dict:
    """Peak memory of one step in this process, less what it held before; the program was compiled by then."""
    model, batch = build(args), jax.tree.map(jnp.asarray, random_batch(args))
    program, state = compile_step(args.child, model, batch)
    forget_peak()
    before = resident_mib()
    jax.block_until_ready(program(state, batch))
    return {"before_mib": before, "peak_mib": peak_mib() - before}


def run_child(name: str) -> dict:
    """`run_alone` in a process of its own, with the same arguments."""
    command = [sys.executable, *sys.argv, "--child", name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def report(result: dict, file) -> None:
    """A few readable lines."""
    print(
        "{rows} × {length} tokens, vocabulary {vocabulary}, completions {lengths}\n"
        "  time       {time_ratio:.3f} of full logits: {ours_s} against {full_s} s\n"
        "  temporary  {temp_ratio:.3f}: {ours_temp_mib} against {full_temp_mib} MiB, by the compiler\n"
        "  peak       {peak_ratio:.3f}: {ours_peak_mib} against {full_peak_mib} MiB, of a process\n"
        "  gradients  {gradient_difference:.1e} of their norm apart, losses {loss_difference:.1e}".format(**result),
        file=file,
        flush=True,
    )


if __name__ == "__main__":
    if jax.default_backend() != "cpu":
        sys.exit("This benchmark reads the memory of the process, so it measures on CPU: set JAX_PLATFORMS=cpu.")
    main()
