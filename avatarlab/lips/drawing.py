"""Pictures drawn fast: a renderer made ready for one clip, whose frames share noise, steps and solver.

`Renderer.ddim` and `Renderer.sample` are the specification; a `Drawer` gives the same pictures up to rounding. What does
not change from frame to frame is worked once: time embeddings and their projections in every block. What does not change
from step to step is worked once a batch: the projections of the lip latent, all in one product, and the reference's half
of the first convolution. Time and style are folded into the affine part of the norm they follow.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from avatarlab.errors import SettingsError
from avatarlab.lips import sampler
from avatarlab.lips.diffdub import Renderer
from avatarlab.lips.unet import GROUPS, NORM_EPS, ResidualBlock, UNet, resampled

SOLVERS = ("ddim", "dpm++", "dpm++-trailing", "direct")
GRAPH_WARM_UP_RUNS = 2


def solver_steps(solver: str, count: int) -> tuple[int, ...]:
    """The steps (of 0..999, high to low) at which a solver calls the network: strided for ddim, from the same first to the
    same last for dpm++, else trailing from 999.

    Raises SettingsError for a solver that does not exist or a number of steps it cannot take.
    """
    if solver not in SOLVERS:
        raise SettingsError(f"unknown solver {solver!r}", f"the solvers are {', '.join(SOLVERS)}")
    spacing = {"ddim": sampler.strided_steps, "dpm++": sampler.closing_steps}
    return spacing.get(solver, sampler.trailing_steps)(count)


class Drawer:
    """Draws masked pictures of one size, in batches of `batch_size`, with the same noise for every one.

    A batch that is not full is filled with copies of its last row, so that a picture depends on nothing but its own row:
    kernels differ with the batch size in the last bits. Under `precision` bfloat16 the convolutions and the attention run
    in it; norms and the solver keep float32. On a GPU the network is compiled and a batch is one CUDA graph.
    """

    def __init__(
        self,
        renderer: Renderer,
        noise: Float[Tensor, "1 3 n n"],
        steps: int,
        solver: str,
        batch_size: int = 16,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """`ddim`: the published sampling (`steps` 20 there). `dpm++`: DPM-Solver++ for the same networks in fewer steps;
        `dpm++-trailing`: from 999 on, where pure noise belongs, and so to another picture. `direct`: `Renderer.sample`, for
        the bundled window renderer in 1 to 4 steps.

        Raises SettingsError for a solver, number of steps, precision or batch size that there is not.
        """
        if precision not in (torch.float32, torch.bfloat16):
            raise SettingsError(f"precision {precision}", "use torch.float32 or torch.bfloat16")
        if batch_size < 1:
            raise SettingsError(f"batches of {batch_size}", "use at least 1")
        self.solver = solver
        self.steps = solver_steps(solver, steps)
        self.batch_size = batch_size
        self.device = next(renderer.parameters()).device
        self.noise = noise.to(self.device)
        self.windowed = renderer.config.window is not None
        with torch.inference_mode():
            self.network = SteppedNetwork(renderer, self.steps, precision)
        self.graphs: dict[tuple[torch.Size, ...], _CapturedBatch] = {}

    def draw(
        self,
        start: Float[Tensor, "b 3 n n"],
        reference: Float[Tensor, "#b 3 n n"],
        keep: Float[Tensor, "#b 1 n n"],
        z: Float[Tensor, "b z"],
    ) -> Float[Tensor, "b 3 n n"]:
        """Pictures in [-1, 1]; where `keep` is 1 they are `start`, untouched. One reference or mask serves all rows."""
        with torch.inference_mode():
            drawn = []
            for first in range(0, len(start), self.batch_size):
                rows = [min(k, len(start) - 1) for k in range(first, first + self.batch_size)]
                shared = [part if len(part) == 1 else part[rows] for part in (reference, keep)]
                batch = [part.to(self.device) for part in (start[rows], *shared, z[rows])]
                drawn.append(self._drawn(*batch)[: len(start) - first])
            return torch.cat(drawn)

    def _drawn(self, start: Tensor, reference: Tensor, keep: Tensor, z: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return self._solved(start, reference, keep, z)
        inputs = (start, reference, keep, z)
        shapes = tuple(part.shape for part in inputs)
        if shapes not in self.graphs:
            self.graphs[shapes] = _CapturedBatch(self._solved, inputs)
        return self.graphs[shapes](inputs)

    def _solved(self, start: Tensor, reference: Tensor, keep: Tensor, z: Tensor) -> Tensor:
        shown, style = self.network.shown(reference), self.network.style(z)

        def output(x: Tensor, step: int) -> Tensor:
            return self.network(x, shown, style, self.steps.index(step))

        def clean(x: Tensor, step: int) -> Tensor:
            if self.windowed:
                return reference + output(x, step)
            signal = sampler.signal(step)
            return (x - (1 - signal) ** 0.5 * output(x, step)) / signal**0.5

        def noise(x: Tensor, step: int) -> Tensor:
            if not self.windowed:
                return output(x, step)
            signal = sampler.signal(step)
            return (x - signal**0.5 * (reference + output(x, step))) / (1 - signal) ** 0.5

        if self.solver.startswith("dpm++"):
            return sampler.multistep(clean, start, keep, self.noise, self.steps)
        if self.solver == "direct":
            return sampler.few_steps(clean, start, keep, self.noise, self.steps)
        drawn = sampler.ddim(noise, start, keep, self.noise, self.steps)
        return (1 - keep) * drawn + keep * start


class SteppedNetwork:
    """A renderer's UNet at a few steps known beforehand, and everything in it that no picture changes.

    Every residual block multiplies and adds by channel after its second norm: by time, by style and by the norm's own
    weights. For all blocks side by side these are

        scale = weight * (1 + s(t)) * style      shift = (bias * (1 + s(t)) + b(t)) * style      style = 1 + c(z)

    of which `scales` and `shifts` keep the part of each step.
    """

    def __init__(self, renderer: Renderer, steps: Sequence[int], precision: torch.dtype) -> None:
        device = next(renderer.parameters()).device
        blocks = [layer for layer in renderer.unet.modules() if isinstance(layer, ResidualBlock)]
        e = renderer.unet.time_embed(torch.tensor(steps, device=device))
        scales, shifts = [], []
        for block in blocks:
            weight, bias = _weights(block.out_layers[0])
            scale, shift = block.emb_layers(e).chunk(2, dim=1)  # (steps, c) each
            scales.append(weight * (1 + scale))
            shifts.append(bias * (1 + scale) + shift)
        self.scales, self.shifts = torch.cat(scales, dim=1), torch.cat(shifts, dim=1)  # (steps, all c)
        styles = [_weights(block.cond_emb_layers[1]) for block in blocks]
        self.style_weight = torch.cat([weight for weight, _ in styles])
        self.style_bias = 1 + torch.cat([bias for _, bias in styles])
        self.widths = [len(bias) for _, bias in styles]
        self.patch = renderer.config.patch
        self.precision = precision
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.unet = _prepared(renderer.unet, precision, self.layout)
        first = self.unet.input_blocks[0][0]  # type: ignore[index]
        own = first.in_channels // 2
        self.first = [part.contiguous(memory_format=self.layout) for part in first.weight.split(own, dim=1)]
        self.first_bias = first.bias
        self.through = torch.compile(self._through, dynamic=False) if device.type == "cuda" else self._through

    def shown(self, reference: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The reference's half of the first convolution, row by row, so that it is the same for one row and for many."""
        return torch.cat(
            [F.conv2d(self._folded(row), self.first[1], self.first_bias, padding=1) for row in reference.split(1)]
        )

    def style(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b all_c"]:
        return F.linear(F.silu(z), self.style_weight, self.style_bias)

    def __call__(
        self,
        x: Float[Tensor, "b 3 h w"],
        shown: Float[Tensor, "#b c h2 w2"],
        style: Float[Tensor, "b all_c"],
        index: int,
    ) -> Float[Tensor, "b 3 h w"]:
        """The network's output at step number `index`."""
        output = self.through(self._folded(x), shown, self.scales[index] * style, self.shifts[index] * style).float()
        return output if self.patch == 1 else F.pixel_shuffle(output, self.patch)

    def _folded(self, x: Tensor) -> Tensor:
        x = x if self.patch == 1 else F.pixel_unshuffle(x, self.patch)
        return x.to(self.precision, memory_format=self.layout)

    def _through(self, x: Tensor, shown: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
        affine = zip(scales.split(self.widths, dim=1), shifts.split(self.widths, dim=1), strict=True)
        h = F.conv2d(x, self.first[0], padding=1) + shown
        skips = [h]
        for block in self.unet.input_blocks[1:]:
            h = _block(block, h, affine)
            skips.append(h)
        h = _block(self.unet.middle_block, h, affine)
        for block in self.unet.output_blocks:
            h = _block(block, torch.cat([h, skips.pop()], dim=1), affine)
        norm, _, last = self.unet.out
        return last(_norm_silu(h, *_weights(norm)))


def _prepared(unet: UNet, precision: torch.dtype, layout: torch.memory_format) -> UNet:
    """The network itself where nothing has to change, else a copy: norms stay in float32."""
    if precision == torch.float32 and layout == torch.contiguous_format:
        return unet
    copy = deepcopy(unet)
    for layer in copy.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.to(memory_format=layout)
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            layer.to(dtype=precision)
    return copy


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return weight, bias


Affine = Iterator[tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]]


def _block(block: nn.Module, h: Tensor, affine: Affine) -> Tensor:
    for layer in block:  # type: ignore[attr-defined]
        h = _residual(layer, h, *next(affine)) if isinstance(layer, ResidualBlock) else layer(h)
    return h


def _residual(block: ResidualBlock, x: Tensor, scale: Float[Tensor, "b c"], shift: Float[Tensor, "b c"]) -> Tensor:
    norm, _, first = block.in_layers
    h = first(resampled(_norm_silu(x, *_weights(norm)), block.resample))
    h = block.out_layers[3](_norm_silu(h, scale, shift))
    return h.add_(block.skip_connection(resampled(x, block.resample)))


def _norm_silu(x: Float[Tensor, "b c h w"], scale: Float[Tensor, "*b c"], shift: Float[Tensor, "*b c"]) -> Tensor:
    """SiLU of the group norm with these weights, which may differ from row to row, computed in float32."""
    b, c = x.shape[:2]
    if x.device.type == "cuda":  # the compiler fuses what follows a norm
        normed = F.group_norm(x.float(), GROUPS, eps=NORM_EPS)
        return F.silu(normed * scale.view(-1, c, 1, 1) + shift.view(-1, c, 1, 1)).to(x.dtype)
    # Each row's groups are groups of one long row of channels, so that one pass norms, scales and shifts.
    weight, bias = scale.expand(b, c).flatten(), shift.expand(b, c).flatten()
    normed = F.group_norm(x.float().reshape(1, b * c, *x.shape[2:]), b * GROUPS, weight, bias, NORM_EPS)
    return F.silu(normed, inplace=True).to(x.dtype).view(x.shape)


class _CapturedBatch:
    """One batch of these shapes as a CUDA graph: inputs are copied to where it reads them, its output copied out."""

    def __init__(self, solve: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [part.clone() for part in inputs]
        device = self.inputs[0].device
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(GRAPH_WARM_UP_RUNS):
                solve(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.drawn = solve(*self.inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for there, part in zip(self.inputs, inputs, strict=True):
            there.copy_(part)
        self.graph.replay()
        return self.drawn.clone()
