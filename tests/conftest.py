"""The order of the tests, and what each file leaves behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

# Two processes take a file each: the longest come first, so that neither is left alone with one at the end.
LONGEST = (
    "test_export.py",
    "models/test_flow.py",
    "models/test_fit.py",
    "layers/test_properties.py",
    "test_zoo.py",
    "models/test_replicas.py",
    "test_resuming.py",
    "test_docs.py",
    "test_cli.py",
    "test_faults.py",
    "models/test_flow_matching.py",
    "test_ode.py",
)


# Tracing makes many objects and hardly any garbage in cycles: Python's collector, which looks for it at every
# 700 new objects, took a tenth of a run. Each file ends with a whole collection.
gc.set_threshold(50_000)


def _place(item: pytest.Item) -> int:
    for place, name in enumerate(LONGEST):
        if item.nodeid.split("::")[0].endswith(f"tests/{name}"):
            return place
    return len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files forward; within a file nothing moves."""
    items.sort(key=_place)


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    """Let go of the flows and graphs of a file: over all files they grew to nine gigabytes a process."""
    yield
    if "tests.models.flows" in sys.modules:
        sys.modules["tests.models.flows"].shared.cache_clear()
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
    gc.collect()
    # What is left is held for good, by TensorFlow's registries: later collections need not walk through it.
    # They took a sixth of the whole run.
    gc.freeze()
