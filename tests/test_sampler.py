"""Noise schedule and samplers."""

import pytest
import torch

from avatarlab.errors import SettingsError
from avatarlab.lips.sampler import (
    alpha_bars,
    closing_steps,
    ddim,
    few_steps,
    multistep,
    noise_loss,
    noised,
    signal,
    strided_steps,
    trailing_steps,
)


def test_the_noise_schedule_is_the_published_one() -> None:
    published = {
        0: 0.9999,
        50: 0.969951,
        100: 0.895142,
        500: 0.0777967,
        900: 2.70245e-4,
        950: 1.06042e-4,
        999: 4.03583e-5,
    }
    for step, value in published.items():
        assert float(alpha_bars()[step]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "first"),
    [(2, 500), (3, 668), (4, 750), (5, 800), (6, 835), (8, 875), (10, 900), (15, 938), (20, 950), (25, 960), (50, 980)],
)
def test_published_step_subsets_start_where_upstream_starts(count: int, first: int) -> None:
    steps = strided_steps(count)
    assert (len(steps), steps[0], steps[-1]) == (count, first, 0)


@pytest.mark.parametrize("count", [1, 37, 41, 45, 0])
def test_step_counts_no_stride_gives_are_refused(count: int) -> None:
    with pytest.raises(SettingsError, match="sampling steps"):
        strided_steps(count)


def test_trailing_steps_start_at_pure_noise() -> None:
    assert trailing_steps(1) == (999,)
    assert trailing_steps(4) == (999, 749, 499, 249)
    with pytest.raises(SettingsError):
        trailing_steps(0)


def test_closing_steps_begin_and_end_as_the_published_loop_does() -> None:
    assert closing_steps(3) == (950, 238, 0)
    assert closing_steps(4) == (950, 422, 106, 0)
    assert closing_steps(1) == (950,)
    for count in range(2, 31):
        steps = closing_steps(count)
        assert (len(set(steps)), steps[0], steps[-1]) == (count, strided_steps(20)[0], 0)
        assert list(steps) == sorted(steps, reverse=True)
    for count in (0, 60):
        with pytest.raises(SettingsError, match="sampling steps"):
            closing_steps(count)


def masked_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    keep = torch.ones(2, 3, 8, 8)
    keep[..., 2:6, 2:6] = 0
    return start, keep, torch.randn(2, 3, 8, 8, generator=generator)


def test_a_perfect_noise_prediction_recovers_the_picture() -> None:
    start, keep, noise = masked_case()

    def perfect(x: torch.Tensor, step: int) -> torch.Tensor:
        return (x - signal(step) ** 0.5 * start) / (1 - signal(step)) ** 0.5

    assert torch.allclose(ddim(perfect, start, keep, noise, strided_steps(10)), start, atol=1e-4)


def test_published_sampling_tints_the_known_area_by_exactly_the_last_prediction() -> None:
    start, keep, noise = masked_case()
    eps = torch.full_like(start, 0.5)
    out = ddim(lambda _x, _t: eps, start, keep, noise, strided_steps(5))
    first = float(alpha_bars()[0])
    expected = ((start - (1 - first) ** 0.5 * eps) / first**0.5).clamp(-1, 1)
    assert torch.allclose(out[keep == 1], expected[keep == 1], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_step_sampling_leaves_the_known_area_bit_equal(count: int) -> None:
    start, keep, noise = masked_case()
    seen = []

    def predict(x: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(step)
        assert torch.equal(x[keep == 1], start[keep == 1])
        return x * 0.1

    out = few_steps(predict, start, keep[:, :1], noise[:1], trailing_steps(count))
    assert torch.equal(out[keep == 1], start[keep == 1])
    assert tuple(seen) == trailing_steps(count)


def test_few_step_sampling_with_one_step_returns_the_prediction_inside_the_mask() -> None:
    start, keep, noise = masked_case()
    out = few_steps(lambda x, _t: torch.full_like(x, 0.25), start, keep, noise, (999,))
    assert (out[keep == 0] == 0.25).all()


def test_the_training_loss_counts_only_the_mask_over_all_pixels() -> None:
    start, keep, noise = masked_case()
    t = torch.tensor([50, 900])
    loss = noise_loss(lambda x, _t: torch.zeros_like(x), start, keep, noise, t)
    assert torch.allclose(loss, ((1 - keep) * noise.square()).sum((1, 2, 3)) / (3 * 64))
    assert torch.equal(noised(start, keep, noise, t)[keep == 1], start[keep == 1])


def test_the_fewer_step_solver_converges_to_many_steps_of_the_published_sampler() -> None:
    start, keep, noise = masked_case()

    def gaussian(x: torch.Tensor, step: int) -> torch.Tensor:
        """The mean of a Gaussian picture about 0.2 given `x`: the best prediction there is, and no straight path."""
        level = signal(step)
        return 0.2 + 0.09 * level**0.5 * (x - 0.2 * level**0.5) / (0.09 * level + 1 - level)

    def noise_of(x: torch.Tensor, step: int) -> torch.Tensor:
        return (x - signal(step) ** 0.5 * gaussian(x, step)) / (1 - signal(step)) ** 0.5

    exact = ddim(noise_of, start, keep, noise, trailing_steps(1000))
    masked = keep == 0
    errors = [
        float((multistep(gaussian, start, keep, noise, trailing_steps(count)) - exact)[masked].square().mean())
        for count in (5, 10, 20, 80)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5
    first_order = few_steps(gaussian, start, keep, noise, trailing_steps(10))
    assert errors[1] < float((first_order - exact)[masked].square().mean())
    assert torch.equal(multistep(gaussian, start, keep, noise, trailing_steps(3))[~masked], start[~masked])


def test_the_fewer_step_solver_clips_its_predictions() -> None:
    start, keep, noise = masked_case()
    drawn = multistep(lambda x, _step: torch.full_like(x, 3.0), start, keep, noise, trailing_steps(4))
    assert (drawn[keep == 0] == 1).all()
