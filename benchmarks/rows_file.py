"""How long rows of a file take to read, and the memory that they hold, beside the size of the file.

    python benchmarks/rows_file.py                  half a million rows, in each kind of file
    python benchmarks/rows_file.py --rows 10000

Each kind is read in a process of its own. The time and the memory are of `Rows`, with a number's checker and the
held-out split; the memory is what the process holds more than before, after the libraries are imported.
"""

import argparse
import csv
import gc
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

from keras_aha.tasks import Rows

import pyarrow
from pyarrow import parquet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="(default: %(default)s)")
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        print(f"{count} rows | file MB | processor seconds | memory MB | at most MB")
        for path in write(Path(folder), count):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, memory, peak = pool.apply(read, (path,))
            print(
                f"{path.suffix} | {path.stat().st_size / 1e6:.0f} | {seconds:.1f} | {memory:.0f} | {peak:.0f}",
                flush=True,
            )


def write(folder: Path, count: int) -> list[Path]:
    rows = [
        {
            "question": f"Ann has {n} bags of {n % 97} nuts, finds {n % 89} more, and gives half of them to her "
            "brother, who likes nuts with every meal. How many nuts does each of the two have in the end?",
            "answer": ((n % 97) * (n % 89)) / 2,
            "category": ("bags", "nuts", "brothers")[n % 3],
        }
        for n in range(count)
    ]
    paths = [folder / f"rows{suffix}" for suffix in (".jsonl", ".json", ".csv", ".parquet")]
    paths[0].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    paths[1].write_text(json.dumps(rows, indent=1), encoding="utf-8")
    with paths[2].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), paths[3])
    return paths


def read(path: Path) -> tuple[float, float, float]:
    """Seconds of the processor, the MB that the rows hold, and the most that the process held while they were read."""
    before = megabytes("VmRSS")
    start = time.process_time()
    task = Rows(path, prompt="question", category="category", checker="number")
    seconds = time.process_time() - start
    gc.collect()
    assert task.problem_count() and task.held_out(256)
    return seconds, megabytes("VmRSS") - before, megabytes("VmHWM") - before


def megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
