"""Two processes whose folders are on disks of their own, and then two of which one is lost: no one waits for ever.

github.com/google/flax/issues/3364, github.com/google/orbax/issues/999, 2837
"""

import socket
import time

from commands import SMALL, start


def check(folder):
    folders = [folder / "host0" / "run", folder / "host1" / "run"]
    for child in begin(folder, folders):
        assert child.wait(600) == 2, said(folder)
    sentences = [text.strip().split("\n")[-1].partition("Received")[0] for text in said(folder)]
    assert sentences[0] == sentences[1] and "a folder that all of them see" in sentences[0], sentences
    assert not any(path.exists() for path in folders), [[*path.parent.rglob("*")] for path in folders]

    log_dir = folder / "shared"
    first, second = begin(folder, [log_dir, log_dir])
    while not (log_dir / "saved_epochs" / "1").exists():
        assert first.poll() is None and second.poll() is None, said(folder)
        time.sleep(0.5)
    second.kill()
    start_of_wait = time.monotonic()
    code = first.wait(60)
    seconds = time.monotonic() - start_of_wait
    time.sleep(3)  # the last words come after the end
    last_line = said(folder)[0].strip().split("\n")[-1]
    assert code and last_line.startswith("This process or another one has ended by an error"), (code, said(folder))
    return f"{sentences[0]}; of two processes one was killed, and the other ended {seconds:.0f} s later"


def begin(folder, folders):
    """A process for each folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num-processes", 2]
    return [
        start("fit", *together, "--process-id", i, "--log-dir", own, "--epochs", 200, *SMALL, log=folder / f"{i}.log")
        for i, own in enumerate(folders)
    ]


def said(folder):
    return [(folder / f"{i}.log").read_text() for i in range(2)]
