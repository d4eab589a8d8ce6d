"""Every codec behind one shape, and the border between a codec's own clock and the clock of video frames.

The bundled codec works at 16 kHz and gives one column of codes for a video frame; the published ones work at 24 kHz and give
three. Outside this module speech is 16 kHz, and a sentence lasts whole video frames.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torchaudio.functional import resample

from avatarlab import FPS, SAMPLE_RATE_HZ
from avatarlab.speech import encodec_vocos, wavtokenizer
from avatarlab.speech.codec import Codec


@runtime_checkable
class SpeechCodec(Protocol):
    """Waveforms at `sample_rate_hz` to `codebooks` codes, `frame_rate` times a second, and back."""

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def frame_rate(self) -> int: ...

    @property
    def codebooks(self) -> int: ...

    def encode(self, waveform: Float[Tensor, "b s"]) -> Int[Tensor, "b q t"]: ...

    def decode(self, codes: Int[Tensor, "b q t"]) -> Float[Tensor, "b s"]: ...


AnyCodec = Codec | wavtokenizer.WavTokenizer | encodec_vocos.EncodecVocos


def load_codec(tensors: Mapping[str, Tensor]) -> AnyCodec:
    """The codec whose tensors these are: names tell which. Raises WeightsError where they do not fit."""
    if encodec_vocos.TABLE in tensors:
        return encodec_vocos.EncodecVocos.from_state_dict(tensors)
    if wavtokenizer.CODEBOOK in tensors:
        return wavtokenizer.WavTokenizer.from_state_dict(tensors)
    return Codec.from_state_dict(tensors)


def steps_per_video_frame(codec: SpeechCodec) -> int:
    """Columns of codes, which are steps of the language model, for one video frame: 1 or 3."""
    return codec.frame_rate // FPS


def decode_speech(codec: SpeechCodec, codes: Int[Tensor, "b q t"]) -> Float[Tensor, "b s"]:
    """16 kHz speech of whole video frames, s = 640 * ceil(t / steps): an unfinished last frame ends in silence."""
    waveform = codec.decode(codes)
    waveform = F.pad(waveform, (0, -waveform.shape[-1] % (codec.sample_rate_hz // FPS)))
    if codec.sample_rate_hz != SAMPLE_RATE_HZ:
        waveform = resample(waveform, codec.sample_rate_hz, SAMPLE_RATE_HZ)
    return waveform.clamp(-1.0, 1.0)


def by_video_frame(alignment: Float32[np.ndarray, "t j"], steps: int) -> Float32[np.ndarray, "f j"]:
    """An alignment of codec steps as one of video frames: the mean over the `steps` of a frame, f = ceil(t / steps)."""
    if steps == 1 or not len(alignment):
        return alignment
    missing = -len(alignment) % steps
    whole = np.concatenate([alignment, np.repeat(alignment[-1:], missing, axis=0)])
    return whole.reshape(-1, steps, alignment.shape[1]).mean(axis=1)
