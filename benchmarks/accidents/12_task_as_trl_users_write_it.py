"""Tasks as someone writes them who comes from TRL: problems are dictionaries, prompts conversations, scores floats.

github.com/huggingface/trl/pull/5067
"""

from commands import SMALL, refused, run

TASKS = """
import keras_aha as aha


class Rows(aha.tasks.DrawnTask):
    def draw(self, rng):
        return {"a": rng.randrange(1000), "b": rng.randrange(1000)}

    def prompt(self, problem):
        return f"{problem['a']} {problem['b']}\\n"

    def score(self, problem, completion):
        print("scored")
        right = aha.tasks.read_answer(completion).text == str(problem["a"] + problem["b"])
        return aha.tasks.Score(float(right), right, "correct" if right else "wrong_value")


class Messages(Rows):
    def prompt(self, problem):
        return [{"role": "user", "content": f"{problem['a']}+{problem['b']}=?"}]


class Floats(Rows):
    def score(self, problem, completion):
        return 0.0


class Missing(Rows):
    def draw(self, rng):
        return {"a": 1}["question"]
"""


def check(folder):
    (folder / "trl_like.py").write_text(TASKS)

    def fit(name):
        small = [*SMALL, "--epochs", 1, "--set", f"task.name=trl_like:{name}"]
        return run("fit", "--log-dir", folder / name, *small, cwd=folder)

    result = fit("Rows")
    assert result.returncode == 0 and "scored" in result.stdout, result.stdout
    expected = {
        "Messages": ("`Messages.prompt` must return a text. Received: [{'role': 'user'", "for {'a':"),
        "Floats": ("`Floats.score` must return a Score(reward, correct, verdict)", "Received: 0.0, for {'a':"),
        "Missing": ("`Missing.held_out` must return", "KeyError('question')", "trl_like.py"),
    }
    said = [refused(fit(name), *words) for name, words in expected.items()]
    assert not any((folder / name).exists() for name in expected)
    return f"dictionaries train; {said[0]}"
