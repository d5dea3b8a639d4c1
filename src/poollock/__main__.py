"""``python -m poollock trace run.json`` sums up what a pool has written with ``trace="run.json"``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence

from poollock._trace.summary import NotATraceError, summarize


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m poollock", description="Tools for poollock.")
    commands = parser.add_subparsers(dest="command", required=True)
    trace = commands.add_parser(
        "trace",
        help="sum up a trace",
        description="Say which lock the workers of a pool waited for, and what each of them did.",
    )
    trace.add_argument("file", help="what the pool has written, with trace=FILE")
    options = parser.parse_args(arguments)
    try:
        text = summarize(options.file, shutil.get_terminal_size().columns)
    except (OSError, NotATraceError) as error:
        sys.stderr.write(f"{parser.prog} trace: {error}\n")
        return 1
    encoding = sys.stdout.encoding  # which may not have all characters of a name
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    return 0


if __name__ == "__main__":
    sys.exit(main())
