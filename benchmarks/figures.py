"""What the figures of a benchmark were measured on, and the file that `docs/draw.py` reads them from."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def processor() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":")[1].strip().replace("(R)", "").replace(" Processor", "")
    return platform.processor() or platform.machine()


def machine() -> str:
    """The Python, the machine and the date."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{python}, {system}, {os.cpu_count()} cores, {processor()}, {time.strftime('%Y-%m-%d')}"


def save(path: str, nanoseconds: Mapping[int, Mapping[str, list[float]]]) -> None:
    """Write the costs of each number of processes: of each name, those of all rounds."""
    costs = {
        str(processes): {
            name: {"median": statistics.median(rounds), "least": min(rounds), "most": max(rounds)}
            for name, rounds in names.items()
        }
        for processes, names in nanoseconds.items()
    }
    Path(path).write_text(json.dumps({"machine": machine(), "nanoseconds": costs}, indent=1) + "\n")
