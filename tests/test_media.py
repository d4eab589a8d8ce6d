"""What avatarlab.media promises about files of picture and sound. Everything here runs the real ffmpeg."""

import itertools
import os
import resource
import signal
import subprocess
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from avatarlab import media
from avatarlab.errors import MediaError
from avatarlab.media import (
    VideoWriter,
    probe,
    read_alpha,
    read_alpha_frames,
    read_audio,
    read_frames,
    read_grey_frames,
    read_image,
    write_lossless,
    write_png,
    write_poster,
    write_wav,
)

quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tone(seconds: float, sample_rate_hz: int = 16_000, hz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def noise(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def gradient(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [
            np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 5 * index)], -1).astype(np.uint8)
            for index in range(count)
        ]
    )


def make_video(path: Path, frames: Iterable[np.ndarray], sound: np.ndarray | None, **options: Any) -> None:
    remaining = iter(frames)
    first = next(remaining)
    with VideoWriter(path, first.shape[1], first.shape[0], **options) as writer:
        for frame in itertools.chain([first], remaining):
            writer.write_frame(frame)
        if sound is not None:
            writer.write_audio(sound)


def write_on_after(blow: signal.Signals, path: Path) -> None:
    frame = noise(1, 480, 640)[0]
    with VideoWriter(path, 640, 480) as writer:
        writer.write_frame(frame)
        assert writer._process is not None
        writer._process._process.send_signal(blow)
        for _ in range(50):
            writer.write_frame(frame)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".tmp"))


class TestLossless:
    @quick
    @given(count=st.integers(1, 4), height=st.integers(2, 70), width=st.integers(2, 70), seed=st.integers(0, 2**32 - 1))
    def test_reading_gives_back_every_pixel_that_was_written(
        self, tmp_path: Path, count: int, height: int, width: int, seed: int
    ) -> None:
        frames = noise(count, height, width, seed)
        write_lossless(tmp_path / "a.mkv", frames)
        np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path / "a.mkv"))), frames)

    def test_grey_frames_come_back_bit_equal(self, tmp_path: Path) -> None:
        frames = noise(5)[..., 0]
        assert write_lossless(tmp_path / "a.mkv", frames) == 5
        np.testing.assert_array_equal(np.stack(list(read_grey_frames(tmp_path / "a.mkv"))), frames)

    def test_equal_frames_make_equal_files(self, tmp_path: Path) -> None:
        for name in ("a.mkv", "b.mkv"):
            write_lossless(tmp_path / name, noise(4))
        assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()

    def test_frames_are_taken_from_a_generator_one_by_one(self, tmp_path: Path) -> None:
        assert write_lossless(tmp_path / "a.mkv", (frame for frame in noise(7))) == 7
        assert probe(tmp_path / "a.mkv").frame_count == 7

    def test_no_frame_and_frames_of_two_sizes_are_refused_and_leave_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="no frame"):
            write_lossless(tmp_path / "a.mkv", iter([]))
        with pytest.raises(MediaError, match="1x5 cannot be stored"):
            write_lossless(tmp_path / "a.mkv", noise(1, 5, 1))
        with pytest.raises(MediaError, match=r"frame 1 of a\.mkv"):
            write_lossless(tmp_path / "a.mkv", [noise(1)[0], noise(1, 20, 20)[0]])
        assert list(tmp_path.iterdir()) == []

    def test_a_reader_that_stops_early_leaves_no_process(self, tmp_path: Path) -> None:
        write_lossless(tmp_path / "a.mkv", noise(200))
        before = children()
        frames = read_frames(tmp_path / "a.mkv")
        next(frames)
        assert children() != before
        frames.close()  # type: ignore[attr-defined]
        assert children() == before


class TestSound:
    @quick
    @given(samples=hnp.arrays(np.int16, st.integers(0, 300), fill=st.nothing()))
    def test_sixteen_bit_samples_survive_the_round_trip_exactly(self, tmp_path: Path, samples: np.ndarray) -> None:
        waveform = (samples / 32768).astype(np.float32)
        write_wav(tmp_path / "a.wav", waveform)
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), waveform)

    def test_the_plain_reader_and_ffmpeg_read_the_same_samples(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "a.wav", tone(0.3))
        subprocess.run(
            [media._binary(), "-loglevel", "error", "-i", tmp_path / "a.wav", tmp_path / "a.flac"], check=True
        )
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "a.flac"))

    def test_samples_beyond_full_scale_are_clipped_not_wrapped(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "a.wav", np.array([2.0, -2.0, 1.0], np.float32))
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), [1, -1, 1], atol=1e-4)

    def test_another_sample_rate_is_resampled_to_the_same_length_and_pitch(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "a.wav", tone(1.0, 44_100), 44_100)
        waveform = read_audio(tmp_path / "a.wav", 16_000)
        assert abs(len(waveform) - 16_000) <= 2
        assert np.argmax(np.abs(np.fft.rfft(waveform[:16_000]))) == pytest.approx(440, abs=1)

    def test_stereo_is_mixed_to_mono(self, tmp_path: Path) -> None:
        left, right = (tone(0.2) * 20_000).astype("<i2"), np.zeros(3200, "<i2")
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(np.stack([left, right], 1).tobytes())
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), left / 65536, atol=1e-4)

    def test_samples_that_are_not_numbers_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="not numbers"):
            write_wav(tmp_path / "a.wav", np.array([np.nan], np.float32))
        assert list(tmp_path.iterdir()) == []

    def test_sound_is_read_out_of_a_video(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(25), tone(1.0))
        waveform = read_audio(tmp_path / "a.mp4")
        assert len(waveform) == 16_000
        assert np.corrcoef(waveform, tone(1.0))[0, 1] > 0.99


class TestVideo:
    @quick
    @given(frame_count=st.integers(1, 40), shift=st.integers(-600, 600))
    def test_sound_and_picture_differ_by_less_than_one_frame(
        self, tmp_path: Path, frame_count: int, shift: int
    ) -> None:
        make_video(tmp_path / "a.mp4", gradient(frame_count, 32, 32), tone((frame_count * 640 + shift) / 16_000))
        for info in (probe(tmp_path / "a.mp4"), probe(tmp_path / "a.mp4", decode=True)):
            assert info.frame_count == frame_count
            assert info.video_seconds == pytest.approx(frame_count / 25)
            assert abs(info.audio_seconds - info.video_seconds) < 0.04
            assert info.fps == pytest.approx(25)

    def test_a_video_shows_the_frames_it_was_given_in_their_colours(self, tmp_path: Path) -> None:
        frames = gradient(10)
        make_video(tmp_path / "a.mp4", frames, None, crf=10)
        for seen, given_frame in zip(read_frames(tmp_path / "a.mp4"), frames, strict=True):
            error = seen.astype(float) - given_frame
            assert np.abs(error).mean() < 3
            assert np.abs(error.mean((0, 1))).max() < 1.5  # no cast of any colour

    @pytest.mark.parametrize(
        "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (32, 48, 74)]
    )
    def test_flat_colours_survive(self, tmp_path: Path, colour: tuple[int, int, int]) -> None:
        make_video(tmp_path / "a.mp4", np.full((2, 32, 32, 3), colour, np.uint8), None)
        seen = next(read_frames(tmp_path / "a.mp4"))
        assert np.abs(seen.astype(int) - colour).max() <= 3

    def test_a_grey_video_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
        make_video(tmp_path / "a.mp4", np.stack([ramp] * 3), None, crf=4)
        seen = next(read_grey_frames(tmp_path / "a.mp4")).astype(int)
        assert np.abs(seen - ramp[..., 0]).max() <= 3
        assert seen[:, 0].max() <= 1
        assert seen[:, -1].min() >= 254

    def test_the_file_says_that_it_is_synthetic_and_carries_its_title(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(3), tone(0.12), title="Étude; 1=2\n\0'x'")
        told = subprocess.run(
            [media._binary(), "-hide_banner", "-i", tmp_path / "a.mp4"], capture_output=True, text=True, check=False
        ).stderr
        assert "title           : Étude; 1=2 'x'" in told
        assert "comment         : Synthetic media" in told
        assert "h264" in told
        assert "yuv420p(tv, bt709" in told
        assert "bt709/unknown" not in told
        assert "aac (LC)" in told

    def test_the_index_stands_before_the_pictures_so_that_playing_starts_at_once(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(3), tone(0.12))
        content = (tmp_path / "a.mp4").read_bytes()
        assert 0 < content.index(b"moov") < content.index(b"mdat")

    def test_frames_can_be_read_at_another_rate(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(30), None, fps=30)
        assert len(list(read_frames(tmp_path / "a.mp4", fps=25))) == 25
        assert len(list(read_frames(tmp_path / "a.mp4"))) == 30

    def test_a_video_at_25_frames_is_read_at_25_frames_unchanged(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(7), tone(0.28))
        plain, timed = (np.stack(list(read_frames(tmp_path / "a.mp4", fps=fps))) for fps in (None, 25))
        np.testing.assert_array_equal(plain, timed)

    def test_a_video_without_opacity_is_opaque(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(2), None)
        opacity = np.stack(list(read_alpha_frames(tmp_path / "a.mp4", fps=25)))
        assert opacity.shape == (2, 64, 96)
        assert (opacity == 255).all()

    def test_a_video_may_say_something_else_of_itself(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(2), None, comment="filmed")
        content = (tmp_path / "a.mp4").read_bytes()
        assert b"filmed" in content
        assert b"Synthetic" not in content

    def test_sound_that_does_not_last_as_long_as_the_picture_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="as long as the picture"):
            make_video(tmp_path / "a.mp4", gradient(10), tone(0.3))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("width", "height"), [(31, 32), (32, 31), (0, 32), (-2, 32)])
    def test_odd_sizes_are_refused(self, tmp_path: Path, width: int, height: int) -> None:
        with pytest.raises(MediaError, match="even"):
            VideoWriter(tmp_path / "a.mp4", width, height)

    def test_a_frame_of_another_size_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="frame 0"), VideoWriter(tmp_path / "a.mp4", 32, 32) as writer:
            writer.write_frame(gradient(1)[0])

    def test_a_video_without_frames_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="no frame"), VideoWriter(tmp_path / "a.mp4", 32, 32):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_an_older_video_stays_until_the_new_one_is_complete(self, tmp_path: Path) -> None:
        make_video(tmp_path / "a.mp4", gradient(3), None)
        before = (tmp_path / "a.mp4").read_bytes()

        def frames() -> Iterator[np.ndarray]:
            yield gradient(1)[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            make_video(tmp_path / "a.mp4", frames(), None)
        assert (tmp_path / "a.mp4").read_bytes() == before
        assert leftovers(tmp_path) == []


class TestFaults:
    def test_an_ffmpeg_that_dies_is_an_error_not_a_hang(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="killed by SIGKILL") as caught:
            write_on_after(signal.SIGKILL, tmp_path / "a.mp4")
        assert caught.value.remedy
        assert list(tmp_path.iterdir()) == []

    def test_an_ffmpeg_that_stops_moving_is_an_error_not_a_hang(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(media, "STALL_SECONDS", 0.3)
        with pytest.raises(MediaError, match="did nothing"):
            write_on_after(signal.SIGSTOP, tmp_path / "a.mp4")
        assert list(tmp_path.iterdir()) == []

    @pytest.fixture
    def little_room(self) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @pytest.mark.usefixtures("little_room")
    def test_a_full_disk_is_told_with_its_remedy_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        for write in (
            lambda: write_lossless(tmp_path / "a.mkv", noise(40, 120, 160)),
            lambda: make_video(tmp_path / "a.mp4", noise(40, 120, 160), None),
            lambda: make_video(tmp_path / "a.mp4", gradient(250, 16, 16), tone(10.0)),
            lambda: write_wav(tmp_path / "a.wav", tone(10.0)),
            lambda: write_poster(tmp_path / "a.jpg", noise(1, 800, 800)[0]),
        ):
            with pytest.raises(MediaError, match="no room to write") as caught:
                write()
            assert "free disk space" in caught.value.remedy
            assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
    def test_what_ffmpeg_says_on_a_full_device_is_understood(self) -> None:
        done = subprocess.run(
            [media._binary(), "-loglevel", "error", "-y", "-f", "lavfi", "-i", "testsrc=duration=1", "-f", "matroska"]
            + ["/dev/full"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "no room" in media._failure(Path("a.mkv"), done.returncode, done.stderr).message

    @pytest.mark.parametrize("content", [b"", b"not a media file at all" * 100, b"\0\0\0\x20ftypisom" + b"\0" * 500])
    def test_a_file_that_is_not_media_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.mp4").write_bytes(content)
        for read in (probe, read_audio, lambda path: list(read_frames(path))):
            with pytest.raises(MediaError, match=r"a\.mp4") as caught:
                read(tmp_path / "a.mp4")
            assert caught.value.remedy

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        for read in (probe, read_audio, lambda path: next(read_frames(path)), read_image):
            with pytest.raises(MediaError, match="there is no file"):
                read(tmp_path / "nowhere.mp4")

    def test_a_playlist_in_disguise_is_not_followed(self, tmp_path: Path) -> None:
        make_video(tmp_path / "secret.mp4", gradient(3), None)
        (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
        (tmp_path / "b.mp4").write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
        )
        for name in ("a.mp4", "b.mp4"):
            with pytest.raises(MediaError):
                probe(tmp_path / name)

    def test_names_that_look_like_options_or_protocols_are_only_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("-y.mkv", "concat:a|b.mkv", "%d ' \" ünï.mkv"):
            write_lossless(Path(name), noise(2))
            assert probe(Path(name)).frame_count == 2

    def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(MediaError, match="cannot be written"):
            write_wav(tmp_path / "file" / "a.wav", tone(0.1))


class TestPictures:
    def test_a_poster_is_a_jpeg_like_the_frame(self, tmp_path: Path) -> None:
        write_poster(tmp_path / "a.jpg", gradient(1)[0])
        assert (tmp_path / "a.jpg").read_bytes()[:2] == b"\xff\xd8"
        assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - gradient(1)[0]).mean() < 4

    @pytest.mark.parametrize("channels", [3, 4])
    def test_a_png_comes_back_as_it_was_written(self, tmp_path: Path, channels: int) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (7, 5, channels), np.uint8)
        write_png(tmp_path / "a.png", picture)
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), picture)
        assert leftovers(tmp_path) == []

    def test_opacity_is_read_only_where_there_is_some(self, tmp_path: Path) -> None:
        frame = gradient(1)[0]
        alpha = np.zeros(frame.shape[:2], np.uint8)
        alpha[10:20] = 255
        Image.fromarray(np.dstack([frame, alpha])).save(tmp_path / "clear.png")
        Image.fromarray(frame).save(tmp_path / "opaque.png")
        np.testing.assert_array_equal(read_alpha(tmp_path / "clear.png"), alpha)
        np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), frame)
        assert read_alpha(tmp_path / "opaque.png") is None

    def test_a_photograph_taken_sideways_is_turned(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(gradient(1)[0]).save(tmp_path / "a.jpg", exif=exif)
        assert read_image(tmp_path / "a.jpg").shape == (96, 64, 3)

    def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(self, tmp_path: Path) -> None:
        Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
        assert os.path.getsize(tmp_path / "bomb.png") < 2_000_000  # noqa: PTH202
        with pytest.raises(MediaError, match="too many pixels"):
            read_image(tmp_path / "bomb.png")

    @pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n broken"])
    def test_what_is_not_a_picture_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(MediaError, match=r"a\.png is not a picture"):
            read_image(tmp_path / "a.png")

    def test_half_a_picture_is_refused(self, tmp_path: Path) -> None:
        Image.fromarray(noise(1)[0]).save(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
        with pytest.raises(MediaError):
            read_image(tmp_path / "a.png")


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
