"""Weights from a model hub, pinned: `avatarlab models pull`.

A hub serves `ENDPOINT/REPO/resolve/REVISION/FILE`, often by a redirect to where its large files lie (the layout of
huggingface.co; `HF_ENDPOINT` names another). What is fetched is written beside its name and continued from there when
the connection breaks; it takes its name only when its sha256 is the pinned one. A branch or a tag is no pin: it can
move, so only a full revision is taken. The token comes from `HF_TOKEN`, goes to the hub alone and into no message.
"""

import fcntl
import hashlib
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import httpx

from avatarlab.errors import (
    NotFound,
    SettingsError,
    StoreError,
    StoreForbidden,
    StoreUnreachable,
    WeightsError,
)

PUBLIC_HUB = "https://huggingface.co"
ENDPOINT_VARIABLE = "HF_ENDPOINT"
TOKEN_VARIABLE = "HF_TOKEN"
ATTEMPTS = 5
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
SPARE_BYTES = 1 << 26

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where known

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Pin:
    """One file of one revision of a repository, and what it must hold. Raises SettingsError for anything unpinned."""

    repo: str
    revision: str
    file: str
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(f"{_NAME}(/{_NAME})?", self.repo) or ".." in self.repo:
            raise SettingsError(f"{_shown(self.repo)} is no repository of a hub", "write it as owner/name")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise SettingsError(
                f"{_shown(self.revision)} is not a full revision",
                "give the 40 hex digits of the commit: names can move",
            )
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise SettingsError(f"{_shown(self.sha256)} is not a sha256", "give its 64 hex digits, in lower case")
        parts = self.file.split("/")
        if len(self.file) > 512 or any(not re.fullmatch(r"[\w][\w .+=@-]{0,199}", p) or p.endswith(".") for p in parts):
            raise SettingsError(
                f"{_shown(self.file)} cannot name a file of a repository", "give its path as the hub lists it"
            )


@dataclass(frozen=True)
class Hub:
    """Where files come from. `token` is None for public files; neither `repr` nor any message shows it."""

    endpoint: str = PUBLIC_HUB
    token: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Hub":
        """`HF_ENDPOINT` and `HF_TOKEN`, where they are set. Raises SettingsError for what cannot be one."""
        endpoint = (environment.get(ENDPOINT_VARIABLE) or PUBLIC_HUB).strip().rstrip("/")
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.hostname or address.query or "@" in address.netloc:
            raise SettingsError(f"{ENDPOINT_VARIABLE} is not the address of a hub", "set it like https://hub.example")
        token = (environment.get(TOKEN_VARIABLE) or "").strip() or None
        if token and not re.fullmatch(r"[!-~]{1,512}", token):
            raise SettingsError(f"{TOKEN_VARIABLE} holds characters that no token has", "set it again")
        if token and address.scheme == "http" and address.hostname not in _LOOPBACK:
            raise SettingsError(
                f"{TOKEN_VARIABLE} would travel unencrypted to {address.hostname}",
                f"use https, or unset {TOKEN_VARIABLE}",
            )
        return cls(endpoint, token)

    def __repr__(self) -> str:
        return f"Hub({self.endpoint!r}, token={'set' if self.token else 'none'})"

    def url(self, pin: Pin) -> str:
        return f"{self.endpoint}/{quote(pin.repo)}/resolve/{pin.revision}/{quote(pin.file)}"


def pull(
    pin: Pin, out: Path, hub: Hub | None = None, *, progress: Progress | None = None, retry_seconds: float = 1.0
) -> Path:
    """Fetches a pinned file to `out/FILE` and returns that path; a file that is there and whole is not fetched again.

    A broken connection is continued where it stopped, up to `ATTEMPTS` times at growing distance from `retry_seconds`,
    and by the next call after that. Raises WeightsError where the content is not what is pinned (it is removed) or
    another file has the name, NotFound, StoreForbidden, StoreUnreachable, or StoreError.
    """
    hub = hub or Hub.from_environment()
    target = out.joinpath(*PurePosixPath(pin.file).parts)
    try:
        if not target.parent.resolve().is_relative_to(out.resolve()):
            raise SettingsError(f"{target.parent} leads out of {out}", "choose a folder without such links")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return _checked_existing(target, pin)
        partial = target.with_name(f".{target.name[:80]}.{pin.sha256[:16]}.part")
        with partial.open("ab") as file:
            _lock(file, target)
            if target.exists():  # another command has finished meanwhile
                return _checked_existing(target, pin)
            _fetch(hub, pin, file, progress, retry_seconds)
            _verify(partial, file, pin)
            partial.replace(target)
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written: {error.strerror}", "check the folder and its free space"
        ) from None
    return target


def _checked_existing(target: Path, pin: Pin) -> Path:
    if _sha256(target) != pin.sha256:
        raise WeightsError(
            f"{target} exists and is not the file that is pinned", "move it away, or choose another folder"
        )
    return target


def _lock(file: BinaryIO, target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{target.name} is being fetched already", "wait for the other command") from None


def _fetch(hub: Hub, pin: Pin, file: BinaryIO, progress: Progress | None, retry_seconds: float) -> None:
    headers = {"Accept-Encoding": "identity", "User-Agent": "avatarlab"}
    if hub.token:
        headers["Authorization"] = f"Bearer {hub.token}"  # httpx drops it where a redirect leaves the hub
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers, verify=_certificates()) as client:
        for attempt in range(ATTEMPTS):
            try:
                _continue(client, hub.url(pin), pin, file, progress)
            except StoreUnreachable:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(retry_seconds * 2**attempt)
            else:
                break


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # a third of a second


def _continue(client: httpx.Client, url: str, pin: Pin, file: BinaryIO, progress: Progress | None) -> None:
    """One request for what is missing. Raises StoreUnreachable where trying again can help."""
    there = file.seek(0, os.SEEK_END)
    host = urlsplit(url).netloc
    received = there
    try:
        with client.stream("GET", url, headers={"Range": f"bytes={there}-"} if there else {}) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # nothing is missing, or what is there is wrong: the digest tells
            _refuse(response.status_code, host, pin)
            if response.status_code != httpx.codes.PARTIAL_CONTENT or _range_start(response) != there:
                file.truncate(0)
                there = received = 0
            length = response.headers.get("Content-Length", "")
            total = there + int(length) if length.isdigit() else None
            if total is not None and shutil.disk_usage(Path(file.name).parent).free < total - there + SPARE_BYTES:
                raise StoreError(f"{pin.file} needs {total / 1e6:.0f} MB", "make room on the disk")
            for chunk in response.iter_raw():
                file.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received, total)
            file.flush()
    except httpx.TooManyRedirects:
        raise StoreError(f"{host} redirects without end", "check the address") from None
    except (httpx.TransportError, httpx.InvalidURL) as error:  # their texts may hold signed addresses
        file.flush()
        raise StoreUnreachable(
            f"{host} did not send all of {pin.file}: {type(error).__name__} after {received} bytes",
            "run the same command again; it continues from there",
        ) from None


def _refuse(status: int, host: str, pin: Pin) -> None:
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise StoreForbidden(
            f"{host} refuses {pin.repo} ({status})",
            f"accept the terms on the page of the model, and set {TOKEN_VARIABLE}",
        )
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        raise NotFound(
            f"{host} has no {pin.file} in {pin.repo} at {pin.revision[:12]}", "check repository, revision and file"
        )
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
        raise StoreUnreachable(f"{host} answers {status}", "try again later")
    if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise StoreError(f"{host} answers {status} for {pin.file}", "check the address of the hub")


def _range_start(response: httpx.Response) -> int | None:
    match = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _verify(partial: Path, file: BinaryIO, pin: Pin) -> None:
    file.flush()
    os.fsync(file.fileno())
    found = _sha256(partial)
    if found != pin.sha256:
        partial.unlink()
        raise WeightsError(
            f"{pin.file} of {pin.repo} is not what is pinned: sha256 {found[:12]}..., pinned {pin.sha256[:12]}...; "
            "it was removed",
            "run the same command again; if it stays so, the pin or the hub is wrong",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(text: str) -> str:
    return ascii(text)[:80]
