"""The Small-E network against the published numbers of its specification (sections 7 and 10)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.speech.small_e import (
    BOS,
    EOS,
    FIRST_CODE,
    SmallE,
    SmallEConfig,
    Unfilled,
    infer_config,
    pad_rows,
    sinusoidal_positions,
    token_loss,
)


def pattern(key: str, shape: tuple[int, ...]) -> Tensor:
    """The filling rule of the golden fixtures and of specification 10.3."""
    index = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    values = 0.3 * torch.sin(0.7 * index + 0.1 * sum(map(ord, key)))
    if len(shape) == 1 and key.endswith(".weight"):
        values += 1.0
    return values.to(torch.float32).view(shape)


def filled(shapes: dict[str, tuple[int, ...]], freqs: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    tensors = {
        key: freqs[key] if key.endswith("rotary.freqs") else pattern(key, shape) for key, shape in shapes.items()
    }
    if tied:
        tensors["rvq_embed.weight"] = tensors["logits_head.weight"]
    return tensors


def golden_case(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    shapes = {key: tuple(shape) for key, shape in json.loads((folder / f"{name}.keys.json").read_text()).items()}
    arrays = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(folder / f"{name}.npz").items()}
    freqs = {key.removeprefix("freqs:"): value for key, value in arrays.items() if key.startswith("freqs:")}
    return filled(shapes, freqs, tied="lina" in name), arrays


def all_true(ids: Tensor) -> Tensor:
    return torch.ones(ids.shape[:2], dtype=torch.bool)


TINY = {
    "width": 24, "text_layers": 1, "text_heads": 2, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2,
    "expand_k": 1.0, "codebook_size": 6, "position_width": 24, "dropout_text": 0.0, "dropout_attention": 0.0,
}  # fmt: skip
G1 = SmallEConfig(**TINY, positions="convolutional", short_conv=True, tied=True, codebooks=1)
G2 = SmallEConfig(**TINY, short_conv=False, expand_v=2.0, rotary_attention=True, codebooks=4)
G3 = SmallEConfig(**(TINY | {"position_width": 8}), short_conv=False, expand_v=2.0, rotary_attention=True, codebooks=4)


def specified(config: SmallEConfig) -> tuple[SmallE, Tensor, Tensor]:
    """The network, text and audio columns of specification 10.3."""
    state = SmallE(config).state_dict()
    freqs = {key: value for key, value in state.items() if key.endswith("freqs")}
    model = SmallE.from_state_dict(filled({k: tuple(v.shape) for k, v in state.items()}, freqs, config.tied))
    text = torch.tensor([[1, 56, 3, 28, 71, 11, 2]])
    columns = [[BOS] * config.codebooks]
    columns += [[FIRST_CODE + (5 * t + 3 * i) % 6 for i in range(config.codebooks)] for t in range(5)]
    columns += [[EOS] * config.codebooks]
    return model, text, torch.tensor([columns])


@pytest.mark.parametrize("name", ["small_e_lina", "small_e_encodec"])
def test_the_reference_outputs_are_reproduced(golden: Path, name: str) -> None:
    tensors, case = golden_case(golden, name)
    model = SmallE.from_state_dict(tensors)
    inputs, targets = case["audio_ids"][:, :-1], case["audio_ids"][:, 1:]
    logits, attention = model.forward_train(case["text_ids"], all_true(case["text_ids"]), inputs, all_true(inputs))
    close = {"atol": 2e-5, "rtol": 0.0}
    torch.testing.assert_close(model.encode_text(case["text_ids"]), case["text_memory"], **close)
    torch.testing.assert_close(logits, case["logits"], **close)
    torch.testing.assert_close(model.logits(case["text_ids"], inputs), case["logits"], **close)
    torch.testing.assert_close(attention, case["attention"], **close)
    loss = token_loss(logits, targets, all_true(targets), ignore_bos="lina" in name)
    torch.testing.assert_close(loss, case["loss"], **close)


G0 = {0: [-2.27113, -2.86099, 5.81604, -0.61974], 6: [2.08112, 3.13244, -5.19508, 2.71516]}
SPECIFIED = {
    "G1": (G1, 80_743, {
        (0, 0): [-1.01297, -0.93752, 1.87676, -0.79165, -1.14737, 1.84879, -0.55602, -1.33649, 1.78741],
        (5, 0): [-1.01308, -2.65905, 3.46301, -0.53162, -2.97320, 3.27100, -0.04056, -3.23363, 3.01989],
    }, 2.95893, {0: [.15625, .36477, .00010, .11801, .14160, .18841, .03087],
                 1: [.06615, .13278, .22621, .25459, .17905, .09286, .04836]}),
    "G2": (G2, 37_849, {
        (0, 0): [-4.21943, -2.18389, 6.23157, -3.55762, -2.95374, 6.27906, -2.83152, -3.67022, 6.21310],
        (5, 3): [7.64089, -5.14401, -2.90142, 7.81725, -4.30107, -3.85443, 7.85238, -3.38041, -4.73781],
    }, 6.95799, {1: [.13793, .16730, .16178, .13790, .12421, .12906, .14183]}),
    "G3": (G3, 31_021, {
        (5, 3): [7.66190, -5.16644, -2.90176, 7.84000, -4.32168, -3.85819, 7.87645, -3.39883, -4.74491],
    }, 6.96393, {1: [.10778, .11524, .14155, .17107, .17622, .15467, .13348]}),
}  # fmt: skip


def test_loading_draws_no_random_numbers() -> None:
    state = SmallE(G2).state_dict()
    before = torch.random.get_rng_state()
    SmallE.from_state_dict(state)
    assert torch.equal(torch.random.get_rng_state(), before)


def parameter_total(model: SmallE) -> int:
    state = model.state_dict()
    return sum(v.numel() for k, v in state.items() if not (model.config.tied and k == "rvq_embed.weight"))


@pytest.mark.parametrize("name", sorted(SPECIFIED))
def test_the_specified_vectors_are_reproduced(name: str) -> None:
    config, parameters, rows, loss, attentions = SPECIFIED[name]
    model, text, audio = specified(config)
    close = {"atol": 2e-5, "rtol": 0.0}
    assert parameter_total(model) == parameters
    memory = model.encode_text(text)
    for token, values in G0.items():
        torch.testing.assert_close(memory[0, token, :4], torch.tensor(values), **close)
    logits, attention = model.forward_train(text, all_true(text), audio[:, :-1], all_true(audio[:, :-1]))
    for (step, codebook), values in rows.items():
        torch.testing.assert_close(logits[0, step, codebook], torch.tensor(values), **close)
    for which, values in attentions.items():
        torch.testing.assert_close(attention[0, which, 5], torch.tensor(values), **close)
    mean = token_loss(logits, audio[:, 1:], all_true(audio[:, 1:]), ignore_bos=False)
    torch.testing.assert_close(mean, torch.tensor(loss), **close)


GLA_60 = {"width": 512, "text_layers": 9, "text_heads": 8, "encoder_blocks": 6, "decoder_blocks": 6, "heads": 4,
          "expand_k": 1.0, "expand_v": 2.0, "short_conv": False, "position_width": 128, "rotary_attention": True,
          "codebooks": 4}  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "parameters", "keys"),
    [
        (GLA_60, 59_874_952, 336),
        (GLA_60 | {"width": 768}, 131_031_596, 336),
        (GLA_60 | {"width": 1024, "text_heads": 4, "position_width": 512}, 232_634_758, 336),
        (GLA_60 | {"width": 1024, "text_layers": 5, "expand_v": 1.0, "short_conv": True, "position_width": 1024,
                   "positions": "convolutional", "rotary_attention": False, "codebooks": 1, "codebook_size": 4096,
                   "tied": True}, 169_819_540, 333),
    ],
    ids=["gla_60", "gla_130", "gla_230", "lina_169"],
)  # fmt: skip
def test_published_networks_have_the_published_number_of_parameters(sizes: Any, parameters: int, keys: int) -> None:
    with Unfilled():
        model = SmallE(SmallEConfig(**sizes))
    assert parameter_total(model) == parameters
    assert len(model.state_dict()) == keys


def test_sinusoidal_positions_are_all_sines_then_all_cosines() -> None:
    expected = torch.tensor([0.84147, 0.09983, 0.0100, 0.0010, 0.54030, 0.99500, 0.99995, 1.0])
    torch.testing.assert_close(sinusoidal_positions(2, 8)[1], expected, atol=1e-5, rtol=0.0)


LINA = SmallEConfig(**(TINY | {"decoder_blocks": 2}), positions="convolutional", tied=True, codebooks=1)
SMALL_E = SmallEConfig(
    **(TINY | {"encoder_blocks": 2, "position_width": 8}), short_conv=False, rotary_attention=True, codebooks=4
)
BUNDLED = SmallEConfig(**(TINY | {"expand_k": 0.5, "text_layers": 2, "decoder_blocks": 3, "position_width": 8}))
DIALECTS = pytest.mark.parametrize("config", [LINA, SMALL_E, BUNDLED], ids=["lina", "small_e", "bundled"])


def lively(config: SmallEConfig) -> SmallE:
    """A network whose every parameter matters: far from the small initial values."""
    torch.manual_seed(0)
    model = SmallE(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


@DIALECTS
def test_a_padded_batch_gives_every_row_what_it_has_alone(config: SmallEConfig) -> None:
    model = lively(config)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 90, (n,), generator=generator) for n in (4, 23, 40)]
    columns = [torch.randint(1, 9, (n, config.codebooks), generator=generator) for n in (50, 7, 33)]
    with torch.no_grad():
        logits, attention = model.forward_train(*pad_rows(texts), *pad_rows(columns))
        for row, (text, audio) in enumerate(zip(texts, columns, strict=True)):
            alone, alone_attention = model.forward_train(
                text[None], all_true(text[None]), audio[None], all_true(audio[None])
            )
            torch.testing.assert_close(logits[row, : len(audio)], alone[0], atol=2e-5, rtol=1e-5)
            cut = attention[row, :, : len(audio), : len(text)]
            torch.testing.assert_close(cut, alone_attention[0], atol=1e-5, rtol=1e-5)
            assert attention[row, :, :, len(text) :].abs().sum() == 0


@DIALECTS
def test_a_logit_depends_on_the_past_and_the_text_and_never_on_the_future(config: SmallEConfig) -> None:
    model = lively(config)
    memory = model.read_text(torch.arange(3, 20)[None], torch.ones(1, 17, dtype=torch.bool))
    x = torch.randn(1, 40, config.width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    hidden, _, _ = model.attentive_rnn(x, memory)
    to_audio, to_text = torch.autograd.grad(model.head(hidden)[0, 20].square().sum(), (x, memory.values))
    assert to_audio[0, 21:].abs().max() == 0
    assert (to_audio[0, :21].abs().amax(-1) > 0).all()
    assert (to_text.abs().amax(-1) > 0).all()


@DIALECTS
def test_start_memories_reach_every_block_but_the_position_network(config: SmallEConfig) -> None:
    model = lively(config)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(3, 90, (2, 9), generator=generator)
    audio = torch.randint(1, 9, (2, 20, config.codebooks), generator=generator)
    blocks = (*model.attentive_rnn.encoder, *model.attentive_rnn.decoder)
    shapes = [block.tmix.step().initial_state(1).matrix.shape[1:] for block in blocks]
    starts = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    given = (text, all_true(text), audio, all_true(audio))
    logits, _ = model.forward_train(*given, states=starts)
    for gradient in torch.autograd.grad(logits.square().sum(), starts):
        assert (gradient.abs().amax((-1, -2)) > 0).all()
    rows = [None, *(torch.stack((start, torch.zeros_like(start))) for start in starts[1:])]
    one_row, _ = model.forward_train(*given, states=rows)
    cold, _ = model.forward_train(*given)
    torch.testing.assert_close(one_row[1], cold[1])
    assert (one_row[0] - cold[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="shorter"):
        model.forward_train(*given, states=starts[:-1])


@DIALECTS
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_network_is_rebuilt_from_its_tensors_alone(config: SmallEConfig, prefix: str) -> None:
    state = SmallE(config).state_dict()
    assert infer_config(state) == config
    rebuilt = SmallE.from_state_dict({prefix + key: tensor.half() for key, tensor in state.items()})
    assert not rebuilt.training
    for key, tensor in rebuilt.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, state[key].half().float())
    assert (rebuilt.rvq_embed.weight is rebuilt.logits_head.weight) == config.tied


def test_loading_copies_the_tensors() -> None:
    state = SmallE(BUNDLED).state_dict()
    before = state["txt_embed.weight"].clone()
    SmallE.from_state_dict(state).txt_embed.weight.data.zero_()
    assert torch.equal(state["txt_embed.weight"], before)


def test_rotary_buffers_of_other_library_versions_are_ignored() -> None:
    state = SmallE(BUNDLED).state_dict()
    SmallE.from_state_dict(state | {"txt_encoder.sa.0.tmix.rotary.dummy": torch.zeros(0)})


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


NORM, QUERY, TEXT = (
    "attentive_rnn.decoder.2.norm2.bias",
    "attentive_rnn.encoder.0.tmix.q_proj.weight",
    "txt_embed.weight",
)
MIDDLE = "attentive_rnn.decoder.1."
DAMAGES = {
    "missing": (lambda s: without(s, NORM), [f"missing {NORM} (24,)"]),
    "missing embedding": (lambda s: without(s, TEXT), [f"missing {TEXT} (256, 24)"]),
    "unknown": (
        lambda s: s | {"attentive_rnn.extra.weight": torch.zeros(3)},
        ["unknown attentive_rnn.extra.weight (3,)"],
    ),
    "misshapen": (lambda s: s | {QUERY: torch.zeros(5, 24)}, [f"{QUERY} is (5, 24), not (12, 24)"]),
    "a block lost": (
        lambda s: {k: v for k, v in s.items() if not k.startswith(MIDDLE)},
        [f"missing {MIDDLE}tmix.q_proj.weight", "and 15 more"],
    ),
    "transposed table": (lambda s: s | {TEXT: s[TEXT].T}, [f"{TEXT} is (24, 256), not"]),
    "empty": (lambda _: {}, ["not a Small-E network"]),
    "another network": (lambda _: {"encoder.weight": torch.zeros(3, 3)}, ["not a Small-E network"]),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_weights_are_refused_by_name(damage: str) -> None:
    change, messages = DAMAGES[damage]
    with pytest.raises(WeightsError) as caught:
        SmallE.from_state_dict(change(SmallE(BUNDLED).state_dict()))
    for message in messages:
        assert message in str(caught.value)


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(SettingsError, match="5 heads do not divide width"):
        SmallEConfig(heads=5)
    with pytest.raises(SettingsError, match="odd width"):
        SmallEConfig(position_width=31, heads=1)


def test_the_loss_counts_only_real_entries_and_skips_repeated_begins_if_told() -> None:
    logits = torch.randn(2, 3, 2, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[[4, BOS], [5, 6], [7, 8]], [[3, BOS], [EOS, 4], [0, 0]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    surprise = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_loss(logits, targets, mask, ignore_bos=False), surprise[mask].mean())
    torch.testing.assert_close(token_loss(logits, targets, mask), surprise[mask & True][targets[mask] != BOS].mean())


def test_an_untrained_network_starts_near_the_loss_of_guessing() -> None:
    torch.manual_seed(0)
    model = SmallE(SmallEConfig(width=64, position_width=16, codebook_size=50))
    audio = torch.randint(3, 53, (2, 30, 2))
    logits = model.logits(torch.randint(3, 90, (2, 12)), audio).detach()
    assert 3.5 < float(token_loss(logits, audio, all_true(audio))) < 6.5
