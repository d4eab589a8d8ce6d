"""Generation: stepping is the network, a row stands alone, and the rules of beginning, prompting and ending hold."""

import dataclasses
import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avatarlab.errors import InputError, SettingsError
from avatarlab.speech.delay import delay, undelay
from avatarlab.speech.generate import (
    CapturedStep,
    Decoding,
    Sampling,
    SmallEStep,
    Utterance,
    VoicePrompt,
    generate,
    prefill,
    sample_top_k,
)
from avatarlab.speech.gla import chunked_gla, log_decay, recurrent_gla
from avatarlab.speech.small_e import BOS, EOS, SmallE, SmallEConfig, pad_rows, token_loss
from benchmarks.speed import NaiveLoop

TINY: dict[str, Any] = {"width": 24, "text_layers": 1, "text_heads": 2, "encoder_blocks": 1, "decoder_blocks": 2,
                        "heads": 2, "codebook_size": 12, "position_width": 8, "dropout_attention": 0.3}  # fmt: skip
LINA = SmallEConfig(**TINY, positions="convolutional", tied=True, codebooks=1)
SMALL_E = SmallEConfig(**TINY, short_conv=False, expand_v=2.0, rotary_attention=True, codebooks=4)
BUNDLED = SmallEConfig(**TINY, codebooks=2)
DIALECTS = pytest.mark.parametrize("config", [LINA, SMALL_E, BUNDLED], ids=["lina", "small_e", "bundled"])


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


def voice(config: SmallEConfig, units: int, frames: int) -> VoicePrompt:
    rng = np.random.default_rng(units)
    codes = rng.integers(0, config.codebook_size, (config.codebooks, frames)).astype(np.int16)
    return VoicePrompt(tuple(rng.integers(3, 90, units).tolist()), codes)


def text(units: int) -> list[int]:
    return np.random.default_rng(100 + units).integers(3, 90, units).tolist()


FREE = Sampling(top_k=6, temperature=1.0, max_steps=40, end_guard_units=0)


def teacher_forced(model: SmallE, units: list[int], prompt: VoicePrompt, spoken: Utterance) -> tuple[Tensor, Tensor]:
    """Logits and A2 of the parallel network over prompt and utterance together."""
    codes = torch.from_numpy(np.concatenate((prompt.codes, spoken.codes), axis=1).astype(np.int64))
    columns = delay(codes)[None]
    ids = torch.tensor([[BOS, *prompt.text_ids, *units, EOS]])
    with torch.no_grad():
        logits, attention = model.forward_train(
            ids, torch.ones_like(ids, dtype=torch.bool), columns, torch.ones_like(columns[..., 0], dtype=torch.bool)
        )
    return logits[0], attention[0, 1]


@DIALECTS
def test_stepping_after_a_prefill_equals_the_parallel_network(config: SmallEConfig) -> None:
    model = lively(config)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 90, (n,), generator=generator) for n in (5, 30, 17)]
    columns = [torch.randint(1, 15, (n + 9, config.codebooks), generator=generator) for n in (1, 40, 3)]
    step = SmallEStep(model)
    with torch.no_grad():
        ids, mask = pad_rows(texts)
        logits, alignment, state = prefill(model, ids, mask, [c[:-9] for c in columns])
        seen = [(logits, alignment)]
        for t in range(9):
            seen.append(step(torch.stack([c[len(c) - 9 + t] for c in columns]), state))
        for row, (units, audio) in enumerate(zip(texts, columns, strict=True)):
            whole, attention = model.forward_train(
                units[None],
                torch.ones(1, len(units), dtype=torch.bool),
                audio[None],
                torch.ones(1, len(audio), dtype=torch.bool),
            )
            for back, (logits, alignment) in enumerate(reversed(seen), start=1):
                torch.testing.assert_close(logits[row], whole[0, -back], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(alignment[row, : len(units)], attention[0, 1, -back], atol=1e-5, rtol=1e-5)
                assert alignment[row, len(units) :].abs().sum() == 0


@DIALECTS
def test_a_row_of_a_batch_says_exactly_what_it_says_alone(config: SmallEConfig) -> None:
    model = lively(config, end_bonus=0.4)
    texts = [text(n) for n in (3, 25, 11, 8, 40)]
    prompts = [voice(config, 6, 20), None, voice(config, 30, 57), voice(config, 6, 20), voice(config, 2, 1)]
    together = generate(model, texts, prompts, [7, 8, 9, 10, 11], FREE)
    assert len({spoken.codes.shape[1] for spoken in together}) > 1
    for row, spoken in enumerate(together):
        (alone,) = generate(model, [texts[row]], [prompts[row]], [7 + row], FREE)
        np.testing.assert_array_equal(spoken.codes, alone.codes)
        np.testing.assert_allclose(spoken.alignment, alone.alignment, atol=1e-5)
        assert spoken.stopped == alone.stopped


def test_the_naive_loop_of_the_benchmark_computes_what_the_step_computes() -> None:
    model = lively(SMALL_E)
    ids, mask = pad_rows([torch.tensor(text(n)) for n in (9, 4)])
    with torch.no_grad():
        logits, _, state = prefill(model, ids, mask, [torch.full((1, 4), BOS)] * 2)
        step, columns = SmallEStep(model), torch.randint(1, 15, (5, 2, 4), generator=torch.Generator().manual_seed(0))
        for cached in (False, True):
            naive = NaiveLoop(model, ids, mask, cached)
            torch.testing.assert_close(naive(torch.full((2, 4), BOS)), logits, atol=1e-4, rtol=1e-4)
            own = state.select(torch.arange(2))
            for column in columns:
                torch.testing.assert_close(step(column, own)[0], naive(column), atol=1e-4, rtol=1e-4)


@DIALECTS
def test_frames_are_complete_as_soon_as_their_last_codebook_is_drawn(config: SmallEConfig) -> None:
    model, voices = lively(config, end_bonus=0.4), [None, voice(config, 4, 6)]
    decoding = Decoding(model, [text(9), text(20)], voices, [1, 2], FREE)
    seen: list[list[np.ndarray]] = []
    while decoding.advance():
        seen.append([decoding.codes(row) for row in range(2)])
    whole = generate(model, [text(9), text(20)], voices, [1, 2], FREE)
    for row, spoken in enumerate(whole):
        assert len(seen) >= spoken.codes.shape[1] + config.codebooks - 2
        np.testing.assert_array_equal(decoding.finished[row].codes, spoken.codes)
        for steps, codes in enumerate((both[row] for both in seen), start=1):
            ready = min(spoken.codes.shape[1], max(0, steps - config.codebooks + 1))
            np.testing.assert_array_equal(codes, spoken.codes[:, :ready])


@DIALECTS
def test_bfloat16_matrices_step_nearly_alike_and_carry_float32(config: SmallEConfig) -> None:
    torch.manual_seed(3)
    model, units = SmallE(config).eval(), torch.tensor([text(12)])  # a lively one multiplies every rounding
    columns = torch.randint(1, 15, (1, 8, config.codebooks), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, _, exact = prefill(model, units, torch.ones_like(units, dtype=torch.bool), [columns[0, :1]])
        rough = exact.select(torch.tensor([0]))
        steps = SmallEStep(model), SmallEStep(model, torch.bfloat16)
        for column in columns[:, 1:].unbind(1):
            (logits, _), (near, _) = (step(column, own) for step, own in zip(steps, (exact, rough), strict=True))
            assert near.dtype == rough.blocks[0].matrix.dtype == torch.float32
            assert 0 < (near - logits).norm() < 0.05 * logits.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@DIALECTS
def test_a_captured_step_replays_the_step(config: SmallEConfig) -> None:
    model = lively(config).cuda()
    ids, mask = pad_rows([torch.tensor(text(n)).cuda() for n in (9, 4)])
    columns = torch.randint(1, 15, (6, 2, config.codebooks), generator=torch.Generator().manual_seed(0)).cuda()
    step = SmallEStep(model)
    with torch.inference_mode():
        _, _, eager_state = prefill(model, ids, mask, [columns[0, :1], columns[1, :1]])
        graph_state = eager_state.select(torch.arange(2).cuda())
        captured = CapturedStep(SmallEStep(model), graph_state)
        gc.collect()
        _overwritten = [torch.full((1 << n,), torch.nan, device="cuda") for n in range(6, 20) for _ in range(8)]
        for column in columns:
            expected = step(column, eager_state)
            for own, other in zip(captured(column, graph_state), expected, strict=True):
                torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("steps", [1, 37, 200])
def test_the_kernel_of_flash_linear_attention_computes_the_recurrence_and_its_gradients(steps: int) -> None:
    pytest.importorskip("fla", reason="needs flash-linear-attention: pip install 'avatarlab[gpu]'")
    generator, results = torch.Generator().manual_seed(steps), []
    shapes = [(2, steps, 2, 32)] * 2 + [(2, steps, 2, 64), (2, steps, 2, 32), (2, 2, 32, 64)]
    drawn = [torch.randn(shape, generator=generator).cuda() for shape in shapes]
    for form in (recurrent_gla, chunked_gla):
        q, k, v, z, state = (x.clone().requires_grad_() for x in drawn)
        output, final = form(q, k, v, log_decay(z), state)
        (output.square().sum() + final.square().sum()).backward()
        results.append([output, final, *(x.grad for x in (q, k, v, z, state))])
    for slow, fast in zip(*results, strict=True):
        assert (fast - slow).norm() < 5e-3 * slow.norm()  # tf32 products


@DIALECTS
@pytest.mark.parametrize("prompted", [False, True])
def test_greedy_speech_is_the_largest_logit_of_the_teacher_forced_network_at_every_frame(
    config: SmallEConfig, prompted: bool
) -> None:
    model = lively(config)
    prompt = voice(config, 5 * prompted, 13 * prompted)
    units = text(9)
    (spoken,) = generate(model, [units], [prompt], [0], dataclasses.replace(FREE, top_k=1))
    logits, attention = teacher_forced(model, units, prompt, spoken)
    start, frames = prompt.codes.shape[1], spoken.codes.shape[1]
    for book in range(config.codebooks):
        own = logits[start + book : start + book + frames, book].clone()  # column t is predicted from column t - 1
        own[: 1 if book == 0 else frames, EOS] = -torch.inf  # at least one frame; only codebook 0 may end
        np.testing.assert_array_equal(own[:, EOS:].argmax(-1).numpy() - 1, spoken.codes[book])
    target = attention[start : start + frames, 1 + len(prompt.text_ids) : -1]
    np.testing.assert_allclose(spoken.alignment, target.numpy(), atol=1e-5)


@DIALECTS
def test_utterances_hold_raw_codes_and_an_alignment_over_the_target_alone(config: SmallEConfig) -> None:
    (spoken,) = generate(lively(config), [text(9)], [voice(config, 4, 10)], [1], FREE)
    frames = spoken.codes.shape[1]
    assert spoken.codes.dtype == np.int16
    assert spoken.codes.shape == (config.codebooks, frames)
    assert 0 <= spoken.codes.min() <= spoken.codes.max() < config.codebook_size
    assert spoken.alignment.dtype == np.float32
    assert spoken.alignment.shape == (frames, 9)
    assert (spoken.alignment.sum(1) <= 1 + 1e-5).all()


@DIALECTS
def test_a_row_that_never_ends_is_cut_at_its_limit_and_says_so(config: SmallEConfig) -> None:
    model = lively(config, end_bonus=0.0)
    model.logits_head.weight.data[0, EOS] = 0.0
    sampling = Sampling(top_k=1, max_steps=30, max_steps_per_unit=2.0, end_guard_units=0)
    short, long = generate(model, [text(3), text(50)], [None, None], [0, 1], sampling)
    assert (short.codes.shape[1], long.codes.shape[1]) == (14, 30)
    assert not short.stopped
    assert not long.stopped


def eager(config: SmallEConfig) -> SmallE:
    """A network that wants to end at once, always: its last block says so whatever it hears."""
    model = lively(config)
    block = model.attentive_rnn.decoder[-1]
    block.cmix.p_out.bias.data.fill_(50.0)
    model.logits_head.weight.data[0, EOS] = 50.0
    return model


@DIALECTS
def test_an_end_inside_the_prompt_is_ignored_and_one_frame_is_always_spoken(config: SmallEConfig) -> None:
    (spoken,) = generate(eager(config), [text(6)], [voice(config, 5, 30)], [0], FREE)
    assert spoken.codes.shape[1] == 1
    assert spoken.stopped


def test_the_end_is_forbidden_until_the_alignment_has_reached_the_last_units() -> None:
    model, units, prompt = eager(BUNDLED), text(9), voice(BUNDLED, 5, 10)
    guarded = dataclasses.replace(FREE, end_guard_units=3, max_steps=60, top_k=4)
    lengths = set()
    for seed in range(5):
        (spoken,) = generate(model, [units], [prompt], [seed], guarded)
        _, attention = teacher_forced(model, units, prompt, spoken)
        frames = spoken.codes.shape[1]
        looked_at = attention[10 : 10 + frames + 1].argmax(-1)  # of 16: BOS, 5 of the prompt, 9, EOS
        reached = (looked_at >= 16 - 1 - 3).nonzero()[:, 0].tolist()
        assert spoken.stopped == bool(reached)
        if reached:
            assert frames == max(1, reached[0])
        lengths.add(frames)
    (spoken,) = generate(model, [units], [prompt], [0], dataclasses.replace(guarded, end_guard_units=0))
    assert spoken.codes.shape[1] == 1
    assert max(lengths) > 1


def test_late_codebooks_continue_the_prompt_and_end_after_codebook_zero() -> None:
    """With q = 4 the last codebook is three columns behind: its first columns and last codes are its own, never EOS."""
    model = lively(SMALL_E, end_bonus=0.5)
    seen = set()
    for seed in range(6):
        (spoken,) = generate(model, [text(5)], [voice(SMALL_E, 3, 2)], [seed], FREE)
        assert spoken.codes.min() >= 0
        seen.add(spoken.codes.shape[1])
        np.testing.assert_array_equal(undelay(delay(torch.from_numpy(spoken.codes.astype(int)))).numpy(), spoken.codes)
    assert len(seen) > 1


def test_seeds_decide_and_the_global_generator_is_left_alone() -> None:
    model = lively(BUNDLED)
    before = torch.random.get_rng_state()
    one, same, other = (generate(model, [text(9)], [None], [seed], FREE)[0].codes for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or (one != other).any()


def test_a_network_in_training_speaks_as_in_evaluation_and_goes_on_training() -> None:
    model = lively(BUNDLED)
    (quiet,) = generate(model, [text(9)], [None], [4], FREE)
    model.train()
    (busy,) = generate(model, [text(9)], [None], [4], FREE)
    assert model.training
    np.testing.assert_array_equal(quiet.codes, busy.codes)


def test_only_the_first_codebooks_are_drawn_if_told() -> None:
    model, units = lively(SMALL_E), text(9)
    (spoken,) = generate(model, [units], [None], [4], dataclasses.replace(FREE, sampled_codebooks=1))
    logits, _ = teacher_forced(model, units, VoicePrompt((), np.zeros((4, 0), np.int16)), spoken)
    frames = spoken.codes.shape[1]
    for book in range(1, 4):
        np.testing.assert_array_equal(logits[book : book + frames, book, 3:].argmax(-1).numpy(), spoken.codes[book])


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_top_k_keeps_exactly_k_at_any_temperature(top_k: int, temperature: float) -> None:
    logits = torch.tensor([0.3, -1.0, 0.2, 0.1, 0.0, -0.2, 0.25, -3.0, 0.05])
    uniform = (torch.arange(200_000) + 0.5) / 200_000
    drawn = sample_top_k(logits.expand(200_000, -1), uniform, top_k, temperature)
    kept = logits.topk(top_k).indices
    assert set(drawn.tolist()) == set(kept.tolist())
    share = torch.bincount(drawn, minlength=9)[kept] / 200_000
    torch.testing.assert_close(share, (logits[kept] / temperature).softmax(0), atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_forbidden_candidates_are_never_drawn(uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 0.0]])
    assert int(sample_top_k(logits, torch.tensor([uniform]), 4, 1.0)) in (1, 3)


def test_one_utterance_is_learnt_by_heart_and_spoken_back() -> None:
    torch.manual_seed(0)
    config = SmallEConfig(
        width=48, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=1, heads=2, codebook_size=32,
        position_width=16, dropout_text=0.0, dropout_attention=0.0,
    )  # fmt: skip
    model = SmallE(config).train()
    units = list(range(10, 22))
    codes = torch.randint(0, 32, (2, 36))
    ids, columns = torch.tensor([[BOS, *units, EOS]]), delay(codes)[None]
    text_mask, audio_mask = (torch.ones(x.shape[:2], dtype=torch.bool) for x in (ids, columns[:, :-1]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    loss = torch.tensor(torch.inf)
    for _ in range(120):
        logits, _ = model.forward_train(ids, text_mask, columns[:, :-1], audio_mask)
        loss = token_loss(logits, columns[:, 1:], audio_mask)
        if loss < 0.02:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    (spoken,) = generate(model, [units], [None], [0], Sampling(top_k=1, end_guard_units=0))
    assert spoken.stopped
    np.testing.assert_array_equal(spoken.codes, codes.numpy())


BAD_INPUTS: dict[str, tuple[Any, Any, str]] = {
    "empty text": ([[]], [None], "text 0 is empty"),
    "special id": ([[5, EOS]], [None], "ids outside 3..255"),
    "unknown id": ([[5, 256]], [None], "ids outside 3..255"),
    "wrong codebooks": ([[5]], [VoicePrompt((4,), np.zeros((3, 5), np.int16))], "not 2 codebooks of 12"),
    "foreign codes": ([[5]], [VoicePrompt((4,), np.full((2, 5), 12, np.int16))], "not 2 codebooks of 12"),
    "uneven lists": ([[5], [6]], [None], "differ in number"),
}


@pytest.mark.parametrize("case", sorted(BAD_INPUTS))
def test_what_cannot_be_spoken_is_refused_with_the_reason(case: str) -> None:
    texts, prompts, message = BAD_INPUTS[case]
    with pytest.raises(InputError, match=message):
        generate(lively(BUNDLED), texts, prompts, [0] * len(prompts), FREE)


def test_a_text_longer_than_the_position_table_is_refused() -> None:
    model = lively(dataclasses.replace(LINA, position_rows=20))
    with pytest.raises(InputError, match="more than 18 units"):
        generate(model, [text(10)], [voice(LINA, 9, 5)], [0], FREE)


def test_no_texts_give_no_utterances() -> None:
    assert generate(lively(BUNDLED), [], [], [], FREE) == []


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"temperature": 0.0}, {"max_steps": 0}, {"end_guard_units": -1}, {"precision": "int4"}]
)
def test_impossible_sampling_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Sampling(**wrong)
