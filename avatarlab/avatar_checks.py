"""Examining avatar bundles: what their pictures and voices are like, in words, with the way out where one cannot be used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from avatarlab import FPS, SAMPLE_RATE_HZ
from avatarlab.avatars import (
    VOICE_STATE,
    Avatar,
    clip_frame_count,
    no_face,
    picture_frames,
    read_landmarks,
    whole_picture,
)
from avatarlab.errors import AvatarError, InputError, MediaError, SettingsError
from avatarlab.lips import face
from avatarlab.media import probe, read_audio
from avatarlab.text import normalise

if TYPE_CHECKING:
    from avatarlab.speech.heard import Listener

SHORTEST_VOICE_SECONDS, LONGEST_VOICE_SECONDS = 3.0, 15.0
SILENT, QUIET = -50.0, -36.0  # dB of the loudest tenth
CLIPPED, NEARLY_CLIPPED = 0.005, 0.0002  # shares of samples
NOISY, NEARLY_NOISY = (
    14.0,
    20.0,
)  # dB from the quietest moments to the loudest: 4 more than the signal has over the noise
WORDS_A_SECOND = 0.5, 6.0
# What `speech.heard` measures, set on 20 sentences each in 3 trained and 5 unknown voices; wrong: another text as long.
LEAST_EVIDENCE = 4.0  # right: 14 and more in trained voices, 7 in the median of unknown ones; wrong: 3.7 and less
LEAST_SECOND = 0.4  # right: 0.7 and more in trained voices, 0.6 in the median of unknown ones
MOST_UNREAD = 3  # right: 0 to 2; with three words too many: 7 and more
MOST_UNWRITTEN_SECONDS = 0.2  # right: 0.12 and less; without the last two words: 0.3 in the median
MOST_WORD_ERRORS = 0.6
SMALLEST_SIDE, LARGEST_SIDE = 128, 4096
BLURRED = 8.0  # a photograph scores 35 and more, the same one blurred by a tenth of the eye distance 2


@dataclass(frozen=True)
class Finding:
    """One result of `check_avatar`: `what` was looked at, and what was seen."""

    level: Literal["ok", "warning", "error"]
    what: str
    message: str
    remedy: str = ""


def check_avatar(avatar: Avatar, listener: "Listener | None" = None) -> list[Finding]:
    """Look at the picture and at the voice, in seconds and without an engine.

    Of a clip with landmarks.npy one frame is looked at; in one without, the face is followed through all of them.

    With a `listener` its speech model also hears whether the voice clip says the transcript, in another second."""
    return [*_found("picture", _check_picture(avatar)), *check_voice(avatar, listener)]


def check_voice(avatar: Avatar, listener: "Listener | None" = None) -> list[Finding]:
    """The half of `check_avatar` that is about the voice clip and its transcript."""
    return _found("voice", _check_voice(avatar, listener))


def _found(what: str, findings: Iterator[Finding]) -> list[Finding]:
    """What was found before an error stays."""
    kept: list[Finding] = []
    try:
        for finding in findings:
            kept.append(finding)
    except (InputError, MediaError) as error:
        kept.append(Finding("error", what, error.message, error.remedy))
    return kept


def validate_avatar(avatar: Avatar) -> None:
    """Raise `AvatarError` for the first error that `check_avatar` finds."""
    _raise_first(avatar, check_avatar(avatar))


def validate_voice(avatar: Avatar) -> None:
    """Raise `AvatarError` for the first error that `check_voice` finds."""
    _raise_first(avatar, check_voice(avatar))


def _raise_first(avatar: Avatar, findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.level == "error":
            raise AvatarError(f"avatar {avatar.id}: {finding.message}", finding.remedy)


def _check_picture(avatar: Avatar) -> Iterator[Finding]:
    count = clip_frame_count(avatar)
    frame = next(islice(picture_frames(avatar), 1))
    height, width = frame.shape[:2]
    size = f"{count} frames of {width}x{height}" if avatar.is_clip else f"{width}x{height}"
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE:
        yield Finding(
            "error",
            "picture",
            f"{avatar.picture.name} is {size}",
            f"use sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, best about 512",
        )
        return
    yield Finding("ok", "picture", size)
    if avatar.matte is not None and avatar.matte.suffix == ".mp4":
        matte = probe(avatar.matte)
        if (matte.width, matte.height) != (width, height) or round(matte.video_seconds * FPS) != count:
            yield Finding("error", "matte", "the matte is not as long and as large as the picture", "make both alike")
            return
    if avatar.landmarks is not None:
        points, found = read_landmarks(avatar, count)
        seen = int(found.argmax())
        frame = next(islice(picture_frames(avatar), seen, None))
        finding = _check_landmarks(points, frame, seen)
        yield finding
        if finding.level == "error":
            return
    else:
        frames = whole_picture(avatar)
        points, found = face.track_landmarks(frames)
        if not found.any():
            error = no_face(avatar)
            yield Finding("error", "face", error.message, error.remedy)
            return
        seen = int(found.argmax())
        frame = frames[seen]
        yield Finding("ok", "face", f"a face was found by {face.finder()}")
    yield from _check_others(points[seen], frame, avatar.landmarks is not None)
    yield from _check_missing(points, found)
    yield from _check_pose(points[seen], frame)


def _check_others(
    landmarks: Float32[np.ndarray, "68 2"], frame: UInt8[np.ndarray, "h w 3"], told: bool
) -> Iterator[Finding]:
    boxes = face.find_faces(frame)
    if len(boxes) < 2:
        return
    x, y = landmarks[27:48].mean(0)
    number = next((number for number, box in enumerate(boxes, 1) if box.holds(float(x), float(y))), None)
    if number is None:
        return
    chosen = "landmarks.npy describes" if told else "the largest is taken:"
    place = face_place(boxes, number)
    remedy = "" if told else "give a picture of one person, or name the face with `avatarlab avatars add --face`"
    yield Finding("ok" if told else "warning", "faces", f"there are {len(boxes)} faces; {chosen} {place}", remedy)


def face_place(boxes: Sequence[face.FaceBox], number: int) -> str:
    """A face box in words; numbers count from the largest, which is 1."""
    box = boxes[number - 1]
    return f"face {number}, {box.width}x{box.height} pixels around {box.center[0]:.0f},{box.center[1]:.0f}"


def _check_missing(points: Float32[np.ndarray, "n 68 2"], found: Bool[np.ndarray, "n"]) -> Iterator[Finding]:
    count, missing = len(found), int((~found).sum())
    if missing > count / 2:
        yield Finding(
            "error",
            "frames",
            f"{missing} of {count} frames have no face; at most half may",
            "cut the clip to where the face is seen",
        )
        return
    if missing:
        yield Finding(
            "warning",
            "frames",
            f"{missing} of {count} frames have no face; nothing is drawn into them",
            "cut the clip to where the face is seen",
        )
    turned = int((found & (np.abs([face.yaw_degrees(frame) for frame in points]) > face.TURNED_DEGREES)).sum())
    if count > 1 and turned:
        yield Finding(
            "warning",
            "frames",
            f"in {turned} of {count} frames the head is turned by more than {face.TURNED_DEGREES:.0f} degrees: "
            "the mouth fades there",
            "use a clip of one who looks at us",
        )


def _check_landmarks(points: Float32[np.ndarray, "n 68 2"], frame: UInt8[np.ndarray, "h w 3"], seen: int) -> Finding:
    inner = points[:, 17:]  # the jaw may leave the picture
    inside = (inner >= 0).all() and (inner < [frame.shape[1], frame.shape[0]]).all()
    upright = bool((points[:, 60:68, 1].mean(1) > points[:, 36:48, 1].mean(1)).all())
    if not inside or not upright:
        return Finding(
            "error",
            "landmarks",
            "landmarks.npy does not describe an upright face inside the picture",
            "give x and y in pixels of the picture, in iBUG order; or remove it",
        )
    boxes = face.find_faces(frame)
    x, y = (float(value) for value in points[seen, 27:48].mean(0))
    if boxes and not any(box.holds(x, y) for box in boxes):
        return Finding("warning", "landmarks", "a face was seen elsewhere than landmarks.npy says", "check them")
    return Finding("ok", "landmarks", f"{len(points)} frames of 68 points")


def _check_pose(landmarks: Float32[np.ndarray, "68 2"], frame: UInt8[np.ndarray, "h w 3"]) -> Iterator[Finding]:
    across = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    distance = float(np.hypot(*across))
    if distance < 24:
        yield Finding(
            "error", "face", f"the eyes are {distance:.0f} pixels apart", "use a larger picture, or cut it closer"
        )
        return
    if distance < 48:
        yield Finding("warning", "face", f"the face is small: {distance:.0f} pixels between the eyes", "cut it closer")
    roll, yaw = float(np.degrees(np.arctan2(across[1], across[0]))), face.yaw_degrees(landmarks)
    if abs(yaw) > 20 or abs(roll) > 20:
        yield Finding(
            "warning",
            "pose",
            f"the head is turned by about {yaw:.0f} and tilted by about {roll:.0f} degrees",
            "use a frontal, upright picture",
        )
    else:
        yield Finding("ok", "pose", f"frontal: turned by about {yaw:.0f}, tilted by about {roll:.0f} degrees")
    sharp = face.sharpness(frame, landmarks)
    if sharp < BLURRED:
        yield Finding("warning", "sharpness", f"the face is blurred ({sharp:.0f})", "use a sharper picture")
    else:
        yield Finding("ok", "sharpness", f"{sharp:.0f}")


def _check_voice(avatar: Avatar, listener: "Listener | None") -> Iterator[Finding]:
    seconds = probe(avatar.voice).audio_seconds
    shortest, longest = SHORTEST_VOICE_SECONDS, LONGEST_VOICE_SECONDS
    if not shortest <= seconds <= longest:
        limit = f"at least {shortest:.0f} s are needed" if seconds < shortest else f"{longest:.0f} s is the most"
        yield Finding(
            "error", "voice", f"voice.wav is {seconds:.1f} s long; {limit}", "record one person speaking for 5 to 10 s"
        )
        return
    waveform = read_audio(avatar.voice, SAMPLE_RATE_HZ)
    loudness = _frame_loudness(waveform)
    loud, quiet = float(np.percentile(loudness, 90)), float(np.percentile(loudness, 5))
    if loud < SILENT:
        yield Finding(
            "error",
            "voice",
            f"voice.wav is silent: {loud:.0f} dB where it is loudest; at least {SILENT:.0f} dB is needed",
            "record it again",
        )
        return
    yield Finding("ok", "voice", f"{seconds:.1f} s")
    if loud < QUIET:
        yield Finding(
            "warning",
            "voice",
            f"voice.wav is quiet: {loud:.0f} dB; {QUIET:.0f} dB is better",
            "record it closer to the microphone",
        )
    clipped = _clipped_share(waveform)
    if clipped > NEARLY_CLIPPED:
        yield Finding(
            "error" if clipped > CLIPPED else "warning",
            "clipping",
            f"{clipped:.2%} of voice.wav is clipped; {CLIPPED if clipped > CLIPPED else NEARLY_CLIPPED:.2%} is the limit",
            "record it again, less loud",
        )
    above = loud - quiet
    if above < NEARLY_NOISY:
        yield Finding(
            "error" if above < NOISY else "warning",
            "noise",
            f"speech is only {above:.0f} dB above the noise; {NOISY if above < NOISY else NEARLY_NOISY:.0f} dB is the limit",
            "record in a quiet room",
        )
    yield _check_transcript(avatar, waveform, listener)
    if listener is not None and avatar.state_digest and avatar.state_tuned_for != listener.small_e_sha256:
        yield Finding(
            "warning",
            "tuned voice",
            f"{VOICE_STATE} was tuned for other speech weights and is not used",
            f"run `avatarlab voices tune {avatar.id}` again, or remove it",
        )


def _check_transcript(avatar: Avatar, waveform: Float32[np.ndarray, "s"], listener: "Listener | None") -> Finding:
    exactly = "write exactly what is heard in voice.wav under [voice] transcript, or give another clip"
    if not avatar.transcript:
        return Finding("error", "transcript", "the voice has no transcript", exactly)
    try:
        words = len(normalise(avatar.transcript).spoken.split())
    except InputError as error:
        return Finding("error", "transcript", error.message, exactly)
    seconds = len(waveform) / SAMPLE_RATE_HZ
    slowest, fastest = WORDS_A_SECOND
    if not slowest <= words / seconds <= fastest:
        said = f"the transcript has {words} words for {seconds:.1f} s, {words / seconds:.1f} a second"
        return Finding("error", "transcript", f"{said}; people speak {slowest} to {fastest}", exactly)
    if listener is None:
        return Finding("ok", "transcript", f"{words} words")
    heard = listener.hear(waveform, avatar.transcript)
    if heard.evidence < LEAST_EVIDENCE:
        return _second_opinion(avatar, waveform, f"evidence {heard.evidence:.1f}; at least {LEAST_EVIDENCE} is needed")
    if heard.unread_units > MOST_UNREAD:
        said = f"voice.wav ends {heard.unread_units} sounds before its transcript does; {MOST_UNREAD} is the limit"
        return Finding("error", "transcript", said, exactly)
    if heard.unwritten_seconds > MOST_UNWRITTEN_SECONDS:
        said = f"voice.wav goes on for {heard.unwritten_seconds:.2f} s after the last word of its transcript"
        return Finding("error", "transcript", f"{said}; {MOST_UNWRITTEN_SECONDS} s is the limit", exactly)
    if heard.weakest_second < LEAST_SECOND:
        said = f"a second of voice.wav does not fit its transcript: {heard.weakest_second:.2f} of the mean evidence"
        return Finding("error", "transcript", f"{said}; at least {LEAST_SECOND} is needed", exactly)
    return Finding("ok", "transcript", f"{words} words, evidence {heard.evidence:.0f} of at least {LEAST_EVIDENCE:.0f}")


def _second_opinion(avatar: Avatar, waveform: Float32[np.ndarray, "s"], measured: str) -> Finding:
    """Of the recogniser, where it is installed: the speech model may not know this voice."""
    from avatarlab.training.recognise import transcribe, word_error_rate

    remedy = (
        "write exactly what is heard; where it is, the voice is unlike those the speech model knows: give another clip"
    )
    said = f"voice.wav does not seem to say its transcript: {measured}"
    try:
        rate = word_error_rate(normalise(avatar.transcript).spoken, transcribe(waveform))
    except SettingsError:
        return Finding("error", "transcript", said, remedy)
    if rate > MOST_WORD_ERRORS:
        return Finding("error", "transcript", f"{said}; a recogniser hears {rate:.0%} of its words wrong", remedy)
    return Finding(
        "warning",
        "transcript",
        f"the speech model does not know this voice ({measured}), though a recogniser hears the transcript in it",
        "expect a poor likeness; tune the voice, or give another clip",
    )


def _frame_loudness(waveform: Float32[np.ndarray, "s"]) -> Float32[np.ndarray, "k"]:
    """Decibels below full scale of every 20 ms."""
    size = SAMPLE_RATE_HZ // 50
    pieces = waveform[: len(waveform) // size * size].reshape(-1, size)
    return (10 * np.log10(np.square(pieces).mean(1) + 1e-10)).astype(np.float32)


def _clipped_share(waveform: Float32[np.ndarray, "s"]) -> float:
    """The share of samples that stand at full scale with both their neighbours."""
    top = np.abs(waveform) >= 0.985
    return float((top[:-2] & top[1:-1] & top[2:]).mean()) if len(top) > 2 else 0.0
