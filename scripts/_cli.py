"""What the scripts share: the process's surroundings, and errors as one sentence."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

_LONGEST = 600  # characters of an error's sentence


def start(main) -> None:
    """Runs `main` as a script, in a process whose environment is set up for it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _keep_compiled_programs()
    # glibc reads this when a process starts. Huge pages for JAX's buffers save nearly all of a step's page faults.
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  the same program again
    _keep_to_a_sentence()
    sys.path.append(os.getcwd())  # where a task of the user's own may lie
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def errors_in_a_sentence():
    """Ends the process with exit code 2 and one line on stderr where a recipe, a flag or a file cannot be used."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        sentence = _short(" ".join(str(error).split()))
        if isinstance(error, ModuleNotFoundError) and error.name == "keras_aha":
            sentence = "keras-aha is not installed: run `pip install -e .` in its folder first."
        refuse(sentence)


def refuse(sentence: str) -> NoReturn:
    """Ends the process with exit code 2 and a line on stderr."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def interrupted_by_sigterm():
    """Lets SIGTERM raise KeyboardInterrupt as Ctrl-C does, with its number, so that there is time for last words."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet(unless: bool = False):
    """Holds back what is written to stderr, and lets it out only where the block raises something unforeseen.

    TensorFlow's libraries log to it as they are loaded, before any setting of theirs is read.

    Args:
        unless: do nothing, so that the progress of a download is seen.
    """
    if unless:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (ValueError, ImportError, OSError, KeyboardInterrupt):
            raise  # one sentence follows
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def _short(sentence: str) -> str:
    """Without the middle of a long one, which shows a value that is too long to be shown."""
    return sentence if len(sentence) <= _LONGEST else f"{sentence[: _LONGEST - 100]} … {sentence[-90:]}"


# === Flags ===


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, as all errors are; the usage stands in --help."""
        print(f"{self.prog}: {_short(message)} (see --help)", file=sys.stderr)
        sys.exit(2)


def new_parser(description: str, with_recipe: bool = True) -> argparse.ArgumentParser:
    """A parser; with `--set` for the scripts that read a recipe."""
    parser = _Parser(description=description)
    if not with_recipe:
        return parser
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a value of the recipe, e.g. --set rollouts.group_size=8; may be given several times",
    )
    return parser


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for several processes, on several hosts or on one, that run the same command."""
    group = parser.add_argument_group("several hosts", "The same command on each; the first one prints and writes.")
    group.add_argument(
        "--multi-host", action="store_true", help="find the others by the environment, as on the hosts of a TPU slice"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="or name them: the address of process 0")
    group.add_argument("--num-processes", type=at_least(1), metavar="N", help="how many there are")
    group.add_argument("--process-id", type=at_least(0), metavar="I", help="which one this is, from 0")


def join_processes(args) -> None:
    """Waits for the other processes, if there are any by the flags; all but the first one fall silent.

    Raises:
        ValueError: flags that do not belong together, or others that do not come.
    """
    named = {"--coordinator": args.coordinator, "--num-processes": args.num_processes, "--process-id": args.process_id}
    given = {flag: value for flag, value in named.items() if value is not None}
    received = "Received: " + " ".join(f"{flag} {value}" for flag, value in given.items())
    if not given and not args.multi_host:
        return
    if args.multi_host and given:
        raise ValueError(
            f"--multi-host finds what the other flags say: leave one or the other out. {received} --multi-host"
        )
    if given and len(given) < len(named):
        raise ValueError(f"Several processes need {', '.join(named)}, all three. {received}")
    if given and args.process_id >= args.num_processes:
        raise ValueError(f"--process-id counts from 0, so it is below --num-processes. {received}")
    with quiet():
        from keras_aha.distribution.coordinator import try_coordinator

        import jax
        import keras
    if given:
        try_coordinator(args.coordinator, args.process_id)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        keras.distribution.initialize(args.coordinator, args.num_processes, args.process_id)
    except (RuntimeError, ValueError) as error:
        if args.multi_host:
            raise ValueError(
                "--multi-host finds no others in the environment of this machine, as a host of a TPU slice does: name "
                f"them by {', '.join(named)}. Received: --multi-host, {error}"
            ) from error
        raise ValueError(f"The other processes cannot be joined. {received}, {error}") from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives


def at_least(bound: int):
    """An argparse type: an integer from `bound`, of 32 bits as those of a recipe."""

    def integer(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not bound <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"needs an integer from {bound} to {2**31 - 1}. Received: {text!r}")
        return int(text)

    return integer


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"needs a number above 0. Received: {text!r}")
    return number


def load_recipe(name: str, assignments: list[str], **values):
    """The recipe `name` with the changes of `--set`, then those of flags: `training__seed=3`, `None` if not given."""
    from keras_aha.recipes.recipe import Recipe

    flags = [f"{key.replace('__', '.')}={value}" for key, value in values.items() if value is not None]
    return Recipe.load(name).override([*assignments, *flags])


def check_new_folder(path: Path, flag: str) -> None:
    """Raises ValueError unless `path` can be made, or is an empty folder; nothing that is made here stays."""
    if path.exists() or path.is_symlink():
        if path.is_dir() and not any(path.iterdir()):
            return
        raise ValueError(f"{path} is there already, and is kept: choose another {flag}. Received: {flag} {path}")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not _takes_files(parent):
        raise ValueError(f"{path} cannot be made, as {parent} is no folder to write to. Received: {flag} {path}")


def check_writable(path: Path, flag: str) -> None:
    """Raises ValueError if `path` is there and nothing can be written into it."""
    if path.exists() and not _takes_files(path):
        raise ValueError(f"Nothing can be written into {path}. Received: {flag} {path}")


def check_new_file(path: Path | None, flag: str) -> None:
    """Raises ValueError unless a file can be written at `path`, be it in place of another."""
    if path is None:
        return
    if path.exists():
        with contextlib.suppress(OSError), open(path, "ab"):  # which changes nothing
            return
    elif _takes_files(path.absolute().parent):
        return
    raise ValueError(f"{path} cannot be written. Received: {flag} {path}")


def _takes_files(folder: Path) -> bool:
    # By trying, as permissions do not tell it of a superuser's folders, nor of /proc or a full disk.
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# === Output ===


def print_accuracy(what: str, summary: dict) -> None:
    """One line of what `experiment.summarize_held_out` says."""
    low, high = summary["ci95"]
    print(
        f"{what}: {summary['accuracy']:.1%} sampled (95 % interval {low:.1%} to {high:.1%}), "
        f"{summary['greedy_accuracy']:.1%} greedy; {summary['mean_attempts']:.1f} tries and "
        f"{summary['mean_completion_length']:.0f} tokens a completion",
        flush=True,
    )


def print_session_limit(max_hours: float | None) -> None:
    """Where sessions are known to end, and no limit is given, says which would do."""
    from keras_aha.runs.machine import session_hours

    hours = session_hours()
    if max_hours is None and hours is not None:
        print(f"Sessions end here: --max-hours {hours} saves and stops in time, and --resume goes on in the next.")


def printable(text: str) -> str:
    """`text` without what a terminal would obey; line breaks stay."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def _keep_to_a_sentence() -> None:
    """Leaves out what orbax logs, page after page, of a failure that it raises too, and what its threads meet then."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    unraisable, left_out = sys.unraisablehook, ("Event loop is closed", "Python is likely shutting down")
    sys.unraisablehook = lambda what: str(what.exc_value).endswith(left_out) or unraisable(what)


def _keep_compiled_programs() -> None:
    """Lets JAX keep its compiled programs in the user's cache, where there is one that can be written to."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras-aha" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
