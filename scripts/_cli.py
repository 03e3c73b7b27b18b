"""What the commands share: the process's surroundings, flags, and errors as one sentence."""

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

_LONGEST = 600  # characters of an error's sentence
_HEARTBEAT = 30  # seconds without a word, after which another process is lost
_LOST = (
    "This process or another one has ended by an error, so all of them do. Start all of them again: with --resume a "
    "run goes on from its last checkpoint."
)
_joined = []  # what takes the last words back, if there are other processes


def start(main) -> None:
    """Runs `main` as a script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _keep_compiled_programs()
    try:
        tempfile.gettempdir()  # which matplotlib needs if there is no home
    except FileNotFoundError:  # as in a container whose files are read-only
        tempfile.tempdir = "/dev/shm"  # noqa: S108  one of its own is made there
    for name in ("absl", "asyncio"):  # orbax logs pages of a failure that it raises too, as on a full disk,
        logging.getLogger(name).setLevel(logging.CRITICAL)
    unraisable = sys.unraisablehook  # and what its threads meet then
    sys.unraisablehook = lambda what: str(what.exc_value) == "Event loop is closed" or unraisable(what)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know ASCII only, as LANG=C may say
    # So that `quiet` holds back nothing that Python says.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    sys.path.append(os.getcwd())  # where a task of the user's own may lie
    try:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit(130)
    except BaseException as error:
        if _joined:
            _end_joined(error)
        raise


def _end_joined(error: BaseException) -> None:
    from keras_aha.distribution.last_words import end_alone

    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        end_alone(1)
    if error.code != 1:  # refused or stopped, in all of them alike
        _joined[0]()
    if error.code:
        end_alone(error.code)


def command(name: str) -> str:
    """What the user types to run a command: that of the wheel, or a script of the repository."""
    return f"keras-aha {name}" if sys.argv[0].startswith("keras-aha ") else f"python scripts/{name}.py"


@contextlib.contextmanager
def quiet():
    """Holds back what libraries in C++ log: TensorFlow as it is loaded, and a tokenizer each time it is made.

    No setting of theirs is read before. What Python writes is seen: warnings of JAX, and how far a download is.
    """
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextlib.contextmanager
def interrupted_by_sigterm():
    """Lets SIGTERM raise KeyboardInterrupt as Ctrl-C does, with its number, so that there is time for last words."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _keep_compiled_programs() -> None:
    """Lets JAX keep its compiled programs in the user's cache, if there is one that can be written to."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras-aha" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))


# === Errors ===


@contextlib.contextmanager
def errors_in_a_sentence():
    """Ends the process with exit code 2 and one line on stderr if a recipe, a flag or a file cannot be used."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        if _joined and "Gloo" in str(error):  # another process is lost, which the last words say
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == "keras_aha":
            refuse("keras-aha is not installed: run `pip install -e .` in its folder first.")
        refuse(_short(" ".join(str(error).split())))


def refuse(sentence: str) -> NoReturn:
    """Ends the process with exit code 2 and a line on stderr."""
    say(sentence)
    sys.exit(2)


def say(sentence: str) -> None:
    """A line on stderr."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)


def _short(sentence: str) -> str:
    """Without the middle of a long one, which shows a value that is too long to be shown."""
    return sentence if len(sentence) <= _LONGEST else f"{sentence[: _LONGEST - 100]} … {sentence[-90:]}"


# === Flags ===


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, as all errors are; the usage stands in --help."""
        refuse(f"{_short(message)} (see --help)")


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose errors are one line."""
    return _Parser(description=description)


def add_recipe_flags(parser: argparse.ArgumentParser, default: str | None, words: str = " (default: %(default)s)"):
    """`--recipe`, which is also called `--preset`, and `--set`."""
    words = f"a recipe in presets/, or the path of a TOML file{words}"
    parser.add_argument("--recipe", "--preset", metavar="RECIPE", default=default, help=words)
    words = "change a value of the recipe, e.g. --set rollouts.group_size=8; may be given several times"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=words)


def path(text: str) -> Path:
    """An argparse type: a path of this machine, its `~` replaced by the home folder."""
    with errors_in_a_sentence():  # keras-aha may be missing
        from keras_aha.files import local_path
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def at_least(bound: int):
    """An argparse type: an integer from `bound`, of 32 bits as those of a recipe."""

    def integer(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not bound <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"needs an integer from {bound} to {2**31 - 1}. Received: {text!r}")
        return int(text)

    return integer


def add_epoch_flag(parser: argparse.ArgumentParser, words: str) -> None:
    """`--epoch`, a number, `best` or `last`, the default."""

    def epoch(text: str) -> int | str:
        return text if text in ("best", "last") else at_least(1)(text)

    words = f"{words}: its number, best (by held-out accuracy) or last (default: %(default)s)"
    parser.add_argument("--epoch", type=epoch, default="last", metavar="N", help=words)


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"needs a number above 0. Received: {text!r}")
    return number


def changes(args, **flags: str) -> list[str]:
    """Those of `--set`, then those of flags that are given: `epochs="training.epochs"`."""
    given = {path: getattr(args, flag) for flag, path in flags.items()}
    return [*args.set, *(f"{path}={value}" for path, value in given.items() if value is not None)]


def check_new_file(path: Path | None, flag: str) -> None:
    """Raises ValueError if no file can be written at `path`, be it in place of another."""
    if path is None:
        return
    try:
        is_new = not path.exists()
        open(path, "ab").close()  # which changes nothing
        if is_new:
            path.resolve().unlink()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}. Received: {flag} {path}") from error


# === Several processes ===


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for several processes, on several hosts or on one, that run the same command."""
    group = parser.add_argument_group("several hosts", "The same command on each; the first one prints and writes.")
    words = "find the others by the environment, as on the hosts of a TPU slice"
    group.add_argument("--multi-host", action="store_true", help=words)
    group.add_argument("--coordinator", metavar="HOST:PORT", help="or name them: the address of process 0")
    group.add_argument("--num-processes", type=at_least(1), metavar="N", help="how many there are")
    group.add_argument("--process-id", type=at_least(0), metavar="I", help="which one this is, from 0")


def join_processes(args) -> None:
    """Waits for other processes, if the flags name any; all but the first fall silent. ValueError if none come."""
    named = {"--coordinator": args.coordinator, "--num-processes": args.num_processes, "--process-id": args.process_id}
    given = {flag: value for flag, value in named.items() if value is not None}
    received = "Received: " + " ".join(f"{flag} {value}" for flag, value in given.items())
    if not given and not args.multi_host:
        return
    if given and args.multi_host:
        raise ValueError(f"--multi-host finds what others say: leave one or the other out. {received} --multi-host")
    if given and len(given) < len(named):
        raise ValueError(f"Several processes need {', '.join(named)}, all three. {received}")
    if given and args.process_id >= args.num_processes:
        raise ValueError(f"--process-id counts from 0, so it is below --num-processes. {received}")
    from keras_aha.distribution.coordinator import try_coordinator
    from keras_aha.distribution.last_words import leave_last_words

    if given:
        try_coordinator(args.coordinator, args.process_id)
    take_back = leave_last_words(_LOST)
    import jax
    import keras

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*named.values(), heartbeat_timeout_seconds=_HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        take_back()
        if args.multi_host:
            raise ValueError(
                "--multi-host finds no others in the environment of this machine, as a host of a TPU slice does: name "
                f"them by {', '.join(named)}. Received: --multi-host, {error}"
            ) from error
        raise ValueError(f"The other processes cannot be joined. {received}, {error}") from error
    keras.utils.set_random_seed(0)  # the same in all; what is trained has the recipe's
    _joined.append(take_back)
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives


# === Output ===


def print_accuracy(what: str, summary: dict) -> None:
    """One line of what `experiment.summarize_held_out` says; tries are counted in arithmetic alone."""
    rewards = [f"{name[5:]} {x:.3g}" for name, x in summary.items() if name.startswith("mean_reward_")]
    if not summary["is_checked"]:
        print(f"{what}: unknown, as the task has no checker; {'; '.join(rewards)}", flush=True)
        return
    low, high = summary["ci95"]
    tries = f"{summary['mean_attempts']:.1f} tries and " if summary["mean_attempts"] else ""
    lenient = f"{summary['lenient_accuracy']:.1%} in whatever form, " if "lenient_accuracy" in summary else ""
    print(
        f"{what}: {summary['accuracy']:.1%} sampled (95 % interval {low:.1%} to {high:.1%}), {lenient}"
        f"{summary['greedy_accuracy']:.1%} greedy; {tries}{summary['mean_completion_length']:.0f} tokens a completion"
        f"{''.join(f'; {reward}' for reward in rewards)}",
        flush=True,
    )
