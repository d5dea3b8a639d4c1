"""A log that many processes write while they are killed, as `log_stress.py` does it by the thousand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import log_stress
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.mark.parametrize("max_bytes", [0, 20_000])
def test_writers_are_killed_while_the_log_is_rotated_and_renamed(max_bytes: int) -> None:
    found = log_stress.run(kills=60, processes=8, max_bytes=max_bytes)
    assert found.acknowledged > 100
    assert found.files > 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    mounted = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(tmp_path)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount one")
    yield str(tmp_path)
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_disk_is_full_for_a_while(small_disk: str) -> None:
    found = log_stress.run(kills=0, processes=4, directory=small_disk)
    assert found.refused >= 100
    assert found.cut == found.unknown == 0
