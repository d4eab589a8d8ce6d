"""RWKV6 and Mamba2 in place of gated linear attention: their forms agree, a row stands alone, and each learns."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.speech.generate import Sampling, SmallEStep, VoicePrompt, generate, prefill
from avatarlab.speech.gla import BlockStep, MixingBlock
from avatarlab.speech.mamba2 import chunked_ssd, recurrent_ssd
from avatarlab.speech.rwkv6 import chunked_rwkv6, recurrent_rwkv6
from avatarlab.speech.small_e import (
    BOS,
    EOS,
    FIRST_CODE,
    Mixer,
    SmallE,
    SmallEConfig,
    infer_config,
    mixing_block,
    pad_rows,
    token_loss,
)

TINY: dict[str, Any] = {"width": 24, "text_layers": 1, "text_heads": 2, "encoder_blocks": 1, "decoder_blocks": 2,
                        "heads": 2, "codebook_size": 12, "position_width": 8, "dropout_text": 0.0,
                        "dropout_attention": 0.0}  # fmt: skip
CONFIGS = {name: SmallEConfig(**TINY, mixer=name) for name in ("gla", "rwkv6", "mamba2")}
EVERY_MIXER = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def rwkv6_operands(steps: int, decay_scale: float) -> list[Tensor]:
    """r, k, v, log decay, bonus, state."""
    generator = torch.Generator().manual_seed(steps)
    shapes = [(2, steps, 3, 8), (2, steps, 3, 8), (2, steps, 3, 12), (2, steps, 3, 8), (3, 8), (2, 3, 8, 12)]
    r, k, v, d, bonus, state = (torch.randn(shape, generator=generator) for shape in shapes)
    return [r, k, v, d.exp() * -decay_scale, bonus, state]


def ssd_operands(steps: int, decay_scale: float) -> list[Tensor]:
    """queries, keys, values, log decay, state."""
    generator = torch.Generator().manual_seed(steps)
    shapes = [(2, steps, 8), (2, steps, 8), (2, steps, 3, 12), (2, steps, 3), (2, 3, 8, 12)]
    queries, keys, values, d, state = (torch.randn(shape, generator=generator) for shape in shapes)
    return [queries, keys, values, d.exp() * -decay_scale, state]


OPERATORS = {
    "rwkv6": (recurrent_rwkv6, chunked_rwkv6, rwkv6_operands),
    "mamba2": (recurrent_ssd, chunked_ssd, ssd_operands),
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.parametrize("decay_scale", [0.05, 1.0, 30.0], ids=["slow", "ordinary", "forgetful"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("steps", [1, 5, 31, 32, 70])
def test_the_parallel_form_equals_the_recurrence_in_values_and_gradients(
    name: str, steps: int, with_state: bool, decay_scale: float
) -> None:
    recurrent, chunked, operands = OPERATORS[name]
    results = []
    for form in (recurrent, chunked):
        leaves = [x.requires_grad_() for x in operands(steps, decay_scale)][: None if with_state else -1]
        output, final = form(*leaves)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        ((output * weights).sum() + final.square().sum()).backward()
        results.append(([output, final], [leaf.grad for leaf in leaves]))
    (slow_values, slow_gradients), (values, gradients) = results
    for slow, fast in zip(slow_values, values, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for slow, fast in zip(slow_gradients, gradients, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_rwkv6_sees_its_own_pair_through_the_bonus_alone_and_later_through_the_memory() -> None:
    one = torch.ones(1, 2, 1, 1)
    halving = torch.full((1, 2, 1, 1), 0.5).log()
    output, state = recurrent_rwkv6(one, one, one * 3, halving, torch.tensor([[7.0]]), torch.full((1, 1, 1, 1), 10.0))
    assert output.flatten().tolist() == pytest.approx([10 + 7 * 3, (10 / 2 + 3) + 7 * 3])
    assert float(state) == pytest.approx((10 / 2 + 3) / 2 + 3)


def test_ssd_adds_after_the_decay_and_reads_after_the_addition() -> None:
    one = torch.ones(1, 2, 1)
    halving = torch.full((1, 2, 1), 0.5).log()
    output, state = recurrent_ssd(one, one, one[..., None] * 3, halving, torch.full((1, 1, 1, 1), 10.0))
    assert output.flatten().tolist() == pytest.approx([8.0, 7.0])
    assert float(state) == pytest.approx(7.0)


def block(config: SmallEConfig) -> MixingBlock:
    """A block whose every parameter matters: far from the small initial values."""
    torch.manual_seed(1)
    made = mixing_block(config, config.width).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


@EVERY_MIXER
@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 45), batch=st.integers(1, 3), with_state=st.booleans())
def test_stepping_through_a_block_equals_the_whole_sequence(
    config: SmallEConfig, steps: int, batch: int, with_state: bool
) -> None:
    whole = block(config)
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(batch, steps, config.width, generator=generator)
    step = BlockStep(whole)
    state = step.initial_state(batch)
    if with_state:
        state.matrix = torch.randn(state.matrix.shape, generator=generator)
    with torch.no_grad():
        expected, final = whole(x, state=state.matrix.clone() if with_state else None)
        outputs = torch.stack([step(x[:, t], state) for t in range(steps)], dim=1)
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.matrix, final.matrix, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.tail, final.tail, atol=1e-5, rtol=1e-5)


@EVERY_MIXER
def test_a_step_with_bfloat16_matrices_stays_near_and_remembers_in_float32(config: SmallEConfig) -> None:
    whole = block(config)
    x = torch.randn(3, 5, config.width, generator=torch.Generator().manual_seed(0))
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        step = BlockStep(whole, dtype)
        state = step.initial_state(3)
        with torch.no_grad():
            outputs.append(torch.stack([step(x[:, t], state) for t in range(5)], dim=1))
        assert state.matrix.dtype == outputs[-1].dtype == torch.float32
    exact, near = outputs
    assert 0 < (near - exact).norm() < 0.03 * exact.norm()


@EVERY_MIXER
def test_the_state_of_a_padded_row_is_the_state_of_the_row_alone_and_rows_are_selected_together(
    config: SmallEConfig,
) -> None:
    whole = block(config)
    lengths = torch.tensor([1, 2, 33, 40])
    x = torch.randn(4, 40, config.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, states = whole(x, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone, state = whole(x[row : row + 1, :length])
            chosen = states.select(torch.tensor([row]))
            torch.testing.assert_close(together[row, :length], alone[0], atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(chosen.matrix, state.matrix, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(chosen.tail, state.tail, atol=1e-5, rtol=1e-5)


@EVERY_MIXER
def test_a_block_never_sees_the_future(config: SmallEConfig) -> None:
    x = torch.randn(1, 40, config.width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output, _ = block(config)(x)
    (gradient,) = torch.autograd.grad(output[0, 20].square().sum(), x)
    assert gradient[0, 21:].abs().max() == 0
    assert (gradient[0, 15:21].abs().amax(-1) > 0).all()


@EVERY_MIXER
def test_one_start_memory_serves_every_row_and_learns(config: SmallEConfig) -> None:
    whole = block(config)
    x = torch.randn(3, 20, config.width, generator=torch.Generator().manual_seed(0))
    shape = BlockStep(whole).initial_state(1).matrix.shape
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    shared, _ = whole(x, state=start[0])
    each, _ = whole(x, state=start.expand(3, -1, -1, -1))
    torch.testing.assert_close(shared, each)
    assert (shared - whole(x)[0]).abs().max() > 1e-3
    (gradient,) = torch.autograd.grad(shared[:, 5].square().sum(), start)
    assert (gradient.abs().amax((-1, -2)) > 0).all()


def lively(config: SmallEConfig, end_bonus: float = 0.0) -> SmallE:
    """An untrained network with decided opinions; `end_bonus` is the length of its wish to end."""
    torch.manual_seed(3)
    model = SmallE(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    if end_bonus:
        model.logits_head.weight.data[0, EOS] = end_bonus
    return model.eval()


@EVERY_MIXER
def test_stepping_after_a_prefill_equals_the_parallel_network(config: SmallEConfig) -> None:
    model = lively(config)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 90, (n,), generator=generator) for n in (5, 30, 17)]
    columns = [torch.randint(1, 15, (n + 9, config.codebooks), generator=generator) for n in (1, 40, 3)]
    step = SmallEStep(model)
    with torch.no_grad():
        whole, _ = model.forward_train(*pad_rows(texts), *pad_rows(columns))
        _, _, state = prefill(model, *pad_rows(texts), [c[:-9] for c in columns])
        for t in range(9):
            logits, _ = step(torch.stack([c[len(c) - 9 + t] for c in columns]), state)
            for row, audio in enumerate(columns):
                torch.testing.assert_close(logits[row], whole[row, len(audio) - 9 + t], atol=1e-4, rtol=1e-4)


@EVERY_MIXER
def test_a_row_of_a_batch_says_exactly_what_it_says_alone(config: SmallEConfig) -> None:
    model = lively(config, end_bonus=0.4)
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 90, n).tolist() for n in (3, 25, 11)]
    prompts = [VoicePrompt((5, 6, 7), rng.integers(0, 12, (2, 37)).astype(np.int16)), None, None]
    sampling = Sampling(top_k=6, temperature=1.0, max_steps=40, end_guard_units=0)
    together = generate(model, texts, prompts, [7, 8, 9], sampling)
    assert len({spoken.codes.shape[1] for spoken in together}) > 1
    for row, spoken in enumerate(together):
        (alone,) = generate(model, [texts[row]], [prompts[row]], [7 + row], sampling)
        np.testing.assert_array_equal(spoken.codes, alone.codes)
        np.testing.assert_allclose(spoken.alignment, alone.alignment, atol=1e-5)


@EVERY_MIXER
def test_a_network_is_rebuilt_with_its_mixer_from_its_tensors_alone(config: SmallEConfig) -> None:
    config = dataclasses.replace(config, expand_k=1.0, expand_v=2.0, heads=4)
    state = SmallE(config).state_dict()
    assert infer_config(state) == config
    rebuilt = SmallE.from_state_dict(state)
    for key, tensor in rebuilt.state_dict().items():
        torch.testing.assert_close(tensor, state[key])


MARKS = {"rwkv6": "attentive_rnn.decoder.1.tmix.bonus", "mamba2": "attentive_rnn.decoder.1.tmix.A_log"}


@pytest.mark.parametrize("name", sorted(MARKS))
def test_a_missing_tensor_of_a_mixer_is_named(name: str) -> None:
    state = SmallE(CONFIGS[name]).state_dict()
    with pytest.raises(WeightsError, match=f"missing {MARKS[name]}"):
        SmallE.from_state_dict({key: value for key, value in state.items() if key != MARKS[name]})


@pytest.mark.parametrize("name", sorted(MARKS))
def test_only_gla_can_do_without_its_short_convolution(name: Mixer) -> None:
    with pytest.raises(SettingsError, match=f"short_conv is off for {name}"):
        SmallEConfig(mixer=name, short_conv=False)


SYMBOLS, PAIRS = 4, 3


def recall(rows: int, generator: torch.Generator) -> Tensor:
    """Ids (b, t, 1): three keys, each with its value behind it, then the same keys and values in another order."""
    keys = torch.rand(rows, SYMBOLS, generator=generator).argsort(-1)[:, :PAIRS]
    values = SYMBOLS + torch.randint(SYMBOLS, (rows, PAIRS), generator=generator)
    told = torch.stack((keys, values), dim=-1)
    order = torch.rand(rows, PAIRS, generator=generator).argsort(-1)
    asked = told.gather(1, order[..., None].expand(-1, -1, 2))
    return FIRST_CODE + torch.cat((told, asked), dim=1).flatten(1)[..., None]


@EVERY_MIXER
def test_each_mixer_learns_to_answer_from_memory(config: SmallEConfig) -> None:
    """The value behind a key that is asked for is random: without memory no loss is below ln 4."""
    torch.manual_seed(0)
    sizes = {"width": 48, "text_layers": 0, "decoder_blocks": 1, "codebooks": 1, "codebook_size": 2 * SYMBOLS}
    model = SmallE(dataclasses.replace(config, **sizes)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    text, answers, everything = torch.tensor([[BOS, EOS]] * 32), slice(2 * PAIRS, None, 2), torch.ones(32, PAIRS).bool()
    losses: list[float] = []
    while len(losses) < 200 and not np.mean(losses[-10:] or [np.inf]) < 0.2:
        ids = recall(32, generator)
        loss = token_loss(model.logits(text, ids[:, :-1])[:, answers], ids[:, 1:][:, answers], everything)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] > np.log(SYMBOLS)
    assert np.mean(losses[-10:]) < 0.2
