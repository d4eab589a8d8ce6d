"""The measure of voices: the published speaker encoder, and how often the right voice is nearest."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cartoon import speechlike

from avatarlab.avatars import list_avatars, load_avatar
from avatarlab.errors import InputError, SettingsError
from avatarlab.media import read_audio
from avatarlab.training import identity
from avatarlab.training.identity import embed, pick, share_picked_right

BUZZ = speechlike(4.0)


@pytest.fixture(scope="module")
def halves() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The first and the second half of every bundled voice clip."""
    clips = {id: read_audio(load_avatar([], id).voice) for id in list_avatars([])}
    return {id: (clip[: len(clip) // 2], clip[len(clip) // 2 :]) for id, clip in clips.items()}


@pytest.mark.parametrize(
    ("name", "waveform"), [("plain", BUZZ), ("short", BUZZ[:16_000]), ("quiet", 0.01 * BUZZ)], ids=lambda x: str(x)[:5]
)
def test_voices_are_the_vectors_that_resemblyzers_own_code_gives(name: str, waveform: np.ndarray, golden: Path) -> None:
    """The fixture holds `embed_utterance(normalize_volume(x, -30, increase_only=True))` of resemblyzer 0.1.4."""
    with np.load(golden / "speaker_embedding.npz") as expected:
        np.testing.assert_allclose(embed(waveform), expected[name], atol=2e-5)


def test_a_voice_is_a_unit_vector_of_256(halves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    voice = embed(halves["ada"][0])
    assert voice.shape == (256,)
    assert np.linalg.norm(voice) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(voice, embed(halves["ada"][0]))


def test_every_bundled_voice_is_picked_by_the_other_half_of_its_clip(
    halves: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    generated = [(id, second) for id, (_, second) in halves.items()]
    references = {id: first for id, (first, _) in halves.items()}
    assert share_picked_right(generated, references) == 1.0
    swapped = {"ada": references["ben"], "ben": references["ada"], "carl": references["carl"]}
    assert share_picked_right(generated, swapped) == pytest.approx(1 / 3)


def test_the_nearest_reference_is_picked() -> None:
    references = np.eye(3)
    assert pick(np.array([[0.1, 0.9, 0.2], [0.6, 0.0, 0.7], [1.0, 0.0, 0.0]]), references) == [1, 2, 0]


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros(16_000), np.full(16_000, np.nan)])
def test_silence_has_no_voice(waveform: np.ndarray) -> None:
    with pytest.raises(InputError, match="no voice in a silent recording"):
        embed(waveform)


def test_voices_that_cannot_be_compared_are_named() -> None:
    with pytest.raises(InputError, match=r"no recording of the voices \['ben'\]"):
        share_picked_right([("ben", BUZZ)], {"ada": BUZZ})
    with pytest.raises(InputError, match="no utterance"):
        share_picked_right([], {"ada": BUZZ})


def test_measuring_prints_nothing_and_imports_only_weights(capfd: pytest.CaptureFixture[str]) -> None:
    embed(BUZZ[:20_000])
    assert "resemblyzer" not in sys.modules
    assert "librosa" not in sys.modules
    assert capfd.readouterr() == ("", "")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "find_spec", lambda name: None)
    identity._encoder.cache_clear()
    with pytest.raises(SettingsError, match="resemblyzer is not installed") as caught:
        embed(BUZZ)
    assert "avatarlab[evaluate]" in caught.value.remedy
