"""No credential is in anything that a run leaves behind: a canary is searched for everywhere."""

import io
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from night import CLI, Done, Night
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3_server
from servers import PrefectServer

from avatarlab.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CANARIES = (SECRET_KEY, ACCESS_KEY)
PREFECT_SECRET = "canary-prefect-password-0123"


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Server, PrefectServer, Night]]:
    prefect = PrefectServer(tmp_path / "server")
    try:
        prefect.start()
        with s3_server(tmp_path / "s3") as store:
            for name, value in store.environment().items():
                monkeypatch.setenv(name, value)
            night = Night.make(tmp_path, 3, "s3://lectures/secrets", seconds=0.3)
            debug = {"PREFECT_LOGGING_LEVEL": "DEBUG", "DASK_LOGGING__DISTRIBUTED": "debug"}
            yield store, prefect, night.with_environment(**prefect.environment, **store.environment(), **debug)
    finally:
        prefect.kill()


def found_in(text: str, where: str) -> list[str]:
    return [f"{where}: {text[max(0, at - 60) : at + 60]!r}" for canary in CANARIES if (at := text.find(canary)) >= 0]


def found_in_run(done: Done) -> list[str]:
    return [*found_in(done.out, "stdout"), *found_in(done.err, "stderr")]


def found_in_store(uri: str) -> list[str]:
    store = open_store(uri)
    found = []
    for name, _ in store.list(""):
        data = store.get(name)
        found += found_in(name + data.decode("utf-8", "replace"), name)
        if name.endswith(".parquet"):
            found += found_in(str(pq.read_table(io.BytesIO(data)).to_pylist()), name)
    return found


def found_in_server(server: PrefectServer) -> list[str]:
    with sqlite3.connect(server.home / "prefect.db") as database:
        dump = "\n".join(database.iterdump())
    return [*found_in(dump, "database"), *found_in((server.home / "server.log").read_text(), "server log")]


def command_lines(stop: threading.Event) -> list[str]:
    """What `ps` shows anybody while a run is under way."""
    seen: set[str] = set()
    while not stop.is_set():
        for process in psutil.process_iter(["cmdline"]):
            seen.add(" ".join(process.info["cmdline"] or []))
        time.sleep(0.3)
    return sorted(seen)


def test_a_night_on_s3_under_prefect_leaves_no_credential_anywhere(
    servers: tuple[S3Server, PrefectServer, Night], tmp_path: Path
) -> None:
    _, prefect, night = servers
    stop, lines = threading.Event(), list[str]()
    watcher = threading.Thread(target=lambda: lines.extend(command_lines(stop)))
    watcher.start()
    try:
        done = night.run("--workers", "2", prefect=True)
    finally:
        stop.set()
        watcher.join()
    assert (done.code, done.statuses) == (0, {"done": 3}), done.err
    assert len(lines) > 3
    found = [*found_in_run(done), *found_in_store(night.store), *found_in_server(prefect)]
    found += found_in((tmp_path / "journal").read_text(), "journal")
    found += found_in("\n".join(line for line in lines if "rclone" not in line), "ps")
    assert found == []


def test_a_night_whose_store_fails_or_refuses_names_the_fault_and_no_credential(
    servers: tuple[S3Server, PrefectServer, Night],
) -> None:
    store, prefect, night = servers
    refused = night.with_environment(AWS_SECRET_ACCESS_KEY=f"{SECRET_KEY}-wrong").run(prefect=True)
    assert refused.code == 2, refused.err
    assert "AWS_SECRET_ACCESS_KEY" in refused.out + refused.err
    short = night.with_environment(AVATARLAB_STORE_PATIENCE_SECONDS="2")
    with short.running("--workers", "1", prefect=True) as running:
        running.wait_for_made(2)
        store.process.kill()
        done = running.end()
    assert done.code == 1, done.err
    found = [*found_in_run(refused), *found_in_run(done), *found_in_server(prefect)]
    assert found == []


@pytest.mark.parametrize("uri", [f"s3://{ACCESS_KEY}:{SECRET_KEY}@lectures/x", f"https://{SECRET_KEY}@host/x"])
def test_a_store_that_is_given_with_credentials_is_refused_without_repeating_them(uri: str, tmp_path: Path) -> None:
    night = Night.make(tmp_path, 1, uri)
    done = night.run()
    assert done.code == 2, done.err
    assert found_in_run(done) == []
    plan = subprocess.run(
        [*CLI, "plan", str(tmp_path / "manifest.parquet"), "--store", uri, "--models", "null"],
        env={**os.environ, **night.full_environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert plan.returncode == 2
    assert found_in(plan.stdout + plan.stderr, "plan") == []


def test_the_password_of_a_prefect_server_is_never_repeated(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 1).with_environment(PREFECT_API_URL=f"http://user:{PREFECT_SECRET}@127.0.0.1:9/api")
    done = night.run(prefect=True)
    assert done.code == 2, done.err
    assert PREFECT_SECRET not in done.out + done.err
