"""The specification of `avatarlab.training.articulation`."""

import numpy as np
import pytest

from avatarlab import FPS
from avatarlab.training.articulation import BILABIALS, POSTURES, articulate, with_idle
from avatarlab.training.corpus import Phone
from avatarlab.training.presenters import BUNDLED, FaceState, mouth_opening

ADA = BUNDLED["ada"]


def spoken(names: str, seconds: float = 0.1, lead: float = 0.2) -> list[Phone]:
    phones, at = [Phone("pau", 0.0, lead)], lead
    for name in names.split():
        phones.append(Phone(name, at, at + seconds))
        at += seconds
    return [*phones, Phone("pau", at, at + 0.4)]


def frames_of(phones: list[Phone]) -> int:
    return round(phones[-1].end * FPS)


def openings(states: list[FaceState]) -> np.ndarray:
    return np.array([mouth_opening(ADA, state) for state in states])


def random_words(rng: np.random.Generator, count: int) -> list[Phone]:
    phones, at = [Phone("pau", 0.0, 0.15)], 0.15
    for name in rng.choice(sorted(POSTURES), count):
        end = at + float(rng.uniform(0.03, 0.2))
        phones.append(Phone(str(name), at, end))
        at = end
    return [*phones, Phone("pau", at, at + 0.3)]


def test_there_is_one_state_for_every_frame() -> None:
    for count in (0, 1, 7, 50):
        assert len(articulate(spoken("hh ax l ow"), count)) == count


def test_without_phones_the_face_stays_at_rest() -> None:
    assert articulate([], 20) == [FaceState()] * 20
    assert articulate([Phone("pau", 0.0, 0.8)], 20) == [FaceState()] * 20


def test_every_phone_of_the_synthesiser_is_known() -> None:
    known = (
        "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
    )
    assert set(known.split()) == set(POSTURES)


def test_an_unknown_phone_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'qq'"):
        articulate([Phone("qq", 0.0, 0.1)], 5)


@pytest.mark.parametrize("seed", range(8))
def test_lips_meet_in_every_p_b_and_m(seed: int) -> None:
    phones = random_words(np.random.default_rng(seed), 30)
    opened = openings(articulate(phones, frames_of(phones)))
    for phone in phones:
        if phone.name in BILABIALS:
            around = opened[max(int(phone.start * FPS) - 1, 0) : int(np.ceil(phone.end * FPS)) + 1]
            assert around.min() == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_the_mouth_is_shut_in_pauses_and_after_the_last_phone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = random_words(rng, 12), random_words(rng, 12)
    gap = first[-1].end
    phones = [*first, *(Phone(p.name, p.start + gap, p.end + gap) for p in second)]
    count = frames_of(phones) + 10
    opened = openings(articulate(phones, count))
    middle = int((gap - 0.08) * FPS)
    assert opened[middle] < 0.01
    assert opened[-9:].max() == 0.0


def test_open_vowels_open_wider_than_close_ones_and_those_wider_than_consonants() -> None:
    peaks = {name: openings(articulate(spoken(f"t {name} t", 0.15), 25)).max() for name in ("aa", "eh", "iy", "uw")}
    assert peaks["aa"] > peaks["eh"] > peaks["iy"] > 0.05
    assert peaks["aa"] > 0.35
    assert peaks["eh"] > peaks["uw"]


def test_rounding_begins_before_the_rounded_vowel() -> None:
    before = int(0.27 * FPS)
    rounded = articulate(spoken("s t uw"), 25)[before].round
    plain = articulate(spoken("s t iy"), 25)[before].round
    assert rounded > plain + 0.05


def test_lips_spread_for_iy_and_round_for_uw() -> None:
    at = int(0.29 * FPS)
    spread, rounded = articulate(spoken("iy iy"), 20)[at], articulate(spoken("uw uw"), 20)[at]
    assert spread.width > 0.4 > rounded.width
    assert rounded.round > 0.6 > spread.round


def test_the_lower_lip_goes_under_the_teeth_in_f_and_v() -> None:
    for name in ("f", "v"):
        states = articulate(spoken(f"ah {name} ah"), 20)
        assert max(state.tuck for state in states) >= 0.8


def test_the_tongue_rises_for_l_and_th_but_not_for_aa() -> None:
    def reach(name: str) -> float:
        return max(state.tongue for state in articulate(spoken(f"{name} {name}"), 20))

    assert min(reach("l"), reach("th")) > 0.6 > reach("aa")


def test_a_face_never_jumps_between_two_frames_by_more_than_half_a_full_opening() -> None:
    phones = random_words(np.random.default_rng(3), 60)
    jaws = np.array([state.jaw for state in articulate(phones, frames_of(phones))])
    assert np.abs(np.diff(jaws)).max() < 0.5


def test_head_and_eyes_stay_still_without_a_seed_and_repeat_with_one() -> None:
    phones = spoken("hh ax l ow " * 10)
    still = articulate(phones, 100)
    assert all(state.yaw == state.blink == state.roll == 0.0 for state in still)
    moved = articulate(phones, 100, seed=5)
    assert moved == articulate(phones, 100, seed=5) != articulate(phones, 100, seed=6)
    assert [s.jaw for s in moved] == [s.jaw for s in still]
    assert max(s.blink for s in moved) == 1.0


def test_an_idle_head_starts_neutral_and_stays_nearly_frontal() -> None:
    states = with_idle([FaceState()] * 500, np.random.default_rng(1))
    assert states[0] == FaceState()
    assert max(abs(s.yaw) for s in states) < np.radians(6)
    assert max(abs(s.roll) for s in states) < np.radians(3)
