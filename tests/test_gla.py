"""Gated linear attention: the definition, the parallel form and the step form are one operator."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avatarlab.speech.gla import (
    CONV_WIDTH,
    BlockStep,
    GatedLinearAttention,
    MixingBlock,
    chunked_gla,
    log_decay,
    recurrent_gla,
    short_convolution,
)


def operands(steps: int, z_scale: float, batch: int = 2, heads: int = 2, k: int = 8, v: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    shapes = [(batch, steps, heads, k), (batch, steps, heads, k), (batch, steps, heads, v), (batch, steps, heads, k)]
    q, keys, values, z = (torch.randn(shape, generator=generator) for shape in shapes)
    state = torch.randn(batch, heads, k, v, generator=generator)
    z = z.mul(z_scale).clamp(-100, 100)
    return [x.requires_grad_() for x in (q, keys, values, z, state)]


@pytest.mark.parametrize("z_scale", [1.0, 20.0, 1000.0], ids=["ordinary", "large", "saturated"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("steps", "chunk"), [(1, 16), (5, 16), (16, 16), (37, 16), (37, 32), (70, 32)])
def test_the_parallel_form_equals_the_recurrence_in_values_and_gradients(
    steps: int, chunk: int, with_state: bool, z_scale: float
) -> None:
    results = []
    for form in (recurrent_gla, lambda *x: chunked_gla(*x, chunk=chunk)):
        q, k, v, z, state = operands(steps, z_scale)
        output, final = form(q, k, v, log_decay(z), state if with_state else None)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        ((output * weights).sum() + final.square().sum()).backward()
        leaves = [q, k, v, z, *([state] if with_state else [])]
        results.append([output, final, *(leaf.grad for leaf in leaves)])
    for slow, fast in zip(*results, strict=True):
        assert torch.isfinite(fast).all()
        torch.testing.assert_close(fast, slow, atol=5e-5, rtol=2e-5)


def test_a_saturated_channel_neither_overflows_nor_disturbs_its_neighbours() -> None:
    q, k, v, z, _ = (x.detach() for x in operands(64, 1.0))
    alone, _ = chunked_gla(q[..., 1:], k[..., 1:], v, log_decay(z[..., 1:]))
    z[..., 0] = -100.0
    q[..., 0] = 0.0
    together, _ = chunked_gla(q, k, v, log_decay(z))
    torch.testing.assert_close(together * 8**0.5, alone * 7**0.5, atol=2e-5, rtol=2e-5)


def test_the_decay_at_zero_is_the_sixteenth_root_of_a_half() -> None:
    torch.testing.assert_close(log_decay(torch.zeros(1)).exp(), torch.tensor([0.5 ** (1 / 16)]))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_the_short_convolution_is_a_causal_depthwise_convolution_with_its_gradients(steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    results = []
    for form in ("ours", "library"):
        generator.manual_seed(0)
        x = torch.randn(2, steps, 6, generator=generator).requires_grad_()
        weight = torch.randn(6, CONV_WIDTH, generator=generator).requires_grad_()
        if form == "ours":
            y = short_convolution(x, weight)
        else:
            padded = F.pad(x.transpose(1, 2), (CONV_WIDTH - 1, 0))
            y = F.silu(F.conv1d(padded, weight[:, None], groups=6)).transpose(1, 2)
        y.square().sum().backward()
        results.append((y, x.grad, weight.grad))
    for ours, library in zip(*results, strict=True):
        torch.testing.assert_close(ours, library, atol=1e-5, rtol=1e-5)


def block(short_conv: bool, expand_k: float = 0.5) -> MixingBlock:
    torch.manual_seed(1)
    made = MixingBlock(16, GatedLinearAttention(16, 2, expand_k, 2.0, short_conv)).eval()
    for parameter in made.parameters():  # away from the small initial values, so that every part matters
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.parametrize("short_conv", [False, True])
@settings(max_examples=12, deadline=None)
@given(steps=st.integers(1, 45), batch=st.integers(1, 3))
def test_stepping_through_a_block_equals_the_whole_sequence(short_conv: bool, steps: int, batch: int) -> None:
    whole = block(short_conv)
    x = torch.randn(batch, steps, 16, generator=torch.Generator().manual_seed(steps))
    with torch.no_grad():
        expected, final = whole(x)
        step = BlockStep(whole)
        state = step.initial_state(batch)
        outputs = torch.stack([step(x[:, t], state) for t in range(steps)], dim=1)
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.matrix, final.matrix, atol=1e-4, rtol=1e-4)
    if short_conv:
        torch.testing.assert_close(state.tail, final.tail, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("short_conv", [False, True])
def test_the_state_of_a_padded_row_is_the_state_of_the_row_alone(short_conv: bool) -> None:
    whole = block(short_conv)
    lengths = torch.tensor([1, 2, 33, 40])
    x = torch.randn(4, 40, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, states = whole(x, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone, state = whole(x[row : row + 1, :length])
            torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(states.matrix[row], state.matrix[0], atol=1e-5, rtol=1e-5)
            if short_conv:
                torch.testing.assert_close(states.tail[row], state.tail[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("short_conv", [False, True])
def test_a_block_never_sees_the_future(short_conv: bool) -> None:
    x = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output, _ = block(short_conv)(x)
    (gradient,) = torch.autograd.grad(output[0, 20].sum(), x)
    assert gradient[0, 21:].abs().max() == 0
    assert (gradient[0, :21].abs().amax(-1) > 0).all()
