"""One thread per test process, no network beyond loopback, one folder of fixtures, one of each S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ceph import PACKAGES, ceph_server, missing_programs
from pytest_socket import socket_allow_hosts
from s3_server import S3Server, moto_server, s3_server

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


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Checks signatures, ignores conditional writes."""
    with s3_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Honours conditional writes, checks no signature."""
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A production server; checks signatures, digests and clocks, honours conditional writes."""
    if missing := missing_programs():
        pytest.skip(f"{missing[0]} is not installed; the Debian packages {PACKAGES} bring it")
    with ceph_server(tmp_path_factory.mktemp("ceph") / "cluster") as server:
        yield server
