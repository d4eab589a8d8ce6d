"""The delay pattern keeps every code and every frame."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from avatarlab.speech.delay import align, delay, undelay
from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE


def test_two_codebooks_are_laid_out_as_the_specification_shows() -> None:
    a, b, c, u, v, w = range(6)
    columns = delay(torch.tensor([[a, b, c], [u, v, w]])).T.tolist()
    assert columns == [
        [BOS, *(x + FIRST_CODE for x in (a, b, c)), EOS, EOS],
        [BOS, BOS, *(x + FIRST_CODE for x in (u, v, w)), EOS],
    ]


def test_one_codebook_has_one_begin_and_one_end() -> None:
    assert delay(torch.tensor([[8, 9, 10]])).T.tolist() == [[BOS, 11, 12, 13, EOS]]


@given(codebooks=st.integers(1, 8), frames=st.integers(0, 12), seed=st.integers(0, 9))
def test_undelay_returns_every_frame(codebooks: int, frames: int, seed: int) -> None:
    codes = torch.randint(0, 1024, (codebooks, frames), generator=torch.Generator().manual_seed(seed))
    columns = delay(codes)
    assert columns.shape == (frames + codebooks + 1, codebooks)
    assert (columns[0] == BOS).all()
    assert (columns[-1] == EOS).all()
    assert torch.equal(undelay(columns), codes)


def test_align_cuts_what_not_every_codebook_has() -> None:
    assert align(torch.tensor([[1, 0], [2, 5], [3, 6], [0, 7]])).tolist() == [[1, 2, 3], [5, 6, 7]]
