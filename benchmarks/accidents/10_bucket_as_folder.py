"""A bucket's address, or a folder that a command cannot use, for each argument that is a path: refused at once.

github.com/tensorpack/tensorpack/issues/1317, github.com/google-research/kubric/issues/68
"""

from commands import SMALL, refused, run

BUCKET = "gs://my-bucket/runs/27b"


def check(folder):
    (folder / "file").touch()
    log_dirs = [BUCKET, "s3://bucket/run", "~no-such-user/run", "", "x" * 300, f"new/{'x' * 300}", "file/run"]
    commands = [
        *(["fit", "--log-dir", log_dir, *SMALL] for log_dir in log_dirs),
        ["fit", "--log-dir", "run", "--recipe", f"{BUCKET}/recipe.toml"],
        ["fit", "--log-dir", "run", "--set", f"model.preset={BUCKET}"],
        ["fit", "--log-dir", "run", "--set", f"lora.start={BUCKET}"],
        ["fit", "--log-dir", "run", "--set", f"task.puzzles={BUCKET}.csv"],
        ["fit", "--log-dir", "run", "--set", "task.name=rows", "--set", f"task.file={BUCKET}.jsonl"],
        ["evaluate", BUCKET],
        *(["evaluate", "countdown_tiny", flag, BUCKET] for flag in ("--against", "--json", "--csv", "--parquet")),
        ["prime", "--out", BUCKET],
        ["plan", "--json", BUCKET],
        ["report", BUCKET],
        ["export", BUCKET],
        ["export", "run", "--out", BUCKET],
        ["import_gguf", "file", BUCKET],
        ["import_gguf", BUCKET, "new"],
    ]
    for command in commands:
        said = refused(run(*command, cwd=folder), "Received: ")
        assert said.count("\n") == 0 and len(said) < 700, said
        assert sorted(path.name for path in folder.iterdir()) == ["file"], command
    return f"{len(commands)} commands refused in a sentence, nothing was made"
