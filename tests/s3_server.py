"""S3 servers on loopback for tests: `rclone serve s3`, which checks signatures and ignores conditional writes, moto, which
does the opposite, and scripted ones for answers that no real server gives when asked. `ceph.py` has the one that does both."""

import math
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from minio import Minio

ACCESS_KEY = "canaryaccesskey0123"
SECRET_KEY = "canary/secret+key/that/must/never/be/shown"
BUCKET = "lectures"
START_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    folder: Path
    process: "subprocess.Popen[bytes]"

    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server."""
        return {
            "AVATARLAB_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AVATARLAB_STORE_PATIENCE_SECONDS": "5",
        }

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])


@contextmanager
def s3_server(folder: Path, port: int | None = None, certificate: Path | None = None) -> Iterator[S3Server]:
    """Serve `folder` by rclone (its folders are the buckets; `lectures` is made) until the block ends.

    With a `certificate` (PEM: certificate and key), by https.
    """
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    secure = ["--cert", str(certificate), "--key", str(certificate)] if certificate else []
    with process(
        [_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
        + ["--vfs-cache-mode", "off", *secure, str(folder)],
        RCLONE_AUTH_KEY=f'"{ACCESS_KEY},{SECRET_KEY}"',
    ) as server:
        wait_for(port, server)
        yield S3Server(f"{'https' if certificate else 'http'}://127.0.0.1:{port}", folder, server)


@contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    """A server that keeps its objects in memory and honours conditional writes, but checks no signature."""
    port = free_port()
    with process([_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]) as server:
        wait_for(port, server)
        make_bucket(port)
        yield S3Server(f"http://127.0.0.1:{port}", folder, server)


@contextmanager
def process(command: Sequence[str], **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A quiet child that is killed and waited for when the block ends, also where it was stopped by a signal."""
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def make_bucket(port: int) -> None:
    Minio(f"127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1").make_bucket(BUCKET)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, server: "subprocess.Popen[bytes]", seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{server.args!r} did not start") from None
            time.sleep(0.02)


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else str(shutil.which(name))


class Wire:
    """Passes bytes on to a server and back, as slowly as told, and may break once it has passed so many."""

    def __init__(self, port: int, listens_at: int = 0) -> None:
        self.bytes_per_second = math.inf
        self.passed = 0  # of what was sent to the server
        self.breaks_at: float = math.inf
        self.when_broken: Callable[[], object] = lambda: None
        wire = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    server = socket.create_connection(("127.0.0.1", port))
                except OSError:
                    return
                back = threading.Thread(target=wire._pass, args=(server, self.request, False), daemon=True)
                back.start()
                wire._pass(self.request, server, True)
                back.join()
                server.close()

        self._listening = socketserver.ThreadingTCPServer(("127.0.0.1", listens_at), Handler)
        self._listening.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._listening.server_address[1]}"

    def __enter__(self) -> "Wire":
        threading.Thread(target=self._listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes_per_second = math.inf
        self._listening.shutdown()
        self._listening.socket.close()

    def _pass(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        try:
            while piece := source.recv(1 << 16):
                target.sendall(piece)
                if to_server:
                    self.passed += len(piece)
                    if self.passed >= self.breaks_at:
                        self.breaks_at = math.inf
                        self.when_broken()
                        break
                time.sleep(len(piece) / self.bytes_per_second)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


Answer = tuple[int, bytes]


@contextmanager
def scripted_server(answer: Callable[[str, str, Mapping[str, str], bytes], Answer]) -> Iterator[str]:
    """An HTTP server that answers (method, path, headers, body) with (status, body): for what rclone never does."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, reply = answer(self.command, self.path, dict(self.headers.items()), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hung up is what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def conditional_bucket() -> Callable[[str, str, Mapping[str, str], bytes], Answer]:
    """A bucket in memory that honours `If-None-Match: *`, as AWS and Ceph do and rclone does not."""
    objects: dict[str, bytes] = {}
    lock = threading.Lock()

    def answer(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        with lock:
            if method == "PUT":
                if headers.get("If-None-Match") == "*" and path in objects:
                    return 412, s3_error("PreconditionFailed")
                objects[path] = body
                return 200, b""
            if method == "DELETE":
                objects.pop(path, None)
                return 204, b""
            if "list-type=2" in path:
                prefix = unquote(parse_qs(urlsplit(path).query).get("prefix", [""])[0])
                names = sorted(name.split("/", 2)[2] for name in objects)
                keys = [key for key in names if key.startswith(prefix)]
                found = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
                return 200, f"<ListBucketResult><Name>{BUCKET}</Name>{found}</ListBucketResult>".encode()
            if path in objects:
                return 200, objects[path]
            return 404, b"" if method == "HEAD" else s3_error("NoSuchKey")

    return answer


def s3_error(code: str, message: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
