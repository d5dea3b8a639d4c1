"""Many processes write one log while it is rotated and renamed, and they are killed.

    python tests/faults/log_stress.py [--kills 1000] [--every 0.02] [--processes 16] [--max-bytes 300000]
    python tests/faults/log_stress.py --directory DIRECTORY-ON-A-SMALL-DISK --kills 0

Ends with an error unless each record whose `write` returned is found exactly once, whole, and every
other line is one that a killed process has cut short.  Prints what it found.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from poollock import LockedLogWriter  # noqa: E402 - found by the path above

RECORD = re.compile(rb"(\d+-\d+) (\d+) ([a-z]*) (\d+-\d+)")
CUT = re.compile(rb"\d+(-(\d+( (\d+( ([a-z]*( (\d+(-\d*)?)?)?)?)?)?)?)?)?")


class Found(NamedTuple):
    """What a run has left.

    Attributes:
        acknowledged: How many records were written, as far as their writers know.
        unknown: How many more were found whole: their writers were killed before they knew.
        cut: How many were cut short.
        refused: How many writes raised because the disk was full.
        files: Into how many files they went.
    """

    acknowledged: int
    unknown: int
    cut: int
    refused: int
    files: int


def record_of(writer: int, number: int) -> str:
    """Return one of 1 byte to 1 MB; always the same for the same numbers."""
    generator = random.Random(writer << 32 | number)
    if generator.random() < 0.1:
        return "\n"
    most = generator.choices([100, 10_000, 1_000_000], [80, 18, 2])[0]
    length = generator.randrange(most)
    return f"{writer}-{number} {length} {generator.choice('abcdefgh') * length} {writer}-{number}\n"


def write_records(log: LockedLogWriter, directory: str, writer: int) -> None:
    """Write until there is a file `stop`, and note in a file of one's own what was written."""
    notes = os.open(f"{directory}/notes-{writer}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    number = 0
    while not os.path.exists(f"{directory}/stop"):
        number += 1
        text = record_of(writer, number)
        try:
            log.write(text)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.write(notes, b"full\n")
        else:
            os.write(notes, b"one byte\n" if text == "\n" else f"{writer}-{number}\n".encode())


def run(
    *,
    kills: int,
    every: float = 0.02,
    processes: int = 16,
    max_bytes: int = 300_000,
    seed: int = 1,
    directory: str | None = None,
) -> Found:
    """Write until *kills* processes were killed, or the disk was full for a while."""
    generator = random.Random(seed)
    contexts: list[Any] = [multiprocessing.get_context(method) for method in ("fork", "spawn")]
    with tempfile.TemporaryDirectory(dir=directory) as logs, tempfile.TemporaryDirectory() as notes:
        log = LockedLogWriter(f"{logs}/log", max_bytes=max_bytes, backup_count=100_000)
        started = 0

        def start() -> Any:
            nonlocal started
            started += 1
            context = contexts[started % 20 == 0]  # a spawned one takes long to start
            process = context.Process(target=write_records, args=(log, notes, started))
            process.start()
            return process

        writers = [start() for _ in range(processes)]
        for turn in range(kills):
            time.sleep(generator.expovariate(1 / every))
            at = generator.randrange(processes)
            writers[at].kill()
            writers[at].join()
            writers[at] = start()
            if turn % 5 == 0:  # as logrotate does
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{logs}/log", f"{logs}/moved-{turn}")
        if directory:
            fill(Path(logs), Path(notes))
        (Path(notes) / "stop").touch()
        for process in writers:
            process.join()
            assert process.exitcode == 0, process
        log.close()
        return check(Path(logs), Path(notes), kills, max_bytes)


def fill(logs: Path, notes: Path) -> None:
    """Have the disk full, and empty again, and full again."""
    for _ in range(2):
        (logs / "ballast").write_bytes(b"")
        before = refused(notes)
        with contextlib.suppress(OSError), (logs / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))
        while refused(notes) < before + 50:
            time.sleep(0.01)
        (logs / "ballast").unlink()


def refused(notes: Path) -> int:
    return sum(file.read_bytes().count(b"full\n") for file in notes.glob("notes-*"))


def check(logs: Path, notes: Path, kills: int, max_bytes: int) -> Found:
    noted = Counter(line for file in notes.glob("notes-*") for line in file.read_bytes().splitlines())
    full = noted.pop(b"full", 0)
    blank = noted.pop(b"one byte", 0)
    whole: Counter[bytes] = Counter()
    blank_found = cut = 0
    files = list(logs.iterdir())
    for file in files:
        content = file.read_bytes()
        *lines, rest = content.split(b"\n")
        # One more is the newline of a record that was cut short.
        lines += [rest] if rest else []
        assert not max_bytes or len(content) <= max_bytes + 1 or len(lines) == 1, (file, len(content))
        for line in lines:
            match = RECORD.fullmatch(line)
            if not line:
                blank_found += 1
            elif match and match[1] == match[4] and len(match[3]) == int(match[2]):
                whole[match[1]] += 1
            else:
                assert CUT.fullmatch(line), (file, line[:100], line[-100:])
                cut += 1
    assert max(whole.values()) == 1, [name for name, count in whole.items() if count > 1]
    missing = noted.keys() - whole.keys()
    assert not missing, missing
    unknown = len(whole) + blank_found - len(noted) - blank
    assert blank <= blank_found
    assert unknown + cut <= kills
    return Found(len(noted) + blank, unknown, cut, full, len(files))


if __name__ == "__main__":
    faulthandler.enable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--every", type=float, default=0.02, help="mean seconds between kills")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--max-bytes", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", help="of a small disk, which is filled")
    begin = time.monotonic()
    print(run(**vars(parser.parse_args())), f"{time.monotonic() - begin:.0f} s")
