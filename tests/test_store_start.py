"""What a store that cannot be used gets when a run starts: the mistake by name, what to change, exit 2, within seconds."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import minio.time
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from minio import Minio
from s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, free_port, s3_server

import avatarlab.s3
from avatarlab.avatars import BUNDLED
from avatarlab.errors import AvatarLabError, SettingsError, StoreError, StoreForbidden, StoreUnreachable
from avatarlab.store import check_store, open_store
from flows.cli import main

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)
URI = f"s3://{BUCKET}/start"


@pytest.fixture(params=["rclone", CEPH])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """One that checks signatures."""
    return used(request.getfixturevalue(request.param), monkeypatch)


def used(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return server


@pytest.fixture
def shows_no_secret(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[BaseException], None]]:
    """Called with an error; fails where that, or anything logged in the test, holds a credential."""
    caplog.set_level("DEBUG")
    seen: list[str] = []
    yield lambda error: seen.extend([repr(error), *traceback.format_exception(error)])
    assert seen
    assert not [text for text in (*seen, caplog.text) if ACCESS_KEY in text or SECRET_KEY in text]


Refused = Callable[..., StoreError]


@pytest.fixture
def refused(shows_no_secret: Callable[[BaseException], None]) -> Refused:
    def refused(kind: type[AvatarLabError], words: str, remedy: str, uri: str = URI) -> AvatarLabError:
        started = time.monotonic()
        with pytest.raises(kind, match=words) as caught:
            check_store(open_store(uri))
        assert time.monotonic() - started < 10
        assert remedy in caught.value.remedy
        shows_no_secret(caught.value)
        return caught.value

    return refused


class TestWhatIsWrong:
    @pytest.mark.usefixtures("server")
    def test_an_unknown_access_key(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
        error = refused(StoreForbidden, "InvalidAccessKeyId: the access key is unknown", "AWS_ACCESS_KEY_ID")
        assert "someone-else" not in str(error)

    @pytest.mark.usefixtures("server")
    def test_a_wrong_secret_key(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mistyped-" + SECRET_KEY[:-1])
        error = refused(StoreForbidden, "secret key does not belong to the access key", "AWS_SECRET_ACCESS_KEY")
        assert SECRET_KEY[:-1] not in str(error)

    @pytest.mark.usefixtures("server")
    def test_a_missing_bucket(self, refused: Refused) -> None:
        error = refused(StoreError, "no bucket elsewhere at 127", "aws s3 mb s3://elsewhere", "s3://elsewhere/a")
        assert not error.retryable

    @pytest.mark.ceph
    @pytest.mark.parametrize(("hours", "words"), [(2, "120 minutes ahead"), (-2, "120 minutes behind")])
    def test_a_clock_that_is_too_far_off(
        self, ceph: S3Server, refused: Refused, monkeypatch: pytest.MonkeyPatch, hours: int, words: str
    ) -> None:
        used(ceph, monkeypatch)
        right, now = minio.time.utcnow, time.time
        monkeypatch.setattr(minio.time, "utcnow", lambda: right() + timedelta(hours=hours))
        monkeypatch.setattr(avatarlab.s3.time, "time", lambda: now() + 3600 * hours)
        refused(StoreForbidden, words, "timedatectl")

    def test_a_clock_that_is_too_far_off_where_the_server_does_not_say_how_far(
        self, rclone: S3Server, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used(rclone, monkeypatch)
        right = minio.time.utcnow
        monkeypatch.setattr(minio.time, "utcnow", lambda: right() + timedelta(hours=2))
        refused(StoreForbidden, "the clock of this machine", "timedatectl")

    @pytest.mark.ceph
    def test_a_bucket_that_may_only_be_read(
        self, ceph: S3Server, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used(ceph, monkeypatch)
        client = Minio(f"127.0.0.1:{ceph.port}", ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1")
        client.make_bucket("read-only")
        rule = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::read-only/*"}
        client.set_bucket_policy("read-only", json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
        refused(StoreForbidden, "403 AccessDenied for s3://read-only/a", "write", "s3://read-only/a")

    def test_nobody_at_the_endpoint(self, rclone: S3Server, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        used(rclone, monkeypatch)
        monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        refused(StoreUnreachable, "no answer from the store at 127", "AVATARLAB_S3_ENDPOINT")

    def test_plain_http_where_https_is_asked(
        self, server: S3Server, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", f"https://127.0.0.1:{server.port}")
        error = refused(StoreError, "no trusted TLS connection", "http://")
        assert not error.retryable


class TestTLS:
    @pytest.fixture
    def certificate(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Of a server on loopback, signed by itself; certificate and key in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
        now = datetime.now(UTC)
        signed = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
            .sign(key, hashes.SHA256())
        )
        file = tmp_path_factory.mktemp("tls") / "server.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(signed.public_bytes(Encoding.PEM) + private)
        return file

    @pytest.fixture
    def https(self, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
        with s3_server(tmp_path / "s3", certificate=certificate) as server:
            yield used(server, monkeypatch)

    @pytest.mark.usefixtures("https")
    def test_a_server_whose_certificate_is_trusted_is_used(
        self, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        store = open_store(URI)
        check_store(store)
        store.put("a", b"1")
        assert store.get("a") == b"1"

    @pytest.mark.usefixtures("https")
    def test_a_server_whose_certificate_nobody_signed_is_refused(self, refused: Refused) -> None:
        refused(StoreError, "no trusted TLS connection", "SSL_CERT_FILE")

    def test_https_where_plain_http_is_asked(
        self, https: S3Server, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AVATARLAB_S3_ENDPOINT", f"http://127.0.0.1:{https.port}")
        # The server answers and hangs up; which of the two is seen first is chance.
        refused(StoreError, "answered 400|no answer", "https://")

    @pytest.mark.usefixtures("https")
    def test_a_file_of_certificates_that_is_not_there(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        refused(SettingsError, "SSL_CERT_FILE names no file", "PEM")

    @pytest.mark.usefixtures("https")
    def test_a_file_of_certificates_that_holds_none(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "empty.pem").write_text("none\n")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
        refused(StoreError, "TLS", "SSL_CERT_FILE")


@pytest.mark.parametrize(
    ("variable", "value", "uri", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "someone-else", URI, "AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "mistyped", URI, "AWS_SECRET_ACCESS_KEY"),
        ("AWS_REGION", "us-east-1", "s3://elsewhere/a", "no bucket elsewhere"),
        ("AVATARLAB_S3_ENDPOINT", "http://127.0.0.1:9", URI, "AVATARLAB_S3_ENDPOINT"),
    ],
)
def test_the_command_ends_with_2_and_one_line(
    rclone: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    variable: str,
    value: str,
    uri: str,
    words: str,
) -> None:
    used(rclone, monkeypatch)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("flows.cli.terminate_as_interrupt", lambda: None)
    avatar = min(folder.name for folder in BUNDLED.iterdir())
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "one", "script": "Good morning.", "avatar": avatar}))
    monkeypatch.setattr(sys, "argv", ["avatarlab", "plan", str(tmp_path / "rows.jsonl"), "--store", uri])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capfd.readouterr()
    assert caught.value.code == 2
    assert words in " ".join(said.err.split())
    assert "Traceback" not in said.err
    assert not [secret for secret in (ACCESS_KEY, SECRET_KEY) if secret in said.out + said.err]


class TestLeftovers:
    @pytest.fixture(params=["moto", CEPH])
    def lister(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
        """A server that lists unfinished uploads. All of moto's began in 2010."""
        return used(request.getfixturevalue(request.param), monkeypatch)

    def test_unfinished_uploads_of_killed_runs_are_swept_once_they_are_old(
        self, lister: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        client = Minio(f"127.0.0.1:{lister.port}", ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1")
        ours = [f"start/{name}" for name in ("blobs/sha256/aa/1", "runs/r/results.parquet")]
        foreign = ["start/else", "start2/blobs/a", "blobs/sha256/aa/1"]
        for name in ours + foreign:
            client._create_multipart_upload(BUCKET, name, {})

        def unfinished() -> list[str]:
            return sorted(found.object_name for found in client._list_multipart_uploads(BUCKET).uploads)

        if "ceph" in request.fixturenames:
            assert check_store(open_store(URI)) == ()
            assert unfinished() == sorted(ours + foreign), "they may belong to a run that is still at work"
            monkeypatch.setattr(avatarlab.s3, "TEMPORARY_KEPT_SECONDS", -60)
        assert check_store(open_store(URI)) == ()
        assert unfinished() == sorted(foreign)
        for found in client._list_multipart_uploads(BUCKET).uploads:
            client._abort_multipart_upload(BUCKET, found.object_name, found.upload_id)

    @pytest.mark.usefixtures("server")
    def test_old_probes_of_killed_runs_are_swept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = open_store(f"s3://{BUCKET}/probed")
        store.put("probes/0123", b"probe")
        check_store(store)
        assert [name for name, _ in store.list("")] == ["probes/0123"], "it may belong to a run that starts just now"
        monkeypatch.setattr(avatarlab.s3, "TEMPORARY_KEPT_SECONDS", -60)
        check_store(store)
        assert list(store.list("")) == []
