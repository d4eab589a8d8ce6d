"""Lips that follow speech: mouth opening measured from rendered pixels against what the phone times ask for.

The speech is the synthesiser's, whose phone times are known, so the truth is exact; the sentences were trained on by no
network.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from avatarlab.lips.diffdub import Motion, Renderer
from avatarlab.models import read_model_set
from avatarlab.training.bundles import CAST
from avatarlab.training.corpus import Recording, synthesise, write_wav
from avatarlab.training.evaluate_lips import LipScore, evaluate_lips
from avatarlab.training.presenters import BUNDLED


def measure_lips(models: str | None, sentences: Sequence[str]) -> list[LipScore]:
    """One score for each sentence, the bundled presenters and their flite voices taking turns.

    Raises WeightsError where the model set has no renderer or motion, SettingsError when flite is not installed.
    """
    model_set = read_model_set(models)
    renderer = Renderer.from_state_dict(model_set.load_tensors("renderer")).eval()
    motion = Motion.from_state_dict(model_set.load_tensors("motion")).eval()
    with tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as folder:
        recordings = [_recorded(Path(folder), number, text) for number, text in enumerate(sentences)]
        return evaluate_lips(renderer, motion, recordings, Path(folder), {id: BUNDLED[id] for id in CAST})


def _recorded(folder: Path, number: int, text: str) -> Recording:
    voice = list(CAST.values())[number % len(CAST)].voice
    waveform, phones = synthesise(text, voice)
    write_wav(folder / f"{number}.wav", waveform)
    return Recording(str(number), voice, text, f"{number}.wav", phones)
