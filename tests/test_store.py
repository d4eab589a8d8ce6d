"""One contract for every store, run against a folder and real S3 servers; then what only one of them can get wrong."""

import errno
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    S3Server,
    conditional_bucket,
    free_port,
    s3_error,
    s3_server,
    scripted_server,
)

import avatarlab.s3
from avatarlab.errors import (
    AvatarLabError,
    NotFound,
    SettingsError,
    StoreError,
    StoreForbidden,
    StoreUnreachable,
)
from avatarlab.s3 import S3Settings
from avatarlab.store import TEMPORARY_FOLDER, Store, check_name, check_store, open_store, os_fault

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)


@pytest.fixture
def s3_environment(rclone: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in rclone.environment().items():
        monkeypatch.setenv(name, value)
    return rclone


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> Store:
    request.getfixturevalue("s3_environment")
    return open_store(new_prefix())


@pytest.fixture(params=["folder", "rclone", "moto", CEPH])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return store_of(request, tmp_path, monkeypatch)


@pytest.fixture(params=["folder", "moto", CEPH])
def conditional_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return store_of(request, tmp_path, monkeypatch)


def store_of(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    for name, value in request.getfixturevalue(request.param).environment().items():
        monkeypatch.setenv(name, value)
    return open_store(new_prefix())


def new_prefix() -> str:
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


class TestEveryStore:
    def test_gives_back_what_was_put(self, store: Store) -> None:
        store.put("a/b.json", b"one")
        assert store.get("a/b.json") == b"one"
        assert store.stat("a/b.json") == 3

    def test_replaces_by_put_and_holds_empty_objects(self, store: Store) -> None:
        store.put("a", b"one")
        store.put("a", b"")
        assert (store.get("a"), store.stat("a")) == (b"", 0)

    def test_creates_once_by_put_new(self, store: Store) -> None:
        assert store.put_new("a/b", b"first") is True
        assert store.put_new("a/b", b"second") is False
        assert store.get("a/b") == b"first"

    def test_says_not_found_where_nothing_is(self, store: Store, tmp_path: Path) -> None:
        assert store.stat("nothing/here") is None
        for ask in (store.get, lambda name: store.get_file(name, tmp_path / "x"), lambda name: store.copy(name, "y")):
            with pytest.raises(NotFound, match="nothing/here"):
                ask("nothing/here")
        assert not (tmp_path / "x").exists()

    def test_moves_files_in_and_out(self, store: Store, tmp_path: Path) -> None:
        content = os.urandom(300_000)
        (tmp_path / "in").write_bytes(content)
        store.put_file("clips/a.mp4", tmp_path / "in")
        (tmp_path / "out").write_bytes(b"older")
        store.get_file("clips/a.mp4", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in", "out"]

    def test_says_what_is_wrong_with_a_local_file(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as caught:
            store.put_file("a", tmp_path / "missing")
        assert not isinstance(caught.value, (NotFound, StoreUnreachable))
        store.put("a", b"1")
        with pytest.raises(StoreError) as caught:
            store.get_file("a", tmp_path / "no" / "folder")
        assert not isinstance(caught.value, (NotFound, StoreUnreachable))

    def test_lists_by_the_start_of_names_in_order(self, store: Store) -> None:
        for name in ("actions/a-b", "actions/a/2", "actions/a/10", "actions/b/1", "other"):
            store.put(name, b"xy")
        assert [name for name, _ in store.list("actions/")] == [
            "actions/a-b",
            "actions/a/10",
            "actions/a/2",
            "actions/b/1",
        ]
        assert list(store.list("actions/a/")) == [("actions/a/10", 2), ("actions/a/2", 2)]
        assert [name for name, _ in store.list("actions/a")] == ["actions/a-b", "actions/a/10", "actions/a/2"]
        assert [name for name, _ in store.list("o")] == ["other"]
        assert list(store.list("nowhere/")) == []
        assert len(list(store.list(""))) == 5

    @pytest.mark.parametrize("most", [256, 3])
    def test_tells_the_sizes_of_many_names_at_once(
        self, store: Store, most: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(avatarlab.s3, "MOST_SINGLE_REQUESTS", most)
        sizes = {f"{shard}/{number}": number for shard in ("a", "b/c", "d") for number in range(5)}
        for name, size in sizes.items():
            store.put(name, b"x" * size)
        nothing = dict.fromkeys(("a/9", "b/c", "e/1", "top"))
        del sizes["d/4"]
        assert store.sizes([*sizes, *nothing]) == sizes | nothing
        assert store.sizes([]) == {}

    def test_copies_and_deletes(self, store: Store) -> None:
        store.put("blobs/a", b"content")
        store.put("videos/v/video.mp4", b"older")
        store.copy("blobs/a", "videos/v/video.mp4")
        store.delete("blobs/a")
        store.delete("blobs/a")
        assert store.stat("blobs/a") is None
        assert store.get("videos/v/video.mp4") == b"content"

    def test_holds_names_of_any_script(self, store: Store) -> None:
        name = "übung/日本 +%&=?#'\".json"
        store.put(name, b"1")
        assert store.get(name) == b"1"
        assert list(store.list("übung/")) == [(name, 1)]

    @pytest.mark.parametrize(
        "name",
        ["", "/a", "a//b", "a/", "..", "a/../b", "./a", "a\\b", "a\nb", "a\0b", "\ud800", "x" * 256, "y/" * 500 + "y"],
    )
    def test_refuses_names_that_could_leave_it(self, store: Store, name: str) -> None:
        for ask in (store.get, store.stat, store.delete, lambda name: store.put(name, b""), store.public_uri):
            with pytest.raises(StoreError):
                ask(name)
        with pytest.raises(StoreError):
            store.put_new(name, b"")
        with pytest.raises(StoreError):
            store.copy("a", name)

    def test_refuses_prefixes_that_could_leave_it(self, store: Store) -> None:
        for prefix in ("../", "/", "a/../", "a\0"):
            with pytest.raises(StoreError):
                list(store.list(prefix))

    def test_travels_by_its_uri(self, store: Store) -> None:
        store.put("a", b"1")
        for other in (open_store(store.uri), pickle.loads(pickle.dumps(store))):
            assert other.uri == store.uri
            assert other.get("a") == b"1"

    def test_passes_its_own_check_and_leaves_nothing(self, store: Store) -> None:
        check_store(store)
        assert list(store.list("")) == []

    def test_lets_one_of_many_racing_writers_stand_whole(self, store: Store) -> None:
        contents, created = race(store, "race")
        assert any(created)
        assert store.get("race") in contents

    @pytest.mark.parametrize("probed", [True, False])
    def test_tells_exactly_one_of_sixteen_writers_that_it_was_first(
        self, conditional_store: Store, probed: bool
    ) -> None:
        if probed:
            assert not [note for note in check_store(conditional_store) if "either may win" in note]
        for name in ("race/1", "race/2", "race/3"):
            contents, created = race(conditional_store, name)
            assert created.count(True) == 1
            assert conditional_store.get(name) == contents[created.index(True)]

    def test_shows_only_whole_objects_while_one_name_is_replaced(self, store: Store) -> None:
        contents = [bytes([number]) * 20_000 for number in range(8)]
        store.put("a", contents[0])
        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(store.put, "a", content) for content in contents]
            while not all(write.done() for write in writing):
                assert store.get("a") in contents
            for write in writing:
                write.result()
        assert store.get("a") in contents

    def test_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert store.public_uri("a/b.mp4").endswith("/a/b.mp4")


def race(store: Store, name: str) -> tuple[list[bytes], list[bool]]:
    """The contents of sixteen writers that start together, and what each was told."""
    contents = [bytes([number]) * 20_000 for number in range(16)]
    together = threading.Barrier(16)

    def write(content: bytes) -> bool:
        together.wait()
        return store.put_new(name, content)

    with ThreadPoolExecutor(16) as pool:
        return contents, list(pool.map(write, contents))


class TestFolder:
    def test_keeps_unfinished_objects_out_of_sight_and_sweeps_old_ones(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "s"))
        fifo = tmp_path / "slow"
        os.mkfifo(fifo)
        program = f"from avatarlab.store import *; open_store({store.uri!r}).put_file('a', Path({str(fifo)!r}))"
        writer = subprocess.Popen([sys.executable, "-c", program])
        with fifo.open("wb") as pipe:
            pipe.write(b"half of it")
            pipe.flush()
            unfinished = tmp_path / "s" / TEMPORARY_FOLDER
            deadline = time.monotonic() + 30
            while not (unfinished.is_dir() and any(unfinished.iterdir())) and time.monotonic() < deadline:
                time.sleep(0.02)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert store.stat("a") is None
        assert list(store.list("")) == []
        left = list(unfinished.iterdir())
        assert len(left) == 1
        check_store(store)
        assert left[0].exists(), "it may belong to a run that is still at work"
        os.utime(left[0], (0, 0))
        check_store(store)
        assert not left[0].exists()

    def test_reports_a_full_disk_with_a_remedy_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_store(str(tmp_path))

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            for put in (store.put, store.put_new):
                with pytest.raises(StoreError, match=r"no space left.*free some space"):
                    put("a", b"1")
        assert store.stat("a") is None
        assert list((tmp_path / TEMPORARY_FOLDER).iterdir()) == []
        store.put("a", b"1")

    def test_never_mistakes_a_vanished_folder_for_an_empty_store(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "mount"))
        (tmp_path / "mount").rmdir()
        for ask in (
            lambda: store.stat("a"),
            lambda: store.sizes(["a", "b"]),
            lambda: store.get("a"),
            lambda: list(store.list("")),
            lambda: store.put("a", b""),
            lambda: store.put_new("a", b""),
            lambda: check_store(store),
        ):
            with pytest.raises(StoreUnreachable, match="is gone"):
                ask()

    def test_works_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: Path) -> None:
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr(Path, "hardlink_to", refused)
        store = open_store(str(tmp_path))
        assert store.put_new("a", b"1") is True
        assert store.put_new("a", b"2") is False
        assert store.get("a") == b"1"
        assert any("hard links" in note for note in check_store(store))

    def test_copies_so_that_editing_the_public_file_spoils_no_artifact(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        store.put("blobs/a", b"content")
        store.copy("blobs/a", "videos/v.mp4")
        with (tmp_path / "videos/v.mp4").open("r+b") as file:
            file.write(b"EDITED!")
        assert store.get("blobs/a") == b"content"

    def test_is_a_file_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match="is a file"):
            open_store(str(tmp_path / "file"))

    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.ENOSPC, StoreError),
            (errno.EDQUOT, StoreError),
            (errno.EACCES, StoreForbidden),
            (errno.EROFS, StoreForbidden),
            (errno.EIO, StoreUnreachable),
            (errno.ESTALE, StoreUnreachable),
            (errno.ENAMETOOLONG, StoreError),
        ],
    )
    def test_operating_system_errors_become_ours_with_a_remedy(self, number: int, kind: type[StoreError]) -> None:
        fault = os_fault(OSError(number, os.strerror(number)), "/store/a")
        assert type(fault) is kind
        assert "/store/a" in fault.message
        assert fault.remedy


@pytest.mark.usefixtures("s3_environment")
class TestS3:
    def test_says_when_the_server_ignores_conditional_writes(self, s3: Store) -> None:
        assert "If-None-Match" in check_store(s3)[0]

    def test_gives_players_the_media_type(self, s3: Store) -> None:
        s3.put("blobs/00", b"....")
        s3.copy("blobs/00", "v/video.mp4")
        client = s3._client()  # type: ignore[attr-defined]
        key = f"{s3.uri.rpartition('/')[2]}/v/video.mp4"
        assert client.stat_object(BUCKET, key).content_type == "video/mp4"

    def test_lists_more_than_one_page(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"many/{number:04}" for number in range(1100)]
        (tmp_path / BUCKET / "p" / "many").mkdir(parents=True)
        for name in names:
            (tmp_path / BUCKET / "p" / name).touch()
        with s3_server(tmp_path) as other:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", other.endpoint)
            assert [name for name, _ in open_store(f"s3://{BUCKET}/p").list("many/")] == names

    def test_a_wrong_secret_is_forbidden_not_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
        store = open_store(f"s3://{BUCKET}/a")
        for ask in (
            lambda: store.stat("a"),
            lambda: store.get("a"),
            lambda: store.put("a", b""),
            lambda: store.put_new("a", b""),
            lambda: list(store.list("")),
            lambda: check_store(store),
        ):
            with pytest.raises(StoreForbidden, match="AWS_SECRET_ACCESS_KEY"):
                ask()

    def test_no_credentials_at_all_is_said(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        with pytest.raises(StoreForbidden, match="no S3 credentials"):
            check_store(open_store(f"s3://{BUCKET}/a"))

    def test_reads_credentials_from_the_usual_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        file = tmp_path / "credentials"
        file.write_text(f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        check_store(open_store(f"s3://{BUCKET}/from-file"))
        file.write_text(f"{SECRET_KEY} without any section\n")
        with pytest.raises(StoreForbidden) as caught:
            check_store(open_store(f"s3://{BUCKET}/from-file"))
        assert SECRET_KEY not in "".join(traceback.format_exception(caught.value))

    def test_a_missing_bucket_is_never_an_empty_store(self) -> None:
        store = open_store("s3://elsewhere/a")
        for ask in (
            lambda: store.get("a"),
            lambda: list(store.list("")),
            lambda: store.put_new("a", b""),
            lambda: check_store(store),
        ):
            with pytest.raises(StoreError, match="no bucket elsewhere") as caught:
                ask()
            assert not isinstance(caught.value, NotFound)

    def test_a_closed_port_is_unreachable_within_ten_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        started = time.monotonic()
        with pytest.raises(StoreUnreachable, match="AVATARLAB_S3_ENDPOINT"):
            check_store(open_store(f"s3://{BUCKET}/a"))
        assert time.monotonic() - started < 10

    def test_a_server_that_never_answers_is_unreachable_within_ten_seconds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = threading.Event()

        def silent(*_: object) -> tuple[int, bytes]:
            released.wait(30)
            return 200, b""

        with scripted_server(silent) as endpoint:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", endpoint)
            started = time.monotonic()
            with pytest.raises(StoreUnreachable):
                check_store(open_store(f"s3://{BUCKET}/a"))
            released.set()
        assert time.monotonic() - started < 10

    def test_rides_out_a_server_that_fails_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = conditional_bucket()
        failures = iter([(503, s3_error("SlowDown")), (500, b""), (429, s3_error("TooManyRequests"))])
        with scripted_server(lambda *request: next(failures, None) or bucket(*request)) as endpoint:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", endpoint)
            store = open_store(f"s3://{BUCKET}/a")
            store.put("a", b"1")
            assert store.get("a") == b"1"

    def test_a_failing_server_is_unreachable_in_the_end_never_a_miss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AVATARLAB_STORE_PATIENCE_SECONDS", "0.3")
        with scripted_server(lambda *_: (503, s3_error("SlowDown"))) as endpoint:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", endpoint)
            store = open_store(f"s3://{BUCKET}/a")
            for ask in (lambda: store.stat("a"), lambda: store.get("a"), lambda: list(store.list(""))):
                with pytest.raises(StoreUnreachable):
                    ask()

    def test_works_where_the_server_refuses_conditional_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = conditional_bucket()

        def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
            if headers.get("If-None-Match"):
                return 501, s3_error("NotImplemented")
            return bucket(method, path, headers, body)

        with scripted_server(answer) as endpoint:  # type: ignore[arg-type]
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", endpoint)
            store = open_store(f"s3://{BUCKET}/a")
            assert "If-None-Match" in check_store(store)[0]
            assert [store.put_new("a", b"1"), store.put_new("a", b"2")] == [True, False]
            assert store.get("a") == b"1"

    @pytest.mark.parametrize(
        ("status", "body", "kind", "words"),
        [
            (507, s3_error("InsufficientStorage"), StoreError, "no space left"),
            (403, s3_error("RequestTimeTooSkewed"), StoreForbidden, "clock"),
            (400, s3_error("AuthorizationHeaderMalformed"), StoreError, "AWS_REGION"),
            (200, b"<html>hotel login</html>", StoreError, "S3"),
        ],
    )
    def test_answers_of_a_server_become_ours_with_a_remedy(
        self,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        body: bytes,
        kind: type[StoreError],
        words: str,
    ) -> None:
        with scripted_server(lambda *_: (status, body)) as endpoint:
            monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", endpoint)
            with pytest.raises(kind, match=words) as caught:
                list(open_store(f"s3://{BUCKET}/a").list(""))
        assert caught.value.remedy

    def test_builds_its_own_client_after_a_fork(self, s3: Store) -> None:
        s3.put("a", b"1")
        before = s3._client()  # type: ignore[attr-defined]
        child = os.fork()
        if child == 0:
            same = s3._client() is before  # type: ignore[attr-defined]
            os._exit(1 if same else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert s3._client() is before  # type: ignore[attr-defined]

    def test_shows_no_credential_anywhere(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("DEBUG")
        echo = s3_error("InvalidAccessKeyId", f"key {ACCESS_KEY} secret {SECRET_KEY}")
        monkeypatch.setenv("AVATARLAB_STORE_PATIENCE_SECONDS", "0.1")
        seen: list[str] = []
        for status in (400, 401, 403, 404, 409, 412, 500, 503):
            with scripted_server(lambda *_, status=status: (status, echo)) as endpoint:
                monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", endpoint)
                store = open_store(f"s3://{BUCKET}/a")
                seen += [str(store), repr(store), store.uri, store.public_uri("a"), repr(pickle.dumps(store))]
                for ask in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: list(store.list(""))):  # noqa: B023
                    with pytest.raises(AvatarLabError) as caught:
                        ask()
                    seen += [repr(caught.value), *traceback.format_exception(caught.value)]
        for uri in (f"s3://{ACCESS_KEY}:{SECRET_KEY}@{BUCKET}/a", f"https://{ACCESS_KEY}:{SECRET_KEY}@host/{BUCKET}"):
            with pytest.raises(SettingsError) as refused:
                open_store(uri)
            seen += traceback.format_exception(refused.value)
        monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", f"http://{ACCESS_KEY}:{SECRET_KEY}@127.0.0.1")
        with pytest.raises(SettingsError) as refused:
            open_store(f"s3://{BUCKET}/a")
        seen += [*traceback.format_exception(refused.value), caplog.text, repr(S3Settings())]
        # The source lines quoted by a traceback name the constants, never their values.
        assert not [text for text in seen if ACCESS_KEY in text or SECRET_KEY in text]

    @pytest.mark.parametrize("uri", ["s3://", "s3://A", "s3://a_b/c", "s3:///x", "gs://bucket/x", "https://host/x"])
    def test_refuses_what_is_no_store(self, uri: str) -> None:
        with pytest.raises(SettingsError):
            open_store(uri)

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("AVATARLAB_S3_ENDPOINT", "ftp://host"),
            ("AVATARLAB_S3_ENDPOINT", "http://host/path"),
            ("AVATARLAB_S3_ENDPOINT", "http://host:port"),
            ("AVATARLAB_STORE_PATIENCE_SECONDS", "a while"),
        ],
    )
    def test_refuses_wrong_settings_by_name(self, variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError, match=variable):
            open_store(f"s3://{BUCKET}/a")


@settings(deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "", "é", "\0"]), max_size=5).map("/".join))
def test_an_accepted_name_stays_inside_its_store(name: str) -> None:
    root = Path("/srv/store")
    try:
        check_name(name)
    except StoreError:
        return
    assert os.path.normpath(root / name) == str(root / name)
    assert str(root / name).startswith("/srv/store/")
