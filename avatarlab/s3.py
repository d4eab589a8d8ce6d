"""An S3 bucket as a store, through the `minio` client (any S3-compatible server).

The endpoint, region and credentials come from the environment or `~/.aws/credentials`, never from a manifest. Nothing
here puts a credential, a signed URL or a server's message (servers echo access keys) into an error, a log or a repr.
"""

import configparser
import inspect
import io
import math
import mimetypes
import os
import random
import re
import secrets
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.commonconfig import REPLACE, CopySource
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from avatarlab.errors import NotFound, SettingsError, StoreError, StoreForbidden, StoreUnreachable
from avatarlab.store import (
    MOST_SINGLE_REQUESTS,
    TEMPORARY_KEPT_SECONDS,
    at_once,
    check_name,
    check_prefix,
    local_file,
    open_store,
    os_fault,
)

PART_BYTES = 32 << 20
READ_BYTES = 1 << 20
HOST = r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?"
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
CHECK_SECONDS = 9.0
PROBES = "probes/"

_MEDIA_TYPES = {".vtt": "text/vtt", ".srt": "application/x-subrip", ".parquet": "application/vnd.apache.parquet"}
_ROLE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_REFUSALS = {
    "InvalidAccessKeyId": ("the access key is unknown", "correct AWS_ACCESS_KEY_ID, or the one in ~/.aws/credentials"),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key",
        "correct AWS_SECRET_ACCESS_KEY, or the one in ~/.aws/credentials",
    ),
    "ExpiredToken": ("the session token has expired", "set a new AWS_SESSION_TOKEN"),
    "InvalidToken": ("the session token is refused", "set a new AWS_SESSION_TOKEN, or unset it"),
}
_FOLDERS_OF_FILES = ("blobs/", "runs/", "videos/")  # a bucket without a prefix may hold uploads of others
_FULL_CODES = {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}

T = TypeVar("T")


@dataclass(frozen=True)
class S3Settings:
    """Where the server is and how long we wait for it. Holds no credentials."""

    host: str = "s3.amazonaws.com"
    secure: bool = True
    region: str = "us-east-1"
    connect_seconds: float = 3.0
    read_seconds: float = 60.0
    patience_seconds: float = 90.0  # how long one operation rides out an unreachable server

    @classmethod
    def from_environment(cls) -> "S3Settings":
        """AVATARLAB_S3_ENDPOINT (or AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL), AWS_REGION (or AWS_DEFAULT_REGION),
        AVATARLAB_STORE_PATIENCE_SECONDS. Raises SettingsError, without quoting what may hold a password."""
        settings = cls(region=_variable("AWS_REGION", "AWS_DEFAULT_REGION") or cls.region)
        endpoint = _variable("AVATARLAB_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        if endpoint:
            url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
            plain = url.path in ("", "/") and not url.query and not url.fragment
            if url.scheme not in ("http", "https") or not plain or not re.fullmatch(HOST, url.netloc):
                raise SettingsError(
                    "the S3 endpoint is not http(s)://HOST[:PORT]",
                    "set AVATARLAB_S3_ENDPOINT, and give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            settings = replace(settings, host=url.netloc, secure=url.scheme == "https")
        patience = _variable("AVATARLAB_STORE_PATIENCE_SECONDS")
        if patience:
            if not re.fullmatch(r"\d{1,5}(\.\d+)?", patience):
                raise SettingsError(
                    "AVATARLAB_STORE_PATIENCE_SECONDS is not a number of seconds", "set it to 90, or unset it"
                )
            settings = replace(settings, patience_seconds=float(patience))
        return settings


@dataclass(eq=False)
class S3Store:
    """One prefix of one bucket. Each process builds its own client; pickling carries the URI only."""

    bucket: str
    prefix: str = ""
    settings: S3Settings = field(default_factory=S3Settings.from_environment)
    _built: tuple[int, Minio] | None = field(default=None, init=False, repr=False)
    _conditional: bool | None = field(default=None, init=False, repr=False)  # None: not probed yet
    _ends: float = field(default=math.inf, init=False, repr=False)  # no request begins after this moment

    @classmethod
    def at(cls, address: str) -> "S3Store":
        """`address` is `bucket/prefix`. Raises SettingsError."""
        bucket, _, prefix = address.partition("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise SettingsError(
                "that is not s3://bucket/prefix",
                "give the bucket name alone; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        prefix = prefix.strip("/")
        return cls(bucket, check_name(prefix) if prefix else "")

    def __reduce__(self) -> tuple[object, ...]:
        return (open_store, (self.uri,))

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def put_new(self, name: str, data: bytes) -> bool:
        key = self._key(name)
        if self._conditional is not True and self.stat(name) is not None:
            return False
        if self._conditional is False:
            self.put(name, data)
            return True
        try:
            self._ask(name, lambda client: _put_if_absent(client, self.bucket, key, data, _media_type(name)))
        except _Exists:
            return False
        except _NotBuilt:  # the server refuses the header: content under a key is right whoever wrote it
            self._conditional = False
            self.put(name, data)
        return True

    def put(self, name: str, data: bytes) -> None:
        key = self._key(name)
        self._ask(
            name,
            lambda client: client.put_object(
                self.bucket,
                key,
                io.BytesIO(data),
                len(data),
                content_type=_media_type(name),
                part_size=PART_BYTES,
                num_parallel_uploads=1,
            ),
        )

    def put_file(self, name: str, path: Path) -> None:
        key = self._key(name)
        self._ask(
            name,
            lambda client: client.fput_object(
                self.bucket,
                key,
                str(path),
                content_type=_media_type(name),
                part_size=PART_BYTES,
                num_parallel_uploads=1,
            ),
        )

    def get(self, name: str) -> bytes:
        key = self._key(name)

        def read(client: Minio) -> bytes:
            response = client.get_object(self.bucket, key)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

        return self._ask(name, read)

    def get_file(self, name: str, path: Path) -> None:
        key = self._key(name)

        def read(client: Minio) -> None:
            response = client.get_object(self.bucket, key)
            try:
                with local_file(path) as target:
                    for piece in response.stream(READ_BYTES):
                        target.write(piece)
            finally:
                response.close()
                response.release_conn()

        self._ask(name, read)

    def stat(self, name: str) -> int | None:
        key = self._key(name)
        try:
            return self._ask(name, lambda client: client.stat_object(self.bucket, key).size)
        except NotFound:
            return None

    def sizes(self, names: Collection[str]) -> dict[str, int | None]:
        if len(names) <= MOST_SINGLE_REQUESTS:
            return at_once(self.stat, {name: name for name in names})
        asked: dict[str, set[str]] = {}
        for name in names:
            asked.setdefault(_shard(name), set()).add(name)

        def of_shard(shard: str) -> dict[str, int]:  # nothing else of the shard is kept, however much it holds
            return {name: size for name, size in self.list(shard) if name in asked[shard]}

        found = at_once(of_shard, {shard: shard for shard in asked})
        return {name: found[_shard(name)].get(name) for name in names}

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        start = f"{self.prefix}/" if self.prefix else ""
        whole = start + check_prefix(prefix)

        def pages(client: Minio) -> list[tuple[str, int]]:
            found = client.list_objects(self.bucket, prefix=whole, recursive=True)
            return [(item.object_name.removeprefix(start), int(item.size)) for item in found if not item.is_dir]

        yield from sorted(self._ask(prefix, pages))

    def copy(self, source: str, target: str) -> None:
        origin, key = CopySource(self.bucket, self._key(source)), self._key(target)
        # Blobs have no suffix; a player needs the type.
        media_type: dict[str, str | list[str] | tuple[str]] = {"Content-Type": _media_type(target)}
        self._ask(
            source,
            lambda client: client.copy_object(
                self.bucket, key, origin, metadata=media_type, metadata_directive=REPLACE
            ),
        )

    def delete(self, name: str) -> None:
        key = self._key(name)
        try:
            self._ask(name, lambda client: client.remove_object(self.bucket, key))
        except NotFound:
            return

    def public_uri(self, name: str) -> str:
        return f"s3://{self.bucket}/{self._key(name)}"

    def check(self) -> tuple[str, ...]:
        quick = replace(self.settings, connect_seconds=2.0, read_seconds=3.0, patience_seconds=4.0)
        probing = S3Store(self.bucket, self.prefix, quick)
        probing._conditional = True
        probing._ends = time.monotonic() + CHECK_SECONDS - quick.read_seconds
        name = f"{PROBES}{secrets.token_hex(8)}"
        probing.put_new(name, b"probe")  # outside the try: nothing to remove, and no second wait, where it fails
        try:
            honoured = probing._conditional and not probing.put_new(name, b"probe")
            if not any(found == name for found, _ in probing.list(name)):
                raise StoreError(f"{self.uri} does not list an object just written", "use a strongly consistent store")
            notes = probing._sweep(name)
        except StoreUnreachable:  # the probe stays until it is swept: to wait again would help nobody
            raise
        except StoreError:
            probing.delete(name)
            raise
        probing.delete(name)
        self._conditional = honoured
        if not honoured:
            notes += ("this server ignores If-None-Match: of two runs making one artifact, either may win",)
        return notes

    def _sweep(self, probe: str) -> tuple[str, ...]:
        """Remove what runs that were killed left behind, where that is a day old by the clock of the server."""
        key = self._key(probe)
        start = key.removesuffix(probe)
        written: Any = self._ask(probe, lambda client: client.stat_object(self.bucket, key).last_modified)
        if written is None:
            return ()
        oldest = written - timedelta(seconds=TEMPORARY_KEPT_SECONDS)
        ends = self._ends - 1.0  # what is left then waits for the next start-up

        def sweep(client: Minio) -> None:
            _sweep_objects(client, self.bucket, start + PROBES, oldest, ends)
            for folder in _FOLDERS_OF_FILES:
                _sweep_uploads(client, self.bucket, start + folder, oldest, ends)

        try:
            self._ask(probe, sweep)
        except (StoreUnreachable, NotFound):  # NotFound: where no upload was ever begun, some servers have no list
            return ()
        except StoreError:  # not built, or not allowed: it costs some space and stops nobody
            return ("unfinished uploads cannot be removed here: give the bucket a rule that aborts them after a day",)
        return ()

    def _key(self, name: str) -> str:
        check_name(name)
        return f"{self.prefix}/{name}" if self.prefix else name

    def _client(self) -> Minio:
        if self._built is None or self._built[0] != os.getpid():  # the client must not be shared across a fork
            self._built = (os.getpid(), _connect(self.settings))
        return self._built[1]

    def _ask(self, name: str, request: Callable[[Minio], T]) -> T:
        """One request with our own deadline. A fault of the network is tried again, jittered, until patience ends."""
        deadline = self._ends
        pause = FIRST_PAUSE_SECONDS
        failed = False
        while True:
            started = time.monotonic()
            try:
                return request(self._client())
            except (MinioException, HTTPError, OSError, ValueError, ParseError) as error:
                fault = self._fault(error, name)
                silent = min(time.monotonic() - started, self.settings.read_seconds) if _timed_out(error) else 0.0
            if not isinstance(fault, StoreUnreachable):
                raise fault from None
            if not failed:  # from the moment the server fell silent: a long upload is as patient as a short one
                failed, deadline = True, min(deadline, time.monotonic() - silent + self.settings.patience_seconds)
            wait = pause * random.uniform(0.5, 1.5)
            if time.monotonic() + wait > deadline:
                raise fault from None
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _fault(self, error: Exception, name: str) -> StoreError:
        """An error of the client, as ours, by HTTP status; server texts are left out on purpose."""
        status, code = _status(error)
        host = self.settings.host
        answer = f"{host} answered {status}{f' {code}' if code else ''}"
        if code == "NoSuchBucket":
            # Not NotFound: everything would look as if it had never been made.
            return StoreError(
                f"there is no bucket {self.bucket} at {host}",
                f"create it (`aws s3 mb s3://{self.bucket}`, `mc mb`), or correct --store and AVATARLAB_S3_ENDPOINT",
            )
        if code == "RequestTimeTooSkewed":
            return StoreForbidden(
                f"{host} refuses requests signed by the clock of this machine: {_clock_difference(error)}",
                "set the clock (`timedatectl set-ntp true`)",
            )
        if code in _REFUSALS:
            message, remedy = _REFUSALS[code]
            return StoreForbidden(f"{host} answered {status} {code}: {message}", remedy)
        if status in (401, 403) or code == "AccessDenied":
            return StoreForbidden(
                f"{answer} for {self.uri}",
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or ~/.aws/credentials), and that they may list the "
                "bucket and read, write and delete its objects",
            )
        if status == 404:
            return NotFound(f"there is no {name} in {self.uri}", "run `avatarlab render` to make it")
        if status == 412:
            return _Exists(f"{name} exists in {self.uri}")
        if status == 501:
            return _NotBuilt(answer, "use an S3-compatible server")
        if status == 507 or code in _FULL_CODES:
            return StoreError(
                f"no space left in {self.uri}", "free some space or raise the quota; finished work is kept"
            )
        if status in (408, 409, 429) or status >= 500:
            return StoreUnreachable(answer, "wait for the server and run the same command again; finished work is kept")
        if status:
            return StoreError(
                f"{answer} for {name} in {self.uri}",
                "check AWS_REGION and AVATARLAB_S3_ENDPOINT: its port, and whether it is http:// or https://",
            )
        reason = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(reason, (SSLError, ssl.SSLError)):
            return StoreError(
                f"no trusted TLS connection to {host}", "set SSL_CERT_FILE, or http:// in AVATARLAB_S3_ENDPOINT"
            )
        if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
            return StoreUnreachable(
                f"no answer from the store at {host} ({type(reason).__name__})",
                "check AVATARLAB_S3_ENDPOINT (host, port, http:// or https://) and the network, then run the same command "
                "again; finished work is kept",
            )
        if isinstance(error, OSError):
            return os_fault(error, "the local copy of " + name)
        return StoreError(
            f"{host} does not answer like an S3 server ({type(error).__name__})", "check AVATARLAB_S3_ENDPOINT"
        )


class _Exists(StoreError):
    """412: the name exists."""


class _NotBuilt(StoreError):
    """501: the server lacks what was asked."""


class _QuietCredentials(Provider):
    """The chain of credential sources; says that none was found, never what was found."""

    def __init__(self) -> None:
        sources: list[Provider] = [EnvAWSProvider(), AWSConfigProvider()]
        if any(os.environ.get(variable) for variable in _ROLE_VARIABLES):
            sources.append(IamAwsProvider())
        self._chain = ChainedProvider(sources)

    def retrieve(self) -> Credentials:
        try:
            return self._chain.retrieve()
        except (ValueError, configparser.Error):
            raise StoreForbidden(
                "no S3 credentials were found",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials",
            ) from None


def _connect(settings: S3Settings) -> Minio:
    authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
    if settings.secure and not Path(authorities).is_file():
        raise SettingsError("SSL_CERT_FILE names no file", "set it to a file of PEM certificates, or unset it")
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=settings.connect_seconds, read=settings.read_seconds),
        retries=urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=2),  # `_ask` tries again
        maxsize=32,
        cert_reqs="CERT_REQUIRED",
        ca_certs=authorities,
    )
    return Minio(
        settings.host,
        secure=settings.secure,
        region=settings.region,
        credentials=_QuietCredentials(),
        http_client=pool,
    )


def _put_if_absent(client: Minio, bucket: str, key: str, data: bytes, media_type: str) -> None:
    """PUT with `If-None-Match: *`; the server answers 412 where the key exists.

    The released client (7.2.20) has no public argument for the header; its next one has `extra_headers`.
    """
    condition = {"If-None-Match": "*"}
    if "extra_headers" in inspect.signature(client.put_object).parameters:
        options: dict[str, Any] = {"content_type": media_type, "part_size": 5 << 30, "extra_headers": condition}
        client.put_object(bucket, key, io.BytesIO(data), len(data), **options)
    else:
        client._put_object(bucket, key, data, headers={"Content-Type": media_type, **condition})


def _sweep_uploads(client: Minio, bucket: str, prefix: str, oldest: datetime, ends: float) -> None:
    """Abort multipart uploads begun before `oldest`, up to a thousand. The client has no public method for it."""
    uploads: list[Any] = client._list_multipart_uploads(bucket, prefix=prefix).uploads
    for upload in uploads:
        if upload.initiated_time < oldest and time.monotonic() < ends:
            client._abort_multipart_upload(bucket, upload.object_name, upload.upload_id)


def _sweep_objects(client: Minio, bucket: str, prefix: str, oldest: datetime, ends: float) -> None:
    for found in client.list_objects(bucket, prefix=prefix, recursive=True):
        if found.last_modified < oldest and time.monotonic() < ends:
            client.remove_object(bucket, found.object_name)


def _timed_out(error: Exception) -> bool:
    reason = error.reason if isinstance(error, MaxRetryError) else error
    return isinstance(reason, (Urllib3TimeoutError, TimeoutError))


def _clock_difference(error: Exception) -> str:
    """How far this clock is from the server's, where the answer says what time it is there."""
    try:
        theirs = parsedate_to_datetime(error.response.headers["Date"])  # type: ignore[attr-defined]
        minutes = round((time.time() - theirs.timestamp()) / 60)
    except (AttributeError, KeyError, TypeError, ValueError):
        minutes = 0
    if not minutes:
        return "it is too far off"
    return f"it is {abs(minutes)} minutes {'ahead' if minutes > 0 else 'behind'}"


def _status(error: Exception) -> tuple[int, str]:
    match error:
        case S3Error():
            return int(error.response.status), re.sub(r"\W", "", error.code or "")[:60]
        case ServerError():
            return int(error.status_code), ""
        case InvalidResponseError():  # some servers answer errors as text/xml, which the client does not read
            code = re.search(r"<Code>(\w{1,60})</Code>", error._body or "")
            return int(error._code), code[1] if code else ""
    return 0, ""


def _shard(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _media_type(name: str) -> str:
    suffix = Path(name).suffix
    return _MEDIA_TYPES.get(suffix) or mimetypes.types_map.get(suffix) or "application/octet-stream"


def _variable(*names: str) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")
