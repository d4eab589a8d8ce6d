"""One thread per test process, no network beyond loopback, one folder of fixtures."""

from pathlib import Path

import pytest
import torch
from pytest_socket import socket_allow_hosts

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    socket_allow_hosts(["127.0.0.1", "localhost", "::1"], allow_unix_socket=True)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN
