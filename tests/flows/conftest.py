"""One real Prefect server for all tests of flows that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.fixtures import asserting_events_worker
from prefect.testing.utilities import prefect_test_harness

__all__ = ["asserting_events_worker", "prefect_server"]


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield
