"""What avatarlab.avatars promises about bundles, good and bad."""

import dataclasses
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from cartoon import TOML, speechlike, sway, write_bundle
from PIL import Image, ImageFilter
from safetensors.numpy import save_file

from avatarlab.avatar_checks import Finding, check_avatar, check_voice, validate_avatar
from avatarlab.avatars import BUNDLED, Avatar, avatar_frames, list_avatars, load_avatar
from avatarlab.errors import AvatarError, MediaError
from avatarlab.media import write_lossless, write_wav
from avatarlab.models import read_model_set
from avatarlab.speech.heard import Heard, Listener

HISS = np.random.default_rng(0).standard_normal(64_000).astype(np.float32)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("avatars")
    write_bundle(root, "clip")
    write_bundle(root, "still", still=True)
    return root


@pytest.fixture
def clip(shelf: Path, tmp_path: Path) -> Path:
    """A copy of the clip bundle that a test may spoil."""
    return Path(shutil.copytree(shelf / "clip", tmp_path / "clip"))


def load(folder: Path) -> Avatar:
    return load_avatar([folder.parent], folder.name)


def level_of(avatar: Avatar, what: str) -> str:
    return max((finding.level for finding in check_avatar(avatar) if finding.what == what), default="missing")


def errors(avatar: Avatar) -> list[str]:
    return [finding.what for finding in check_avatar(avatar) if finding.level == "error"]


class TestLoading:
    def test_a_bundle_is_what_its_folder_says(self, shelf: Path) -> None:
        avatar = load_avatar([shelf], "clip")
        assert (avatar.name, avatar.licence, avatar.background) == ("Cartoon", "CC0-1.0", "#203040")
        assert avatar.consent.who == "nobody: it is drawn"
        assert avatar.transcript.startswith("one two")
        assert avatar.is_clip
        assert (avatar.picture.name, avatar.voice.name) == ("picture.mp4", "voice.wav")
        assert avatar.landmarks is not None
        assert avatar.matte is not None

    def test_the_first_root_that_has_the_bundle_wins(self, shelf: Path, tmp_path: Path) -> None:
        write_bundle(tmp_path, "still", still=True)
        assert load_avatar([tmp_path, shelf], "still").folder == tmp_path / "still"
        assert load_avatar([shelf, tmp_path], "still").folder == shelf / "still"
        assert load_avatar([tmp_path, shelf], "clip").folder == shelf / "clip"

    def test_all_bundles_are_listed_once_in_order_with_the_bundled_ones(self, shelf: Path, tmp_path: Path) -> None:
        write_bundle(tmp_path, "still", still=True)
        (tmp_path / "no bundle").mkdir()
        (tmp_path / "empty").mkdir()
        listed = list_avatars([tmp_path, shelf])
        assert list(listed) == sorted({"clip", "still", *list_avatars([])})

    def test_an_unknown_avatar_is_an_error_that_names_the_known_ones(self, shelf: Path) -> None:
        with pytest.raises(AvatarError, match="no avatar 'nobody'") as caught:
            load_avatar([shelf], "nobody")
        assert "clip" in caught.value.remedy
        assert "still" in caught.value.remedy

    @pytest.mark.parametrize(
        "id", ["", ".", "..", "../clip", "clip/../clip", "/etc", "clip/", "clip\n", "a\0b", "-x", "ü", "x" * 129]
    )
    def test_an_id_never_leaves_the_folder(self, shelf: Path, id: str) -> None:
        with pytest.raises(AvatarError, match="is not the id of an avatar"):
            load_avatar([shelf], id)

    def test_a_missing_folder_of_avatars_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(AvatarError, match="no folder of avatars"):
            load_avatar([tmp_path / "nowhere"], "clip")

    @pytest.mark.parametrize(
        ("toml", "message"),
        [
            (TOML.replace("name", "nam"), "unknown key 'nam'"),
            (TOML.replace("[consent]", "[consents]"), r"unknown section \[consents\]"),
            (TOML.replace("purpose", "purposes"), r"\[consent\].*unknown key 'purposes'"),
            (TOML.replace('name = "Cartoon"', ""), "does not say name"),
            (TOML.replace('"nobody: it is drawn"', '" "'), r"does not say \[consent\] who"),
            (TOML.replace('"CC0-1.0"', "[1]"), "licence .* is not a text"),
            (TOML.replace("#203040", "blue"), "neither #rrggbb nor an image"),
            (TOML.replace("#203040", "../clip/picture.mp4"), "neither #rrggbb nor an image"),
            ("not = [toml", "cannot be read"),
        ],
    )
    def test_every_fault_in_avatar_toml_is_named(self, clip: Path, toml: str, message: str) -> None:
        (clip / "avatar.toml").write_text(toml)
        with pytest.raises(AvatarError, match=message) as caught:
            load(clip)
        assert caught.value.remedy

    def test_a_date_of_consent_may_be_a_date(self, clip: Path) -> None:
        (clip / "avatar.toml").write_text(TOML.replace('"2026-01-01"', "2026-01-01"))
        assert load(clip).consent.when == "2026-01-01"

    @pytest.mark.parametrize("name", ["picture.mp4", "voice.wav"])
    def test_a_missing_file_is_named(self, clip: Path, name: str) -> None:
        (clip / name).unlink()
        with pytest.raises(AvatarError, match=f"has no {name.partition('.')[0]}"):
            load(clip)

    def test_an_image_in_the_bundle_can_be_the_background(self, clip: Path) -> None:
        Image.new("RGB", (64, 64)).save(clip / "room.png")
        (clip / "avatar.toml").write_text(TOML.replace("#203040", "room.png"))
        assert Path(load(clip).background) == (clip / "room.png").resolve()


class TestDigests:
    def test_they_depend_on_bytes_and_on_nothing_else(self, shelf: Path, tmp_path: Path) -> None:
        copy = load(Path(shutil.copytree(shelf / "clip", tmp_path / "other")))
        avatar = load_avatar([shelf], "clip")
        for name in ("voice_digest", "picture_digest", "matte_digest"):
            assert getattr(copy, name) == getattr(avatar, name)

    @pytest.mark.parametrize(
        ("name", "changed"),
        [
            ("voice.wav", {"voice_digest"}),
            ("picture.mp4", {"picture_digest"}),
            ("landmarks.npy", {"picture_digest"}),
            ("matte.mp4", {"matte_digest", "picture_digest"}),
        ],
    )
    def test_each_changes_with_the_files_that_its_stages_use(self, clip: Path, name: str, changed: set[str]) -> None:
        before = load(clip)
        (clip / name).write_bytes((clip / name).read_bytes() + b"\0")
        after = load(clip)
        digests = {"voice_digest", "picture_digest", "matte_digest"}
        assert {digest for digest in digests if getattr(before, digest) != getattr(after, digest)} == changed

    def test_what_finds_landmarks_is_part_of_a_picture_without_them(
        self, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = load(clip).picture_digest
        (clip / "landmarks.npy").rename(clip / "landmarks.kept")
        before = load(clip).picture_digest
        monkeypatch.setattr("avatarlab.lips.landmark_model.installed", lambda: "another version")
        assert load(clip).picture_digest != before
        (clip / "landmarks.kept").rename(clip / "landmarks.npy")
        assert load(clip).picture_digest == told

    def test_the_voice_changes_with_its_transcript_but_not_with_the_presenters_name(self, clip: Path) -> None:
        before = load(clip)
        (clip / "avatar.toml").write_text(TOML.replace("Cartoon", "Another name"))
        assert dataclasses.replace(load(clip), name="Cartoon") == before
        (clip / "avatar.toml").write_text(TOML.replace("eight", "nine"))
        assert load(clip).voice_digest != before.voice_digest
        assert load(clip).picture_digest == before.picture_digest


class TestFrames:
    def test_a_clip_gives_its_frames_matte_and_landmarks(self, shelf: Path) -> None:
        seen = avatar_frames(load_avatar([shelf], "clip"))
        frames, mattes, landmarks = sway(10)
        assert seen.frames.shape == frames.shape
        assert np.abs(seen.frames.astype(int) - frames).mean() < 3
        np.testing.assert_array_equal(seen.matte, mattes)
        np.testing.assert_array_equal(seen.landmarks, landmarks)
        assert seen.face_found.all()

    def test_a_still_is_one_frame_and_its_opacity_is_the_matte(self, shelf: Path) -> None:
        seen = avatar_frames(load_avatar([shelf], "still"))
        frames, mattes, landmarks = sway(1)
        np.testing.assert_array_equal(seen.frames, frames)
        np.testing.assert_array_equal(seen.matte, mattes)
        np.testing.assert_array_equal(seen.landmarks, landmarks)

    def test_an_opaque_still_has_no_matte(self, tmp_path: Path) -> None:
        write_bundle(tmp_path, still=True, matte=False)
        assert avatar_frames(load_avatar([tmp_path], "cartoon")).matte is None

    def test_odd_last_rows_and_columns_are_cut_off(self, tmp_path: Path) -> None:
        write_bundle(tmp_path, still=True, size=255)
        seen = avatar_frames(load_avatar([tmp_path], "cartoon"))
        assert seen.frames.shape == (1, 254, 254, 3)
        assert seen.matte is not None
        assert seen.matte.shape == (1, 254, 254)

    def test_one_matte_picture_serves_a_whole_clip(self, clip: Path) -> None:
        (clip / "matte.mp4").unlink()
        Image.fromarray(sway(1)[1][0]).save(clip / "matte.png")
        matte = avatar_frames(load(clip)).matte
        assert matte is not None
        np.testing.assert_array_equal(matte, np.repeat(sway(1)[1], 10, 0))

    def test_half_covered_pixels_have_the_presenters_colour_and_no_rim_of_the_old_background(self, clip: Path) -> None:
        rows, columns = np.mgrid[0:256, 0:256]
        opacity = np.clip((60 - np.hypot(rows - 128, columns - 128)) * 60, 0, 255).astype(np.uint8)
        share = opacity[..., None] / 255
        frame = np.rint(share * (200, 30, 30) + (1 - share) * (255, 255, 255)).astype(np.uint8)
        write_lossless(clip / "picture.mp4", [frame] * 10)
        write_lossless(clip / "matte.mp4", [opacity] * 10)
        seen = avatar_frames(load(clip)).frames[3]
        assert ((opacity > 0) & (opacity < 250)).sum() > 300
        assert np.abs(seen[opacity > 0].astype(int) - (200, 30, 30)).max() <= 5
        assert (seen[opacity == 0] == 255).all()

    def test_a_matte_of_another_length_or_size_is_refused(self, clip: Path) -> None:
        write_lossless(clip / "matte.mp4", sway(9)[1])
        assert "matte" in errors(load(clip))
        with pytest.raises(AvatarError, match="the matte of clip has 9 frames"):
            avatar_frames(load(clip))

    @pytest.mark.parametrize(
        "points",
        [
            np.zeros((9, 68, 2), np.float32),
            np.zeros((10, 5, 2)),
            np.full((10, 68, 2), np.nan),
            np.full((10, 68, 2), "a"),
            np.array([{"a": 1}], dtype=object),
        ],
    )
    def test_landmarks_that_do_not_fit_are_refused_and_never_unpickled(self, clip: Path, points: np.ndarray) -> None:
        np.save(clip / "landmarks.npy", points, allow_pickle=True)
        with pytest.raises(AvatarError, match=r"landmarks\.npy of clip"):
            avatar_frames(load(clip))
        assert "picture" in errors(load(clip))

    def test_a_frame_whose_landmarks_are_no_numbers_has_no_face(self, clip: Path) -> None:
        points = np.load(clip / "landmarks.npy")
        points[[0, 4]] = np.nan
        np.save(clip / "landmarks.npy", points)
        seen = avatar_frames(load(clip))
        assert np.flatnonzero(~seen.face_found).tolist() == [0, 4]
        np.testing.assert_array_equal(seen.landmarks[0], points[1])
        (finding,) = [finding for finding in check_avatar(load(clip)) if finding.what == "frames"]
        assert (finding.level, finding.message[:32]) == ("warning", "2 of 10 frames have no face; not")
        points[1:7] = np.nan
        np.save(clip / "landmarks.npy", points)
        assert errors(load(clip)) == ["frames"]

    def test_half_a_frame_of_landmarks_is_refused(self, clip: Path) -> None:
        points = np.load(clip / "landmarks.npy")
        points[3, 20] = np.nan
        np.save(clip / "landmarks.npy", points)
        with pytest.raises(AvatarError, match="points that are not numbers"):
            avatar_frames(load(clip))

    def test_a_clip_of_a_turned_head_is_warned_about(self, clip: Path) -> None:
        points = np.load(clip / "landmarks.npy")
        points[5:, 30, 0] += 60
        np.save(clip / "landmarks.npy", points)
        (finding,) = [finding for finding in check_avatar(load(clip)) if finding.what == "frames"]
        assert finding.level == "warning"
        assert "in 5 of 10 frames the head is turned" in finding.message

    def test_a_photograph_needs_no_landmarks(self, tmp_path: Path, golden: Path) -> None:
        avatar = photograph(tmp_path, golden / "astronaut.jpg")
        validate_avatar(avatar)
        seen = avatar_frames(avatar)
        assert seen.face_found.all()
        assert 40 < np.hypot(*(seen.landmarks[0, 42:48].mean(0) - seen.landmarks[0, 36:42].mean(0))) < 60

    def test_a_picture_without_a_face_is_refused(self, tmp_path: Path) -> None:
        Image.effect_noise((256, 256), 60).convert("RGB").save(tmp_path / "noise.png")
        avatar = photograph(tmp_path, tmp_path / "noise.png")
        with pytest.raises(AvatarError, match="no face was found") as caught:
            validate_avatar(avatar)
        assert "one person" in caught.value.remedy
        with pytest.raises(AvatarError, match="no face was found"):
            avatar_frames(avatar)

    def test_a_clip_that_would_not_fit_into_memory_is_refused_before_it_is_decoded(
        self, shelf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("avatarlab.avatars.MAX_CLIP_BYTES", 3 * 256 * 256 * 9)
        avatar = load_avatar([shelf], "clip")
        with pytest.raises(AvatarError, match="too large"):
            avatar_frames(avatar)
        assert errors(avatar) == ["picture"]


class TestChecking:
    @pytest.mark.parametrize("id", ["clip", "still"])
    def test_a_good_bundle_has_no_error_and_no_warning(self, shelf: Path, id: str) -> None:
        avatar = load_avatar([shelf], id)
        assert [finding for finding in check_avatar(avatar) if finding.level != "ok"] == []
        validate_avatar(avatar)

    @pytest.mark.parametrize(
        ("voice", "what", "measured"),
        [
            (speechlike(0.2), "voice", "0.2 s long; at least 3 s are needed"),
            (speechlike(20.0), "voice", "20.0 s long; 15 s is the most"),
            (np.zeros(64_000, np.float32), "voice", "silent: -100 dB where it is loudest; at least -50 dB"),
            (1e-4 * speechlike(4.0), "voice", "at least -50 dB is needed"),
            (np.clip(20 * speechlike(4.0), -1, 1), "clipping", "% of voice.wav is clipped; 0.50% is the limit"),
            (speechlike(4.0) + 0.1 * HISS, "noise", "dB above the noise; 14 dB is the limit"),
            (np.zeros(0, np.float32), "voice", "0.0 s long"),
        ],
        ids=["0.2 seconds", "20 seconds", "silence", "near silence", "clipped", "noisy", "empty"],
    )
    def test_a_voice_that_cannot_be_cloned_is_refused_with_what_was_measured_and_the_limit(
        self, clip: Path, voice: np.ndarray, what: str, measured: str
    ) -> None:
        write_wav(clip / "voice.wav", voice)
        assert errors(load(clip)) == [what]
        with pytest.raises(AvatarError, match=f"avatar clip: .*{re.escape(measured)}") as caught:
            validate_avatar(load(clip))
        assert caught.value.remedy

    def test_a_voice_that_is_not_sound_is_refused(self, clip: Path) -> None:
        (clip / "voice.wav").write_bytes(b"RIFF and so on")
        assert errors(load(clip)) == ["voice"]

    def test_a_voice_as_loud_as_possible_is_not_clipped(self, clip: Path) -> None:
        voice = speechlike(4.0)
        write_wav(clip / "voice.wav", voice / np.abs(voice).max())
        assert errors(load(clip)) == []

    def test_a_little_noise_is_warned_about(self, clip: Path) -> None:
        write_wav(clip / "voice.wav", speechlike(4.0) + 0.02 * HISS)
        assert level_of(load(clip), "noise") == "warning"

    @pytest.mark.parametrize(
        ("transcript", "measured"),
        [
            ("", "no transcript"),
            ("one two " * 16, "32 words for 4.0 s, 8.0 a second; people speak 0.5 to 6.0"),
            ("one", "1 words for 4.0 s"),
            ("\u6211\u4eec", ""),
        ],
    )
    def test_a_transcript_that_cannot_be_it_is_refused_without_listening(
        self, clip: Path, transcript: str, measured: str
    ) -> None:
        (clip / "avatar.toml").write_text(TOML.replace("one two three four five six seven eight", transcript))
        (finding,) = [finding for finding in check_avatar(load(clip)) if finding.what == "transcript"]
        assert finding.level == "error"
        assert measured in finding.message
        assert "exactly what is heard" in finding.remedy

    def test_a_picture_that_is_damaged_is_refused(self, clip: Path) -> None:
        (clip / "picture.mp4").write_bytes((clip / "picture.mp4").read_bytes()[:500])
        assert errors(load(clip)) == ["picture"]
        with pytest.raises(MediaError):
            avatar_frames(load(clip))

    def test_a_tiny_picture_is_refused(self, tmp_path: Path) -> None:
        write_bundle(tmp_path, still=True, size=64)
        assert errors(load_avatar([tmp_path], "cartoon")) == ["picture"]

    @pytest.mark.parametrize("change", ["outside", "upside down"])
    def test_landmarks_that_describe_no_face_are_refused(self, clip: Path, change: str) -> None:
        points = np.load(clip / "landmarks.npy")
        np.save(clip / "landmarks.npy", points + 300 if change == "outside" else 256 - points)
        assert errors(load(clip)) == ["landmarks"]

    def test_landmarks_far_from_the_face_are_warned_about(self, tmp_path: Path, golden: Path) -> None:
        avatar = photograph(tmp_path, golden / "astronaut.jpg")
        np.save(avatar.folder / "landmarks.npy", avatar_frames(avatar).landmarks * 0.8 + [150, 120])
        assert level_of(load(avatar.folder), "landmarks") == "warning"

    def test_a_blurred_photograph_is_warned_about(self, tmp_path: Path, golden: Path) -> None:
        sharp = photograph(tmp_path / "sharp", golden / "astronaut.jpg")
        Image.open(golden / "astronaut.jpg").filter(ImageFilter.GaussianBlur(5)).save(tmp_path / "blurred.png")
        blurred = photograph(tmp_path / "blurred", tmp_path / "blurred.png")
        assert level_of(sharp, "sharpness") == "ok"
        assert level_of(blurred, "sharpness") == "warning"

    def test_a_tilted_head_is_warned_about(self, clip: Path) -> None:
        points = np.load(clip / "landmarks.npy") - 128
        turn = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
        np.save(clip / "landmarks.npy", points @ turn + 128)
        assert level_of(load(clip), "pose") == "warning"


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener(read_model_set())


class TestListening:
    """The bundled speech model hears whether a clip says its transcript."""

    def finding(self, avatar: Avatar, transcript: str, listener: Listener) -> Finding:
        heard = check_voice(dataclasses.replace(avatar, transcript=transcript), listener)
        return next(finding for finding in heard if finding.what == "transcript")

    @pytest.mark.parametrize(("id", "other"), [("ada", "ben"), ("ben", "carl"), ("carl", "ada")])
    def test_the_bundled_voices_say_their_transcripts_and_not_each_others(
        self, id: str, other: str, listener: Listener
    ) -> None:
        avatar = load_avatar([], id)
        right = self.finding(avatar, avatar.transcript, listener)
        assert right.level == "ok", right.message
        wrong = self.finding(avatar, load_avatar([], other).transcript, listener)
        assert wrong.level == "error", wrong.message
        assert "at least 4.0 is needed" in wrong.message

    @pytest.mark.parametrize(
        ("transcript", "measured"),
        [
            ("Welcome to the lecture. We look at a simple question today in class", "ends .* sounds before"),
            ("Welcome to the lecture. We look at", "goes on for 0.* s after the last word"),
            (
                "Welcome to the lecture. Most birds will build their nest.",
                "a second of voice.wav does not fit|evidence",
            ),
        ],
        ids=["too much", "too little", "half wrong"],
    )
    def test_a_transcript_that_is_right_in_part_is_refused_with_the_part(
        self, transcript: str, measured: str, listener: Listener
    ) -> None:
        finding = self.finding(load_avatar([], "ada"), transcript, listener)
        assert finding.level == "error"
        assert re.search(measured, finding.message), finding.message
        assert "limit" in finding.message or "at least" in finding.message
        assert "exactly what is heard" in finding.remedy

    def test_marks_at_the_end_of_a_transcript_do_not_matter(self, listener: Listener) -> None:
        avatar = load_avatar([], "carl")
        assert self.finding(avatar, avatar.transcript.rstrip("."), listener).level == "ok"

    def test_what_is_no_speech_says_nothing(self, shelf: Path, listener: Listener) -> None:
        avatar = load_avatar([shelf], "clip")
        finding = self.finding(avatar, avatar.transcript, listener)
        assert finding.level == "error"
        assert "at least 4.0 is needed" in finding.message

    def test_a_recogniser_has_the_second_word_where_the_model_does_not_know_a_voice(self) -> None:
        class Deaf(Listener):
            small_e_sha256 = ""

            def __init__(self) -> None: ...

            def hear(self, waveform: np.ndarray, transcript: str) -> Heard:  # noqa: ARG002 - it hears nothing
                return Heard(evidence=1.2, weakest_second=0.0, unread_units=0, unwritten_seconds=0.0)

        avatar = load_avatar([], "ben")
        right = self.finding(avatar, avatar.transcript, Deaf())
        assert right.level == "warning"
        assert "evidence 1.2; at least 4.0 is needed" in right.message
        wrong = self.finding(avatar, "Most birds build a nest before spring.", Deaf())
        assert wrong.level == "error"
        assert "% of its words wrong" in wrong.message

    def test_a_tuned_voice_for_other_weights_is_warned_about(self, tmp_path: Path, listener: Listener) -> None:
        folder = Path(shutil.copytree(BUNDLED / "ada", tmp_path / "ada"))
        tuned = folder / "voice_state.safetensors"
        save_file({"layer0": np.zeros(1, np.float32)}, tuned, {"small_e": "f" * 64})
        (finding,) = [finding for finding in check_voice(load(folder), listener) if finding.what == "tuned voice"]
        assert finding.level == "warning"
        assert "voices tune ada" in finding.remedy
        save_file({"layer0": np.zeros(1, np.float32)}, tuned, {"small_e": str(listener.small_e_sha256)})
        assert "tuned voice" not in [finding.what for finding in check_voice(load(folder), listener)]


@pytest.mark.parametrize("id", list_avatars([]))
class TestBundled:
    def test_every_bundled_presenter_passes_its_own_check(self, id: str) -> None:
        avatar = load_avatar([], id)
        assert [finding for finding in check_avatar(avatar) if finding.level == "error"] == []

    def test_every_bundled_presenter_has_a_licence_consent_and_an_idle_clip_of_at_least_512_pixels(
        self, id: str
    ) -> None:
        avatar = load_avatar([], id)
        assert avatar.licence
        assert avatar.consent.who
        assert avatar.is_clip
        assert avatar.matte is not None
        assert avatar.landmarks is not None
        seen = avatar_frames(avatar)
        assert min(seen.frames.shape[1:3]) >= 512
        assert 50 <= len(seen.frames) <= 250
        assert seen.matte is not None
        # pixels of the face belong to the presenter
        for frame, matte in zip(seen.landmarks[::25], seen.matte[::25], strict=True):
            x, y = frame[27:68].round().astype(int).T
            assert (matte[y, x] == 255).all()


def photograph(root: Path, picture: Path) -> Avatar:
    folder = root / "someone"
    folder.mkdir(parents=True)
    (folder / "avatar.toml").write_text(TOML)
    shutil.copy(picture, folder / f"picture{picture.suffix}")
    write_wav(folder / "voice.wav", speechlike(4.0))
    return load_avatar([root], "someone")


def test_the_example_in_these_tests_is_toml() -> None:
    assert set(tomllib.loads(TOML)) == {"name", "licence", "background", "consent", "voice"}
    assert BUNDLED.name == "presenters"
