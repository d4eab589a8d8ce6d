"""Segments of speech and silence -> one video file: the `video` stage (DESIGN 3.6).

The living presenter (`lips.life`) runs under the whole video; finished mouth windows are pasted into it where there is
speech; the result is scaled, laid over the background through its matte, and streamed to the encoder. Only what changes
is drawn: the presenter over the background once per pose and level of emphasis, the mouth once per frame. At the
picture's own size no pixel is resampled, so pixels outside the windows are those of `Living.picture`, bit for bit.
"""

import hashlib
import itertools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt8

from avatarlab import FPS, SAMPLE_RATE_HZ
from avatarlab.errors import MediaError, SettingsError
from avatarlab.lips.life import EMPHASIS_LEVELS, Living
from avatarlab.media import VideoWriter, probe, read_audio, read_frames, read_image, write_poster

Pixels = UInt8[np.ndarray, "_ _ 3"]
Alpha = UInt8[np.ndarray, "_ _"]
Moment = tuple[int, int]  # pose of the idle loop, level of emphasis
Value = TypeVar("Value")

LAYOUTS = ("full", "pip-top-left", "pip-top-right", "pip-bottom-left", "pip-bottom-right")
SMALLEST_SIDE, LARGEST_SIDE = 64, 4096
PIP_SHARE = 0.36  # of the height and width of the video
PIP_MARGIN = 0.03  # of the height
HIGHEST_PEAK = 0.99
CACHE_BYTES = 192 << 20  # composites of the presenter kept in memory
BACKGROUNDS_KEPT = 4

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class VideoSettings:
    """How a video looks. Without `width` and `height` it has the size of the picture; with one, its proportions.

    `background` is a colour `#rrggbb`, or the path of an image or a video."""

    width: int | None = None
    height: int | None = None
    background: str = "#20304a"
    layout: str = "full"
    title: str = ""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise SettingsError(f"there is no layout {self.layout!r}", f"use one of {', '.join(LAYOUTS)}")
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and (side % 2 or not SMALLEST_SIDE <= side <= LARGEST_SIDE):
                raise SettingsError(
                    f"{name} {side} cannot be used", f"use an even number from {SMALLEST_SIDE} to {LARGEST_SIDE}"
                )
        if self.background.startswith("#") and not _COLOUR.fullmatch(self.background):
            raise SettingsError(f"{self.background!r} is not a colour", "write #rrggbb, as in #20304a")


@runtime_checkable
class MouthWindow(Protocol):
    """A finished mouth window and where its left and top edge go (`lips.mask.PaintedFrame`)."""

    @property
    def window(self) -> UInt8[np.ndarray, "side side 3"]: ...
    @property
    def corner(self) -> tuple[int, int]: ...


@dataclass(frozen=True, eq=False)
class Segment:
    """One sentence or one pause, a whole number of video frames long.

    `waveform` holds `frame_count` video frames of samples, in memory or as the path of a sound file or `.npy` (then
    memory stays flat however long the lecture is); None is silence. `windows` is a file of `frame_count` finished mouth
    windows (`media.write_lossless`), and `corners` their left and top edge in the avatar's frames; or what draws them,
    with their corners, when they are asked for; None is the idle face. `emphasis` is the level of every frame
    (`lips.expression`), for which the windows were painted; None is 0."""

    frame_count: int
    waveform: Float32[np.ndarray, "s"] | Path | None = None
    windows: Path | Callable[[], Iterator["MouthWindow"]] | None = None
    corners: Integer[np.ndarray, "f 2"] | None = None
    emphasis: UInt8[np.ndarray, "f"] | None = None


@dataclass(frozen=True)
class Composed:
    duration_seconds: float
    frame_count: int
    width: int
    height: int


def idle_path(frame_count: int, clip_length: int) -> Int64[np.ndarray, "f"]:
    """Which frame of the idle clip stands behind each video frame of one segment.

    Forwards and backwards in equal swings, each as long as clip and segment allow. Every segment begins at clip frame 0
    and ends at most one step from it, so segments join without a jump in any order and a segment's frames do not depend
    on its place in the video.

    >>> idle_path(9, 100).tolist(), idle_path(9, 3).tolist()
    ([0, 1, 2, 3, 4, 4, 3, 2, 1], [0, 1, 2, 1, 0, 1, 2, 2, 1])
    """
    swings = -(-frame_count // (2 * clip_length - 1))
    edges = [frame_count * swing // swings for swing in range(swings + 1)] if swings else []
    lengths = [end - start for start, end in itertools.pairwise(edges)]
    parts = [np.minimum(np.arange(length), length - np.arange(length)) for length in lengths]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def background_digest(background: str) -> str:
    """What a background adds to a video's key: the colour, or the sha256 of the file's bytes, never its name."""
    if background.startswith("#"):
        return background.lower()
    try:
        with Path(background).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SettingsError(f"the background {background} cannot be read", "name an image or a video") from error


def check_background(background: str) -> None:
    """Raise `SettingsError` or `MediaError` where `compose` could not use this background."""
    VideoSettings(background=background)
    if background.startswith("#"):
        return
    if Path(background).suffix.lower() in _IMAGE_SUFFIXES:
        read_image(Path(background))
    elif not probe(Path(background)).frame_count:
        raise MediaError(f"the background {background} has no picture", "name an image or a video")


def compose(
    living: Living,
    segments: Sequence[Segment],
    settings: VideoSettings,
    out_path: Path,
    poster_path: Path,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    progress: Callable[[int], None] | None = None,
) -> Composed:
    """Write the video and its poster, a frame of mid-speech about a third in.

    `progress` is called with the number of frames done, about once per second of video. Raises `MediaError` where a
    segment's parts do not fit together or a file cannot be read or written; then nothing is left behind."""
    frame_count = sum(segment.frame_count for segment in segments)
    width, height = output_size(living, settings)
    poster_at, poster = _poster_frame(segments), None
    done = 0
    with VideoWriter(out_path, width, height, sample_rate_hz=sample_rate_hz, title=settings.title) as writer:
        for segment in segments:
            writer.write_audio(_sound(segment, sample_rate_hz))
        for frame in draw_frames(living, segments, settings):
            writer.write_frame(frame)
            if done == poster_at:
                poster = frame.copy()
            done += 1
            if progress is not None and done % FPS == 0:
                progress(done)
    assert poster is not None
    write_poster(poster_path, poster)
    return Composed(duration_seconds=frame_count / FPS, frame_count=frame_count, width=width, height=height)


def output_size(living: Living, settings: VideoSettings) -> tuple[int, int]:
    """Width and height of the video, both even."""
    height, width = living.shape
    if settings.width and settings.height:
        return settings.width, settings.height
    if settings.width:
        width, height = settings.width, round(height * settings.width / width)
    elif settings.height:
        width, height = round(width * settings.height / height), settings.height
    return width // 2 * 2, height // 2 * 2


def _poster_frame(segments: Sequence[Segment]) -> int:
    ends = list(itertools.accumulate(segment.frame_count for segment in segments))
    if not ends or not ends[-1]:
        raise MediaError("a video without a single frame cannot be made", "give at least one sentence or pause")
    middles = [
        end - segment.frame_count + segment.frame_count // 2
        for segment, end in zip(segments, ends, strict=True)
        if segment.waveform is not None and segment.frame_count
    ]
    return min(middles, key=lambda middle: abs(middle - ends[-1] // 3), default=ends[-1] // 3)


def _sound(segment: Segment, sample_rate_hz: int) -> Float32[np.ndarray, "s"]:
    length = segment.frame_count * sample_rate_hz // FPS
    if segment.waveform is None:
        return np.zeros(length, np.float32)
    if isinstance(segment.waveform, np.ndarray):
        waveform = segment.waveform
    elif segment.waveform.suffix == ".npy":
        waveform = np.load(segment.waveform, allow_pickle=False).astype(np.float32)
    else:
        waveform = read_audio(segment.waveform, sample_rate_hz)
    if waveform.shape != (length,):
        raise MediaError(
            f"a sentence has {waveform.size} samples for {segment.frame_count} video frames, not {length}",
            "make its audio again",
        )
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform * np.float32(HIGHEST_PEAK / peak) if peak > HIGHEST_PEAK else waveform


# --- pictures --------------------------------------------------------------------------------------------------------


def draw_frames(living: Living, segments: Sequence[Segment], settings: VideoSettings) -> Iterator[Pixels]:
    """The video's frames. The array may be reused: a frame is valid until the next one is asked for."""
    width, height = output_size(living, settings)
    presenter = _Presenter(living, _place(living, settings.layout, width, height))
    if settings.background.startswith("#") or Path(settings.background).suffix.lower() in _IMAGE_SUFFIXES:
        scene: _StillScene | _MovingScene = _StillScene(presenter, _still(settings.background, width, height))
    else:
        scene = _MovingScene(presenter, _looped(Path(settings.background), width, height))
    for segment in segments:
        moments = list(zip(idle_path(segment.frame_count, len(living)).tolist(), _levels(segment), strict=True))
        if segment.windows is None:
            for moment in moments:
                yield scene.draw(moment, None, (0, 0))
        else:
            for moment, (window, corner) in zip(moments, _windows(segment, living), strict=True):
                yield scene.draw(moment, window, corner)


def _levels(segment: Segment) -> list[int]:
    if segment.emphasis is None:
        return [0] * segment.frame_count
    levels: list[int] = segment.emphasis.tolist()
    remedy = "make its face stage again"
    if len(levels) != segment.frame_count:
        raise MediaError(f"{len(levels)} levels of emphasis for {segment.frame_count} video frames", remedy)
    if max(levels, default=0) >= EMPHASIS_LEVELS:
        raise MediaError(f"there is no level {max(levels)} of emphasis", remedy)
    return levels


def _windows(segment: Segment, living: Living) -> Iterator[tuple[Pixels, tuple[int, int]]]:
    """Exactly `frame_count` mouth windows that lie inside the picture, with their corners."""
    remedy = "make its face stage again"
    count = 0
    for window, (x, y) in _stored(segment, remedy) if isinstance(segment.windows, Path) else _drawn(segment):
        height, width = window.shape[:2]
        if x < 0 or y < 0 or y + height > living.shape[0] or x + width > living.shape[1]:
            raise MediaError(f"a mouth window at ({x}, {y}) lies outside the picture", remedy)
        yield window, (x, y)
        count += 1
    if count != segment.frame_count:
        raise MediaError(f"{count} mouth windows for {segment.frame_count} video frames", remedy)


def _stored(segment: Segment, remedy: str) -> Iterator[tuple[Pixels, tuple[int, int]]]:
    assert isinstance(segment.windows, Path)
    if segment.corners is None or len(segment.corners) != segment.frame_count:
        count = 0 if segment.corners is None else len(segment.corners)
        raise MediaError(f"{count} corners of mouth windows for {segment.frame_count} video frames", remedy)
    windows = read_frames(segment.windows)
    for x, y in segment.corners.tolist():
        window = next(windows, None)
        if window is None:
            raise MediaError(f"{segment.windows.name} has too few mouth windows", remedy)
        yield window, (x, y)
    if next(windows, None) is not None:
        raise MediaError(f"{segment.windows.name} has too many mouth windows", remedy)


def _drawn(segment: Segment) -> Iterator[tuple[Pixels, tuple[int, int]]]:
    assert segment.windows is not None
    assert not isinstance(segment.windows, Path)
    for frame in segment.windows():
        yield frame.window, frame.corner


@dataclass(frozen=True)
class _Place:
    """The presenter's box in the video (left, top, width, height), and what it shows: the picture scaled by
    `scale_64ths` / 64, from (`cut_left`, `cut_top`) on.

    Scales are whole 64ths because a part of the picture that begins at a multiple of 64 pixels then scales to exactly
    the pixels that it has in the whole scaled picture: a mouth can be redrawn alone."""

    x: int
    y: int
    width: int
    height: int
    scale_64ths: int
    cut_left: int
    cut_top: int

    @property
    def box(self) -> tuple[slice, slice]:
        return np.s_[self.y : self.y + self.height, self.x : self.x + self.width]


def _place(living: Living, layout: str, width: int, height: int) -> _Place:
    h, w = living.shape
    share = 1.0 if layout == "full" else PIP_SHARE
    scale_64ths = math.ceil(64 * min(share * width / w, share * height / h))
    scaled_width, scaled_height = _scaled_side(w, scale_64ths), _scaled_side(h, scale_64ths)
    inner_width, inner_height = min(width, scaled_width), min(height, scaled_height)
    # whoever is cut out stands on the lower edge; a whole picture hangs in the middle
    standing = living.has_matte
    cut_left = (scaled_width - inner_width) // 2
    cut_top = (scaled_height - inner_height) // (1 if standing else 2)
    right, bottom = width - inner_width, height - inner_height
    if layout == "full":
        x, y = right // 2, bottom if standing else bottom // 2
    else:
        margin = round(PIP_MARGIN * height)
        x = right - margin if layout.endswith("right") else margin
        y = bottom - (0 if standing else margin) if layout.startswith("pip-bottom") else margin
    return _Place(x, y, inner_width, inner_height, scale_64ths, cut_left, cut_top)


def _scaled_side(side: int, scale_64ths: int) -> int:
    return max(1, round(side * scale_64ths / 64))


def _resized(image: UInt8[np.ndarray, "..."], scale_64ths: int) -> UInt8[np.ndarray, "..."]:
    if scale_64ths == 64:
        return image
    size = _scaled_side(image.shape[1], scale_64ths), _scaled_side(image.shape[0], scale_64ths)
    if min(size) < 2:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = scale_64ths / 64
    # the factors, not the size: from a size OpenCV would compute slightly other factors for a part
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=kernel)


class _Presenter:
    """Scaled views of the living presenter, in coordinates of the presenter's box."""

    def __init__(self, living: Living, place: _Place) -> None:
        self.living, self.place = living, place

    def whole(self, moment: Moment) -> tuple[Pixels, Alpha | None]:
        place, matte = self.place, self.living.matte(*moment)
        view = np.s_[place.cut_top : place.cut_top + place.height, place.cut_left : place.cut_left + place.width]
        return (
            _resized(self.living.picture(*moment), place.scale_64ths)[view],
            None if matte is None else _resized(matte, place.scale_64ths)[view],
        )

    def mouth(
        self, moment: Moment, window: Pixels, corner: tuple[int, int]
    ) -> tuple[tuple[slice, slice], Pixels, Alpha | None]:
        """The part of the box that the window can change: where it is, its pixels and, unless opaque, its matte."""
        place = self.place
        rows = _reached(corner[1], window.shape[0], place.scale_64ths, place.cut_top, place.height)
        columns = _reached(corner[0], window.shape[1], place.scale_64ths, place.cut_left, place.width)
        part = self.living.picture(*moment)[rows.source, columns.source].copy()
        y, x = corner[1] - rows.source.start, corner[0] - columns.source.start
        part[y : y + window.shape[0], x : x + window.shape[1]] = window
        pixels = _resized(part, place.scale_64ths)[rows.scaled, columns.scaled]
        alpha, matte = None, self.living.matte(*moment)
        if matte is not None:
            matte = matte[rows.source, columns.source]
            if int(matte.min()) < 255:
                alpha = _resized(matte, place.scale_64ths)[rows.scaled, columns.scaled]
        return (rows.box, columns.box), pixels, alpha


@dataclass(frozen=True)
class _Reach:
    """Along one axis: the picture pixels to scale, the part of the result to take, and where in the box it goes."""

    source: slice
    scaled: slice
    box: slice


def _reached(start: int, length: int, scale_64ths: int, cut: int, box_length: int) -> _Reach:
    if scale_64ths == 64:
        return _Reach(
            slice(start, start + length),
            slice(max(0, cut - start), cut + box_length - start),
            slice(max(0, start - cut), max(0, min(start + length - cut, box_length))),
        )
    reach = 3 + 64 // scale_64ths  # how far the kernels look
    first = max(0, (start - 2 * reach) // 64 * 64)
    origin = first // 64 * scale_64ths
    begin = max(cut, (start - reach) * scale_64ths // 64)
    end = min(cut + box_length, -(-(start + length + reach) * scale_64ths // 64))
    end = max(begin, end)
    return _Reach(
        slice(first, -(-(start + length + 2 * reach) // 64) * 64),
        slice(begin - origin, end - origin),
        slice(begin - cut, end - cut),
    )


class _Recent(Generic[Value]):
    """The last values made, as many as `CACHE_BYTES` hold; made anew when they were dropped."""

    def __init__(self, make: Callable[[Moment], Value], bytes_each: int) -> None:
        self._make, self._room = make, max(1, CACHE_BYTES // bytes_each)
        self._values: OrderedDict[Moment, Value] = OrderedDict()

    def __call__(self, moment: Moment) -> Value:
        if moment not in self._values:
            self._values[moment] = self._make(moment)
            if len(self._values) > self._room:
                self._values.popitem(last=False)
        self._values.move_to_end(moment)
        return self._values[moment]


class _StillScene:
    """A background that does not move: the presenter over it is drawn once per pose and level of emphasis."""

    def __init__(self, presenter: _Presenter, background: Pixels) -> None:
        self._presenter = presenter
        self._canvas = background.copy()
        self._box = self._canvas[presenter.place.box]
        behind = self._behind = self._box.copy()
        self._idle = _Recent(lambda moment: _over(behind, *presenter.whole(moment)), behind.nbytes)

    def draw(self, moment: Moment, window: Pixels | None, corner: tuple[int, int]) -> Pixels:
        self._box[:] = self._idle(moment)
        if window is not None:
            part, pixels, alpha = self._presenter.mouth(moment, window, corner)
            self._box[part] = _over(self._behind[part], pixels, alpha)
        return self._canvas


class _MovingScene:
    """A background that changes with every frame."""

    def __init__(self, presenter: _Presenter, backgrounds: Iterator[Pixels]) -> None:
        self._presenter, self._backgrounds = presenter, backgrounds
        self._idle = _Recent(presenter.whole, 4 * presenter.place.width * presenter.place.height)

    def draw(self, moment: Moment, window: Pixels | None, corner: tuple[int, int]) -> Pixels:
        canvas = next(self._backgrounds)
        box = canvas[self._presenter.place.box]
        behind = box.copy()
        box[:] = _over(behind, *self._idle(moment))
        if window is not None:
            part, pixels, alpha = self._presenter.mouth(moment, window, corner)
            box[part] = _over(behind[part], pixels, alpha)
        return canvas


def _over(behind: Pixels, front: Pixels, alpha: Alpha | None) -> Pixels:
    if alpha is None:
        return front
    mixed = behind.copy()
    cv2.copyTo(front, alpha, mixed)
    # few pixels are covered in part
    at = np.flatnonzero(alpha.ravel() - np.uint8(1) < np.uint8(254))
    weight = alpha.ravel()[at, None].astype(np.uint16)
    lower, upper = behind.reshape(-1, 3)[at], front.reshape(-1, 3)[at]
    mixed.reshape(-1, 3)[at] = (upper * weight + lower * (255 - weight) + 127) // 255
    return mixed


def _still(background: str, width: int, height: int) -> Pixels:
    if background.startswith("#"):
        colour = [int(background[at : at + 2], 16) for at in (1, 3, 5)]
        return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))
    path = Path(background)
    try:
        status = path.stat()
    except OSError:
        return _covering(read_image(path), width, height)
    return _still_image(path, width, height, (status.st_size, status.st_mtime_ns, status.st_ino))


@lru_cache(maxsize=BACKGROUNDS_KEPT)
def _still_image(path: Path, width: int, height: int, state: tuple[int, int, int]) -> Pixels:  # noqa: ARG001
    """A night's videos share few backgrounds; a file in another `state` is read again. Not to be written to."""
    picture = _covering(read_image(path), width, height)
    picture.flags.writeable = False
    return picture


def _looped(path: Path, width: int, height: int) -> Iterator[Pixels]:
    while True:
        frame = None
        for frame in read_frames(path, fps=FPS):
            yield _covering(frame, width, height)
        if frame is None:
            raise MediaError(f"the background {path.name} has no picture", "name an image or a video")


def _covering(image: Pixels, width: int, height: int) -> Pixels:
    """Scaled to cover the whole video; what stands over is cut equally on both sides."""
    h, w = image.shape[:2]
    scale = max(width / w, height / h)
    size = (max(width, round(w * scale)), max(height, round(h * scale)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(scaled[y : y + height, x : x + width])
