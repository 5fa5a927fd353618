"""A long table streams through with constant memory: ten million rows (slow), and a short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def streamed(rows: int, *options: object) -> dict:
    pytest.importorskip("psutil")
    command = [sys.executable, "-m", "tests.data.streaming", "--rows", str(rows), *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict, rows: int, allowed_mb: int) -> None:
    """The allowance is for what the allocator keeps of buffers that come and go: a part of the table."""
    assert found["seen_once"] == rows
    assert found["neighbours"] < 0.01
    assert found["fit"]["loss"] < 100
    assert found["bytes"] > 2e6 * allowed_mb
    for part in ("write", "read", "fit"):
        assert found[part]["mb_growth"] <= allowed_mb, (part, found)


def test_200_000_rows_stream_through():
    # Windows of 2 MB, of which the table has thirty.
    check(streamed(200_000, "--columns", 64, "--steps", 30, "--window-bytes", 2**21), 200_000, 24)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_million_rows_stream_through():
    check(streamed(10_000_000), 10_000_000, 96)
