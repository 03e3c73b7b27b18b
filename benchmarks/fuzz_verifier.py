"""Fuzzes what reads every completion: the scorer, held against an oracle, and the counter of behaviours.

    pip install -e ".[fuzz]"                                                  atheris, which guides by coverage
    python benchmarks/fuzz_verifier.py --minutes 30 --seed 1 --corpus fuzz/1
    python benchmarks/fuzz_verifier.py --engine random --minutes 5            without atheris and without guidance
    python benchmarks/fuzz_verifier.py --replay fuzz/1                        what a corpus finds, once each

A finding is an input that raises, whose verdict or reward is not the oracle's (`tests/verdict_oracle.py`), that has
more than 0.1 for a wrong answer, or whose reading takes more than 50 ms of processor time, in each of three repeats, so
that a busy machine is no finding. Texts have at most 20,000 characters, about what a few thousand tokens are. Findings
are written to the corpus' folder as `finding-KIND-…` and counted in the last line. Run one process a core, each with a
seed and a corpus of its own.
"""

import argparse
import contextlib
import hashlib
import math
import random
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

LONGEST = 20_000  # characters
LIMIT = 0.050  # seconds of processor time
SHOWN = 5  # findings of a kind that are written
PUZZLES = [
    ((1, 2, 3), 9), ((3, 3, 8, 8), 24), ((2, 2, 1), 5), ((0, 5), 0), ((4,), -4), ((7, 7, 7), 100), ((1, 1, 1, 1), 0),
    ((100, 3), 97), ((20, 15, 14), 19), ((98, 58, 3), 43), ((25, 50, 75, 100), 52), ((0, 0), 0),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("atheris", "random"), default="atheris", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="of the clock (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the engine (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", default=Path("fuzz"), help="(default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="read its inputs once and stop")
    args = parser.parse_args()
    if args.replay and not args.replay.is_dir():
        parser.error(f"--replay is a folder of inputs. Received: {args.replay}")
    args.corpus.mkdir(parents=True, exist_ok=True)
    if args.engine == "atheris" and not args.replay:
        try:
            import atheris
        except ImportError as error:
            parser.error(f'--engine atheris needs pip install -e ".[fuzz]". Received: {error}')
        versions = f"atheris {metadata.version('atheris')}"
        imports = atheris.instrument_imports(include=["keras_aha.tasks", "keras_aha.evaluation"])
    else:
        versions, imports = "no atheris", contextlib.nullcontext()
    with imports:
        reading = Reading(args.corpus)
    heading = f"Python {sys.version.split()[0]}, {versions}, seed {args.seed}"
    if args.replay:
        for path in sorted(path for path in args.replay.iterdir() if path.is_file()):
            reading.of_bytes(path.read_bytes())
    elif args.engine == "random":
        draw_until(reading, args.minutes, args.seed)
    else:
        guide(atheris, reading, args, heading)
    reading.report(heading)


def draw_until(reading, minutes, seed):
    from hostile_completions import hostile_completion

    rng = random.Random(seed)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        problem = rng.choice(reading.problems)
        reading.of_text(problem, hostile_completion(rng, problem)[:LONGEST])


def guide(atheris, reading, args, heading):
    """Hands over to libFuzzer, from which no way leads back; its log tells coverage as `cov` (edges) and `ft`."""
    from hostile_completions import hostile_completion

    if not any(args.corpus.iterdir()):
        rng, kept = random.Random(args.seed), Counter()
        for number in range(5000):
            place = rng.randrange(len(PUZZLES))
            text = hostile_completion(rng, reading.problems[place])
            outcome = reading.judge(*PUZZLES[place], text)
            kept[outcome] += 1
            if kept[outcome] <= 8 and len(text) < 2000:
                (args.corpus / f"seed-{number:04}").write_bytes(as_bytes(place, text))
    words = args.corpus.with_name(args.corpus.name + ".dict")
    words.write_text("".join(f'"{quoted(piece)}"\n' for piece in sorted({*reading.pieces} - {""})))

    def read(data):
        nonlocal end
        reading.of_bytes(data)
        if time.monotonic() > end:
            reading.report(heading)
            end = math.inf

    end = time.monotonic() + 60 * args.minutes
    flags = [f"-max_len={LONGEST}", f"-seed={args.seed}", f"-dict={words}", "-rss_limit_mb=2048", "-len_control=20"]
    flags += [f"-max_total_time={round(60 * args.minutes) + 10}", "-print_final_stats=1", str(args.corpus)]
    atheris.Setup([sys.argv[0], *flags], read)
    atheris.Fuzz()


def quoted(piece):
    """As libFuzzer's dictionaries want it."""
    return "".join(f"\\x{byte:02x}" for byte in piece.encode("utf-8", "surrogatepass"))


def as_bytes(place, text):
    """The input that `Reading.of_bytes` takes for puzzle `place` and the text."""
    return bytes([place, 0]) + text.encode("utf-8", "surrogatepass")


def as_text(data):
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


class Reading:
    """All that has been read so far, and what was found.

    Args:
        folder: where findings go.
    """

    def __init__(self, folder):
        from keras_aha.evaluation.behaviours import count_behaviours
        from keras_aha.tasks import Countdown, CountdownProblem

        import hostile_completions as hostile
        from verdict_oracle import judge

        self.folder = folder
        self.task = Countdown(num_numbers=3, max_number=20)
        self.problems = [CountdownProblem(*puzzle) for puzzle in PUZZLES]
        self.count_behaviours, self.judge = count_behaviours, judge
        self.pieces = [*hostile.TAGS, *hostile.ODDITIES, *hostile.BLANKS, *"0123456789", "9-1=8", " isn't ", "too "]
        self.started = time.monotonic()
        self.executions = 0
        self.verdicts = Counter()
        self.slowest = {"scorer": (0.0, ""), "behaviours": (0.0, "")}
        self.findings = Counter()

    def of_bytes(self, data):
        """The first byte chooses the problem, the second how the rest is meant: as UTF-8, or each byte as a piece."""
        problem = self.problems[(data[0] if data else 0) % len(PUZZLES)]
        if len(data) > 1 and data[1] % 2:
            text = self._of_pieces(problem, data[2:])
        else:
            text = as_text(data[2:])
        self.of_text(problem, text[:LONGEST])

    def _of_pieces(self, problem, data):
        pieces = [str(problem.solution), *map(str, problem.numbers), str(problem.target), *self.pieces]
        made, length = [], 0
        for byte in data:
            if length > LONGEST:
                break
            if byte >= 240 and made:  # the last piece again, up to 65,536 times
                made.append(made[-1] * min(2 ** (byte - 239), LONGEST // max(len(made[-1]), 1)))
            else:
                made.append(pieces[byte % len(pieces)])
            length += len(made[-1])
        return "".join(made)

    def of_text(self, problem, text):
        self.executions += 1
        try:
            score = self._timed("scorer", lambda: self.task.score(problem, text), problem, text)
            self._timed("behaviours", lambda: self.count_behaviours(text), problem, text)
        except Exception as error:  # whatever it is, it is what is looked for
            self._found(f"crash-{type(error).__name__}", problem, text)
            return
        verdict, reward = self.judge(problem.numbers, problem.target, text)
        self.verdicts[score.verdict, score.reward] += 1
        if (score.verdict, score.reward, score.correct) != (verdict, reward, verdict == "correct"):
            self._found(f"disagreement-{score.verdict}-{verdict}", problem, text)
        if score.reward > 0.1 and verdict != "correct":
            self._found("accepted", problem, text)

    def _timed(self, name, function, problem, text):
        result, seconds = processor_time(function)
        if seconds > LIMIT:
            seconds = min(seconds, *(processor_time(function)[1] for _ in range(2)))
        if seconds > LIMIT:
            self._found(f"slow-{name}", problem, text)
        if seconds > self.slowest[name][0]:
            self.slowest[name] = seconds, text
        return result

    def _found(self, kind, problem, text):
        self.findings[kind] += 1
        if self.findings[kind] <= SHOWN:
            data = as_bytes(self.problems.index(problem), text)
            path = self.folder / f"finding-{kind}-{hashlib.sha256(data).hexdigest()[:10]}"
            path.write_bytes(data)
            print(f"{kind}: {problem}, {len(text)} characters, {text[:200]!r}", flush=True)

    def report(self, heading):
        """Prints what there is to tell."""
        clock = time.monotonic() - self.started
        print(f"{heading}: {self.executions:,} executions in {clock / 60:.1f} minutes of the clock, ", end="")
        print(f"{time.process_time() / 60:.1f} of the processor")
        for (verdict, reward), count in sorted(self.verdicts.items(), key=str):
            print(f"  {verdict:18} {reward:.1f}  {count:>12,}")
        for name, (seconds, text) in self.slowest.items():
            print(f"slowest of the {name}: {1e3 * seconds:.2f} ms of {len(text):,} characters, {text[:80]!r}")
        print(f"findings: {dict(self.findings) or 'none'}", flush=True)


def processor_time(function):
    started = time.process_time()
    result = function()
    return result, time.process_time() - started


if __name__ == "__main__":
    main()
