"""What a second turn costs: rollouts in turns against rollouts of one turn, same weights, in one process.

    python benchmarks/turns.py                         in about three minutes on two cores
    python benchmarks/turns.py --workloads slow-tool --repeats 3

A Gemma 2 of 4 layers and width 256, random weights, float32; 64 completions, 8 each of 8 prompts of 32 tokens. An
observation has 16 tokens. The two of a workload take turns, and medians of their tokens per second are compared.

together: one turn of 128 tokens, against two of 56 and an observation between them; all rows stop at the same token.
scattered: one turn of 128 tokens, against turns that end anywhere, after 64 tokens in the mean, until 128 are full.
slow-tool: two turns of 128 tokens in the mean. Every tenth row is answered a second late, by one of 16 threads, against
    all at once. Timed until the others, which say the same in both, have stopped for the last time.
slower-than-all: the same with turns of 32 tokens, so that the others are done before anyone is answered late.
"""

import argparse
import concurrent.futures as futures
import json
import statistics
import time

from keras_aha import decoding
from keras_aha.callbacks.compile_counter import CompileCounter

import numpy as np
from rivals_gemma import VOCABULARY, rivals_backbone

PROMPTS, GROUP_SIZE, PROMPT_LENGTH, OBSERVATION = 8, 8, 32, 16
ROWS = PROMPTS * GROUP_SIZE
ENDLESS = np.array([np.zeros(VOCABULARY), np.ones(VOCABULARY)], "int8")
LATE = range(0, ROWS, 10)


class Tool(decoding.Answers):
    """Answers the first turns of each row with random tokens, and ends the row after them.

    Args:
        answered: how many turns are answered.
        delay: seconds that the rows of `LATE` wait.
    """

    max_length = OBSERVATION

    def __init__(self, answered: int, delay: float = 0.0):
        self.answered, self.delay = answered, delay
        self.pool = futures.ThreadPoolExecutor(16)
        self.turns, self.pending, self.last_stop = np.zeros(ROWS, int), {}, 0.0

    def ask(self, row, token_ids):
        self.turns[row] += 1
        self.pending[row] = self.pool.submit(self.answer, row, int(self.turns[row]))
        if row not in LATE:
            self.last_stop = time.perf_counter()

    def answer(self, row, turn):
        if turn > self.answered:
            return None
        if self.delay and row in LATE:
            time.sleep(self.delay)
        return np.random.default_rng([row, turn]).integers(8, VOCABULARY, OBSERVATION).astype("int32")

    def take(self, wait):
        if wait:
            futures.wait(self.pending.values(), return_when=futures.FIRST_COMPLETED)
        done = [row for row, answer in self.pending.items() if answer.done()]
        return {row: self.pending.pop(row).result() for row in done}


def stop_after(count: int):
    """A table that stops a turn after so many tokens, whatever they are."""
    return np.repeat(np.arange(1, count + 1)[:, None], VOCABULARY, axis=1).astype("int8")


def stop_at(ids: int):
    """A table that stops a turn at so many of the token ids."""
    return np.array([np.arange(VOCABULARY) < ids, np.ones(VOCABULARY)], "int8")


# Tokens of a completion, and for each of the two its stop table and what makes its tool.
WORKLOADS = {
    "together": (128, (ENDLESS, None), (np.vstack([stop_after(56), stop_after(56)[-1:]]), lambda: Tool(1))),
    "scattered": (128, (ENDLESS, None), (stop_at(8), lambda: Tool(ROWS))),
    "slow-tool": (1536, (stop_at(4), lambda: Tool(1)), (stop_at(4), lambda: Tool(1, delay=1.0))),
    "slower-than-all": (384, (stop_at(16), lambda: Tool(1)), (stop_at(16), lambda: Tool(1, delay=1.0))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each (default: %(default)s)")
    args = parser.parse_args()
    backbone = rivals_backbone()
    for name in args.workloads:
        print(json.dumps(compare(backbone, name, args.repeats)), flush=True)


def compare(backbone, workload: str, repeats: int) -> dict:
    """Medians of tokens per second, how many times slower the second is, and what was compiled meanwhile."""
    decoder, weights = decoding.decoder_for(backbone), [variable.value for variable in backbone.variables]
    prompts = np.random.default_rng(1).integers(8, VOCABULARY, (repeats + 1, PROMPTS, PROMPT_LENGTH)).astype("int32")
    longest, *pair = WORKLOADS[workload]

    def rollout(run, stop_table, make_tool):
        """Tokens a second, mean turns and the completions."""
        tool, start = make_tool and make_tool(), time.perf_counter()
        completions = decoding.generate(
            decoder,
            weights,
            prompts[run],
            np.ones_like(prompts[run]),
            decoding.row_keys(0, run, np.arange(ROWS)),
            group_size=GROUP_SIZE,
            max_completion_length=longest,
            stop_table=stop_table,
            warm_up=run == 0,
            answers=tool,
        )
        end, lengths = time.perf_counter(), completions.lengths
        if workload.startswith("slow"):
            assert completions.stopped.all()  # else it is not known when a row has ended
            end, lengths = tool.last_stop, np.delete(lengths, LATE)
        turns = 1.0 if tool is None else float(np.mean(tool.turns + (workload == "scattered")))
        return lengths.sum() / (end - start), turns, completions

    counter, compiles, speeds = CompileCounter(), 0, ([], [])
    for run in range(repeats + 1):
        before = counter.count
        results = [rollout(run, *arguments) for arguments in pair]
        if run:  # the first compiles
            compiles += counter.count - before
            for values, result in zip(speeds, results, strict=True):
                values.append(result[0])
    first, second = map(statistics.median, speeds)
    return {
        "workload": workload,
        "tokens_per_second": [round(first, 1), round(second, 1)],
        "ratio": round(statistics.median(a / b for a, b in zip(*speeds, strict=True)), 3),
        "turns": [round(turns, 2) for _, turns, _ in results],
        "tokens": [int(completions.lengths.sum()) for _, _, completions in results],
        "compiles_after_warm_up": compiles,
    }


if __name__ == "__main__":
    main()
