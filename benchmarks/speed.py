"""How fast speech is made: the published 60M step loop, the bundled voice, its stream, a GPU; and that memory stays flat.

The 60M configuration has random weights: its speed does not depend on them.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.avatars import load_avatar
from avatarlab.errors import NotFound, WorkerError
from avatarlab.execute import stream_tokens, warm_up
from avatarlab.models import read_model_set
from avatarlab.speech.generate import CapturedStep, SmallEStep, prefill
from avatarlab.speech.gla import GatedLinearAttention, MixingBlock, log_decay, recurrent_gla, split_heads
from avatarlab.speech.small_e import BOS, SmallE, SmallEConfig, masked_attention
from avatarlab.stages import Line, audio_item, tokens_item
from avatarlab.text import normalise
from avatarlab.text.front_end import front_end
from benchmarks.workshop import Workshop, bench_threads, workshop

PUBLISHED_60M = SmallEConfig(
    width=512, text_vocabulary=256, text_layers=9, text_heads=8, encoder_blocks=6, decoder_blocks=6, heads=4,
    expand_k=1.0, expand_v=2.0, short_conv=False, position_width=128, rotary_attention=True, codebooks=4,
    codebook_size=1024,
)  # fmt: skip
PUBLISHED_STEPS_PER_SECOND = 75
WAV_HEADER_BYTES = 44
TEXT_UNITS = 100  # a sentence of about 12 words and the transcript of a short prompt, in byte pairs


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of one step of a batch, the best of some rounds in which the three took turns.

    naive: as the papers write it and as upstream runs it: projection after projection, the recurrence line by line, and
        the text encoder with its keys and values again at every step (spec small-e, section 9, defect i).
    naive_cached: the same with the text computed once.
    """

    batch: int
    threads: int
    ours: float
    naive: float
    naive_cached: float

    @property
    def ratio(self) -> float:
        return self.naive / self.ours

    @property
    def ratio_cached(self) -> float:
        return self.naive_cached / self.ours


@dataclass(frozen=True)
class BundledSpeed:
    """Seconds of speech per second of work, tokens and sound together, drawing again included, on `threads` threads.

    one: the median of the sentences one by one; batched: all of them in one call; loop: all of them one by one.
    """

    sentences: int
    threads: int
    one: float
    batched: float
    loop: float

    @property
    def gain(self) -> float:
        """Of the batch over the loop."""
        return self.batched / self.loop


@dataclass(frozen=True)
class StreamSpeed:
    """Seconds from the request (weights loaded) to the first sound of a sentence, medians, and seconds heard per second."""

    sentences: int
    first_sound_seconds: float
    real_time: float


@dataclass(frozen=True)
class Growth:
    """Megabytes resident while `avatarlab speak --stream` speaks a script of `words` words, of which it had time for a part.

    heard_seconds: of speech, of which `early_seconds` are the first part; early_megabytes, late_megabytes: the most in the
        first part and after it; first_sound_seconds: from the command to the first sound, start and loading included.
    """

    words: int
    heard_seconds: float
    early_seconds: float
    early_megabytes: float
    late_megabytes: float
    first_sound_seconds: float

    @property
    def growth_megabytes(self) -> float:
        return self.late_megabytes - self.early_megabytes


@dataclass(frozen=True)
class GpuSpeed:
    """The 60M step as a CUDA graph; `floor_share` is the time to move its bytes once at the device's copy speed over ours."""

    device: str
    batch: int
    step_milliseconds: float
    real_time: float
    floor_share: float


@dataclass
class NaiveLoop:
    """The network one step after another with nothing done in advance; without short convolutions.

    `cached` computes the text once.
    """

    model: SmallE
    text_ids: Int[Tensor, "b j"]
    text_mask: Bool[Tensor, "b j"]
    cached: bool
    memories: dict[int, Float[Tensor, "b n k v"]] = field(default_factory=dict)
    position: int = 0

    def __post_init__(self) -> None:
        self.memory = self.model.read_text(self.text_ids, self.text_mask)

    def __call__(self, column: Int[Tensor, "b q"]) -> Float[Tensor, "b q c"]:
        """Logits of the next column."""
        if not self.cached:
            self.memory = self.model.read_text(self.text_ids, self.text_mask)
        rnn = self.model.attentive_rnn
        attention = rnn.cross_att
        x = self.model.embed_audio(column[:, None])
        for block in rnn.encoder:
            x = self._block(block, x)
        q = attention.ln_q(attention.q(x))
        if attention.rotary is not None:
            q = attention.rotary(q, torch.tensor([self.position], device=q.device).expand(len(q), -1))
        expected = masked_attention(q, self.memory.keys, self.memory.mask) @ self.memory.positions
        moved = self._block(attention.pos_net, expected)
        x = x + masked_attention(moved, self.memory.positions, self.memory.mask) @ self.memory.values
        for block in rnn.decoder:
            x = self._block(block, x)
        self.position += 1
        return self.model.head(x)[:, 0]

    def _block(self, block: torch.nn.Module, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b 1 d"]:
        assert isinstance(block, MixingBlock)
        mix = block.tmix
        assert isinstance(mix, GatedLinearAttention)
        assert not mix.short_conv
        u = block.norm1(x)
        q, k, v, gate = mix.q_proj(u), mix.k_proj(u), mix.v_proj(u), mix.g_proj(u)
        decay = log_decay(mix.gk_proj(u))
        q, k, v, decay, gate = (split_heads(part, mix.heads) for part in (q, k, v, decay, gate))
        read, self.memories[id(block)] = recurrent_gla(q, k, v, decay, self.memories.get(id(block)))
        x = x + mix.o_proj(mix.g_norm_swish_gate(read, gate).flatten(2))
        return x + block.cmix(block.norm2(x))


def measure_step(batch: int, threads: int = 2, steps: int = 10, rounds: int = 4) -> StepTimes:
    """The 60M step on CPU, ours against the naive form."""
    model, generator = _published(), torch.Generator().manual_seed(0)
    ids = torch.randint(3, 256, (batch, TEXT_UNITS), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    column = torch.randint(3, 1000, (batch, PUBLISHED_60M.codebooks), generator=generator)
    with bench_threads(threads), torch.inference_mode():
        _, _, state = prefill(model, ids, mask, [torch.full((1, PUBLISHED_60M.codebooks), BOS)] * batch)
        step, naive, cached = SmallEStep(model), NaiveLoop(model, ids, mask, False), NaiveLoop(model, ids, mask, True)
        forms = (lambda: step(column, state), lambda: naive(column), lambda: cached(column))
        best = _take_turns(forms, (steps, max(1, steps // 5), steps), rounds)
    return StepTimes(batch, threads, *(1000 * seconds for seconds in best))


def measure_bundled(models: str | None, sentences: Sequence[str], threads: int = 2, voice: str = "ada") -> BundledSpeed:
    """The stages `tokens` and `audio` of a render, engines loaded, in this process.

    A worker has one thread, and a machine has a worker for each core; here one process has them all.
    """
    with workshop(models) as shop:
        warm_up(shop.context)
        with bench_threads(threads):
            _speak(shop, ["Good morning."], models, voice)
            batched = _speak(shop, sentences, models, voice)
    with workshop(models) as shop, bench_threads(threads):  # nothing of the batch is found in an empty store
        _speak(shop, ["Good morning."], models, voice)
        alone = [_speak(shop, [sentence], models, voice) for sentence in sentences]
    heard, spent = (sum(times) for times in zip(*alone, strict=True))
    return BundledSpeed(
        sentences=len(sentences),
        threads=threads,
        one=statistics.median(heard / spent for heard, spent in alone),
        batched=batched[0] / batched[1],
        loop=heard / spent,
    )


def measure_stream(models: str | None, sentences: Sequence[str], voice: str = "ada") -> StreamSpeed:
    """What a listener of `speak --stream` waits for, sentence by sentence."""
    avatar, units = load_avatar((), voice), front_end(read_model_set(models)).units
    waits, heard, spent = [], 0, 0.0
    with workshop(models) as shop:
        for sentence in ["Good morning.", *sentences]:  # the first loads the engines
            spoken = normalise(sentence).spoken
            item = tokens_item(Line(units(spoken), spoken, voice, voice), avatar, shop.made_with)
            started = time.perf_counter()
            pieces = stream_tokens(item, shop.context)
            samples = len(next(pieces))
            waits.append(time.perf_counter() - started)
            samples += sum(map(len, pieces))
            if len(waits) > 1:
                heard, spent = heard + samples, spent + time.perf_counter() - started
    return StreamSpeed(len(sentences), statistics.median(waits[1:]), heard / SAMPLE_RATE_HZ / spent)


def measure_memory(
    models: str | None,
    sentences: Sequence[str],
    words: int = 10_000,
    seconds: float = 60.0,
    early_seconds: float = 40.0,
    voice: str = "ada",
) -> Growth:
    """Listens to a script of so many words, the sentences over and over, for so many seconds of wall-clock time.

    Streaming looks nothing up, so a sentence said before is work like any other. Raises WorkerError where the command
    fails, or speaks no longer than the first part in that time.
    """
    arguments = ["speak", _script(sentences, words), "--stream", "-o", "-", "--voice", voice]
    arguments += ["--models", models] if models else []
    most, heard, first = {"early": 0.0, "late": 0.0}, 0.0, 0.0
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        header = len(process.stdout.read(WAV_HEADER_BYTES))
        while time.monotonic() < started + seconds and (data := os.read(process.stdout.fileno(), 2**16)):
            first = first or time.monotonic() - started
            heard += len(data) / 2 / SAMPLE_RATE_HZ
            part = "early" if heard < early_seconds else "late"
            most[part] = max(most[part], _resident_megabytes(process.pid))
        process.terminate()
    if not header or not most["late"]:
        raise WorkerError(f"`speak --stream` gave {heard:.0f} s of speech in {seconds:.0f} s", "measure for longer")
    return Growth(words, heard, early_seconds, most["early"], most["late"], first)


def measure_gpu(batch: int = 64, steps: int = 200) -> GpuSpeed:
    """The 60M step with matrices in bfloat16. Raises NotFound where there is no GPU."""
    if not torch.cuda.is_available():
        raise NotFound("there is no GPU on this machine", "measure where one is")
    device = torch.device("cuda")
    model = _published().to(device)
    ids = torch.randint(3, 256, (batch, TEXT_UNITS), device=device)
    with torch.inference_mode():
        start = [torch.full((1, PUBLISHED_60M.codebooks), BOS, device=device)] * batch
        _, _, state = prefill(model, ids, torch.ones_like(ids, dtype=torch.bool), start)
        step = SmallEStep(model, torch.bfloat16)
        captured = CapturedStep(step, state)
        column = torch.randint(3, 1000, (batch, PUBLISHED_60M.codebooks), device=device)
        seconds = _cuda_seconds(lambda: captured(column, state), steps)
        source = torch.empty(2**30, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        bytes_per_second = 2 * source.numel() / _cuda_seconds(lambda: target.copy_(source), 20)
        carried = sum(tensor.numel() * tensor.element_size() for tensor in state.moving())
        text = [state.keys, state.values, state.positions, state.position_keys]
        read = sum(tensor.numel() * tensor.element_size() for tensor in text)
        stepping = sum(p.numel() for p in model.attentive_rnn.parameters()) + model.logits_head.weight.numel()
        moved = 2 * stepping + 2 * carried + read  # weights of two bytes once, memories there and back
    return GpuSpeed(
        device=torch.cuda.get_device_name(device),
        batch=batch,
        step_milliseconds=1000 * seconds,
        real_time=batch / PUBLISHED_STEPS_PER_SECOND / seconds,
        floor_share=moved / bytes_per_second / seconds,
    )


def _published() -> SmallE:
    torch.manual_seed(0)
    return SmallE(PUBLISHED_60M).eval()


def _take_turns(forms: Sequence[Callable[[], object]], calls: Sequence[int], rounds: int) -> list[float]:
    """The best seconds of one call of each form, over rounds in which every form has a turn of so many calls."""
    best = [float("inf")] * len(forms)
    for form in forms:
        form()
    for _ in range(rounds):
        for index, (form, count) in enumerate(zip(forms, calls, strict=True)):
            started = time.perf_counter()
            for _ in range(count):
                form()
            best[index] = min(best[index], (time.perf_counter() - started) / count)
    return best


def _speak(shop: Workshop, sentences: Sequence[str], models: str | None, voice: str) -> tuple[float, float]:
    """Seconds of speech, and seconds it took."""
    avatar, units = load_avatar((), voice), front_end(read_model_set(models)).units
    spoken = [normalise(sentence).spoken for sentence in sentences]
    items = [tokens_item(Line(units(words), words, voice, voice), avatar, shop.made_with) for words in spoken]
    started = time.perf_counter()
    tokens = shop.make("tokens", items)
    audio = shop.make("audio", [audio_item(action, shop.made_with) for action in tokens])
    took = time.perf_counter() - started
    return sum(len(shop.array(action.outputs["audio.npy"])) for action in audio) / SAMPLE_RATE_HZ, took


def _resident_megabytes(pid: int) -> float:
    """Zero once the process has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _script(sentences: Sequence[str], words: int) -> str:
    """So many words or a few more, a paragraph of every ten sentences."""
    chosen: list[str] = []
    count = 0
    while count < words:
        sentence = sentences[len(chosen) % len(sentences)]
        chosen.append(sentence)
        count += len(sentence.split())
    return "\n\n".join(" ".join(chosen[at : at + 10]) for at in range(0, len(chosen), 10))


def _cuda_seconds(call: Callable[[], object], count: int) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count
