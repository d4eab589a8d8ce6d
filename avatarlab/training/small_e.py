"""Trains the bundled Small-E on tokenised recordings: next-code cross-entropy plus attention to the unit being heard.

Sequences are one to three recordings of one voice in a row, as a prompt and its continuation stand at inference, so
that the network learns to carry the voice on. Both attention maps are pulled towards the synthesiser's own phone times
(the published recipe has no such term; it replaces hours of finding the alignment). A share of the input codes is replaced by
random ones, so that text is trusted more than the past.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from avatarlab.speech.delay import delay
from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE, PAD, SmallE, SmallEConfig, token_loss
from avatarlab.text import UNIT_COUNT
from avatarlab.training.loop import (
    MovingAverage,
    Progress,
    Stateful,
    learning_rate,
    save_weights,
    set_learning_rate,
    train_loop,
)
from avatarlab.training.speech_data import STEP_SECONDS, Spoken, chain, load_spoken

CHAIN_LENGTHS = (1, 2, 2, 2, 3)
STEPS_PER_BATCH = 1600
POOL = 240
NOISE = 0.1
GUIDE_WEIGHT = 0.8
LEARNING_RATE = 1.2e-3


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
    """For ever: chains of one voice, sorted by length within pools, cut into batches of about `steps` columns."""
    by_voice: dict[str, list[Spoken]] = {}
    for recording in recordings:
        by_voice.setdefault(recording.voice, []).append(recording)
    voices = sorted(by_voice)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    while True:
        pool = []
        for _ in range(POOL):
            own = by_voice[voices[pick(len(voices))]]
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


def start_from_codebook(model: SmallE, codebook: Float[Tensor, "c latent"], generator: torch.Generator) -> None:
    """Gives codes that sound alike embeddings that look alike, in scale what the specification draws (section 3.5)."""
    latents = (codebook - codebook.mean(0)) / codebook.std(0)
    for table, scale in ((model.rvq_embed, 0.7), (model.logits_head, 0.06)):
        for book in range(model.config.codebooks):
            mix = torch.randn(latents.shape[1], model.config.width, generator=generator) * latents.shape[1] ** -0.5
            with torch.no_grad():
                table.weight[book, FIRST_CODE:].mul_(0.4).add_(latents @ mix * scale)


@torch.no_grad()
def held_out_loss(model: SmallE, recordings: Sequence[Spoken]) -> float:
    """Mean cross-entropy (nats per code) over held-out pairs of recordings of one voice."""
    total, count = 0.0, 0
    for first, second in zip(recordings[::2], recordings[1::2], strict=False):
        if first.voice == second.voice:
            batch = Batch([chain([first, second])])
            logits, _ = model.forward_train(
                batch.text_ids, batch.text_mask, batch.audio_ids[:, :-1], batch.audio_mask[:, :-1]
            )
            total += float(token_loss(logits, batch.audio_ids[:, 1:], batch.audio_mask[:, 1:]))
            count += 1
    return total / max(count, 1)


def train_small_e(
    tokens: Path,
    codec_file: Path,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    config: SmallEConfig | None = None,
    progress: Progress = print,
) -> Path:
    """Trains on the output of `tokenise_corpus`; writes OUT/small_e.safetensors (moving average) and returns its path.

    The file is also written every 400 steps, so that training can be listened to while it goes on.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    training, held_out = load_spoken(tokens)
    held_out.sort(key=lambda spoken: spoken.voice)
    codebook = load_file(codec_file)["codebook"]
    model = SmallE(
        config or SmallEConfig(text_vocabulary=UNIT_COUNT, codebooks=2, codebook_size=len(codebook), dropout_text=0.05)
    )
    start_from_codebook(model, codebook, generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    average = MovingAverage(model, 0.999)
    stream = batches(training, STEPS_PER_BATCH, generator)
    path = out / "small_e.safetensors"

    def write() -> None:
        save_weights(average.average, path)
        loss = held_out_loss(SmallE.from_state_dict(average.average), held_out[:80])
        with (out / "held_out.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": average.updates, "cross_entropy": round(loss, 4)}) + "\n")
        progress(f"step {average.updates}: held-out cross-entropy {loss:.4f}")

    def step(number: int, fraction: float) -> dict[str, float]:
        set_learning_rate(optimiser, learning_rate(LEARNING_RATE, fraction, number, 150))
        batch = next(stream)
        noisy = corrupt(batch.audio_ids[:, :-1], NOISE, model.config.codebook_size, generator)
        forced = torch.rand(len(noisy), 1, 1, generator=generator) < guided_share(fraction)
        logits, attention = model.forward_train(
            batch.text_ids, batch.text_mask, noisy, batch.audio_mask[:, :-1], GUIDE_WEIGHT * forced * batch.target
        )
        mask = batch.audio_mask[:, 1:]
        loss = token_loss(logits, batch.audio_ids[:, 1:], mask)
        selection = attention_loss(attention[:, :1], batch.target, mask)
        alignment = attention_loss(attention[:, 1:], batch.target, mask)
        optimiser.zero_grad(set_to_none=True)
        (loss + (1.0 if fraction < 0.3 else 0.3) * (selection + alignment) / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update()
        if number % 400 == 399:
            write()
        return {"cross_entropy": loss.item(), "selection": selection.item(), "alignment": alignment.item()}

    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Stateful] = {"model": model, "optimiser": optimiser, "average": average}
    train_loop(out, parts, step, minutes=minutes, progress=progress)
    write()
    return path
