"""A reading is judged by where its steps looked: what is left out, said twice, cut short or drawn out is named."""

import numpy as np
import pytest

from avatarlab.speech.reading import Reading, judge

NAMES = ("DH", "AH0", "K", "AE1", "T", "S", "AE1", "T", ".")


def looking(*units: int) -> np.ndarray:
    return np.eye(len(NAMES), dtype=np.float32)[list(units)]


def read(*units: int, stopped: bool = True) -> Reading:
    return judge(looking(*units), NAMES, stopped)


EVEN = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)


def test_a_walk_from_the_first_unit_to_the_last_has_no_fault() -> None:
    reading = read(*EVEN)
    assert reading.faults == ()
    assert reading.seconds_per_phone == pytest.approx(17 * 0.04 / 8)
    assert reading.backtracking == 0.0


@pytest.mark.parametrize(
    ("units", "fault"),
    [
        ((0, 0, 1, 1, 4, 4, 5, 5, 6, 6, 7, 7, 8), "skips 2 phones"),
        ((0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8), "repeats 1 passages"),
        ((0, 0, 1, 1, 2, 2, 3, 3, 4, 4), "stops early"),
        ((0, 1, 2, 3, 4, 5, 6, 7), "takes 40 ms a phone"),
        ((*EVEN, *(8,) * 30), "takes 235 ms a phone"),
    ],
)
def test_every_fault_is_named(units: tuple[int, ...], fault: str) -> None:
    assert fault in read(*units).faults


def test_a_mark_may_be_passed_over_and_a_small_step_back_is_no_repeat() -> None:
    assert read(*EVEN[:-1]).faults == ()
    wavering = read(0, 0, 1, 1, 2, 2, 3, 3, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)
    assert wavering.faults == () and wavering.backtracking == 1.0


def test_a_reading_that_was_cut_says_so_and_ranks_last() -> None:
    cut, skipping, even = read(*EVEN, stopped=False), read(0, 0, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), read(*EVEN)
    assert cut.faults == ("does not stop",)
    assert min((cut, skipping, even), key=lambda reading: reading.rank) is even
    assert max((cut, skipping, even), key=lambda reading: reading.rank) is cut


def test_silence_is_everything_left_out() -> None:
    reading = judge(np.zeros((0, len(NAMES)), np.float32), NAMES, True)
    assert reading.skipped == 8 and reading.stopped_early


def test_the_rate_is_in_seconds_whatever_a_step_lasts() -> None:
    assert judge(looking(*np.repeat(EVEN, 3)), NAMES, True, 1 / 75).seconds_per_phone == pytest.approx(
        read(*EVEN).seconds_per_phone
    )
