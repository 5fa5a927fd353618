"""The targets by name, each imported only when it is asked for."""

from __future__ import annotations

import importlib

from tests.fuzz.harness import Target

_NAMES = (
    "configs",
    "arguments",
    "images",
    "audio",
    "tables",
    "records",
    "requests",
    "flows",
    "weights",
    "models",
    "downloads",
)


def names() -> list[str]:
    """Return the names of all targets."""
    return list(_NAMES)


def find(name: str) -> Target:
    """Return a target: that of the module of its name."""
    return importlib.import_module(f"tests.fuzz.{name}").TARGET
