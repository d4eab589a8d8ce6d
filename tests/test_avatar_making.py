"""What `avatars add` promises: every form of picture that people have becomes a bundle, or is refused by name."""

import subprocess
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cartoon
import cv2
import numpy as np
import pytest
from PIL import Image

from avatarlab import media
from avatarlab.avatar_checks import check_avatar, validate_avatar
from avatarlab.avatar_making import Added, FaceChoice, Words, add_avatar, id_of
from avatarlab.avatars import Consent, avatar_frames, list_avatars, load_avatar
from avatarlab.errors import AvatarError, MediaError
from avatarlab.lips import face
from avatarlab.media import VideoWriter, probe, read_image, write_lossless, write_wav

WORDS = Words(
    transcript="one two three four five six seven eight",
    licence="public domain",
    consent=Consent("NASA", "1999-07-01", 'tests of "avatars"'),
)
Add = Callable[..., Added]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """`add_avatar` of a picture as "someone", in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_wav(tmp_path / "voice.wav", cartoon.speechlike(4.0))

    def add(picture: Path, voice: Path | None = None, words: Words = WORDS, **choice: object) -> Added:
        return add_avatar(
            tmp_path / "avatars",
            "someone",
            picture,
            voice or tmp_path / "voice.wav",
            words,
            choice=FaceChoice(**choice),
        )

    return add


@pytest.fixture(scope="module")
def portrait(golden: Path) -> np.ndarray:
    """224x224 with a face of about 70 pixels."""
    return cv2.resize(read_image(golden / "astronaut.jpg"), (224, 224), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def big(portrait: np.ndarray) -> np.ndarray:
    """The same face cut closer: its eyes are 50 pixels apart."""
    return cv2.resize(portrait[20:180, 30:190], (260, 260), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    Image.effect_noise((256, 192), 60).convert("RGB").save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def save(path: Path, picture: np.ndarray, **options: object) -> Path:
    Image.fromarray(picture).save(path, **options)
    return path


def film(path: Path, frames: list[np.ndarray], fps: int = 25) -> Path:
    with VideoWriter(path, frames[0].shape[1], frames[0].shape[0], fps=fps, crf=10) as writer:
        for frame in frames:
            writer.write_frame(frame)
    return path


def convert(source: Path, target: Path, *arguments: str, before: tuple[str, ...] = ()) -> Path:
    command = [media._binary(), "-loglevel", "error", *before, "-i", str(source), *arguments, str(target)]
    subprocess.run(command, check=True)
    return target


def left_behind(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "avatars").iterdir()) if (tmp_path / "avatars").exists() else []


def messages(added: Added, level: str) -> str:
    return " ".join(finding.message for finding in added.findings if finding.level == level)


class TestPhotographs:
    def test_a_photograph_becomes_a_whole_bundle_that_passes_its_check(
        self, add: Add, tmp_path: Path, golden: Path
    ) -> None:
        added = add(golden / "astronaut.jpg")
        avatar = load_avatar([tmp_path / "avatars"], "someone")
        assert avatar == added.avatar
        validate_avatar(avatar)
        assert sorted(path.name for path in avatar.folder.iterdir()) == [
            "avatar.toml",
            "landmarks.npy",
            "picture.png",
            "preview.png",
            "voice.wav",
        ]
        assert (avatar.licence, avatar.consent, avatar.transcript) == (WORDS.licence, WORDS.consent, WORDS.transcript)
        assert left_behind(tmp_path) == ["someone"]
        seen = avatar_frames(avatar)
        np.testing.assert_array_equal(seen.frames[0], read_image(golden / "astronaut.jpg"))
        np.testing.assert_array_equal(seen.landmarks[0], face.find_landmarks(seen.frames[0]))
        assert seen.face_found.all()
        assert any(face.finder() in finding.message for finding in added.findings)

    def test_the_preview_shows_box_mask_and_landmarks_over_the_picture(self, add: Add, golden: Path) -> None:
        added = add(golden / "grace_hopper.jpg")
        shown = read_image(added.preview).astype(int)
        plain = read_image(golden / "grace_hopper.jpg")
        scale = shown.shape[0] / plain.shape[0]
        assert scale > 1.5
        points = (avatar_frames(added.avatar).landmarks[0] * scale).round().astype(int)
        greens = [shown[y - 1 : y + 2, x - 1 : x + 2] for x, y in points]
        assert all((patch[..., 1] - patch[..., 0]).max() > 100 for patch in greens)
        large = cv2.resize(plain, (shown.shape[1], shown.shape[0])).astype(int)
        chin = (points[8] + points[57]) // 2
        tinted = (shown - large)[chin[1] - 3 : chin[1] + 3, chin[0] - 20 : chin[0] + 20].mean((0, 1))
        assert tinted[1] < -20 and tinted[0] > 5
        yellow = (shown == (255, 220, 0)).all(2)
        assert yellow.sum() > 400

    def test_one_that_was_taken_sideways_is_turned(self, add: Add, tmp_path: Path, portrait: np.ndarray) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        added = add(save(tmp_path / "a.png", np.ascontiguousarray(np.rot90(portrait)), exif=exif))
        np.testing.assert_array_equal(avatar_frames(added.avatar).frames[0], portrait)
        assert b"eXIf" not in added.avatar.picture.read_bytes()  # where it was taken is nobody's business

    @pytest.mark.parametrize("name", ["a.png", "a.webp"])
    def test_opacity_is_kept(self, add: Add, tmp_path: Path, portrait: np.ndarray, name: str) -> None:
        alpha = np.full((224, 224), 255, np.uint8)
        alpha[:20] = 0
        added = add(save(tmp_path / name, np.dstack([portrait, alpha]), lossless=True, exact=True))
        np.testing.assert_array_equal(avatar_frames(added.avatar).matte, alpha[None])

    def test_odd_sizes_become_even(self, add: Add, tmp_path: Path, portrait: np.ndarray) -> None:
        added = add(save(tmp_path / "a.png", portrait[:221, :223]))
        assert read_image(added.avatar.picture).shape == (220, 222, 3)

    def test_too_large_is_scaled_with_a_note_and_points_by_hand_with_it(
        self, add: Add, golden: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("avatarlab.avatar_making.LARGEST_SIDE", 200)
        added = add(golden / "astronaut.jpg", points=((124.0, 101.6), (166.6, 103.2), (144.0, 144.5)))
        assert "scaled from 320x320 to 200x200" in messages(added, "warning")
        landmarks = avatar_frames(added.avatar).landmarks[0]
        np.testing.assert_allclose(landmarks[36:42].mean(0), np.array([124, 101.6]) * 200 / 320, atol=1)

    def test_too_small_is_refused(self, add: Add, tmp_path: Path, portrait: np.ndarray) -> None:
        with pytest.raises(AvatarError, match=r"a\.png has 100x224 pixels") as caught:
            add(save(tmp_path / "a.png", portrait[:, :100]))
        assert "128" in caught.value.remedy
        assert left_behind(tmp_path) == []


class TestClips:
    def test_a_clip_becomes_an_idle_clip_of_25_frames_a_second_without_sound(
        self, add: Add, tmp_path: Path, big: np.ndarray
    ) -> None:
        with VideoWriter(tmp_path / "a.mp4", 260, 260, fps=30) as writer:
            for _ in range(12):
                writer.write_frame(big)
            writer.write_audio(cartoon.speechlike(0.4))
        added = add(tmp_path / "a.mp4")
        info = probe(added.avatar.picture)
        assert (info.frame_count, round(info.fps), info.has_audio) == (10, 25, False)
        assert b"Synthetic" not in added.avatar.picture.read_bytes()
        seen = avatar_frames(added.avatar)
        assert seen.face_found.all()
        assert np.abs(seen.frames[5].astype(int) - big).mean() < 4
        assert load_avatar([tmp_path / "avatars"], "someone").is_clip

    def test_one_frame_is_enough(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        for fps in (25, 60):
            added = add(film(tmp_path / f"{fps}.mp4", [big], fps))
            assert len(avatar_frames(added.avatar).frames) == 1
            (tmp_path / "avatars/someone").rename(tmp_path / f"avatars/at{fps}")

    def test_odd_sizes_become_even(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        write_lossless(tmp_path / "a.mkv", [big[:257, :259]] * 3)
        assert avatar_frames(add(tmp_path / "a.mkv").avatar).frames.shape == (3, 256, 258, 3)

    def test_rotation_metadata_are_followed(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        upright = big[:, :240]
        lying = film(tmp_path / "a.mp4", [np.ascontiguousarray(np.rot90(upright, -1))] * 3)
        turned = convert(lying, tmp_path / "b.mp4", "-c", "copy", before=("-display_rotation", "90"))
        assert (probe(turned).width, probe(turned).height) == (260, 240)
        frames = avatar_frames(add(turned).avatar).frames
        assert frames.shape == (3, 260, 240, 3)
        assert np.abs(frames[0].astype(int) - upright).mean() < 5

    def test_a_variable_frame_rate_becomes_a_steady_one(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        steady = film(tmp_path / "a.mp4", [big] * 10)
        late = convert(steady, tmp_path / "b.mp4", "-vf", "setpts=PTS*(1+N/9)", "-fps_mode", "vfr")
        assert probe(late).fps < 20
        info = probe(add(late).avatar.picture)
        assert info.frame_count == round(probe(late).video_seconds * 25) > 15
        assert info.fps == pytest.approx(25)

    def test_opacity_becomes_the_matte(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        alpha = np.full((260, 260), 255, np.uint8)
        alpha[:30] = 0
        save(tmp_path / "a.png", np.dstack([big, alpha]))
        clear = convert(
            tmp_path / "a.png", tmp_path / "a.mov", "-frames:v", "3", "-c:v", "png", "-r", "25", before=("-loop", "1")
        )
        matte = avatar_frames(add(clear).avatar).matte
        assert matte is not None
        np.testing.assert_array_equal(matte, np.repeat(alpha[None], 3, 0))

    def test_a_webm_is_read(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        film(tmp_path / "a.mp4", [big] * 2)
        assert len(avatar_frames(add(convert(tmp_path / "a.mp4", tmp_path / "a.webm")).avatar).frames) == 2

    def test_a_long_clip_is_cut_with_a_note(
        self, add: Add, tmp_path: Path, big: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("avatarlab.avatars.MAX_CLIP_BYTES", 3 * 260 * 260 * 6)
        monkeypatch.setattr("avatarlab.avatar_making.SHORTEST_CUT_SECONDS", 0.2)
        added = add(film(tmp_path / "a.mp4", [big] * 12))
        assert "cut to its first 0.2 of 0.5 seconds" in messages(added, "warning")
        assert len(avatar_frames(added.avatar).frames) == 6

    def test_a_large_clip_is_scaled_down_rather_than_cut_to_nothing(
        self, add: Add, tmp_path: Path, big: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("avatarlab.avatars.MAX_CLIP_BYTES", 3 * 200 * 200 * 5)
        monkeypatch.setattr("avatarlab.avatar_making.SHORTEST_CUT_SECONDS", 0.2)
        added = add(film(tmp_path / "a.mp4", [big] * 12))
        assert "scaled from 260x260 to 200x200" in messages(added, "warning")
        assert avatar_frames(added.avatar).frames.shape == (5, 200, 200, 3)

    def test_frames_without_a_face_are_counted_and_pass_through(
        self, add: Add, tmp_path: Path, big: np.ndarray
    ) -> None:
        empty = np.full_like(big, 90)
        added = add(film(tmp_path / "a.mp4", [big, big, empty, big, big]))
        assert "1 of 5 frames have no face" in messages(added, "warning")
        seen = avatar_frames(added.avatar)
        assert seen.face_found.tolist() == [True, True, False, True, True]
        assert np.isfinite(seen.landmarks).all()
        assert not face.visibility(seen.landmarks, seen.face_found)[2]
        (added.avatar.folder / "landmarks.npy").unlink()
        again = load_avatar([tmp_path / "avatars"], "someone")
        assert "1 of 5 frames have no face" in " ".join(finding.message for finding in check_avatar(again))
        assert avatar_frames(again).face_found.tolist() == seen.face_found.tolist()

    def test_a_clip_that_is_mostly_without_a_face_is_refused(self, add: Add, tmp_path: Path, big: np.ndarray) -> None:
        empty = np.full_like(big, 90)
        with pytest.raises(AvatarError, match="3 of 5 frames have no face; at most half may"):
            add(film(tmp_path / "a.mp4", [big, big, empty, empty, empty]))
        assert left_behind(tmp_path) == []


class TestFaces:
    def test_without_a_face_there_is_an_error_a_preview_and_a_way_out(
        self, add: Add, tmp_path: Path, noise: Path
    ) -> None:
        with pytest.raises(AvatarError, match=r"no face was found in noise\.png; someone-preview\.png shows") as caught:
            add(noise)
        assert "--eyes" in caught.value.remedy and "--landmarks" in caught.value.remedy
        assert read_image(tmp_path / "here/someone-preview.png").shape[1] == 640
        assert left_behind(tmp_path) == []

    def test_a_video_without_a_face_is_refused_in_the_same_way(self, add: Add, tmp_path: Path, noise: Path) -> None:
        with pytest.raises(AvatarError, match=r"no face was found in a\.mp4"):
            add(film(tmp_path / "a.mp4", [read_image(noise)] * 2))
        assert (tmp_path / "here/someone-preview.png").is_file()

    def test_eyes_and_mouth_by_hand_are_enough(self, add: Add, noise: Path) -> None:
        added = add(noise, points=((100.0, 80.0), (150.0, 80.0), (125.0, 132.0)))
        landmarks = avatar_frames(added.avatar).landmarks[0]
        np.testing.assert_allclose(landmarks[42:48].mean(0), (150, 80), atol=1)
        np.testing.assert_allclose(landmarks[[62, 66]].mean(0), (125, 132), atol=2)

    @pytest.mark.parametrize("name", ["a.npy", "a.csv"])
    def test_landmarks_by_hand_are_taken_as_they_are(self, add: Add, tmp_path: Path, noise: Path, name: str) -> None:
        points = face.fit_landmarks((100.0, 80.0), (150.0, 80.0), (125.0, 132.0))
        if name == "a.npy":
            np.save(tmp_path / name, points)
        else:
            np.savetxt(tmp_path / name, points, delimiter=",", fmt="%.9g")
        added = add(noise, landmarks=tmp_path / name)
        np.testing.assert_array_equal(avatar_frames(added.avatar).landmarks[0], points)

    def test_landmarks_of_the_first_frame_are_carried_through_a_clip(self, add: Add, tmp_path: Path) -> None:
        frames, _, points = cartoon.sway(6)
        np.save(tmp_path / "a.npy", points[0])
        added = add(film(tmp_path / "a.mp4", list(frames)), landmarks=tmp_path / "a.npy")
        seen = avatar_frames(added.avatar)
        assert seen.face_found.all()
        assert np.abs(seen.landmarks[:, 17:] - points[:, 17:]).max() < 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("1,2\n3,4\n", "not \\(68, 2\\)"),
            ("x,y\n", "cannot be read as landmarks"),
            ("nan,1\n" * 68, "not numbers"),
            (None, "there is no file"),
            ("9,9\n" * 68, "both eyes in one place"),
            ("\n".join(f"{9 + k},{9 + k % 2}" for k in range(68)), "upright face"),
        ],
    )
    def test_landmarks_that_are_none_are_refused(
        self, add: Add, tmp_path: Path, noise: Path, content: str | None, message: str
    ) -> None:
        if content is not None:
            (tmp_path / "a.csv").write_text(content)
        with pytest.raises(AvatarError, match=message) as caught:
            add(noise, landmarks=tmp_path / "a.csv")
        assert caught.value.remedy
        assert left_behind(tmp_path) == []

    def test_eyes_in_one_place_are_refused(self, add: Add, noise: Path) -> None:
        with pytest.raises(AvatarError, match="--eyes and --mouth are no face"):
            add(noise, points=((100.0, 80.0), (100.0, 80.0), (125.0, 132.0)))

    def test_of_several_faces_the_largest_is_taken_and_said_so(
        self, add: Add, tmp_path: Path, golden: Path, portrait: np.ndarray
    ) -> None:
        other = cv2.resize(read_image(golden / "grace_hopper.jpg")[:320, :320], (224, 224))
        picture = save(tmp_path / "pair.png", np.hstack([portrait, other]))
        added = add(picture)
        assert "there are 2 faces; the largest is taken: face 1" in messages(added, "warning")
        assert avatar_frames(added.avatar).landmarks[0, 30, 0] > 224
        assert "there are 2 faces; landmarks.npy describes face 1" in messages(added, "ok")
        (added.avatar.folder / "landmarks.npy").unlink()
        unsaid = check_avatar(load_avatar([tmp_path / "avatars"], "someone"))
        assert [finding.level for finding in unsaid if "there are 2 faces" in finding.message] == ["warning"]

    @pytest.mark.parametrize("choice", [{"number": 2}, {"at": (100.0, 80.0)}])
    def test_or_the_one_that_is_named(
        self, add: Add, tmp_path: Path, golden: Path, portrait: np.ndarray, choice: dict[str, object]
    ) -> None:
        other = cv2.resize(read_image(golden / "grace_hopper.jpg")[:320, :320], (224, 224))
        added = add(save(tmp_path / "pair.png", np.hstack([portrait, other])), **choice)
        assert avatar_frames(added.avatar).landmarks[0, 30, 0] < 224
        assert "2 faces" not in messages(added, "warning")

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ({"number": 2}, "no frame of a.png has 2 faces"),
            ({"number": 0}, "no frame of a.png has 0 faces"),
            ({"at": (5.0, 5.0)}, "no face was found at 5,5"),
        ],
    )
    def test_a_face_that_is_not_there_is_refused(
        self, add: Add, tmp_path: Path, portrait: np.ndarray, choice: dict[str, object], message: str
    ) -> None:
        with pytest.raises(AvatarError, match=message):
            add(save(tmp_path / "a.png", portrait), **choice)
        assert (tmp_path / "here/someone-preview.png").is_file()

    def test_a_face_is_named_in_one_way_only(self) -> None:
        with pytest.raises(AvatarError, match="more than one way"):
            FaceChoice(number=1, at=(3.0, 4.0))


class TestVoices:
    def test_any_sound_becomes_mono_wav_of_16_bits(self, add: Add, tmp_path: Path, golden: Path) -> None:
        write_wav(tmp_path / "a.wav", cartoon.speechlike(4.0, 44_100), 44_100)
        stereo = convert(tmp_path / "a.wav", tmp_path / "a.flac", "-ac", "2")
        added = add(golden / "astronaut.jpg", stereo)
        with wave.open(str(added.avatar.voice)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 44_100)
            assert abs(file.getnframes() - 4 * 44_100) < 10

    def test_a_low_rate_is_raised_to_16_kilohertz(self, add: Add, tmp_path: Path, golden: Path) -> None:
        write_wav(tmp_path / "a.wav", cartoon.speechlike(4.0, 8_000), 8_000)
        assert probe(add(golden / "astronaut.jpg", tmp_path / "a.wav").avatar.voice).sample_rate_hz == 16_000

    def test_a_voice_that_cannot_be_cloned_is_refused_and_leaves_nothing(
        self, add: Add, tmp_path: Path, golden: Path
    ) -> None:
        write_wav(tmp_path / "short.wav", cartoon.speechlike(1.0))
        with pytest.raises(AvatarError, match=r"1\.0 s long; at least 3 s are needed"):
            add(golden / "astronaut.jpg", tmp_path / "short.wav")
        assert left_behind(tmp_path) == []
        assert list((tmp_path / "here").iterdir()) == []

    def test_a_picture_is_no_voice(self, add: Add, tmp_path: Path, golden: Path, big: np.ndarray) -> None:
        with pytest.raises(AvatarError, match=r"a\.mp4 holds no sound"):
            add(golden / "astronaut.jpg", film(tmp_path / "a.mp4", [big]))
        with pytest.raises(MediaError, match=r"astronaut\.jpg"):
            add(golden / "astronaut.jpg", golden / "astronaut.jpg")


class TestWords:
    @pytest.mark.parametrize(
        ("words", "flag"),
        [
            (replace(WORDS, transcript=" "), "--transcript is missing"),
            (replace(WORDS, licence=""), "--licence is missing"),
            (replace(WORDS, consent=Consent("", "1999", "x")), "--consent-who is missing"),
            (replace(WORDS, consent=Consent("x", "", "")), "--consent-purpose, --consent-when are missing"),
        ],
    )
    def test_what_has_to_be_said_is_named_by_its_flag(
        self, add: Add, tmp_path: Path, golden: Path, words: Words, flag: str
    ) -> None:
        with pytest.raises(AvatarError, match=flag):
            add(golden / "astronaut.jpg", words=words)
        assert left_behind(tmp_path) == []

    def test_words_survive_whatever_letters_they_have(self, add: Add, golden: Path) -> None:
        words = replace(
            WORDS, name='Zoë "Z" \\ \u2028 #\n[consent]', consent=Consent("a\tb", "2026-01-01", "\x7f\x00ü")
        )
        avatar = add(golden / "astronaut.jpg", words=words).avatar
        assert avatar.name == 'Zoë "Z" \\ # [consent]'
        assert (avatar.consent.who, avatar.consent.purpose) == ("a b", "ü")

    def test_an_id_that_is_taken_is_refused_and_the_old_bundle_stays(
        self, add: Add, tmp_path: Path, golden: Path
    ) -> None:
        before = add(golden / "astronaut.jpg").avatar
        with pytest.raises(AvatarError, match="there is an avatar 'someone'"):
            add(golden / "grace_hopper.jpg")
        assert load_avatar([tmp_path / "avatars"], "someone") == before
        assert left_behind(tmp_path) == ["someone"]

    def test_half_a_bundle_is_never_seen(self, tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a killed command leaves has no name of an avatar."""
        listed: list[tuple[str, ...]] = []

        def watch(*_: object) -> list[object]:
            listed.append(list_avatars([tmp_path / "avatars"]))
            raise KeyboardInterrupt

        monkeypatch.setattr("avatarlab.avatar_making.check_avatar", watch)
        write_wav(tmp_path / "voice.wav", cartoon.speechlike(4.0))
        with pytest.raises(KeyboardInterrupt):
            add_avatar(tmp_path / "avatars", "someone", golden / "astronaut.jpg", tmp_path / "voice.wav", WORDS)
        assert listed == [list_avatars([])]
        assert left_behind(tmp_path) == []

    @pytest.mark.parametrize(
        ("name", "id"), [("My Photo (1).JPG", "my-photo-1"), ("Zoë.png", "zo"), ("a.b.mp4", "a-b"), ("ü.png", "")]
    )
    def test_an_id_is_made_of_the_files_name(self, name: str, id: str) -> None:
        assert id_of(Path(name)) == id


class TestWhatIsNoPicture:
    def test_every_kind_is_named_and_leaves_nothing(self, add: Add, tmp_path: Path, golden: Path) -> None:
        (tmp_path / "text.mp4").write_text("not a film at all\n" * 100)
        (tmp_path / "empty.mp4").write_bytes(b"")
        (tmp_path / "half.jpg").write_bytes((golden / "astronaut.jpg").read_bytes()[:5000])
        film(tmp_path / "whole.mp4", [np.zeros((256, 256, 3), np.uint8)] * 3)
        (tmp_path / "half.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:800])
        (tmp_path / "animation.gif").write_bytes(b"GIF89a" + b"\0" * 100)
        for name, message in (
            ("text.mp4", "neither a picture .* nor a video"),
            ("empty.mp4", "is empty"),
            ("half.jpg", "is not a picture that can be read"),
            ("half.mp4", "is damaged: not one frame"),
            ("animation.gif", "neither a picture .* nor a video"),
            ("voice.wav", "holds sound but no picture"),
            ("nowhere.png", "there is no file"),
        ):
            with pytest.raises((AvatarError, MediaError), match=message) as caught:
                add(tmp_path / name)
            assert name in caught.value.message
            assert caught.value.remedy
        assert left_behind(tmp_path) == []
