"""Fuzz the readers of files that nobody vouches for.

python -m tests.fuzz [--inputs 100000] [--seconds 0] [--out book/fuzz.csv] [TARGET ...]

Each target runs in a process of its own, so that a crash below Python, or an input that is read for ever, is a finding
too: the seed of an input before it is told. `--seed N TARGET` reads that one input again.
"""

import argparse
import os
import resource
import signal
import tempfile
import time
import traceback
from pathlib import Path

import pandas as pd

from tests.fuzz.targets import MAKERS, attempt, make_target

SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
MOST_FINDINGS = 20
LONGEST_SECONDS = 600  # of 100 inputs: one that is read for ever is a finding too


def fuzz(name: str, first: int, inputs: int, seconds: float, notes: Path) -> None:
    """Read damaged files in this process; `notes` receives the counts, and each finding as a line."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ITK and zlib say much about damaged files
    counts, findings, start = {"read": 0, "refused": 0}, [], time.monotonic()
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch, tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        target = make_target(name, Path(folder))
        for path in Path(folder).iterdir():
            if path.name in target.valid:
                path.unlink()
        for seed in range(first, first + inputs):
            if seed % 100 == 0:
                signal.alarm(LONGEST_SECONDS)  # ends this process
                notes.write_text(f"{counts['read']} {counts['refused']} {seed}\n" + "\n".join(findings))
            try:
                counts[attempt(target, Path(folder), seed)] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)
                ours = [frame for frame in where if "sscct_lib" in frame.filename][-1:]
                place = f"{Path(ours[0].filename).name}:{ours[0].lineno}" if ours else "?"
                findings.append(f"seed {seed}: {type(error).__name__} at {place}: {str(error)[:100]!r}")
                if len(findings) >= MOST_FINDINGS:
                    break
            if seconds and time.monotonic() - start > seconds:
                break
        notes.write_text(f"{counts['read']} {counts['refused']} done\n" + "\n".join(findings))
        del scratch


def main() -> None:
    """Fuzz the targets one after the other, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(MAKERS), metavar="TARGET", help=", ".join(MAKERS))
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target")
    parser.add_argument("--seconds", type=float, default=0, help="at most, of each target; 0: no limit")
    parser.add_argument("--first", type=int, default=0, help="seed of the first input")
    parser.add_argument("--seed", type=int, help="read this input alone")
    parser.add_argument("--out", type=Path, help="CSV to write the table to")
    given = parser.parse_args()
    if given.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            target = make_target(given.targets[0], Path(folder))
            print(attempt(target, Path(folder), given.seed))
        return
    rows = []
    for name in given.targets:
        with tempfile.TemporaryDirectory() as folder:
            notes, start = Path(folder) / "notes", time.monotonic()
            child = os.fork()
            if child == 0:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                fuzz(name, given.first, given.inputs, given.seconds, notes)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            head, *findings = notes.read_text().splitlines()
            n_read, n_refused, last = head.split()
            if status != 0:
                findings.append(f"the process ended with {status} within 100 inputs after seed {last}")
            row = {"reader": name, "inputs": int(n_read) + int(n_refused) + len(findings), "read": int(n_read)}
            rows.append(row | {"refused in words": int(n_refused), "other errors": len(findings)})
            print(*rows[-1].values(), f"{time.monotonic() - start:.0f} s", *findings, sep="\n  ", flush=True)
            if given.out:
                pd.DataFrame(rows).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
