"""Stores that go away, fall silent, crawl, fill up or die in the middle, for real: nothing is lost, nothing half visible,
an absence is never made up, and a commit that was reported is there."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from minio import Minio
from s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, Wire, free_port, s3_server

import avatarlab.s3
from avatarlab.artifacts import Action, Artifacts
from avatarlab.errors import StoreError, StoreForbidden, StoreUnreachable
from avatarlab.keys import content_key
from avatarlab.s3 import S3Settings, S3Store
from avatarlab.store import TEMPORARY_FOLDER, FolderStore, Store, check_store, open_store

KEY, OTHER = (content_key("audio", 1, sentence=text) for text in ("hello", "goodbye"))
WAVE = (b"\0\1" * 640, "audio/x-raw")
PART = 5 << 20  # the least an S3 server takes
CEPH = pytest.param("ceph", marks=pytest.mark.ceph)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server that a test may kill."""
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(autouse=True)
def _no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level("DEBUG")
    yield
    assert ACCESS_KEY not in caplog.text
    assert SECRET_KEY not in caplog.text


def bucket(**settings: float) -> S3Store:
    exact = {name: float(value) for name, value in settings.items()}
    return S3Store(BUCKET, "faults", replace(S3Settings.from_environment(), **exact))


def everything(store: Store, made: Action, folder: Path) -> list[Callable[[], object]]:
    """One of every operation on a store that holds `made`, each checking its own answer."""
    artifacts = Artifacts(store)
    blob = made.outputs["wave"]
    large = folder / "large"
    large.write_bytes(os.urandom(300_000))

    def commit() -> None:
        mine = artifacts.commit("audio", OTHER, {"wave": (b"another", "audio/x-raw")})
        assert Artifacts(store).find("audio", [OTHER]) == {OTHER: mine}

    def round_trip() -> None:
        store.put_file("large", large)
        store.get_file("large", folder / "back")
        assert (folder / "back").read_bytes() == large.read_bytes()

    def create_and_delete() -> None:
        store.put_new("new", b"1")
        assert store.get("new") == b"1"
        store.delete("new")
        assert store.stat("new") is None

    def publish() -> None:
        artifacts.publish_video("a", replace(made, outputs={"video.mp4": blob}), {})
        assert artifacts.current_version("a") == made.key[:16]

    return [
        lambda: _same(artifacts.find("audio", [KEY]), {KEY: made}),
        lambda: _same(artifacts.read(blob), WAVE[0]),
        lambda: _same(store.stat(blob.name), blob.size),
        lambda: _same(store.sizes([blob.name, made.name])[blob.name], blob.size),
        lambda: _same(list(store.list(blob.name)), [(blob.name, blob.size)]),
        commit,
        round_trip,
        create_and_delete,
        publish,
    ]


def _same(found: object, expected: object) -> None:
    assert found == expected


class TestAServerThatGoesAway:
    def test_for_five_seconds_is_ridden_out_by_every_operation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        with s3_server(tmp_path / "s3", port) as server:
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
            store = bucket(patience_seconds=60)
            made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
        asks = everything(store, made, tmp_path)
        with ThreadPoolExecutor(len(asks)) as pool:
            asked = [pool.submit(ask) for ask in asks]
            time.sleep(5)
            assert not [one for one in asked if one.done()], "nobody answers while the server is away"
            with s3_server(tmp_path / "s3", port):
                for one in asked:
                    one.result(timeout=120)

    def test_for_ever_ends_every_operation_within_its_patience_and_no_absence_is_made_up(
        self, own: S3Server, tmp_path: Path
    ) -> None:
        store = bucket(patience_seconds=1)
        made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
        asks = everything(store, made, tmp_path)
        own.process.kill()
        own.process.wait()
        _all_unreachable(asks, within=15)

    def test_ends_a_plan_of_thousands_of_artifacts_as_soon_as_a_question_of_one(self, own: S3Server) -> None:
        artifacts = Artifacts(bucket(patience_seconds=1))
        own.process.kill()
        own.process.wait()
        keys = [content_key("audio", 1, number=number) for number in range(5000)]
        _all_unreachable([lambda: artifacts.find("audio", keys)], within=15)

    def test_into_silence_ends_every_operation_within_its_patience_and_timeouts(
        self, own: S3Server, tmp_path: Path
    ) -> None:
        store = bucket(patience_seconds=1, connect_seconds=1, read_seconds=1)
        made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
        asks = everything(store, made, tmp_path)
        with stopped(own):
            _all_unreachable(asks, within=20)
        for ask in asks:
            ask()

    def test_into_silence_is_noticed_at_the_start_in_under_ten_seconds(self, own: S3Server) -> None:
        store = open_store(f"s3://{BUCKET}/faults")
        with stopped(own):
            started = time.monotonic()
            with pytest.raises(StoreUnreachable):
                check_store(store)
            assert time.monotonic() - started < 10

    @pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
    def test_for_a_minute_is_ridden_out_with_the_settings_as_they_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
    ) -> None:
        # A minute and all settings, twenty times as fast.
        with s3_server(tmp_path / "s3") as server:
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
            monkeypatch.delenv("AVATARLAB_STORE_PATIENCE_SECONDS")
            monkeypatch.setattr(avatarlab.s3, "LONGEST_PAUSE_SECONDS", avatarlab.s3.LONGEST_PAUSE_SECONDS / 20)
            usual = S3Settings.from_environment()
            store = bucket(
                patience_seconds=usual.patience_seconds / 20,
                read_seconds=usual.read_seconds / 20,
                connect_seconds=usual.connect_seconds / 20,
            )
            store.put("a", b"1")
            with ThreadPoolExecutor(1) as pool:
                if silent:
                    with stopped(server):
                        asked = pool.submit(store.get, "a")
                        time.sleep(60 / 20)
                    assert asked.result(timeout=60) == b"1"
                else:
                    port = free_port()
                    away = S3Store(BUCKET, "faults", replace(store.settings, host=f"127.0.0.1:{port}"))
                    asked = pool.submit(away.get, "a")
                    time.sleep(60 / 20)
                    assert not asked.done()
                    with Wire(server.port, port):
                        assert asked.result(timeout=60) == b"1"

    def test_at_the_end_of_a_long_upload_finds_as_much_patience_as_at_its_start(
        self, own: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "large").write_bytes(os.urandom(6 << 20))
        with Wire(own.port) as wire:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", wire.endpoint)
            wire.bytes_per_second, wire.breaks_at = 2 << 20, 5 << 20

            def faster() -> None:
                wire.bytes_per_second = float("inf")

            wire.when_broken = faster
            store = bucket(patience_seconds=1.5)
            started = time.monotonic()
            store.put_file("large", tmp_path / "large")
            assert time.monotonic() - started > 1.5
            assert store.get("large") == (tmp_path / "large").read_bytes()

    def test_before_its_answer_arrives_leaves_the_commit_complete(
        self, moto: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in moto.environment().items():
            monkeypatch.setenv(name, value)
        with Wire(moto.port) as wire:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", wire.endpoint)
            store = bucket()
            store._conditional = True
            artifacts = Artifacts(store)
            blob = artifacts.commit("audio", KEY, {"wave": WAVE}).outputs["wave"]
            store.delete(Action("audio", KEY, {}).name)
            broken: list[int] = []
            for breaks_at in range(wire.passed + 100, wire.passed + 2100, 400):
                wire.breaks_at, wire.when_broken = breaks_at, lambda: broken.append(1)
                made = artifacts.commit("audio", KEY, {"wave": WAVE})
                assert made.outputs["wave"] == blob
                assert Artifacts(open_store(store.uri)).find("audio", [KEY]) == {KEY: made}
                store.delete(made.name)
            assert broken


def _all_unreachable(asks: list[Callable[[], object]], within: float) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(len(asks)) as pool:
        for asked in [pool.submit(ask) for ask in asks]:
            with pytest.raises(StoreUnreachable) as caught:
                asked.result()
            told = "".join(traceback.format_exception(caught.value))
            assert not [secret for secret in (ACCESS_KEY, SECRET_KEY) if secret in told]
    assert time.monotonic() - started < within


@contextmanager
def stopped(server: S3Server) -> Iterator[None]:
    """The server takes connections, by its kernel, and answers nothing."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


class TestALargeFile:
    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(avatarlab.s3, "PART_BYTES", PART)

    @pytest.mark.usefixtures("own")
    @pytest.mark.parametrize("kind", ["folder", "rclone"])
    def test_streams_up_and_down_in_little_memory(self, kind: str, tmp_path: Path) -> None:
        store: Store = open_store(str(tmp_path / "store")) if kind == "folder" else bucket(patience_seconds=30)
        with (tmp_path / "large").open("wb") as file:
            for number in range(64):
                file.write(bytes([number]) * (1 << 20))
        tracemalloc.start()
        try:
            store.put_file("large", tmp_path / "large")
            store.get_file("large", tmp_path / "back")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert subprocess.run(["cmp", tmp_path / "large", tmp_path / "back"]).returncode == 0
        assert peak < 5 * PART

    def test_passes_a_slow_wire(self, own: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "large").write_bytes(os.urandom(6 << 20))
        with Wire(own.port) as wire:
            wire.bytes_per_second = 2 << 20
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", wire.endpoint)
            store = bucket(patience_seconds=1)
            started = time.monotonic()
            store.put_file("large", tmp_path / "large")
            store.get_file("large", tmp_path / "back")
            assert time.monotonic() - started > 4
        assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()

    def test_whose_server_is_killed_in_mid_upload_leaves_the_old_one_whole(
        self, own: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "large").write_bytes(os.urandom(4 * PART))
        with Wire(own.port) as wire:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", wire.endpoint)
            store = bucket(patience_seconds=1)
            store.put("blobs/large", b"the old one")
            wire.breaks_at, wire.when_broken = wire.passed + 2.5 * PART, own.process.kill
            with pytest.raises(StoreUnreachable):
                store.put_file("blobs/large", tmp_path / "large")
            own.process.wait()
            with s3_server(own.folder, own.port):
                assert store.get("blobs/large") == b"the old one"
                assert list(store.list("")) == [("blobs/large", 11)]
                check_store(store)
                store.put_file("blobs/large", tmp_path / "large")
                assert store.stat("blobs/large") == 4 * PART

    @pytest.mark.parametrize("kind", ["rclone", CEPH])
    def test_whose_sender_is_killed_in_mid_upload_leaves_the_old_one_whole(
        self, kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server: S3Server = request.getfixturevalue(kind)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        (tmp_path / "large").write_bytes(os.urandom(4 * PART))
        store = bucket(patience_seconds=30)
        store.put("blobs/large", b"the old one")
        program = (
            "import avatarlab.s3; from avatarlab.store import *; "
            f"avatarlab.s3.PART_BYTES = {PART}; "
            f"open_store({store.uri!r}).put_file('blobs/large', Path({str(tmp_path / 'large')!r}))"
        )
        with Wire(server.port) as wire:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", wire.endpoint)
            wire.breaks_at = 2.5 * PART
            reached, go_on = threading.Event(), threading.Event()
            wire.when_broken = lambda: (reached.set(), go_on.wait(60))
            sender = subprocess.Popen([sys.executable, "-c", program])
            try:
                assert reached.wait(60)
            finally:
                sender.kill()
                sender.wait()
                go_on.set()
        assert store.get("blobs/large") == b"the old one"
        assert list(store.list("")) == [("blobs/large", 11)]
        if kind == "ceph":
            client = Minio(f"127.0.0.1:{server.port}", ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1")
            assert len(client._list_multipart_uploads(BUCKET, prefix="faults/").uploads) == 1
            monkeypatch.setattr(avatarlab.s3, "TEMPORARY_KEPT_SECONDS", -60)
            check_store(store)
            assert client._list_multipart_uploads(BUCKET, prefix="faults/").uploads == []
        store.delete("blobs/large")


class TestAFolder:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A disk of two megabytes."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("this user may not mount a file system")
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", disk], capture_output=True)

    def test_on_a_full_disk_says_so_leaves_nothing_and_goes_on_with_what_fits(self, disk: Path, tmp_path: Path) -> None:
        store = open_store(str(disk / "store"))
        (tmp_path / "large").write_bytes(large := b"x" * (3 << 20))
        store.put("most", b"x" * (3 << 19))
        artifacts = Artifacts(store)
        for ask in (
            lambda: store.put("a", large),
            lambda: store.put_new("a", large),
            lambda: store.put_file("a", tmp_path / "large"),
            lambda: store.copy("most", "a"),
            lambda: artifacts.commit("audio", KEY, {"wave": (large, "audio/x-raw"), "words": (b"[]", "a/b")}),
        ):
            with pytest.raises(StoreError, match=r"no space left.*free some space") as caught:
                ask()
            assert not caught.value.retryable
            assert list((disk / "store" / TEMPORARY_FOLDER).iterdir()) == []
            assert [name for name, _ in store.list("")] == ["most"]
        assert any("MiB free" in note for note in check_store(store))
        made = artifacts.commit("audio", KEY, {"wave": WAVE})
        assert Artifacts(store).find("audio", [KEY]) == {KEY: made}
        assert store.stat("most") == 3 << 19

    def test_on_a_full_disk_leaves_no_half_local_copy(self, disk: Path, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        store.put("large", b"x" * (3 << 20))
        with pytest.raises(StoreError, match="no space left"):
            store.get_file("large", disk / "copy")
        assert list(disk.iterdir()) == []

    def test_that_is_unmounted_in_mid_run_is_no_empty_store(self, disk: Path, tmp_path: Path) -> None:
        store = open_store(str(disk))
        made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
        asks = everything(store, made, tmp_path)
        subprocess.run(["umount", disk], check=True)
        for ask in (*asks, lambda: list(store.list("")), lambda: check_store(store)):
            with pytest.raises(StoreUnreachable, match="another folder"):
                ask()
        assert list(disk.iterdir()) == [], "nothing was written to the disk beneath"

    def test_that_may_only_be_read_is_read_and_says_who_refuses(self, disk: Path) -> None:
        store = open_store(str(disk))
        made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert Artifacts(store).find("audio", [KEY]) == {KEY: made}
        assert Artifacts(store).read(made.outputs["wave"]) == WAVE[0]
        for ask in (
            lambda: store.put("a", b"1"),
            lambda: store.put_new("a", b"1"),
            lambda: store.delete(made.name),
            lambda: Artifacts(store).commit("audio", OTHER, {"wave": WAVE}),
            lambda: check_store(store),
        ):
            with pytest.raises(StoreForbidden, match="not allowed to touch"):
                ask()

    def test_that_becomes_a_file_is_gone(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
        asks = everything(store, made, tmp_path)
        shutil.rmtree(tmp_path / "store")
        (tmp_path / "store").write_bytes(b"")
        for ask in asks:
            with pytest.raises(StoreUnreachable, match="is gone"):
                ask()

    def test_sweeps_by_the_clock_of_its_disk_not_of_this_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_store(str(tmp_path))
        store.put("a", b"1")
        young, old, future = (tmp_path / TEMPORARY_FOLDER / name for name in ("young", "old", "future"))
        now = time.time()
        for file, age in ((young, 3600), (old, 2 * 24 * 3600), (future, -1000 * 24 * 3600)):
            file.write_bytes(b"half")
            os.utime(file, (now - age, now - age))
        monkeypatch.setattr(time, "time", lambda: now + 365 * 24 * 3600)
        check_store(store)
        assert (young.exists(), old.exists(), future.exists()) == (True, False, True)

    @pytest.mark.parametrize("umask", [0o777, 0o277, 0])
    def test_does_not_depend_on_the_umask(self, umask: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o777)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    if os.getuid() == 0:  # whom no mode stops
                        os.setgroups([])
                        os.setegid(65534)
                        os.seteuid(65534)
                    os.umask(umask)
                    store = open_store(f"{folder}/new/store")
                    check_store(store)
                    made = Artifacts(store).commit("audio", KEY, {"wave": WAVE})
                    assert Artifacts(store).find("audio", [KEY]) == {KEY: made}
                    assert Artifacts(store).read(made.outputs["wave"]) == WAVE[0]
                    assert len(list(store.list(""))) == 2
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_does_not_depend_on_locale_or_time_zone(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        store.put("übung/日本", b"1")
        program = (
            "import sys; from avatarlab.store import *; store = open_store(sys.argv[1]); check_store(store); "
            "store.put('übung/zwei', b'2'); assert store.get('übung/日本') == b'1'; "
            "assert [name for name, _ in store.list('übung/')] == ['übung/zwei', 'übung/日本']"
        )
        strange = {**os.environ, "LC_ALL": "C", "LANG": "tr_TR", "TZ": "Pacific/Kiritimati"}
        subprocess.run([sys.executable, "-c", program, store.uri], env=strange, check=True)
        assert store.get("übung/zwei") == b"2"

    def test_travels_to_machines_where_it_is_mounted_as_another_device(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        assert isinstance(store, FolderStore)
        elsewhere = pickle.loads(pickle.dumps(replace(store, identity=(0, 0))))
        elsewhere.put("a", b"1")
        assert store.get("a") == b"1"
