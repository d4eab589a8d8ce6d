"""Existence means complete: what is found is whole, what is damaged is set aside and said, and nothing is lost."""

import json
import os
import pickle
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import BUCKET

from avatarlab import artifacts as module
from avatarlab.artifacts import STAGES, Action, Artifacts, Blob, action_name
from avatarlab.errors import DamagedArtifact, NotFound, StoreError, StoreUnreachable
from avatarlab.keys import content_key
from avatarlab.store import FolderStore, Store, open_store

KEY = content_key("audio", 1, sentence="hello")
OTHER = content_key("audio", 1, sentence="goodbye")
WAVE = (b"\0\1" * 640, "audio/x-raw")
WORDS = (b'[{"word": "hello"}]', "application/json")
RECORD = {
    "schema": 1,
    "stage": "audio",
    "key": KEY,
    "outputs": {"wave": {"sha256": "0" * 64, "size": 1, "type": "audio/x-raw"}},
    "inputs": {},
    "seconds": 1.0,
    "device": "cpu",
    "notes": [],
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("0" * 64),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from([*RECORD, "sha256"]), part, max_size=3),
    max_leaves=6,
)


@pytest.fixture(params=["folder", "rclone", pytest.param("ceph", marks=pytest.mark.ceph)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    for name, value in request.getfixturevalue(request.param).environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{secrets.token_hex(8)}")


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


class DyingStore:
    """A real store whose n-th write, counted from 0, and everything after it, finds nobody at home."""

    def __init__(self, store: Store, writes: int) -> None:
        self.store = store
        self.left = writes

    def __getattr__(self, name: str) -> object:
        method = getattr(self.store, name)
        if name not in ("put", "put_new", "put_file", "copy"):
            return method

        def write(*arguments: object) -> object:
            if self.left == 0:
                raise StoreUnreachable("no answer", "wait")
            self.left -= 1
            return method(*arguments)

        return write


class TestCommitAndFind:
    def test_what_was_committed_is_found_whole(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "wave").write_bytes(WAVE[0])
        artifacts = Artifacts(store)
        made = artifacts.commit(
            "audio",
            KEY,
            {"wave": (tmp_path / "wave", WAVE[1]), "words": WORDS},
            inputs={"text": "hällo", "temperature": 0.8},
            seconds=1.25,
            device="cpu",
            notes=["one emoji dropped"],
        )
        assert Artifacts(store).find("audio", [KEY, OTHER]) == {KEY: made}
        assert (made.seconds, made.device, made.notes) == (1.25, "cpu", ("one emoji dropped",))
        assert artifacts.read(made.outputs["wave"]) == WAVE[0]
        artifacts.fetch(made.outputs["words"], tmp_path / "words.json")
        assert (tmp_path / "words.json").read_bytes() == WORDS[0]
        assert made.outputs["words"].type == "application/json"
        assert artifacts.set_aside == []

    def test_the_layout_is_the_published_one(self, folder: Store) -> None:
        made = Artifacts(folder).commit("audio", KEY, {"wave": WAVE})
        digest = made.outputs["wave"].sha256
        assert [name for name, _ in folder.list("")] == [
            f"actions/audio/{KEY[:2]}/{KEY}.json",
            f"blobs/sha256/{digest[:2]}/{digest}",
        ]
        record = json.loads(folder.get(made.name))
        assert record["outputs"] == {"wave": {"sha256": digest, "size": 1280, "type": "audio/x-raw"}}

    def test_equal_content_is_stored_once(self, folder: Store) -> None:
        artifacts = Artifacts(folder)
        first = artifacts.commit("audio", KEY, {"wave": WAVE})
        second = artifacts.commit("audio", OTHER, {"wave": WAVE})
        assert first.outputs == second.outputs
        assert len(list(folder.list("blobs/"))) == 1

    def test_many_keys_are_found_by_few_listings(self, folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST_SINGLE_REQUESTS", 8)
        artifacts = Artifacts(folder)
        keys = [content_key("face", 1, number=number) for number in range(30)]
        made = {key: artifacts.commit("face", key, {"frames": (key.encode(), "video/mp4")}) for key in keys[::2]}
        asked: list[str] = []
        plain_get = FolderStore.get

        def get(self: FolderStore, name: str) -> bytes:
            asked.append(name)
            return plain_get(self, name)

        monkeypatch.setattr(FolderStore, "get", get)
        assert artifacts.find("face", keys) == made
        assert len(asked) == len(made), "an artifact that was never made costs no request of its own"

    def test_finds_nothing_in_an_empty_store(self, store: Store) -> None:
        assert Artifacts(store).find("tokens", [KEY]) == {}
        assert Artifacts(store).find("tokens", []) == {}

    def test_stages_are_kept_apart(self, folder: Store) -> None:
        Artifacts(folder).commit("audio", KEY, {"wave": WAVE})
        assert Artifacts(folder).find("motion", [KEY]) == {}

    @pytest.mark.parametrize(("stage", "key"), [("sound", KEY), ("audio", "../../x"), ("audio", KEY.upper()), ("", "")])
    def test_only_known_stages_and_content_keys_become_names(self, stage: str, key: str) -> None:
        with pytest.raises(ValueError):
            action_name(stage, key)

    def test_artifacts_and_actions_travel_between_processes(self, folder: Store) -> None:
        made = Artifacts(folder).commit("audio", KEY, {"wave": WAVE})
        artifacts, action = pickle.loads(pickle.dumps((Artifacts(folder), made)))
        assert artifacts.find("audio", [KEY]) == {KEY: action}


class TestRaces:
    def test_of_two_runs_racing_one_key_both_end_with_the_same_record(self, store: Store) -> None:
        together = Barrier(4)

        def run(number: int) -> Action:
            mine = Artifacts(store)
            together.wait()
            return mine.commit("audio", KEY, {"wave": (b"%d" % number * 99, "audio/x-raw")}, device=f"worker {number}")

        with ThreadPoolExecutor(4) as pool:
            ended = list(pool.map(run, range(4)))
        stands = Artifacts(store).find("audio", [KEY])[KEY]
        assert stands in ended
        for action in ended:  # a loser on a server without conditional writes keeps its own: whole, too
            assert Artifacts(store).read(action.outputs["wave"])
        if not any("either may win" in note for note in store.check()):
            assert set(map(str, ended)) == {str(stands)}

    def test_the_loser_replaces_a_winner_that_is_damaged(self, folder: Store) -> None:
        artifacts = Artifacts(folder)
        winner = artifacts.commit("audio", KEY, {"wave": (b"from another graphics card", "audio/x-raw")})
        folder.delete(winner.outputs["wave"].name)
        mine = artifacts.commit("audio", KEY, {"wave": WAVE})
        assert mine.outputs["wave"].size == len(WAVE[0])
        assert Artifacts(folder).find("audio", [KEY]) == {KEY: mine}
        assert [found.name for found in artifacts.set_aside] == [winner.name]


class TestFaults:
    @pytest.mark.parametrize("writes", range(3))
    def test_a_store_that_dies_on_the_nth_write_leaves_nothing_half(self, folder: Store, writes: int) -> None:
        outputs = {"wave": WAVE, "words": WORDS}
        with pytest.raises(StoreUnreachable):
            Artifacts(DyingStore(folder, writes)).commit("audio", KEY, outputs)  # type: ignore[arg-type]
        assert Artifacts(folder).find("audio", [KEY]) == {}
        made = Artifacts(folder).commit("audio", KEY, outputs)
        assert Artifacts(folder).find("audio", [KEY]) == {KEY: made}

    @pytest.mark.parametrize("damage", [b"", WAVE[0][:-1], WAVE[0] + b"x"], ids=["empty", "truncated", "longer"])
    def test_a_blob_of_the_wrong_size_is_set_aside_when_planning(self, store: Store, damage: bytes) -> None:
        artifacts = Artifacts(store)
        made = artifacts.commit("audio", KEY, {"wave": WAVE, "words": WORDS})
        kept = artifacts.commit("audio", OTHER, {"words": WORDS})
        blob = made.outputs["wave"]
        store.put(blob.name, damage)
        assert artifacts.find("audio", [KEY, OTHER]) == {OTHER: kept}
        assert [found.name for found in artifacts.set_aside] == [blob.name, made.name]
        assert str(len(damage)) in artifacts.set_aside[0].reason
        assert store.get(artifacts.set_aside[0].quarantine) == damage
        assert len(artifacts.quarantined()) == 2
        again = artifacts.commit("audio", KEY, {"wave": WAVE, "words": WORDS})
        assert Artifacts(store).find("audio", [KEY])[KEY] == again
        assert artifacts.read(blob) == WAVE[0]

    def test_a_missing_blob_is_said_not_served(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        artifacts = Artifacts(store)
        made = artifacts.commit("audio", KEY, {"wave": WAVE})
        store.delete(made.outputs["wave"].name)
        with pytest.raises(DamagedArtifact, match="missing") as caught:
            artifacts.read(made.outputs["wave"])
        assert caught.value.retryable
        assert artifacts.find("audio", [KEY]) == {}
        assert any("was set aside" in record.message for record in caplog.records)
        assert store.stat(made.name) is None

    @pytest.mark.parametrize("ask", ["read", "fetch"])
    def test_an_altered_blob_is_noticed_on_first_use_and_made_again(
        self, store: Store, ask: str, tmp_path: Path
    ) -> None:
        artifacts = Artifacts(store)
        made = artifacts.commit("audio", KEY, {"wave": WAVE})
        blob = made.outputs["wave"]
        altered = b"\1" + WAVE[0][1:]
        store.put(blob.name, altered)
        assert artifacts.find("audio", [KEY]) == {KEY: made}, "the size is right, so planning cannot know"
        with pytest.raises(DamagedArtifact, match="sha256"):
            artifacts.read(blob) if ask == "read" else artifacts.fetch(blob, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert store.get(artifacts.set_aside[0].quarantine) == altered
        assert artifacts.find("audio", [KEY]) == {}
        artifacts.commit("audio", KEY, {"wave": WAVE})
        assert artifacts.read(blob) == WAVE[0]

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"{",
            b"[]",
            b"\xff\xfe",
            b'{"schema": 1}',
            b'{"schema": 2, "stage": "audio"}',
            json.dumps({"schema": 1, "stage": "audio", "key": OTHER, "outputs": {}}).encode(),
            json.dumps({"schema": 1, "stage": "audio", "key": KEY, "outputs": {"a": {"sha256": "../../x"}}}).encode(),
            json.dumps({"schema": 1, "stage": "audio", "key": KEY, "outputs": []}).encode(),
            b"[" * 100_000,
            json.dumps({**RECORD, "seconds": 10**400}).encode(),
            json.dumps({**RECORD, "inputs": None}).encode(),
        ],
    )
    def test_a_damaged_record_is_set_aside_and_made_again(self, folder: Store, damage: bytes) -> None:
        artifacts = Artifacts(folder)
        made = artifacts.commit("audio", KEY, {"wave": WAVE})
        folder.put(made.name, damage)
        assert artifacts.find("audio", [KEY]) == {}
        assert [found.name for found in artifacts.set_aside] == [made.name]
        assert folder.get(artifacts.set_aside[0].quarantine) == damage
        assert artifacts.commit("audio", KEY, {"wave": WAVE}) == made

    @settings(deadline=None, max_examples=200)
    @given(change=st.dictionaries(st.sampled_from(sorted(RECORD)), ANY_JSON, min_size=1, max_size=2), output=ANY_JSON)
    def test_whatever_a_record_says_it_is_used_or_set_aside(self, change: dict[str, object], output: object) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(folder)
            store.put(f"blobs/sha256/00/{'0' * 64}", b"x")
            for record in ({**RECORD, **change}, {**RECORD, "outputs": {"wave": output}}):
                store.put(action_name("audio", KEY), json.dumps(record).encode())
                artifacts = Artifacts(store)
                found = artifacts.find("audio", [KEY])
                assert set(found) == (set() if artifacts.set_aside else {KEY})
                names = [blob.name for action in found.values() for blob in action.outputs.values()]
                assert set(names) <= {f"blobs/sha256/00/{'0' * 64}"}

    def test_an_unreachable_store_is_never_a_silent_miss(self, tmp_path: Path) -> None:
        artifacts = Artifacts(open_store(str(tmp_path / "mount")))
        (tmp_path / "mount").rmdir()
        for ask in (
            lambda: artifacts.find("audio", [KEY]),
            lambda: artifacts.find("audio", [KEY, OTHER]),
            lambda: artifacts.commit("audio", KEY, {"wave": WAVE}),
            lambda: artifacts.read(Blob("0" * 64, 1, "")),
            lambda: artifacts.current_version("a"),
        ):
            with pytest.raises(StoreUnreachable):
                ask()


class TestLocalCache:
    def test_a_blob_is_transferred_once(self, folder: Store, tmp_path: Path) -> None:
        artifacts = Artifacts(folder, tmp_path / "cache")
        blob = artifacts.commit("audio", KEY, {"wave": WAVE}).outputs["wave"]
        assert artifacts.read(blob) == WAVE[0]
        folder.delete(blob.name)
        assert artifacts.read(blob) == WAVE[0]
        artifacts.fetch(blob, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == WAVE[0]

    def test_a_damaged_local_copy_is_transferred_again(self, folder: Store, tmp_path: Path) -> None:
        artifacts = Artifacts(folder, tmp_path / "cache")
        blob = artifacts.commit("audio", KEY, {"wave": WAVE}).outputs["wave"]
        artifacts.fetch(blob, tmp_path / "out")
        (local,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
        for ask in (artifacts.read, lambda blob: artifacts.fetch(blob, tmp_path / "out")):
            local.write_bytes(b"x" * blob.size)
            ask(blob)
            assert local.read_bytes() == (tmp_path / "out").read_bytes() == WAVE[0]
        assert artifacts.set_aside == []

    def test_works_where_the_cache_cannot_be_written(self, folder: Store, tmp_path: Path) -> None:
        (tmp_path / "cache").write_bytes(b"a file")
        artifacts = Artifacts(folder, tmp_path / "cache")
        blob = artifacts.commit("audio", KEY, {"wave": WAVE}).outputs["wave"]
        artifacts.fetch(blob, tmp_path / "out")
        assert artifacts.read(blob) == (tmp_path / "out").read_bytes() == WAVE[0]


def video(artifacts: Artifacts, number: int) -> Action:
    outputs = {
        "video.mp4": (b"video %d" % number, "video/mp4"),
        "captions.vtt": (b"WEBVTT", "text/vtt"),
        "captions.srt": (b"1", "application/x-subrip"),
        "poster.jpg": (os.urandom(9), "image/jpeg"),
    }
    return artifacts.commit("video", content_key("video", 1, number=number), outputs)


class TestPublishing:
    def test_a_published_video_has_all_its_files_and_is_current(self, store: Store) -> None:
        artifacts = Artifacts(store)
        action = video(artifacts, 1)
        published = artifacts.publish_video("algebra-1", action, {"title": "Algebra", "synthetic": True})
        names = [name for name, _ in store.list("videos/")]
        folder = f"videos/algebra-1/{action.key[:16]}"
        assert names == sorted(
            [f"{folder}/{file}" for file in (*module.PUBLIC_FILES, "metadata.json")] + ["videos/algebra-1/current.json"]
        )
        assert json.loads(store.get(f"{folder}/metadata.json")) == {"title": "Algebra", "synthetic": True}
        assert json.loads(store.get("videos/algebra-1/current.json"))["version"] == published.version
        assert published.video_uri == store.public_uri(f"{folder}/video.mp4")
        assert published.is_current
        assert artifacts.current_version("algebra-1") == action.key[:16]

    def test_publishing_again_writes_nothing(self, folder: Store) -> None:
        artifacts = Artifacts(folder)
        action = video(artifacts, 1)
        assert artifacts.publish_video("a", action, {"x": 1}).files_written == 6
        assert artifacts.publish_video("a", action, {"x": 1}).files_written == 0
        assert artifacts.publish_video("a", action, {"x": 2}).files_written == 1

    @pytest.mark.parametrize("writes", range(6))
    def test_dying_on_the_nth_write_never_shows_half_a_video(self, folder: Store, writes: int) -> None:
        artifacts = Artifacts(folder)
        old, new = video(artifacts, 1), video(artifacts, 2)
        artifacts.publish_video("a", old, {})
        with pytest.raises(StoreUnreachable):
            Artifacts(DyingStore(folder, writes)).publish_video("a", new, {})  # type: ignore[arg-type]
        assert artifacts.current_version("a") == old.key[:16]
        published = artifacts.publish_video("a", new, {})
        assert published.is_current
        assert published.files_written == 6 - writes
        assert artifacts.current_version("a") == new.key[:16]

    def test_a_rollback_survives_the_next_run_and_a_new_version_ends_it(self, folder: Store) -> None:
        artifacts = Artifacts(folder)
        old, new, newer = (video(artifacts, number) for number in (1, 2, 3))
        artifacts.publish_video("a", old, {})
        artifacts.publish_video("a", new, {})
        before = set(folder.list("videos/a/"))
        artifacts.promote("a", old.key[:16])
        assert {name for name, _ in before ^ set(folder.list("videos/a/"))} == {"videos/a/current.json"}
        assert not artifacts.publish_video("a", new, {}).is_current
        assert artifacts.current_version("a") == old.key[:16]
        assert artifacts.publish_video("a", newer, {}).is_current
        assert artifacts.history("a") == tuple(action.key[:16] for action in (old, new, old, newer))

    def test_only_a_complete_version_can_be_promoted(self, folder: Store) -> None:
        with pytest.raises(NotFound, match="no version"):
            Artifacts(folder).promote("a", "0" * 16)

    def test_a_damaged_pointer_is_set_aside_and_written_again(self, folder: Store) -> None:
        artifacts = Artifacts(folder)
        action = video(artifacts, 1)
        artifacts.publish_video("a", action, {})
        folder.put("videos/a/current.json", b'{"history": [".."]}')
        assert artifacts.publish_video("a", action, {}).is_current
        assert artifacts.current_version("a") == action.key[:16]
        assert [found.name for found in artifacts.set_aside] == ["videos/a/current.json"]

    def test_a_lost_blob_is_damage_not_a_half_video(self, folder: Store) -> None:
        artifacts = Artifacts(folder)
        action = video(artifacts, 1)
        folder.delete(action.outputs["poster.jpg"].name)
        with pytest.raises(DamagedArtifact):
            artifacts.publish_video("a", action, {})
        assert artifacts.current_version("a") is None

    @pytest.mark.parametrize("id", ["", "..", "../x", "a/b", "a..b", "a\\b", "a\0", "-a", "é", "a" * 129, "a\n"])
    def test_hostile_ids_name_nothing(self, folder: Store, id: str) -> None:
        artifacts = Artifacts(folder)
        action = video(artifacts, 1)
        for ask in (
            lambda: artifacts.publish_video(id, action, {}),
            lambda: artifacts.current_version(id),
            lambda: artifacts.promote(id, "0" * 16),
        ):
            with pytest.raises(StoreError, match="cannot name a video"):
                ask()
        assert list(folder.list("videos/")) == []
        with pytest.raises(StoreError, match="not a video version"):
            artifacts.promote("a", "../../../etc")


def test_the_stages_are_the_five_of_the_design() -> None:
    assert STAGES == ("tokens", "audio", "motion", "face", "video")
