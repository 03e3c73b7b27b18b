"""What the commands print and write, on a tiny model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras_aha as aha
from keras_aha.callbacks.history_callback import of_the_machine
from keras_aha.evaluation.tables import BEHAVIOURS
from keras_aha.evaluation.transcript import transcript
from keras_aha.names import printable
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs.experiment import summarize_held_out
from keras_aha.tasks.turn import Observation, Turn, said
from keras_aha.training.grpo_model import GRPOModel

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent / "benchmarks")]
import _cli  # noqa: E402
import evaluate  # noqa: E402
import fit  # noqa: E402
import prime  # noqa: E402
import priming_control  # noqa: E402
import report  # noqa: E402

SECRETS = {"KAGGLE_KEY": "secret-kaggle-4711", "HF_TOKEN": "hf_secret4711"}
WHEN = ("before", "after")


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny 🙂"
    make_policy().save_to_preset(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def small(preset):
    """The flags that make any script quick, a tiny preset among them."""
    return [part for change in [*SMALL, assignment("model.preset", preset)] for part in ("--set", change)]


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """The folder of a run, with what a shell, TOML, HTML, Markdown or a file's address would take for theirs."""
    folder = tmp_path_factory.mktemp("runs") / "it's a “run” of Zoë, <50%> #1 {x}]~&`$HOME`"
    with pytest.MonkeyPatch.context() as environment:
        for name, secret in SECRETS.items():
            environment.setenv(name, secret)
        assert fit.main(["--log-dir", str(folder), "--epochs", "2", "--seed", "5", *small]) == 0
    return folder


# === Help, surroundings ===


def test_help_answers_at_once():
    command = [sys.executable, "-X", "importtime", SCRIPTS / "fit.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--set SECTION.KEY=VALUE" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"keras", "jax", "tensorflow", "numpy", "pandas"}


def test_no_home_to_write_to_means_no_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _cli._keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "given")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _cli._keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "given"


def test_where_sessions_end_a_limit_is_suggested(monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "x")
    fit.print_session_limit(1.0)
    assert capsys.readouterr().out == ""
    fit.print_session_limit(None)
    assert "--max-hours 8.5 " in capsys.readouterr().out


def test_what_libraries_in_c_log_is_held_back_and_what_python_writes_is_seen(tmp_path):
    (tmp_path / "script.py").write_text(
        f"import os, sys; sys.path.insert(0, {str(SCRIPTS)!r}); import _cli\n"
        "def main():\n"
        "    with _cli.quiet():\n"
        "        os.write(2, b'by C\\n'); print('by Python', file=sys.stderr)\n"
        "    os.write(2, b'again\\n')\n"
        "    raise KeyboardInterrupt\n"
        "_cli.start(main)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "by Python\nagain\n")


# === fit ===


def test_a_runs_folder_holds_what_came_out(run):
    assert set(os.listdir(run)) == {
        *("adapters.lora.h5", "behaviours.csv", "completions", "completions.jsonl", "history.csv"),
        *("held_out_after.jsonl", "held_out_before.jsonl", "hyper_parameters", "recipe.toml", "report", "report.html"),
        *("saved_epochs", "sources.json", "summary.json", "train", "validation"),
    }
    recipe = Recipe.load(run / "recipe.toml")
    assert (recipe.training.epochs, recipe.training.seed, recipe.lora.rank) == (2, 5, 2)
    summary = json.loads((run / "summary.json").read_text())
    keys = "preset seed epochs devices made_with wall_seconds generated_tokens heldout_before heldout_after"
    assert list(summary) == keys.split()
    made_with = summary["made_with"]
    assert made_with["recipe"] == "recipe.toml" and made_with["task"].startswith("countdown(num_numbers=3, ")
    assert (made_with["template"], made_with["max_completion_length"], made_with["samples"]) == ("compact", 8, 2)
    assert made_with["devices"] == summary["devices"]
    rates = pd.read_csv(run / "behaviours.csv")
    attempts = rates[(rates["completions"] == "all") & (rates["behaviour"] == "attempts")].iloc[0]
    assert attempts["before"] == pytest.approx(summary["heldout_before"]["mean_attempts"])
    assert attempts["after"] == pytest.approx(summary["heldout_after"]["mean_attempts"])
    assert (summary["preset"], summary["seed"], summary["epochs"]) == ("countdown_tiny", 5, 2)
    assert summary["generated_tokens"] == pd.read_csv(run / "history.csv")["generated_tokens"].sum()


def test_a_policy_that_cannot_be_sampled_is_said_in_a_sentence(monkeypatch, small, tmp_path, capsys):
    def generate(self, *args, **kwargs):
        raise ValueError("The policy's log-probs are not finite.")

    monkeypatch.setattr(GRPOModel, "generate", generate)
    with pytest.raises(SystemExit) as ended:
        fit.main(["--log-dir", str(tmp_path / "run"), *small])
    assert ended.value.code == 2 and capsys.readouterr().err.endswith(": The policy's log-probs are not finite.\n")


@pytest.mark.parametrize("recipe", ["kaggle://keras/gemma2/keras/gemma2_2b_en/2", "hf://keras/gemma2_2b_en"])
def test_a_run_is_called_by_the_name_of_its_preset(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, found, log_dir = fit.find_run(fit.parse(["--recipe", recipe]), [])
    assert (name, found.model.preset, log_dir) == ("gemma2_2b_en", recipe, Path("runs/gemma2_2b_en-seed0"))


def test_a_report_is_written_again(run, capsys):
    page = run / "report.html"
    written = page.read_bytes()
    page.unlink()
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{page}\n" and page.read_bytes() == written


def test_a_runs_files_hold_no_credentials(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 12
    assert not [path for path in files for secret in SECRETS.values() if secret.encode() in path.read_bytes()]


@pytest.mark.slow
def test_several_processes_are_one_run(run, small, tmp_path):
    """The first one prints and writes; stopped after an epoch in two, it goes on in one."""
    program = (
        "import sys, keras_aha.callbacks.time_limit_callback as limit; limit._MARGIN = 1e6\n"
        "import fit; sys.exit(fit.main())"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path / "run"
    command = [sys.executable, "-c", program, "--log-dir", folder, "--epochs", "2", "--seed", "5", *small]
    command += ["--max-hours", "9", "--coordinator", address, "--num-processes", "2", "--process-id"]
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS.parent}{os.pathsep}{SCRIPTS}"}
    pipes = dict(env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = [subprocess.Popen([*command, index], **pipes) for index in "01"]
    (out, _), (other, _) = outputs = [child.communicate(timeout=500) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert all(line.startswith("[Gloo]") for line in other.splitlines())  # which is not ours
    assert "Stopped by time; what was trained is saved" in out and "2 batch × 1 model" in out
    assert fit.main(["--log-dir", str(folder), "--resume"]) == 0
    assert set(os.listdir(folder)) == set(os.listdir(run))
    found, expected = (pd.read_csv(path / "history.csv") for path in (folder, run))
    same = [name for name in expected if not of_the_machine(name)]
    pd.testing.assert_frame_equal(found[same], expected[same], check_exact=False, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "flags, environment, sentence",
    [
        (["--multi-host"], {"JAX_PLATFORMS": "cpu"}, "finds no others in the environment of this machine"),
        ([], {"KERAS_BACKEND": "tensorflow"}, "fit.py: keras-aha needs Keras on JAX"),
    ],
)
def test_what_a_process_of_its_own_refuses(flags, environment, sentence, tmp_path):
    command = [sys.executable, SCRIPTS / "fit.py", "--log-dir", tmp_path / "run", *flags]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
    assert sentence in done.stderr and done.stderr.count("\n") == 1


def test_tensorboard_finds_the_curves(run):
    def tags(name):
        events = EventAccumulator(str(run / name))
        events.Reload()
        return set(events.Tags()["tensors"])

    assert {"epoch_reward", "epoch_accuracy", "epoch_completion_length"} <= tags("train")
    assert {"epoch_accuracy", "epoch_greedy_accuracy"} <= tags("validation")
    assert tags("completions") == {"completions", "held_out"}


# === evaluate ===


def test_a_run_evaluates_to_what_its_summary_says(run, preset, tmp_path, capsys):
    files = [part for kind in ("json", "csv", "parquet") for part in (f"--{kind}", str(tmp_path / f"out.{kind}"))]
    more = ["--against", preset, "--wait", "1", "--wait-word", "no", "--show", "2"]
    assert evaluate.main([str(run), *files, *more]) == 0
    numbers = json.loads((tmp_path / "out.json").read_text())
    before, after = (json.loads((run / "summary.json").read_text())[f"heldout_{x}"] for x in WHEN)
    assert {key: numbers[key] for key in after} == after
    assert list(numbers["pass_at_k"]) == ["1", "2"] and numbers["pass_at_k"]["1"] == pytest.approx(after["accuracy"])
    puzzles = pd.read_csv(tmp_path / "out.csv")
    assert len(puzzles) == 3 and {"problem", "num_numbers", "difficulty", "accuracy"} <= set(puzzles)
    assert list(numbers["maj_at_k"]) == ["1", "2"] and numbers["mean_at_k"] == {"2": after["accuracy"]}
    assert {"pass@1", "maj@2"} <= set(puzzles) and numbers["pass_at_k"]["2"] == puzzles["pass@2"].mean()
    assert numbers["by_label"][0].keys() >= {"num_numbers", "difficulty", "accuracy", "pass@2", "maj@2"}
    comparison = numbers["comparison"]
    assert numbers["made_with"]["recipe"] == comparison["made_with"]["recipe"] == str(run / "recipe.toml")
    assert numbers["made_with"]["preset"] == comparison["made_with"]["preset"] == preset
    assert (comparison["against"], comparison["accuracy"], comparison["n"]) == (preset, before["accuracy"], 3)
    assert comparison["difference"] == pytest.approx(after["accuracy"] - before["accuracy"])
    rows = pd.read_parquet(tmp_path / "out.parquet")
    counts = rows.groupby(["target", "greedy", "waits"]).size().to_dict()
    expected = {(str(run), False, 0): 6, (str(run), False, 1): 6, (str(run), True, 0): 3, (preset, False, 0): 6}
    assert counts == expected
    assert (rows["thought_on"] <= rows["waits"]).all() and rows["text"].str.len().all()
    assert numbers["throughput"]["completions"] == 6
    assert numbers["throughput"]["tokens"] == rows["completion_length"][:6].sum()
    assert numbers["waits"]["word"] == "no" and [row["waits"] for row in numbers["waits"]["curve"]] == [0, 1]
    assert numbers["waits"]["curve"][0]["accuracy"] == after["accuracy"]
    out = capsys.readouterr().out
    first = out.split("\n")[0]
    assert first == puzzles["made_with"][0] and first.startswith(
        f"{preset} by the recipe {run / 'recipe.toml'}: task cou"
    )
    assert "template 'compact', 3 puzzles × 2 completions of at most 8 tokens at temperature 1, on 1 × cpu" in first
    assert "num_numbers  difficulty  accuracy  ci95_low  ci95_high  n" in out and "pass@2" in out and "maj@2" in out
    shown = [f"\n{row.problem}  {row.verdict}\n{printable(row.text)}\n" for row in rows[:4:2].itertuples()]
    assert out.endswith("".join(shown)) and "of observations" not in out
    assert "tokens/s" in out and "waits  thought_on  tokens  accuracy" in out


def test_evaluate_prints_turns_set_apart(capsys):
    """A task of the mixture answers, the other one does not; a carriage return writes over nothing."""
    turns = [Turn("<f>1</f>", Observation("2\r3", "\n<result>", "</result>\n", tool="f")), Turn("│ 3")]
    table = pd.DataFrame(dict(problem=["p", "p", "q"], verdict="v", text=[said(turns), "x", "y"], sample=[0, 1, 0]))
    evaluate.print_completions(table.assign(transcript=[transcript(turns), None, None]), 9)
    apart = "<f>1</f>\n│ <result>2\ufffd│ 3</result>\n\\│ 3\n"
    assert capsys.readouterr().out == f"\np  v\n{apart}\nq  v\ny\n"


def test_a_preset_is_evaluated_on_a_recipes_puzzles(run, preset):
    """In Python, as a notebook does."""
    numbers = aha.evaluate(preset, recipe="countdown_tiny", changes=SMALL, against=run).numbers
    before, after = (json.loads((run / "summary.json").read_text())[f"heldout_{x}"] for x in WHEN)
    assert {key: numbers[key] for key in before} == before
    assert numbers["comparison"]["accuracy"] == after["accuracy"] and "waits" not in numbers


# === prime ===


@pytest.mark.parametrize("adapters", ["false", "true"])
def test_priming_saves_a_preset_with_its_curve(adapters, small, tmp_path, capsys):
    out = tmp_path / "deep" / "primed"
    assert prime.main(["--out", str(out), *small, "--set", f"priming.adapters={adapters}"]) == 0
    assert {"config.json", "model.weights.h5", "priming.csv", "tokenizer.json"} <= set(os.listdir(out))
    assert os.listdir(out.parent) == ["primed"]
    curve = pd.read_csv(out / "priming.csv")
    assert curve["epoch"].tolist() == [1, 2] and np.isfinite(curve["loss"]).all()
    out = capsys.readouterr().out
    assert "held-out accuracy primed" in out and "by the recipe countdown_tiny: task countdown(" in out


def test_the_control_of_a_run(run, capsys):
    """The benchmark whose numbers stand beside the run's in the README."""
    priming_control.main([str(run), "--steps", "2"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    summary = json.loads((run / "summary.json").read_text())
    assert [found[name] for name in ("before", "grpo")] == [summary[f"heldout_{when}"] for when in WHEN]
    assert found["primed_on"].keys() == found["grpo"].keys()


def test_a_terminal_that_knows_ascii_only_and_no_folder_for_temporary_files():
    """As in a container with LANG=C, without a home, and with files that are read-only."""
    code = "import tempfile, _cli\n"
    code += "def nowhere():\n    raise FileNotFoundError\n"
    code += "tempfile.gettempdir = nowhere\n"
    code += "_cli.start(lambda: print('1 × 2', tempfile.tempdir) or _cli.say('→'))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SCRIPTS), "PYTHONIOENCODING": "ascii"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert child.stdout == b"1 \\xd7 2 /dev/shm\n" and child.stderr == b"-c: \\u2192\n"


def test_what_nobody_can_check_has_no_accuracy(capsys):
    """Of a task without a checker the rewards are printed, and no 0 %."""
    row = dict(puzzle=0, sample=0, text="", reward=0.0, correct=False, verdict="unchecked", well_formed=True)
    row |= dict(completion_length=3, stopped=True, reward_polite=0.25) | dict.fromkeys(BEHAVIOURS, 0)
    table = pd.DataFrame([row, row | {"puzzle": 1, "reward_polite": 0.75}])
    _cli.print_accuracy("held-out accuracy before", summarize_held_out(table, table))
    assert capsys.readouterr().out == (
        "held-out accuracy before: unknown, as the task has no checker; reward_polite 0.5\n"
    )
    _cli.print_accuracy("held-out accuracy", summarize_held_out(table.assign(verdict="wrong_value"), table))
    assert "held-out accuracy: 0.0% sampled" in capsys.readouterr().out
