"""The process that made the pool is killed: its workers end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers import Factory, running, start_program, wait_until
from poollock import (
    locked_pool,
    manager_locked_pool,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


PARENT = """
import sys, time
from pathlib import Path
import fault_tasks as tasks
import poollock

if __name__ == "__main__":
    factory, method, path = sys.argv[1:]
    with getattr(poollock, factory)(3, context=method) as pool:
        pool.map(tasks.square, range(30), chunksize=1)
        busy = pool.apply_async(tasks.hold_while, (pool.lock, path))
        while not Path(path).exists():
            time.sleep(0.002)
        print(*[process.pid for process in pool._pool], Path(path).read_text(), flush=True)
        time.sleep(100)
"""


@pytest.mark.parametrize("factory", [locked_pool, manager_locked_pool], ids=["locked", "manager"])
def test_parent_is_killed(
    factory: Factory, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, path = tmp_path / "parent.py", tmp_path / "holds"
    program.write_text(PARENT)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # nobody is left to remove what it makes there
    with start_program(program, factory.__name__, method, path, start_new_session=True) as parent:
        assert parent.stdout is not None
        *all_pids, busy = map(int, parent.stdout.readline().split())
        group = _group(parent.pid)
        parent.kill()
        parent.wait()
    idle = [pid for pid in all_pids if pid != busy]
    wait_until(lambda: not any(running(pid) for pid in idle))
    assert running(busy)
    path.unlink()
    wait_until(lambda: not any(running(pid) for pid in group))


def _group(session: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session:
                found.append(int(entry.name))
    return found
