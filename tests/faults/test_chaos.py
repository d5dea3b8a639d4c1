"""Workers killed at random, as `chaos.py` does it by the thousand."""

from __future__ import annotations

import sys

import chaos
import pytest

from helpers import ONE_METHOD, Factory
from poollock._supervisor import lock_recovery

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.mark.parametrize("method", ONE_METHOD)
@pytest.mark.parametrize("kind", chaos.KINDS)
def test_workers_are_killed_at_random(
    factory: Factory, method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_recovery, "_PROOF_FOR_OTHERS", lock_recovery._PROOF)  # the killer takes no lock
    kills = 60 if method == "fork" else 8
    outcomes = chaos.run(factory=factory.__name__, method=method, kind=kind, kills=kills, every=0.02, seed=1)
    assert outcomes["done"] + outcomes["died"] > 0
