"""Trains the bundled Small-E on tokenised recordings: next-code cross-entropy plus attention to the unit being heard.

Sequences are one to three recordings of one voice in a row, as a prompt and its continuation stand at inference, so
that the network learns to carry the voice on. Both attention maps are pulled towards the synthesiser's own phone times
(the published recipe has no such term; it replaces hours of finding the alignment). A share of the input codes is replaced by
random ones, so that text is trusted more than the past.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from avatarlab.speech.codec import STACKED
from avatarlab.speech.delay import delay
from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE, PAD, SmallE, SmallEConfig, token_loss
from avatarlab.text import UNIT_COUNT
from avatarlab.training.loop import (
    MovingAverage,
    Progress,
    Stateful,
    learning_rate,
    report_held_out,
    save_weights,
    set_learning_rate,
    take_over,
    train_loop,
)
from avatarlab.training.speech_data import STEP_SECONDS, Spoken, chain, load_spoken

CHAIN_LENGTHS = (1, 2, 2, 2, 3)
STEPS_PER_BATCH = 1600
POOL = 240
NOISE = 0.1
GUIDE_WEIGHT = 0.8
LEARNING_RATE = 1.2e-3
LEVEL_WEIGHT = 0.5  # of each level in the loss, relative to the level before it: what is left over is mostly noise


def guided_share(fraction: float) -> float:
    """Share of sequences whose position selection is told, by fraction of the training time: 0.8, then down to none at 0.6.

    The decoder learns what phones sound like from the first minute, instead of waiting until the first attention
    has learned to recognise speech; then it learns to live with what that attention says.
    """
    return 0.8 * min(1.0, max(0.0, (0.6 - fraction) / 0.3))


class Batch:
    """Right-padded sequences: ids with BOS and EOS, delayed audio columns, and where each step should look."""

    def __init__(self, items: Sequence[Spoken]) -> None:
        units = max(len(item.units) for item in items) + 2
        codebooks = items[0].codes.shape[0]
        columns = max(item.codes.shape[1] for item in items) + codebooks + 1
        self.text_ids = torch.full((len(items), units), PAD)
        self.audio_ids = torch.full((len(items), columns, codebooks), PAD)
        self.text_mask: Bool[Tensor, "b j"] = torch.zeros(len(items), units, dtype=torch.bool)
        self.audio_mask: Bool[Tensor, "b t"] = torch.zeros(len(items), columns, dtype=torch.bool)
        self.target: Float[Tensor, "b t j"] = torch.zeros(len(items), columns - 1, units)
        for row, item in enumerate(items):
            count, length = len(item.units), item.codes.shape[1]
            self.text_ids[row, : count + 2] = F.pad(F.pad(item.units, (1, 0), value=BOS), (0, 1), value=EOS)
            self.text_mask[row, : count + 2] = True
            self.audio_ids[row, : length + codebooks + 1] = delay(item.codes)
            self.audio_mask[row, : length + codebooks + 1] = True
            self.target[row, : length + codebooks] = _attention_target(item, units, length + codebooks)


def _attention_target(item: Spoken, units: int, steps: int) -> Float[Tensor, "t j"]:
    """Share of each step's 40 ms (from half a step before its codes begin) that each unit fills; EOS after the last."""
    start = (torch.arange(steps)[:, None] - 0.5) * STEP_SECONDS
    end = start + STEP_SECONDS
    overlap = torch.minimum(end, item.spans[None, :, 1]) - torch.maximum(start, item.spans[None, :, 0])
    target = torch.zeros(steps, units)
    target[:, 1 : len(item.units) + 1] = overlap.clamp_min(0.0) / STEP_SECONDS
    target[:, len(item.units) + 1] = ((end[:, 0] - item.spans[-1, 1]) / STEP_SECONDS).clamp(0.0, 1.0)
    return target / target.sum(1, keepdim=True).clamp_min(1e-6)


def attention_loss(
    attention: Float[Tensor, "b maps t j"], target: Float[Tensor, "b t j"], mask: Bool[Tensor, "b t"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of both attention maps against the target shares."""
    surprise = -(target[:, None] * (attention + 1e-5).log()).sum(-1)  # (b, maps, t)
    return (surprise * mask[:, None]).sum() / mask.sum() / attention.shape[1]


def batches(recordings: Sequence[Spoken], steps: int, generator: torch.Generator) -> Iterator[Batch]:
    """For ever: chains of one voice, sorted by length within pools, cut into batches of about `steps` columns.

    Voices come as often as they have recordings.
    """
    by_voice: dict[str, list[Spoken]] = {}
    for recording in recordings:
        by_voice.setdefault(recording.voice, []).append(recording)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    while True:
        pool = []
        for _ in range(POOL):
            own = by_voice[recordings[pick(len(recordings))].voice]
            pool.append(chain([own[pick(len(own))] for _ in range(CHAIN_LENGTHS[pick(len(CHAIN_LENGTHS))])]))
        pool.sort(key=lambda item: item.codes.shape[1])
        cut: list[list[Spoken]] = [[]]
        for item in pool:
            if cut[-1] and (len(cut[-1]) + 1) * item.codes.shape[1] > steps:
                cut.append([])
            cut[-1].append(item)
        for index in torch.randperm(len(cut), generator=generator).tolist():
            yield Batch(cut[index])


def corrupt(
    audio_ids: Int[Tensor, "b t q"], share: float, codes: int, generator: torch.Generator
) -> Int[Tensor, "b t q"]:
    """Replaces a share of the codes (never the special ids) by random ones."""
    hit = torch.rand(audio_ids.shape, generator=generator) < share
    noise = torch.randint(codes, audio_ids.shape, generator=generator) + FIRST_CODE
    return torch.where(hit & (audio_ids >= FIRST_CODE), noise, audio_ids)


def start_from_codebook(model: SmallE, codebook: Float[Tensor, "l c latent"], generator: torch.Generator) -> None:
    """Gives codes that sound alike embeddings that look alike, in scale what the specification draws (section 3.5)."""
    stacked = model.config.codebooks // len(codebook)
    for table, scale in ((model.rvq_embed, 0.7), (model.logits_head, 0.06)):
        for book in range(model.config.codebooks):
            level = codebook[book // stacked]
            latents = (level - level.mean(0)) / level.std(0)
            mix = torch.randn(latents.shape[1], model.config.width, generator=generator) * latents.shape[1] ** -0.5
            with torch.no_grad():
                table.weight[book, FIRST_CODE:].mul_(0.4).add_(latents @ mix * scale)


def code_loss(
    logits: Float[Tensor, "b t q c"], targets: Int[Tensor, "b t q"], mask: Bool[Tensor, "b t"], levels: int
) -> list[Tensor]:
    """Mean cross-entropy (nats per code) of each level of the codec."""
    return [
        token_loss(own_logits, own_targets, mask)
        for own_logits, own_targets in zip(logits.chunk(levels, 2), targets.chunk(levels, 2), strict=True)
    ]


@torch.no_grad()
def held_out_loss(model: SmallE, recordings: Sequence[Spoken], levels: int) -> list[float]:
    """Mean cross-entropy (nats per code) of each level over held-out pairs of recordings of one voice."""
    total, count = torch.zeros(levels), 0
    for first, second in zip(recordings[::2], recordings[1::2], strict=False):
        if first.voice == second.voice:
            batch = Batch([chain([first, second])])
            logits, _ = model.forward_train(
                batch.text_ids, batch.text_mask, batch.audio_ids[:, :-1], batch.audio_mask[:, :-1]
            )
            total += torch.stack(code_loss(logits, batch.audio_ids[:, 1:], batch.audio_mask[:, 1:], levels))
            count += 1
    return [round(value, 4) for value in (total / max(count, 1)).tolist()]


def train_small_e(
    tokens: Path,
    codec_file: Path,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    config: SmallEConfig | None = None,
    start: Path | None = None,
    progress: Progress = print,
) -> Path:
    """Trains on the output of `tokenise_corpus`; writes OUT/small_e.safetensors (moving average) and returns its path.

    The file is also written every 400 steps, so that training can be listened to while it goes on. `start` is the file of
    an earlier network, of which everything that still fits is trained on.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    training, held_out = load_spoken(tokens)
    held_out = sorted(held_out, key=lambda spoken: spoken.voice)[:: max(1, len(held_out) // 160)]
    codebook = load_file(codec_file)["codebook"].float()
    levels, codes, _ = codebook.shape
    model = SmallE(
        config
        or SmallEConfig(text_vocabulary=UNIT_COUNT, codebooks=STACKED * levels, codebook_size=codes, dropout_text=0.05)
    )
    start_from_codebook(model, codebook, generator)
    if start is not None:
        take_over(model, load_file(start))
    weights = torch.tensor([LEVEL_WEIGHT**level for level in range(levels)])
    weights /= weights.sum()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    average = MovingAverage(model, 0.999)
    stream = batches(training, STEPS_PER_BATCH, generator)
    path = out / "small_e.safetensors"

    def write() -> None:
        save_weights(average.average, path)
        losses = held_out_loss(average.network(), held_out, levels)
        report_held_out(out, {"step": average.updates, "cross_entropy": losses}, progress)

    def step(number: int, fraction: float) -> dict[str, float]:
        set_learning_rate(optimiser, learning_rate(LEARNING_RATE, fraction, number, 150))
        batch = next(stream)
        noisy = corrupt(batch.audio_ids[:, :-1], NOISE, model.config.codebook_size, generator)
        forced = torch.rand(len(noisy), 1, 1, generator=generator) < guided_share(fraction)
        logits, attention = model.forward_train(
            batch.text_ids, batch.text_mask, noisy, batch.audio_mask[:, :-1], GUIDE_WEIGHT * forced * batch.target
        )
        mask = batch.audio_mask[:, 1:]
        losses = code_loss(logits, batch.audio_ids[:, 1:], mask, levels)
        loss = torch.stack(losses) @ weights
        selection = attention_loss(attention[:, :1], batch.target, mask)
        alignment = attention_loss(attention[:, 1:], batch.target, mask)
        optimiser.zero_grad(set_to_none=True)
        (loss + (1.0 if fraction < 0.3 else 0.3) * (selection + alignment) / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update()
        if number % 400 == 399:
            write()
        by_level = {f"cross_entropy_{level}": value.item() for level, value in enumerate(losses)}
        return {**by_level, "selection": selection.item(), "alignment": alignment.item()}

    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Stateful] = {"model": model, "optimiser": optimiser, "average": average}
    train_loop(out, parts, step, minutes=minutes, progress=progress)
    write()
    return path
