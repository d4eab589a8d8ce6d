"""Noise schedule and masked samplers of the renderer (spec diffdub 1.5-1.7): plain functions, noise is an argument."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarlab.errors import SettingsError

STEPS = 1000
Predict = Callable[[Float[Tensor, "b c h w"], int], Float[Tensor, "b c h w"]]  # at one step of the schedule, 0..999
PredictMany = Callable[[Float[Tensor, "b c h w"], Int[Tensor, "b"]], Float[Tensor, "b c h w"]]  # at a step for each row


@cache
def alpha_bars() -> Float[Tensor, "1000"]:
    """Share of the signal's variance left at each step: betas linear from 1e-4 to 2e-2, float64."""
    return torch.cumprod(1 - torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64), dim=0)


def signal(step: int) -> float:
    """Share of the signal's variance left at one step."""
    return float(alpha_bars()[step])


def strided_steps(count: int) -> tuple[int, ...]:
    """The published DDIM subset, high to low: stride s is the smallest with ceil(1000 / s) == count (spec 1.6).

    Raises SettingsError where no stride gives `count`.
    """
    for stride in range(1, STEPS):
        if -(-STEPS // stride) == count:
            return tuple(reversed(range(0, STEPS, stride)))
    raise SettingsError(f"no stride over 1000 steps gives {count} sampling steps", "use 2..36, 40, 50 or 100 steps")


def trailing_steps(count: int) -> tuple[int, ...]:
    """`count` evenly spaced steps, high to low, the first always 999, so that sampling starts at pure noise."""
    if not 1 <= count <= STEPS:
        raise SettingsError(f"{count} sampling steps", "use 1 to 1000 steps")
    return tuple(round(STEPS - index * STEPS / count) - 1 for index in range(count))


def closing_steps(count: int) -> tuple[int, ...]:
    """`count` steps, high to low, over the range of the published 20: from 950 to 0, closer together towards 0.

    Begun and ended like the published loop, few steps come near its picture (spaced by the square root of the step, as
    what is still open about a picture shrinks); begun at 999 they cannot, however many they are.
    """
    steps = tuple(round(strided_steps(20)[0] * (1 - index / max(1, count - 1)) ** 2) for index in range(count))
    if count < 1 or len(set(steps)) < count:
        raise SettingsError(f"{count} sampling steps", "use 1 to 30 steps")
    return steps


def ddim(
    predict_noise: Predict,
    start: Float[Tensor, "b c h w"],
    keep: Float[Tensor, "#b #c h w"],
    noise: Float[Tensor, "#b c h w"],
    steps: tuple[int, ...],
) -> Float[Tensor, "b c h w"]:
    """The published masked sampler: clean known area composited before every call, predictions clipped, eta 0.

    `keep` is 1 where `start` (in [-1, 1]) is known. As upstream, nothing is composited after the last step, so the
    known area comes back slightly tinted; `few_steps` and `multistep` do better.
    """
    x = noise.expand_as(start)
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        here, there = signal(step), 1.0 if following is None else signal(following)
        x = (1 - keep) * x + keep * start
        eps = predict_noise(x, step)
        clean = ((x - (1 - here) ** 0.5 * eps) / here**0.5).clamp(-1, 1)
        eps = (x - here**0.5 * clean) / (1 - here) ** 0.5
        x = there**0.5 * clean + (1 - there) ** 0.5 * eps
    return x


def few_steps(
    predict_clean: Predict,
    start: Float[Tensor, "b c h w"],
    keep: Float[Tensor, "#b #c h w"],
    noise: Float[Tensor, "#b c h w"],
    steps: tuple[int, ...],
) -> Float[Tensor, "b c h w"]:
    """The bundled sampler: predicts the picture itself, from pure noise, and returns the known area untouched."""
    x = noise.expand_as(start)
    clean = start
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        x = (1 - keep) * x + keep * start
        clean = predict_clean(x, step).clamp(-1, 1)
        if following is not None:
            here, there = signal(step), signal(following)
            eps = (x - here**0.5 * clean) / (1 - here) ** 0.5
            x = there**0.5 * clean + (1 - there) ** 0.5 * eps
    return (1 - keep) * clean + keep * start


def multistep(
    predict_clean: Predict,
    start: Float[Tensor, "b c h w"],
    keep: Float[Tensor, "#b #c h w"],
    noise: Float[Tensor, "#b c h w"],
    steps: tuple[int, ...],
) -> Float[Tensor, "b c h w"]:
    """Masked DPM-Solver++(2M) (arXiv 2211.01095), the update of diffusers: second order from the second step on.

    As in the published sampler the known area is composited before every call and predictions are clipped; it comes
    back untouched.
    """
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler  # seconds to import

    solver = DPMSolverMultistepScheduler(
        STEPS, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", solver_order=2, algorithm_type="dpmsolver++",
        prediction_type="sample",  # the prediction is clipped before the solver sees it
    )  # fmt: skip
    with warnings.catch_warnings():  # it makes a NumPy array of a tensor in a way that NumPy 2 deprecates
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        solver.set_timesteps(timesteps=list(steps))
    x = noise.expand_as(start)
    for step, timestep in zip(steps, solver.timesteps, strict=True):
        x = (1 - keep) * x + keep * start
        x = solver.step(predict_clean(x, step).clamp(-1, 1), timestep, x, return_dict=False)[0]
    return (1 - keep) * x + keep * start


def noised(
    clean: Float[Tensor, "b c h w"],
    keep: Float[Tensor, "b #c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, "b"],
) -> Float[Tensor, "b c h w"]:
    """Training input at steps `t`: noise in the masked area, the clean picture where it is known (spec 1.7)."""
    left = alpha_bars().to(clean.device)[t].to(clean.dtype)[:, None, None, None]
    return (1 - keep) * (left.sqrt() * clean + (1 - left).sqrt() * noise) + keep * clean


def noise_loss(
    predict_noise: PredictMany,
    clean: Float[Tensor, "b c h w"],
    keep: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, "b"],
) -> Float[Tensor, "b"]:
    """The published objective for each picture: squared noise error in the mask, over the full pixel count (spec
    1.7).
    """
    eps = predict_noise(noised(clean, keep, noise, t), t)
    return ((1 - keep) * (noise - eps) ** 2).mean(dim=(1, 2, 3))
