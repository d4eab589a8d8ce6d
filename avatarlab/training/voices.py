"""Tunes a voice: with all weights frozen, the memory that Small-E starts from is fitted to recordings of one speaker.

Spec small-e, section 6.5 (Lina-Speech, arXiv 2410.23320): Adam on the low-rank start memories of the encoder and decoder
blocks, against the cross-entropy that the network was trained with. A few thousand numbers are learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatarlab.avatar_checks import validate_voice
from avatarlab.avatars import VOICE_STATE, Avatar
from avatarlab.errors import AvatarError, AvatarLabError, SettingsError
from avatarlab.media import read_audio
from avatarlab.models import ModelSet
from avatarlab.speech.codecs import AnyCodec, load_codec
from avatarlab.speech.delay import delay
from avatarlab.speech.generate import VoicePrompt
from avatarlab.speech.small_e import BOS, EOS, SmallE, pad_rows, token_loss
from avatarlab.speech.voice_state import start_memories, untuned_state, write_voice_state
from avatarlab.text import normalise
from avatarlab.text.front_end import FrontEnd, front_end
from avatarlab.training.loop import Progress

CLIPS_AT_ONCE = 8
LEARNING_RATE = 0.1
STEPS = 75
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
MAX_TEXT_BYTES = 10_000


@dataclass(frozen=True, eq=False)
class Tuned:
    """The tensors of a voice state, and the mean cross-entropy (nats a code) of all clips from zeros and from it."""

    tensors: dict[str, Tensor]
    loss_before: float
    loss_after: float


def tune_avatar(
    avatar: Avatar,
    models: ModelSet,
    *,
    clips: Path | None = None,
    out: Path | None = None,
    steps: int = STEPS,
    rank: int = 1,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda line: None,
) -> tuple[Path, Tuned]:
    """Tunes the voice of an avatar to its clip, and to the recordings in `clips` if given; writes it into the bundle, or `out`.

    Raises AvatarError where a recording cannot be used or the bundle cannot be written, WeightsError, SettingsError.
    """
    validate_voice(avatar)
    path = out or avatar.folder / VOICE_STATE
    small_e = models.file("small_e").sha256
    assert small_e is not None  # load_tensors below would have refused
    torch.set_num_threads(1)  # sums are then the same on every machine
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"there is no device {device} here", "use --device cpu")
    model = SmallE.from_state_dict(models.load_tensors("small_e")).to(device)
    codec = load_codec(models.load_tensors("codec")).to(device)
    recordings = [(avatar.voice, avatar.transcript), *(_recordings(clips) if clips is not None else [])]
    prompts = [_prompt(codec, front_end(models), wav, text, device) for wav, text in recordings]
    tuned = tune_voice(model, prompts, steps=steps, rank=rank, seed=seed, progress=progress)
    try:
        write_voice_state(path, tuned.tensors, small_e)
    except OSError as error:
        raise AvatarError(f"{path} cannot be written: {error.strerror}", "name another file with --out") from error
    return path, tuned


def _recordings(folder: Path) -> list[tuple[Path, str]]:
    """Every name.wav of a folder with what name.txt says it says."""
    found = []
    for wav in sorted(folder.glob("*.wav")):
        written = wav.with_suffix(".txt")
        remedy = f"write what {wav.name} says into {written.name}, UTF-8 and at most {MAX_TEXT_BYTES} bytes"
        try:
            if written.stat().st_size > MAX_TEXT_BYTES:
                raise AvatarError(f"{written.name} is too long for one clip", remedy)
            found.append((wav, written.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise AvatarError(f"{written.name} cannot be read: {error}", remedy) from error
    if not found:
        raise AvatarError(f"there are no clips in {folder}", "give a folder of wav files, each with a txt of its words")
    return found


def _prompt(codec: AnyCodec, text_units: FrontEnd, wav: Path, text: str, device: str) -> VoicePrompt:
    try:
        waveform = read_audio(wav, codec.sample_rate_hz)
        ids = text_units.prompt_units(normalise(text).spoken)
    except AvatarLabError as error:
        raise AvatarError(f"{wav.name}: {error.message}", error.remedy) from error
    seconds = len(waveform) / codec.sample_rate_hz
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise AvatarError(
            f"{wav.name} is {seconds:.1f} s long; {SHORTEST_SECONDS:.0f} to {LONGEST_SECONDS:.0f} s can be learned from",
            "cut it into sentences",
        )
    if not ids:
        raise AvatarError(f"{wav.name} has no words beside it", "write what it says")
    codes = codec.encode(torch.from_numpy(waveform)[None].to(device))[0]
    return VoicePrompt(ids, codes.cpu().numpy().astype(np.int16))


def tune_voice(
    model: SmallE,
    clips: Sequence[VoicePrompt],
    *,
    steps: int = STEPS,
    rank: int = 1,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
    progress: Progress = lambda line: None,
) -> Tuned:
    """Fits a start memory to what a speaker said; the model is not changed, and the seed decides everything."""
    device = model.rvq_embed.weight.device
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: t.to(device).requires_grad_() for name, t in untuned_state(model, rank, generator).items()}
    optimiser = torch.optim.Adam(tensors.values(), lr=learning_rate)
    training = model.training
    model.eval()
    try:
        before = _mean_loss(model, clips, None)
        order: list[int] = []
        for step in range(steps):
            if len(order) < min(CLIPS_AT_ONCE, len(clips)):
                order += torch.randperm(len(clips), generator=generator).tolist()
            batch, order = [clips[index] for index in order[:CLIPS_AT_ONCE]], order[CLIPS_AT_ONCE:]
            loss = _loss(model, batch, tensors)
            for tensor, gradient in zip(
                tensors.values(), torch.autograd.grad(loss, list(tensors.values())), strict=True
            ):
                tensor.grad = gradient
            optimiser.step()
            if step % 10 == 9:
                progress(f"step {step + 1} of {steps}: cross-entropy {loss.item():.4f}")
        return Tuned({name: t.detach() for name, t in tensors.items()}, before, _mean_loss(model, clips, tensors))
    finally:
        model.train(training)


def _loss(model: SmallE, clips: Sequence[VoicePrompt], tensors: dict[str, Tensor] | None) -> Float[Tensor, ""]:
    device = model.rvq_embed.weight.device
    text_ids, text_mask = pad_rows([torch.tensor([BOS, *clip.text_ids, EOS], device=device) for clip in clips])
    columns, mask = pad_rows([delay(torch.from_numpy(clip.codes.astype(np.int64)).to(device)) for clip in clips])
    states = None if tensors is None else start_memories(tensors)
    logits, _ = model.forward_train(text_ids, text_mask, columns[:, :-1], mask[:, :-1], states=states)
    return token_loss(logits, columns[:, 1:], mask[:, 1:])


@torch.no_grad()
def _mean_loss(model: SmallE, clips: Sequence[VoicePrompt], tensors: dict[str, Tensor] | None) -> float:
    parts = [clips[start : start + CLIPS_AT_ONCE] for start in range(0, len(clips), CLIPS_AT_ONCE)]
    steps = [sum(clip.codes.shape[1] for clip in part) for part in parts]
    losses = [float(_loss(model, part, tensors)) for part in parts]
    return float(np.average(losses, weights=steps))
