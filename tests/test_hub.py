"""Pulling from a hub: only what is pinned takes its name, whatever the hub and the line do. A real server on loopback."""

import fcntl
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avatarlab.errors import (
    AvatarLabError,
    NotFound,
    SettingsError,
    StoreError,
    StoreForbidden,
    StoreUnreachable,
    WeightsError,
)
from avatarlab.hub import ATTEMPTS, Hub, Pin, pull
from flows.cli import app

CONTENT = bytes(range(256)) * 8192  # 2 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
REVISION = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_verysecret"


@dataclass
class Server:
    """Answers with CONTENT. `faults` are taken in turn, one for each request; None is an honest answer."""

    faults: list["Fault | None"] = field(default_factory=list)
    content: bytes = CONTENT
    ranges: bool = True
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Fault = Callable[["Server", BaseHTTPRequestHandler], None]


def honest(server: Server, handler: BaseHTTPRequestHandler) -> None:
    start = 0
    wanted = handler.headers.get("Range")
    if wanted and server.ranges:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            handler.send_response(416)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(server.content) - start))
    handler.end_headers()
    handler.wfile.write(server.content[start:])


def status(code: int) -> Fault:
    def answer(_: Server, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(to: Callable[[str], str]) -> Fault:
    def answer(_: Server, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to(handler.path))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def cut_after(count: int) -> Fault:
    def answer(server: Server, handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        handler.send_header("Content-Length", str(len(server.content) - start))
        handler.end_headers()
        handler.wfile.write(server.content[start : start + count])
        handler.close_connection = True

    return answer


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, dict(self.headers)))
            fault = server.faults.pop(0) if server.faults else None
            (fault or honest)(server, self)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def pin(**changes: str) -> Pin:
    return Pin(
        **{"repo": "lab/voices", "revision": REVISION, "file": "gla_60/model.pt", "sha256": DIGEST} | changes  # type: ignore[arg-type]
    )


def fetch(server: Server, out: Path, token: str | None = None, **changes: str) -> Path:
    return pull(pin(**changes), out, Hub(server.endpoint, token), retry_seconds=0.001)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestAnHonestHub:
    def test_the_pinned_file_of_the_pinned_revision_is_fetched_under_its_path(
        self, server: Server, tmp_path: Path
    ) -> None:
        path = fetch(server, tmp_path)
        assert path == tmp_path / "gla_60/model.pt"
        assert path.read_bytes() == CONTENT
        assert server.requests[0][0] == f"/lab/voices/resolve/{REVISION}/gla_60/model.pt"
        assert files(tmp_path) == ["model.pt"]

    def test_what_is_there_and_whole_is_not_fetched_again(self, server: Server, tmp_path: Path) -> None:
        fetch(server, tmp_path)
        fetch(server, tmp_path)
        assert len(server.requests) == 1

    def test_another_file_of_that_name_is_left_alone(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_text("mine")
        with pytest.raises(WeightsError, match="exists and is not") as caught:
            fetch(server, tmp_path, file="model.pt")
        assert caught.value.remedy and not server.requests
        assert (tmp_path / "model.pt").read_text() == "mine"

    def test_progress_ends_at_the_whole(self, server: Server, tmp_path: Path) -> None:
        seen: list[tuple[int, int | None]] = []
        pull(pin(), tmp_path, Hub(server.endpoint), progress=lambda *now: seen.append(now))
        assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)

    def test_a_redirect_is_followed_and_the_token_stays_with_the_hub(self, server: Server, tmp_path: Path) -> None:
        with serving(Server()) as elsewhere:
            server.faults = [redirect(lambda path: f"{elsewhere.endpoint}/large?signature=abc")]
            fetch(server, tmp_path, token=TOKEN)
        assert server.requests[0][1]["Authorization"] == f"Bearer {TOKEN}"
        assert elsewhere.requests[0][0] == "/large?signature=abc"
        assert "Authorization" not in elsewhere.requests[0][1]


class TestABrokenLine:
    def test_a_cut_download_goes_on_where_it_stopped(self, server: Server, tmp_path: Path) -> None:
        server.faults = [cut_after(1_000_000), cut_after(500_000)]
        assert fetch(server, tmp_path).read_bytes() == CONTENT
        assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=1000000-", "bytes=1500000-"]

    def test_a_failed_command_leaves_its_part_and_the_next_one_uses_it(self, server: Server, tmp_path: Path) -> None:
        server.faults = [cut_after(100_000) for _ in range(ATTEMPTS)]
        with pytest.raises(StoreUnreachable, match="500000 bytes") as caught:
            fetch(server, tmp_path)
        assert caught.value.retryable and "continues" in caught.value.remedy
        assert not (tmp_path / "gla_60/model.pt").exists()
        assert fetch(server, tmp_path).read_bytes() == CONTENT
        assert server.requests[-1][1]["Range"] == "bytes=500000-"
        assert files(tmp_path) == ["model.pt"]

    def test_a_part_of_another_pin_is_not_continued(self, server: Server, tmp_path: Path) -> None:
        server.faults = [cut_after(100_000) for _ in range(ATTEMPTS)]
        with pytest.raises(StoreUnreachable):
            fetch(server, tmp_path, sha256="0" * 64)
        fetch(server, tmp_path)
        assert "Range" not in server.requests[-1][1]

    def test_a_hub_that_cannot_continue_is_read_from_the_start(self, server: Server, tmp_path: Path) -> None:
        server.ranges = False
        server.faults = [cut_after(100_000)]
        assert fetch(server, tmp_path).read_bytes() == CONTENT

    def test_a_part_that_is_already_whole_only_needs_its_name(self, server: Server, tmp_path: Path) -> None:
        part = tmp_path / "gla_60" / f".model.pt.{DIGEST[:16]}.part"
        part.parent.mkdir()
        part.write_bytes(CONTENT)
        assert fetch(server, tmp_path).read_bytes() == CONTENT

    def test_an_overloaded_hub_is_asked_again(self, server: Server, tmp_path: Path) -> None:
        server.faults = [status(503), status(429)]
        assert fetch(server, tmp_path).read_bytes() == CONTENT

    def test_nobody_there_is_said_and_may_be_tried_again(self, tmp_path: Path) -> None:
        with serving(Server()) as gone:
            pass
        with pytest.raises(StoreUnreachable, match=f"127.0.0.1:{gone.port}"):
            fetch(gone, tmp_path)

    def test_two_commands_do_not_write_one_part(self, server: Server, tmp_path: Path) -> None:
        part = tmp_path / f".model.pt.{DIGEST[:16]}.part"
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(StoreError, match="being fetched already"):
                fetch(server, tmp_path, file="model.pt")


class TestAHubThatLies:
    def test_other_content_never_takes_the_name(self, server: Server, tmp_path: Path) -> None:
        server.content = CONTENT[:-1] + b"\x00"
        with pytest.raises(WeightsError, match="not what is pinned") as caught:
            fetch(server, tmp_path)
        assert caught.value.remedy
        assert files(tmp_path) == []

    def test_a_damaged_part_is_found_out_and_removed(self, server: Server, tmp_path: Path) -> None:
        part = tmp_path / "gla_60" / f".model.pt.{DIGEST[:16]}.part"
        part.parent.mkdir()
        part.write_bytes(b"x" * 1000)
        with pytest.raises(WeightsError, match="it was removed"):
            fetch(server, tmp_path)
        assert fetch(server, tmp_path).read_bytes() == CONTENT

    def test_a_wrong_continuation_is_not_appended(self, server: Server, tmp_path: Path) -> None:
        def from_the_start_as_partial(_: Server, handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
            handler.send_header("Content-Length", str(len(CONTENT)))
            handler.end_headers()
            handler.wfile.write(CONTENT)

        server.faults = [cut_after(1000), from_the_start_as_partial]
        assert fetch(server, tmp_path).read_bytes() == CONTENT

    def test_endless_redirects_end(self, server: Server, tmp_path: Path) -> None:
        server.faults = [redirect(lambda path: path)] * 100
        with pytest.raises(StoreError, match="redirects without end"):
            fetch(server, tmp_path)

    def test_a_redirect_to_this_machines_files_is_not_followed(self, server: Server, tmp_path: Path) -> None:
        server.faults = [redirect(lambda path: "file:///etc/passwd")] * ATTEMPTS
        with pytest.raises(StoreError):
            fetch(server, tmp_path)
        assert not (tmp_path / "gla_60/model.pt").exists()

    @pytest.mark.parametrize(
        ("code", "kind", "words"),
        [
            (401, StoreForbidden, "HF_TOKEN"),
            (403, StoreForbidden, "HF_TOKEN"),
            (404, NotFound, "check repository"),
            (400, StoreError, "answers 400"),
        ],
    )
    def test_a_refusal_is_said_once_with_what_to_do(
        self, server: Server, tmp_path: Path, code: int, kind: type[AvatarLabError], words: str
    ) -> None:
        server.faults = [status(code)]
        with pytest.raises(kind, match=words) as caught:
            fetch(server, tmp_path, token=TOKEN)
        assert caught.value.remedy and TOKEN not in str(caught.value)
        assert len(server.requests) == 1 and not caught.value.retryable


class TestPins:
    @pytest.mark.parametrize(
        "file",
        ["../model.pt", "a/../../b", "/etc/passwd", "a//b", "", ".", "a/.", "..", "a\\..\\b", "a\x00b", "~/x", ".ssh/x", "a\nb"],
    )  # fmt: skip
    def test_a_file_name_cannot_leave_the_folder(self, file: str) -> None:
        with pytest.raises(SettingsError, match="cannot name a file"):
            pin(file=file)

    @pytest.mark.parametrize("repo", ["", "a/b/c", "../b", "a/..", "a b/c", "a/b?x=1", "a/b#x", "https://x/y"])
    def test_a_repository_is_owner_and_name(self, repo: str) -> None:
        with pytest.raises(SettingsError, match="no repository"):
            pin(repo=repo)

    @pytest.mark.parametrize("revision", ["main", "v1.0", REVISION[:12], REVISION.upper(), ""])
    def test_a_name_that_can_move_is_no_revision(self, revision: str) -> None:
        with pytest.raises(SettingsError, match="full revision"):
            pin(revision=revision)

    @pytest.mark.parametrize("sha256", ["", "abc", DIGEST + "0", "g" * 64])
    def test_a_digest_is_64_hex_digits(self, sha256: str) -> None:
        with pytest.raises(SettingsError, match="not a sha256"):
            pin(sha256=sha256)

    def test_a_link_in_the_folder_does_not_lead_out(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/gla_60").symlink_to(tmp_path)
        with pytest.raises(SettingsError, match="leads out"):
            fetch(server, tmp_path / "out")
        assert files(tmp_path) == [] and not server.requests

    def test_a_place_that_cannot_be_written_is_said(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "gla_60").write_text("a file")
        with pytest.raises(StoreError, match="cannot be written"):
            fetch(server, tmp_path)


class TestTheEnvironment:
    def test_endpoint_and_token_come_from_it(self) -> None:
        hub = Hub.from_environment({"HF_ENDPOINT": "https://hub.example/base/", "HF_TOKEN": f" {TOKEN}\n"})
        assert hub == Hub("https://hub.example/base", TOKEN)
        assert hub.url(pin(file="a b+c.pt")) == f"https://hub.example/base/lab/voices/resolve/{REVISION}/a%20b%2Bc.pt"
        assert Hub.from_environment({}) == Hub("https://huggingface.co", None)

    def test_the_token_is_shown_nowhere(self) -> None:
        assert TOKEN not in repr(Hub(token=TOKEN)) and TOKEN not in str(Hub(token=TOKEN))

    @pytest.mark.parametrize(
        "environment",
        [
            {"HF_ENDPOINT": "hub.example"},
            {"HF_ENDPOINT": "file:///x"},
            {"HF_ENDPOINT": "https://user:secret@hub.example"},
            {"HF_TOKEN": "two words secret"},
            {"HF_TOKEN": "secret\nX-Header: 1"},
            {"HF_ENDPOINT": "http://hub.example", "HF_TOKEN": "secret"},
        ],
    )
    def test_what_cannot_be_meant_is_refused_without_repeating_it(self, environment: dict[str, str]) -> None:
        with pytest.raises(SettingsError) as caught:
            Hub.from_environment(environment)
        assert "secret" not in str(caught.value) and caught.value.remedy


class TestTheCommand:
    def test_it_asks_the_hub_of_the_environment(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        arguments = ["models", "pull", "lab/voices", "--revision", REVISION, "--file", "a.pt", "--sha256", DIGEST]
        answer = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--json"])
        assert json.loads(answer.stdout) == {"path": str(tmp_path / "a.pt"), "sha256": DIGEST, "bytes": len(CONTENT)}
        assert (tmp_path / "a.pt").read_bytes() == CONTENT
        assert TOKEN not in answer.output and server.requests[0][1]["Authorization"] == f"Bearer {TOKEN}"
