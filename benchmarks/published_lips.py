"""How fast the renderer of the published size draws: ours against the plain loop on a CPU, and what a GPU makes of it.

The published weights are not at hand. Cost does not depend on weights; how near two samplers come does, wholly. The
stand-in has the published sizes and seeded weights, and its output is read as a change of the reference, as in the window
renderer: random weights that predict noise give saturated noise whatever the sampler. Nor is the stand-in any denoiser:
what it draws hangs on the noise left at the last call, so its PSNR is low (9 dB at 64 px with 4 steps against 20) and no
verdict on the sampler. Whoever has the published file hands its renderer in, and only then does that PSNR say something.
Meanwhile `measure_agreement` compares the samplers on the one trained renderer there is, the bundled one, which tells the
noise in a picture as the published one does.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatarlab import SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import NotFound
from avatarlab.lips.diffdub import PUBLISHED_RENDERER, Renderer
from avatarlab.lips.drawing import Drawer
from avatarlab.lips.mask import window_keep
from avatarlab.training.articulation import articulate
from avatarlab.training.corpus import synthesise
from avatarlab.training.evaluate_lips import unseen_windows
from avatarlab.training.renderer import make_batch
from benchmarks.lips import held_out_voice, load_lips
from benchmarks.speech import LECTURE, lines_of
from benchmarks.workshop import bench_threads

SIZE_PX = 256
MASK_PX = (75, 88)  # width and height of the published mask's box in the sampled frames (spec diffdub 1.4)
PLAIN_STEPS = 20
FAST_STEPS = 3
MULTIPLICATIONS = 277.44e9  # of one call of the UNet at 256 px (spec diffdub)
SPREAD = 0.03
DENSE_BF16_OPERATIONS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}  # a second, by the data sheets


@dataclass(frozen=True)
class PublishedSpeed:
    """Seconds a frame of the plain sampler (20 strided steps, frame by frame) and of ours, on the same frames.

    psnr_db: between the two inside the mask, the least of the frames; steps: of ours.
    """

    frames: int
    threads: int
    steps: int
    plain_seconds: float
    ours_seconds: float
    psnr_db: float

    @property
    def ratio(self) -> float:
        return self.plain_seconds / self.ours_seconds


@dataclass(frozen=True)
class GpuLips:
    """Frames a second at 256 px in bfloat16; `peak_share`: of the multiplications the matrix units can do, None where the
    card's peak is not known."""

    device: str
    batch: int
    steps: int
    frames_per_second: float
    peak_share: float | None


def stand_in(spread: float = SPREAD, size_px: int = SIZE_PX) -> Renderer:
    """A renderer of the published sizes with seeded weights; every parameter is moved, for zeros would hide errors."""
    torch.manual_seed(0)
    renderer = Renderer(replace(PUBLISHED_RENDERER, window=(size_px, size_px))).eval()
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.add_(spread * torch.randn(parameter.shape))
    return renderer


def measure_published(
    renderer: Renderer | None = None,
    frames: int = 1,
    steps: int = FAST_STEPS,
    threads: int = 2,
    size_px: int = SIZE_PX,
) -> PublishedSpeed:
    """Both draw every frame whole, taking turns."""
    renderer = renderer or stand_in(size_px=size_px)
    start, reference, keep, z, noise = _scene(renderer, frames, size_px)
    masked = keep.expand(1, 3, -1, -1) == 0
    plain_seconds, ours_seconds, psnrs = [], [], []
    with bench_threads(threads), torch.inference_mode():
        drawer = Drawer(renderer, noise, steps, "dpm++", batch_size=1)
        *warm_up, warm_up_noise = _scene(renderer, 1, 32)  # the solver's import is no part of a frame
        Drawer(renderer, warm_up_noise, 1, "dpm++", batch_size=1).draw(*warm_up)
        for k in range(frames):
            one = slice(k, k + 1)
            ours, seconds = _timed(lambda one=one: drawer.draw(start[one], reference, keep, z[one]))
            ours_seconds.append(seconds)
            plain, seconds = _timed(
                lambda one=one: renderer.ddim(
                    start[one], reference, keep.expand(1, 3, -1, -1), noise, z[one], PLAIN_STEPS
                )
            )
            plain_seconds.append(seconds)
            psnrs.append(-10 * float(torch.log10((ours - plain)[masked].square().mean() / 4)))
    return PublishedSpeed(
        frames, threads, steps, statistics.median(plain_seconds), statistics.median(ours_seconds), min(psnrs)
    )


@dataclass(frozen=True)
class Agreement:
    """PSNR in dB inside the mask between the plain loop and fewer steps, over windows of unseen presenters."""

    windows: int
    mean_db: float
    least_db: float


def measure_agreement(models: str | None, steps: int = FAST_STEPS, solver: str = "dpm++") -> Agreement:
    """The bundled renderer as a predictor of noise. Raises WeightsError where the model set has none."""
    renderer = load_lips(models).renderer
    assert renderer.config.window is not None
    size = renderer.config.window[0]
    waveform, phones = synthesise(lines_of(LECTURE)[0], held_out_voice(0))
    track = articulate(phones, -(-len(waveform) // SAMPLES_PER_VIDEO_FRAME))
    faces = unseen_windows(renderer, [track], mouths=1)
    batch = make_batch(faces, np.arange(len(faces.windows)), renderer.config, None)
    keep = torch.from_numpy(window_keep(size).astype(np.float32))[None, None]
    noise = torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        z = renderer.encode_lips(batch.lips)
        plain = Drawer(renderer, noise, PLAIN_STEPS, "ddim").draw(batch.target, batch.reference, keep, z)
        ours = Drawer(renderer, noise, steps, solver).draw(batch.target, batch.reference, keep, z)
    apart = ((ours - plain) / 2).square().permute(0, 2, 3, 1)[:, keep[0, 0] == 0]
    each = -10 * torch.log10(apart.mean(dim=(1, 2)))
    return Agreement(len(each), float(-10 * torch.log10(apart.mean())), float(each.min()))


def measure_gpu_lips(batch: int = 16, steps: int = FAST_STEPS, batches: int = 8) -> GpuLips:
    """The published size in bfloat16, compiled, a batch a CUDA graph. Raises NotFound where there is no GPU."""
    if not torch.cuda.is_available():
        raise NotFound("there is no GPU on this machine", "measure where one is")
    device = torch.device("cuda")
    renderer = stand_in().to(device)
    start, reference, keep, z, noise = (part.to(device) for part in _scene(renderer, batch, SIZE_PX))
    drawer = Drawer(renderer, noise, steps, "dpm++", batch, torch.bfloat16)
    drawer.draw(start, reference, keep, z)  # compiles and captures
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(batches):
        drawer.draw(start, reference, keep, z)
    torch.cuda.synchronize()
    frames_per_second = batch * batches / (time.perf_counter() - began)
    name = torch.cuda.get_device_name(device)
    peak = next((operations for card, operations in DENSE_BF16_OPERATIONS.items() if card in name), None)
    return GpuLips(
        device=name,
        batch=batch,
        steps=steps,
        frames_per_second=frames_per_second,
        peak_share=2 * MULTIPLICATIONS * steps * frames_per_second / peak if peak else None,
    )


def _scene(renderer: Renderer, frames: int, size_px: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Frames (smooth colours), one reference, one mask of the published box, latents and noise, seeded, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(frames + 1, 3, 8, 8, generator=generator) * 2 - 1
    pictures = torch.nn.functional.interpolate(coarse, size=size_px, mode="bilinear", align_corners=False)
    width, height = (side * size_px // SIZE_PX for side in MASK_PX)
    left, top = (size_px - width) // 2, size_px // 2
    keep = torch.ones(1, 1, size_px, size_px)
    keep[..., top : top + height, left : left + width] = 0
    z = torch.randn(frames, renderer.config.style, generator=generator)
    return pictures[1:], pictures[:1], keep, z, torch.randn(1, 3, size_px, size_px, generator=generator)


def _timed(call: Callable[[], Float[Tensor, "1 3 n n"]]) -> tuple[Float[Tensor, "1 3 n n"], float]:
    began = time.perf_counter()
    drawn = call()
    return drawn, time.perf_counter() - began
