"""Does a clip say its transcript? The speech model answers: codes are likelier under the words that were spoken.

The codes of the clip are scored by teacher forcing under its transcript and under three other texts of the same length.
What the true words gain over the others, step by step, is large against its own spread; the gain of wrong words is
noise around zero. No recogniser is needed, and the voice need not be one the model was trained on.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torchaudio.functional import resample

from avatarlab import FPS, SAMPLE_RATE_HZ
from avatarlab.models import ModelSet
from avatarlab.speech.codecs import load_codec, steps_per_video_frame
from avatarlab.speech.delay import delay
from avatarlab.speech.small_e import BOS, EOS, SmallE, pad_rows
from avatarlab.text import normalise
from avatarlab.text.front_end import front_end

OTHER_TEXTS = (
    "The old bridge over the river was built from grey stone by the people of the village.",
    "Every autumn large flocks of geese fly south before the first snow covers our fields.",
    "You should always check twice whether each of your numbers has the right sign.",
)
FLATTENING = 2.0  # the model is too sure of itself in voices it does not know
SPOKEN_BELOW_LOUDEST = 30.0


@dataclass(frozen=True)
class Heard:
    """How well a clip fits its transcript.

    evidence: mean gain of the transcript over other texts, in standard errors; about 0 for wrong words.
    weakest_second: gain in the second of speech that gains least, over the mean gain (0 where that is negative).
    unread_units: units at the end of the transcript that the alignment never reached.
    unwritten_seconds: speech that the alignment puts behind the last word of the transcript.
    """

    evidence: float
    weakest_second: float
    unread_units: int
    unwritten_seconds: float


class Listener:
    """The speech model and codec of a model set, loaded once. Raises WeightsError where they cannot be."""

    def __init__(self, models: ModelSet) -> None:
        self.small_e_sha256 = models.file("small_e").sha256
        self.model = SmallE.from_state_dict(models.load_tensors("small_e"))
        self.codec = load_codec(models.load_tensors("codec"))
        self.text = front_end(models)

    @torch.inference_mode()
    def hear(self, waveform: Float32[np.ndarray, "s"], transcript: str) -> Heard:
        """Scores a clip of 16 kHz. Raises ScriptError where the transcript cannot be spoken."""
        own = self.text.units(_as_sentence(normalise(transcript).spoken))
        others = (self.text.units(normalise(text).spoken) for text in OTHER_TEXTS)
        texts = [own, *(_of_length(ids, len(own)) for ids in others)]
        sound = resample(torch.from_numpy(waveform), SAMPLE_RATE_HZ, self.codec.sample_rate_hz)
        columns = delay(self.codec.encode(sound[None])[0])
        surprise, alignment = _surprise(self.model, texts, columns)
        gain = surprise[1:].mean(0) - surprise[0]
        steps_a_second = FPS * steps_per_video_frame(self.codec)
        is_speech = _speech(waveform, len(gain), steps_a_second)
        spoken = gain[is_speech]
        mean, error = spoken.mean(), spoken.std() / len(spoken) ** 0.5
        weakest = spoken.unfold(0, min(steps_a_second, len(spoken)), 1).mean(1).min()
        reached = alignment.argmax(1)
        return Heard(
            evidence=float(mean / error),
            weakest_second=float(weakest / mean) if mean > 0 else 0.0,
            unread_units=len(own) + 1 - int(reached.max()),
            unwritten_seconds=int((is_speech & (reached >= len(own))).sum()) / steps_a_second,
        )


def _as_sentence(spoken: str) -> str:
    """Ends in a mark, which is read in the silence behind the last word."""
    return spoken if spoken.endswith((".", "?", "!")) else f"{spoken.rstrip(',;: ')}."


def _surprise(
    model: SmallE, texts: list[tuple[int, ...]], columns: Tensor
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "t j"]]:
    """Nats a code of every step under each text, and the alignment under the first."""
    text_ids, text_mask = pad_rows([torch.tensor([BOS, *text, EOS]) for text in texts])
    audio = columns.expand(len(texts), -1, -1)
    inside = torch.ones(audio.shape[0], audio.shape[1] - 1, dtype=torch.bool)
    logits, attention = model.forward_train(text_ids, text_mask, audio[:, :-1], inside)
    targets = audio[:, 1:]
    codes = targets > EOS
    surprise = F.cross_entropy(logits.flatten(0, 2) / FLATTENING, targets.flatten(), reduction="none")
    kept = (surprise.view(targets.shape) * codes).sum(2) / codes.sum(2).clamp_min(1)
    frames = columns.shape[0] - columns.shape[1] - 1
    return kept[:, :frames], attention[0, 1, :frames]


def _speech(waveform: Float32[np.ndarray, "s"], steps: int, steps_a_second: int) -> Bool[Tensor, "t"]:
    """Which steps are not silence: in a pause all texts are alike."""
    size = SAMPLE_RATE_HZ // steps_a_second
    padded = np.pad(waveform, (0, max(0, steps * size - len(waveform))))[: steps * size]
    loudness = 10 * np.log10(np.square(padded.reshape(steps, size)).mean(1) + 1e-10)
    return torch.from_numpy(loudness > np.percentile(loudness, 95) - SPOKEN_BELOW_LOUDEST)


def _of_length(ids: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Repeated and cut to `count`."""
    return (ids * (count // len(ids) + 1))[:count]
