"""Trains the bundled motion network: what is heard of recordings in, the renderer's lip latents out.

Truth comes from `mouth_latents`: every recording of the speech corpus has latents of every drawn presenter. Beside the
latents, the middle of the network learns which phone is being said; that head teaches it to listen and is thrown away.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from avatarlab.lips.diffdub import Motion, MotionConfig, Renderer
from avatarlab.lips.features import BANDS, log_mel
from avatarlab.speech.codec import Codec
from avatarlab.training.corpus import read_corpus
from avatarlab.training.hearings import PHONES, Spoken, cut_clip, hear_all, load_spoken
from avatarlab.training.loop import (
    MovingAverage,
    Progress,
    Stateful,
    learning_rate,
    report_held_out,
    save_atomically,
    save_weights,
    set_learning_rate,
    train_loop,
)
from avatarlab.training.mouth_latents import LatentTable, draw_mouths, fit_table
from avatarlab.training.own_videos import OwnClip, OwnSpeech, own_speech

MINI_MOTION = MotionConfig(
    width=128, style=64, layers=1, features=BANDS, reference_blocks=1, speech_blocks=3, decoder_blocks=2,
    heads=2, inner=256, kernel=13, residual=True,
)  # fmt: skip
CLIP_FRAMES = 100
HELD_OUT = 60  # recordings at the end of the corpus, never trained on
REFERENCES = 4
TRACKS_DRAWN = 400  # recordings whose mouths are drawn


def train_motion(
    speech_dir: Path,
    renderer_path: Path,
    out_dir: Path,
    minutes: float,
    seed: int = 0,
    progress: Progress = lambda _: None,
    config: MotionConfig = MINI_MOTION,
    codec_path: Path | None = None,
    own: Sequence[OwnClip] = (),
    recordings: int = 6000,
    batch_size: int = 16,
    peak_rate: float = 1.5e-3,
    evaluate_every: int = 200,
    strangers: int = 40,
    mouths: int = 120,
) -> Path:
    """Trains against the encoder of RENDERER_PATH for `minutes`, resuming from OUT_DIR; returns
    OUT_DIR/motion.safetensors.

    With `codec_path`, half of the recordings are heard through that codec; `own` clips are learned beside them. Held-out
    recordings are scored by the correlation of told and true mouth opening, in OUT_DIR/held_out.jsonl. Drawing and
    encoding mouths comes first and is not counted in `minutes`; what is drawn is kept in OUT_DIR/mouths.
    """
    torch.manual_seed(seed)
    renderer = Renderer.from_state_dict(load_file(renderer_path))
    codec = None if codec_path is None else Codec.from_state_dict(load_file(codec_path))
    corpus = read_corpus(speech_dir)
    held = [load_spoken(record, speech_dir) for record in corpus[-HELD_OUT:]]
    stride = max(1, (len(corpus) - HELD_OUT) // recordings)
    used = corpus[:-HELD_OUT][::stride][:recordings]
    tracks = [load_spoken(record, speech_dir).track for record in used[:TRACKS_DRAWN]]
    drawn = draw_mouths(renderer, tracks, out_dir / "mouths", seed, strangers, mouths, progress)
    table = fit_table(drawn, seed, progress=progress)
    spread = float(table.spread)  # type: ignore[arg-type]
    closed = torch.from_numpy(drawn.closed)
    heard = hear_all(used, speech_dir, codec, seed, progress)
    filmed = [own_speech(clip, renderer) for clip in own]
    motion = Motion(config).train()
    with torch.no_grad():
        motion.out_proj.weight.mul_(spread)
        motion.out_proj.bias.mul_(spread)
    phone_head = nn.Linear(config.width, len(PHONES))
    optimiser = torch.optim.AdamW(
        [*motion.parameters(), *phone_head.parameters()], betas=(0.9, 0.98), weight_decay=0.02
    )
    average = MovingAverage(motion, 0.999)

    def step(number: int, fraction: float) -> Mapping[str, float]:
        rng = np.random.default_rng([seed, 5, number])
        clips = [cut_clip(heard, CLIP_FRAMES, rng) for _ in range(batch_size)]
        audio = torch.stack([clip.features for clip in clips])[:, None]
        postures = torch.from_numpy(np.stack([clip.track for clip in clips]))
        said = torch.from_numpy(np.stack([clip.phones for clip in clips]))
        whose = torch.from_numpy(rng.integers(len(closed), size=batch_size))
        shown = torch.from_numpy(rng.integers(closed.shape[1], size=(batch_size, REFERENCES)))
        references = closed[whose[:, None], shown]
        target = table.change(postures, whose[:, None].expand(-1, CLIP_FRAMES))
        middle = motion.heard(audio, references)
        told = (motion.latents(middle, references) - references.mean(dim=1, keepdim=True)) / spread
        # The table tells changes of the presenter's mean at rest; a few references differ from it by their pose.
        error = F.smooth_l1_loss(told, target, beta=0.5)
        speed = F.smooth_l1_loss(told.diff(dim=1), target.diff(dim=1), beta=0.25)
        opening = F.mse_loss(table.openness(told), table.openness(target))
        phones = F.cross_entropy(phone_head(middle).flatten(0, 1), said.flatten())
        loss = error + speed + 20 * opening + 0.2 * phones
        if filmed:
            chosen = rng.integers(len(filmed), size=max(1, batch_size // 3))
            loss = loss + filmed_loss(motion, [filmed[k] for k in chosen], spread, rng)
        set_learning_rate(optimiser, learning_rate(peak_rate, fraction, number, 150, flat=0.3))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(motion.parameters(), 1.0)
        optimiser.step()
        average.update()
        if number % evaluate_every == evaluate_every - 1:
            score = held_out_correlation(average.network(), held, table, closed)
            line = {"step": number + 1, "minutes": round(fraction * minutes, 2), "opening_correlation": round(score, 4)}
            report_held_out(out_dir, line, progress)
        parts = {"latent": error, "speed": speed, "opening": opening, "phones": phones}
        return {name: float(value.detach()) for name, value in parts.items()}

    kept: dict[str, Stateful] = {
        "motion": motion, "phones": phone_head, "optimiser": optimiser, "average": average,
    }  # fmt: skip
    train_loop(out_dir, kept, step, minutes=minutes, progress=progress, checkpoint_seconds=60.0)
    save_atomically(table.state_dict(), out_dir / "table.pt")
    path = out_dir / "motion.safetensors"
    save_weights(average.network().state_dict(), path)
    return path


def filmed_loss(
    motion: Motion, clips: Sequence[OwnSpeech], spread: float, rng: np.random.Generator
) -> Float[Tensor, ""]:
    """Errors of latents and of their speed on equally long stretches of filmed clips, where a face was seen."""
    frames = min(CLIP_FRAMES, *(len(clip.latents) for clip in clips))
    audio, target, references, seen = [], [], [], []
    fewest = min(REFERENCES, *(len(clip.references) for clip in clips))
    for clip in clips:
        first = int(rng.integers(len(clip.latents) - frames + 1))
        audio.append(clip.features[2 * first : 2 * (first + frames)])
        target.append(clip.latents[first : first + frames])
        seen.append(clip.found[first : first + frames])
        references.append(clip.references[torch.from_numpy(rng.permutation(len(clip.references))[:fewest])])
    told, wanted = motion(torch.stack(audio)[:, None], torch.stack(references)) / spread, torch.stack(target) / spread
    found = torch.stack(seen)[..., None].float()
    error = F.smooth_l1_loss(told, wanted, beta=0.5, reduction="none") * found
    speed = F.smooth_l1_loss(told.diff(dim=1), wanted.diff(dim=1), beta=0.25, reduction="none") * found[:, 1:]
    return error.mean() + speed.mean()


@torch.inference_mode()
def held_out_correlation(
    motion: Motion, held: Sequence[Spoken], table: LatentTable, closed: Float[Tensor, "p r z"]
) -> float:
    """Mean over recordings of the correlation of told and true mouth opening, at lag 0, for the first presenter."""
    references = closed[:1]
    scores = []
    for one in held:
        told = motion(log_mel(torch.from_numpy(one.waveform))[None], references) - references.mean(dim=1, keepdim=True)
        whose = torch.zeros(len(one.track), dtype=torch.int64)
        truth = table.openness(table.change(torch.from_numpy(one.track), whose))
        guess = table.openness(told[0] / table.spread)
        scores.append(float(np.corrcoef(guess.numpy(), truth.numpy())[0, 1]))
    return float(np.mean(scores))
