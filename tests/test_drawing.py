"""A renderer made ready for a clip draws what the plain samplers draw."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from avatarlab.errors import SettingsError
from avatarlab.lips import sampler
from avatarlab.lips.diffdub import Renderer, RendererConfig
from avatarlab.lips.drawing import SOLVERS, Drawer

WHOLE = RendererConfig(
    base=32, widths=(32, 64), encoder_widths=(32,), blocks=1, attention_levels=(1,), encoder_attention_levels=(),
    time=48, style=16,
)  # fmt: skip
WINDOWED = replace(WHOLE, widths=(64, 32), patch=3, window=(18, 12))
SIZES = {WHOLE: 14, WINDOWED: 18}


def weighted(config: RendererConfig) -> Renderer:
    torch.manual_seed(0)
    renderer = Renderer(config).eval()
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return renderer


@pytest.fixture(scope="module", params=[WHOLE, WINDOWED], ids=["whole", "windowed"])
def renderer(request: Any) -> Renderer:
    return weighted(request.param)


def clip(renderer: Renderer, count: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Frames, references, masks, latents and the noise."""
    size = SIZES[renderer.config]
    generator = torch.Generator().manual_seed(1)
    start, reference = torch.rand(2, count, 3, size, size, generator=generator) * 2 - 1
    keep = torch.ones(count, 1, size, size)
    for k in range(count):
        keep[k, :, 5 : 9 + k, 3 + k : 12] = 0
    z = torch.randn(count, renderer.config.style, generator=generator)
    return start, reference, keep, z, torch.randn(1, 3, size, size, generator=generator)


@pytest.mark.parametrize("steps", [5, 20])
def test_published_sampling_is_that_of_the_plain_loop_with_the_known_area_put_back(steps: int) -> None:
    renderer = weighted(WHOLE)
    start, reference, keep, z, noise = clip(renderer)
    drawn = Drawer(renderer, noise, steps, "ddim", batch_size=3).draw(start, reference, keep, z)
    with torch.inference_mode():
        plain = renderer.ddim(start, reference, keep.expand_as(start), noise.expand_as(start), z, steps)
    masked = keep.expand_as(start) == 0
    assert (drawn - plain).abs()[masked].max() < 5e-5  # the first steps divide rounding by 0.01
    assert torch.equal(drawn[~masked], start[~masked])


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_step_sampling_is_that_of_the_plain_loop(steps: int) -> None:
    renderer = weighted(WINDOWED)
    start, reference, keep, z, noise = clip(renderer)
    drawn = Drawer(renderer, noise, steps, "direct", batch_size=3).draw(start, reference, keep, z)
    with torch.inference_mode():
        plain = renderer.sample(start, reference, keep, noise, z, steps)
    assert (drawn - plain).abs().max() < 1e-5


def test_one_call_of_the_network_is_that_of_the_plain_one_at_every_step(renderer: Renderer) -> None:
    start, reference, _, z, noise = clip(renderer)
    network = Drawer(renderer, noise, 4, "ddim").network
    with torch.inference_mode():
        for index, step in enumerate(sampler.strided_steps(4)):
            fast = network(start, network.shown(reference), network.style(z), index)
            t = torch.full((len(start),), step)
            if renderer.config.window is None:
                plain = renderer.predict_noise(start, reference, t, z)
            else:
                plain = renderer.predict_clean(start, reference, t, z) - reference
            assert plain.abs().mean() > 0.1
            assert (fast - plain).abs().max() < 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_picture_depends_on_nothing_but_its_own_row(solver: str) -> None:
    renderer = weighted(WINDOWED)
    start, reference, keep, z, noise = clip(renderer)
    drawer = Drawer(renderer, noise, 4, solver, batch_size=2)
    together = drawer.draw(start, reference, keep, z)
    for k in range(len(start)):
        alone = drawer.draw(start[k : k + 1], reference[k : k + 1], keep[k : k + 1], z[k : k + 1])
        # A row may stand elsewhere in its batch, and on some processors the last bit of a product depends on that.
        assert (alone[0] - together[k]).abs().max() < 1e-5
    singly = Drawer(renderer, noise, 4, solver, batch_size=1).draw(start, reference, keep, z)
    assert (singly - together).abs().max() < 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_known_area_is_bit_equal_and_the_rest_is_drawn(renderer: Renderer, solver: str) -> None:
    start, reference, keep, z, noise = clip(renderer)
    drawn = Drawer(renderer, noise, 4, solver).draw(start, reference, keep, z)
    known = keep.expand_as(start) == 1
    assert torch.equal(drawn[known], start[known])
    assert (drawn[~known] != start[~known]).float().mean() > 0.9
    assert drawn.abs().max() <= 1


def test_one_reference_and_one_mask_serve_every_row(renderer: Renderer) -> None:
    start, reference, keep, z, noise = clip(renderer)
    drawer = Drawer(renderer, noise, 2, "direct", batch_size=3)
    shared = drawer.draw(start, reference[:1], keep[:1], z)
    assert torch.equal(shared, drawer.draw(start, reference[:1].expand_as(start), keep[:1].expand_as(keep), z))


def test_the_same_noise_draws_the_same_picture_and_other_noise_another(renderer: Renderer) -> None:
    start, reference, keep, z, noise = clip(renderer, 1)
    first, second = (Drawer(renderer, noise, 3, "dpm++").draw(start, reference, keep, z) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, Drawer(renderer, noise.flip(3), 3, "dpm++").draw(start, reference, keep, z))


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_precision_draws_the_same_mouth(solver: str) -> None:
    renderer = weighted(WINDOWED)
    start, reference, keep, z, noise = clip(renderer)
    inside = keep.expand_as(start) == 0
    exact, half = (
        Drawer(renderer, noise, 4, solver, precision=precision).draw(start, reference, keep, z)[inside]
        for precision in (torch.float32, torch.bfloat16)
    )
    assert not torch.equal(exact, half)
    assert -10 * torch.log10((exact - half).square().mean() / 4) > 45
    assert all(parameter.dtype == torch.float32 for parameter in renderer.parameters())


def test_what_cannot_be_drawn_with_is_refused_with_a_remedy() -> None:
    renderer = weighted(WINDOWED)
    noise = clip(renderer, 1)[-1]
    with pytest.raises(SettingsError, match=r"unknown solver 'euler'.*dpm\+\+"):
        Drawer(renderer, noise, 4, "euler")
    with pytest.raises(SettingsError, match="37"):
        Drawer(renderer, noise, 37, "ddim")
    with pytest.raises(SettingsError, match="float16"):
        Drawer(renderer, noise, 4, "direct", precision=torch.float16)
    with pytest.raises(SettingsError, match="batches of 0"):
        Drawer(renderer, noise, 4, "direct", batch_size=0)


def test_the_solver_library_is_imported_only_where_it_is_used() -> None:
    script = "import sys, avatarlab.lips.drawing; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
