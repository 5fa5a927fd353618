"""One double of the server for all tests of the client: a few small flows, exported once.

Nothing that needs tensorflow-serving-api is imported before a test asks for it: each file skips without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from flowzoo.serving import Client

if TYPE_CHECKING:
    from tests.serving.served import Served


# Of the package, it would be made anew for each file: between two of them a worker runs files of others.
@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The whole double: both interfaces, three models, two versions of one."""
    from tests.serving.served import doubled

    with doubled(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def served(double: Served) -> Iterator[Served]:
    """The double, behaving, with no request seen."""
    double.backend.faults.reset()
    double.backend.requests.clear()
    double.backend.batching = False
    yield double
    double.backend.faults.reset()


@pytest.fixture(params=["grpc", "http"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Each way to reach the server."""
    return request.param


@pytest.fixture
def client(served: Served, scheme: str) -> Iterator[Client]:
    """A client of the flow of plain floats, version 1."""
    with served.client(scheme, version=1) as made:
        yield made
