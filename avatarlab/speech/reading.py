"""Did the voice read what is written? Judged from the alignment of position-aware cross-attention alone.

The alignment says for every step at which text unit the voice is. Read well, it walks from the first unit to the last:
it leaves out no phone, never goes back, ends with the text, and takes neither too long nor too short a time for a phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from avatarlab import FPS

SKIPPED_BELOW_SECONDS = 0.006  # a phone that is attended to for less than this, over all steps, was left out
REPEATED_UNITS = 3  # how far back the voice must go to have said something twice
SECONDS_PER_PHONE = (0.048, 0.18)  # over a whole sentence; people speak at 0.06 to 0.12
END_UNITS = 3  # how many units before the last the voice may still be where it stops


@dataclass(frozen=True)
class Reading:
    """What is wrong with one reading of a sentence; `seconds_per_phone` is its speaking rate.

    `backtracking` is the text distance gone back in all: zero where the walk is even, and what ranks readings that are
    otherwise alike (after Regotron, arXiv 2204.13437).
    """

    skipped: int
    repeated: int
    stopped_early: bool
    never_stopped: bool
    seconds_per_phone: float
    backtracking: float

    @property
    def odd_rate(self) -> bool:
        fastest, slowest = SECONDS_PER_PHONE
        return not fastest <= self.seconds_per_phone <= slowest

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, in words; empty where the reading is good."""
        found = {
            f"skips {self.skipped} phones": self.skipped > 0,
            f"repeats {self.repeated} passages": self.repeated > 0,
            "stops early": self.stopped_early,
            "does not stop": self.never_stopped,
            f"takes {1000 * self.seconds_per_phone:.0f} ms a phone": self.odd_rate,
        }
        return tuple(fault for fault, is_so in found.items() if is_so)

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Smaller is better: a reading that ends, with few faults, that walks evenly."""
        return self.never_stopped, self.skipped + self.repeated + self.stopped_early + self.odd_rate, self.backtracking


def judge(
    alignment: Float32[np.ndarray, "t j"], names: Sequence[str], stopped: bool, step_seconds: float = 1 / FPS
) -> Reading:
    """The reading whose steps attended to the text units so named (`unit_names`); `stopped` says if it ended by itself."""
    steps = len(alignment)
    phones = np.array([name[0].isalpha() for name in names], dtype=bool)
    rate = steps * step_seconds / max(1, int(phones.sum()))
    if steps == 0:
        return Reading(int(phones.sum()), 0, True, not stopped, rate, 0.0)
    heard = alignment.sum(axis=0) * step_seconds
    at = alignment.argmax(axis=1)
    furthest = np.maximum.accumulate(at)
    back = np.concatenate(([False], furthest - at >= REPEATED_UNITS)).astype(int)
    expected = alignment @ np.arange(alignment.shape[1]) / np.maximum(alignment.sum(axis=1), 1e-6)
    return Reading(
        skipped=int((phones & (heard < SKIPPED_BELOW_SECONDS)).sum()),
        repeated=int((np.diff(back) > 0).sum()),
        stopped_early=bool(furthest[-1] < len(names) - END_UNITS),
        never_stopped=not stopped,
        seconds_per_phone=rate,
        backtracking=float(np.maximum(expected[:-1] - expected[1:], 0.0).sum()),
    )
