"""Speech heard while it is still being generated.

A sample of the bundled codec's waveform depends on the codes of `context_steps` steps before and after its own and on no
others. So the codes of a few steps, decoded with that many neighbours on either side, give the samples that the whole
sentence gives; the neighbours to come are what the listener waits for.
"""

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
import torch
from jaxtyping import Float32, Int16

from avatarlab.speech.codec import FINER, HOP, KERNEL, STACKED, Codec
from avatarlab.speech.codecs import AnyCodec, decode_speech
from avatarlab.speech.generate import Decoding, Sampling, VoicePrompt
from avatarlab.speech.small_e import SmallE

CHUNK_STEPS = 10  # 0.4 s of the bundled codec


def stream_speech(
    model: SmallE,
    codec: AnyCodec,
    text: Sequence[int],
    prompt: VoicePrompt | None,
    seed: int,
    sampling: Sampling,
    chunk_steps: int = CHUNK_STEPS,
) -> Iterator[Float32[np.ndarray, "s"]]:
    """What `generate` and `decode_speech` make of one text, in pieces of `chunk_steps` steps, each as soon as it is certain.

    Put together the pieces are the whole waveform at 16 kHz, to 1e-5. The published codecs look at the whole sentence:
    it comes as one piece. Raises InputError as `generate` does, at the first piece.
    """
    decoding = Decoding(model, [text], [prompt], [seed], sampling)
    if not isinstance(codec, Codec):
        while decoding.advance():
            pass
        yield _decoded(codec, decoding.finished[0].codes)
        return
    context = context_steps(codec)
    behind = context + decoding.codebooks - 1  # the last codebook of a step comes so many columns later
    given = 0
    while decoding.advance():
        if decoding.steps >= given + chunk_steps + behind:
            codes = decoding.codes(0)
            stop = min(given + chunk_steps, codes.shape[1] - context)
            if stop > given:
                yield decode_steps(codec, codes, given, stop)
                given = stop
    codes = decoding.finished[0].codes
    for start in range(given, codes.shape[1], chunk_steps):
        yield decode_steps(codec, codes, start, min(start + chunk_steps, codes.shape[1]))


def context_steps(codec: Codec) -> int:
    """How many steps before and after its own a sample of the decoder's waveform depends on.

    Every convolution reaches KERNEL // 2 places to either side; a window reaches over its neighbours.
    """
    config, reach, hop = codec.config, KERNEL // 2, HOP // FINER
    windows = ceil((config.synthesis_window - hop) / (2 * hop)) + 1
    frames = (config.decoder_blocks + 1) * reach + ceil((config.fine_blocks * reach + windows) / FINER)
    return ceil(frames / STACKED)


def decode_steps(codec: Codec, codes: Int16[np.ndarray, "q t"], start: int, stop: int) -> Float32[np.ndarray, "s"]:
    """The samples of steps start to stop (exclusive), as in the waveform of all of `codes`."""
    context = context_steps(codec)
    first = max(0, start - context)
    samples = _decoded(codec, codes[:, first : stop + context])
    return samples[(start - first) * STACKED * HOP : (stop - first) * STACKED * HOP]


def _decoded(codec: AnyCodec, codes: Int16[np.ndarray, "q t"]) -> Float32[np.ndarray, "s"]:
    device = next(codec.parameters()).device
    with torch.inference_mode():
        return decode_speech(codec, torch.from_numpy(codes.astype(np.int64))[None].to(device))[0].float().cpu().numpy()
