"""What differs between the recipe that a run began with and the recipe that it is to go on with."""

import re
from collections.abc import Collection

from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError

# These decide how long, how fast and how well observed a run is, but not what it learns.
_FREE = (
    *("training.epochs", "training.micro_batch_size", "training.completion_lengths", "evaluation.every"),
    *("rollouts.max_rows", "rollouts.reward_seconds", "rollouts.on_reward_error", "distribution.", "priming."),
    *("training.remat", "turns.response_seconds", "turns.response_workers"),
)
_FREE_OF_JUDGES = re.compile(r"rewards\[\d+\]\.(batch_size|concurrent|retries|seconds)")  # how fast they answer
# A higher one leaves all as it was that was below the other, unless problems were left out by it.
_GROWING = ("rollouts.max_prompt_length",)


def check_changes(began: Recipe, now: Recipe, may_move: Collection[str] = ()) -> list[str]:
    """Checks that the run that `began` may go on with the recipe `now`; paths in both are absolute.

    `may_move` are keys such as `model.preset` that may name another place, as what lies there is known by a checksum.

    Returns:
        What differs, a line each: `training.epochs: 30 → 60`.

    Raises:
        RecipeError: if a difference decides what is learned. A checkpoint holds the learning rate, so changing the
            optimizer would change nothing; and a schedule over the run's epochs cannot be stretched.
    """
    before, after = began.flat(), now.flat()
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    scheduled = isinstance(now.optimizer.config.get("learning_rate"), dict)
    may_grow = _GROWING if began.rollouts.long_prompts == "error" else ()
    free = (*_FREE, *(path for path in changed if path in may_grow and after[path] > before[path]))
    bound = [path for path in changed if not (path in may_move or path.startswith(free))]
    bound = [path for path in bound if not _FREE_OF_JUDGES.fullmatch(path)]
    refused = bound + (["training.epochs"] if scheduled and "training.epochs" in changed else [])
    lines = {path: f"{path}: {before.get(path)!r} → {after.get(path)!r}" for path in changed}
    if refused:
        why = " The learning rate has a schedule over all epochs." if "training.epochs" in refused else ""
        raise RecipeError(
            f"It would be another run.{why} Go on with the recipe.toml in the run's folder (a script reads it if you "
            "give --log-dir and no --preset), or begin a new run in another folder. "
            f"Received: {'; '.join(lines[path] for path in refused)}"
        )
    return list(lines.values())
