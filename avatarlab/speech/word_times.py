"""When each word is said, from the alignment of the speech engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from avatarlab import FPS
from avatarlab.text import WordSpan


@dataclass(frozen=True)
class WordTime:
    """A word as spoken and its times in its sentence, in whole video frames given as seconds."""

    word: str
    start_seconds: float
    end_seconds: float


def word_times(alignment: Float32[np.ndarray, "t j"], spans: Sequence[WordSpan]) -> tuple[WordTime, ...]:
    """Times of words from the attention of every step (row) over the text units (columns).

    The position in the text is the furthest that any step up to now has attended to most, so times never run backwards.
    A word lasts from the first step that reaches it to the first that reaches the next; one that no step attends to
    begins where the next one does and lasts no time.
    """
    steps = len(alignment)
    reached = np.maximum.accumulate(alignment.argmax(axis=1)) if steps else np.zeros(0, np.int64)
    starts = [int(np.searchsorted(reached, span.start)) for span in spans]
    if starts:
        starts[0] = 0
    ends = [*starts[1:], steps]
    return tuple(
        WordTime(span.word, start / FPS, end / FPS) for span, start, end in zip(spans, starts, ends, strict=True)
    )
