"""A contact sheet for people to look at: mouths drawn at chosen sounds of a sentence, the truth below each.

    python -m benchmarks.sheet OUT.png [--models SET] [--text SENTENCE] [--voice STYLE] [--unseen K]

A trained presenter comes first, then one that no training has seen. Above each column stands the sound that is heard
and the opening of the mouth as it is measured, drawn / true.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from avatarlab import FPS
from avatarlab.lips.lip_sync import lip_latents
from avatarlab.lips.mask import cut_window, mouth_window
from avatarlab.training.articulation import BILABIALS, LABIODENTALS, articulate
from avatarlab.training.corpus import SILENCE, Recording
from avatarlab.training.evaluate_lips import Lips, Sitter, unseen_presenters
from avatarlab.training.hearings import load_spoken
from avatarlab.training.mouth_opening import measure_mouth_opening
from avatarlab.training.presenters import BUNDLED, Presenter, draw
from avatarlab.training.styles import HELD_OUT
from benchmarks.lips import load_lips, recorded
from benchmarks.speech import LECTURE, lines_of

COLUMNS = 12
CLOSE_UP_PX = 168
CLOSE_UP_SIDE, CLOSE_UP_LIFT = 0.72, 0.12  # of the mouth window's side; the mouth lies above its middle
LABEL_PX = 18
Sheet = UInt8[np.ndarray, "_ _ 3"]


def chosen_frames(record: Recording, columns: int = COLUMNS) -> list[tuple[int, str]]:
    """Frames in the middle of sounds, closed lips and open vowels first, then whatever is long; in order of time."""

    def interest(number: int) -> tuple[int, float]:
        phone = record.phones[number]
        closed = phone.name in BILABIALS | LABIODENTALS
        open_vowel = phone.name in {"aa", "ae", "ah", "ao", "aw", "ay", "eh", "ow", "uw", "iy"}
        seen = any(other.name == phone.name for other in record.phones[:number])
        return (seen + 2 * (not closed and not open_vowel) + 4 * (phone.name == SILENCE), phone.start - phone.end)

    best = sorted(range(len(record.phones)), key=interest)[:columns]
    middles = ((record.phones[number], number) for number in sorted(best))
    return [(int((phone.start + phone.end) / 2 * FPS), phone.name) for phone, _ in middles]


def contact_sheet(lips: Lips, record: Recording, speech_dir: Path, presenters: Sequence[Presenter]) -> Sheet:
    """Two rows for each presenter: drawn, and the truth."""
    spoken = load_spoken(record, speech_dir)
    states = articulate(record.phones, len(spoken.track))
    frames = [(min(frame, len(states) - 1), name) for frame, name in chosen_frames(record)]
    rows = []
    for presenter in presenters:
        sitter = Sitter.of(lips, presenter)
        latents = lip_latents(lips.motion, spoken.waveform, sitter.references)
        painted = sitter.paint(lips, latents[[frame for frame, _ in frames]])
        square = mouth_window(sitter.landmarks)
        columns = []
        for number, (frame, name) in enumerate(frames):
            whole = sitter.image.copy()
            (x, y), window = painted.corners[number], painted.windows[number]
            whole[y : y + len(window), x : x + len(window)] = window
            true = draw(presenter, states[frame], len(whole)).image
            opened = [measure_mouth_opening(image, sitter.landmarks) for image in (whole, true)]
            label = np.full((LABEL_PX, CLOSE_UP_PX, 3), 255, np.uint8)
            text = f"{name}  {opened[0]:.2f} / {opened[1]:.2f}"
            cv2.putText(label, text, (6, LABEL_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
            center = (square.center[0], square.center[1] - CLOSE_UP_LIFT * square.side)
            side = CLOSE_UP_SIDE * square.side
            columns.append([label, *(cut_window(image, center, side, CLOSE_UP_PX) for image in (whole, true))])
        rows.append(np.concatenate([np.concatenate(column) for column in columns], axis=1))
    return np.concatenate(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sheet", description="Mouths drawn, and the truth.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default=None, help="model set; default: the bundled one")
    parser.add_argument("--text", default=lines_of(LECTURE)[0])
    parser.add_argument("--voice", default=next(iter(HELD_OUT)), help="style of the voice")
    parser.add_argument("--trained", default="ada", choices=sorted(BUNDLED))
    parser.add_argument("--unseen", type=int, default=0, help="which of the unseen presenters")
    given = parser.parse_args(arguments)
    stranger = list(unseen_presenters(given.unseen + 1).values())[-1]
    with tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as folder:
        record = recorded(Path(folder), "sheet", given.text, given.voice)
        sheet = contact_sheet(load_lips(given.models), record, Path(folder), [BUNDLED[given.trained], stranger])
    cv2.imwrite(str(given.out), np.ascontiguousarray(sheet[..., ::-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
