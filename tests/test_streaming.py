"""Speech while it is being generated: the same sound as at once, earlier, into files and pipes that can be heard."""

import os
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cartoon
import numpy as np
import pytest
import tiny
import torch

from avatarlab.errors import InputError, MediaError
from avatarlab.media import read_audio, wav_stream
from avatarlab.speech import streaming
from avatarlab.speech.codec import Codec, CodecConfig
from avatarlab.speech.codecs import decode_speech
from avatarlab.speech.generate import Decoding, Sampling, VoicePrompt, generate
from avatarlab.speech.small_e import EOS, SmallE, SmallEConfig
from avatarlab.speech.streaming import context_steps, decode_steps, stream_speech
from flows import direct
from flows.direct import speak, stream

SAMPLING = Sampling(top_k=6, temperature=1.0, max_steps=40, end_guard_units=0)
TEXT = list(range(5, 25))
CODES = 32


def codec(levels: int = 1, decoder_blocks: int = 2, synthesis_window: int = 640) -> Codec:
    torch.manual_seed(1)
    config = CodecConfig(
        width=8, latent=4, levels=levels, codes=CODES, encoder_blocks=1, decoder_blocks=decoder_blocks, expansion=2,
        synthesis_window=synthesis_window,
    )  # fmt: skip
    made = Codec(config).eval()
    for parameter in made.decoder.parameters():  # loud enough for a difference to show
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def speaker(codebooks: int, end: float = 0.0) -> SmallE:
    torch.manual_seed(3)
    config = SmallEConfig(
        width=24, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=1, heads=2, codebook_size=CODES,
        position_width=8, codebooks=codebooks,
    )  # fmt: skip
    model = SmallE(config).eval()
    model.logits_head.weight.data[0, EOS] = end
    return model


def prompt(codebooks: int) -> VoicePrompt:
    codes = np.random.default_rng(0).integers(0, CODES, (codebooks, 9)).astype(np.int16)
    return VoicePrompt((7, 8, 9), codes)


@pytest.mark.parametrize(("chunk", "levels"), [(1, 2), (7, 1), (1000, 2)])
@pytest.mark.parametrize("end", [0.0, 0.3], ids=["cut", "ends"])
def test_the_pieces_put_together_are_the_whole_waveform(chunk: int, levels: int, end: float) -> None:
    books = 2 * levels
    model, decoder = speaker(books, end), codec(levels)
    pieces = list(stream_speech(model, decoder, TEXT, prompt(books), 0, SAMPLING, chunk))
    (spoken,) = generate(model, [TEXT], [prompt(books)], [0], SAMPLING)
    assert spoken.stopped == bool(end)
    whole = decode_speech(decoder, torch.from_numpy(spoken.codes.astype(np.int64))[None])[0].numpy()
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    assert all(0 < len(piece) <= 640 * chunk for piece in pieces)


def test_the_first_piece_is_heard_before_the_sentence_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    class Counted(Decoding):
        def advance(self) -> bool:
            nonlocal drawn
            drawn += 1
            return super().advance()

    monkeypatch.setattr(streaming, "Decoding", Counted)
    decoder = codec()
    pieces = stream_speech(speaker(2), decoder, TEXT, None, 0, SAMPLING, 5)
    assert len(next(pieces)) == 5 * 640
    assert drawn == 5 + context_steps(decoder) + 1  # its own steps, the neighbours to come, the late codebook
    assert sum(map(len, pieces)) == (40 - 5) * 640
    assert drawn > 40


@pytest.mark.parametrize(("blocks", "window"), [(1, 320), (1, 640), (2, 640), (6, 640)])
def test_a_sample_depends_on_the_context_and_on_nothing_beyond(blocks: int, window: int) -> None:
    decoder = codec(decoder_blocks=blocks, synthesis_window=window)
    context = context_steps(decoder)
    steps, at = 2 * context + 9, context + 4
    latents = torch.randn(1, 2 * steps, 4, requires_grad=True)
    heard = decoder.decoder(latents)[0, 640 * at : 640 * (at + 1)]
    (gradient,) = torch.autograd.grad(heard.square().sum(), latents)
    reach = gradient[0].abs().amax(-1).unflatten(0, (-1, 2)).amax(-1)
    assert reach[: at - context].max() == 0
    assert reach[at + context + 1 :].max() == 0
    assert reach[at - context + 2 : at + context - 1].min() > 0  # and hardly a step is waited for in vain


def test_steps_decoded_one_by_one_are_the_waveform() -> None:
    codes = np.random.default_rng(0).integers(0, CODES, (2, 30)).astype(np.int16)
    whole = decode_speech(codec(), torch.from_numpy(codes.astype(np.int64))[None])[0].numpy()
    apart = np.concatenate([decode_steps(codec(), codes, step, step + 1) for step in range(30)])
    np.testing.assert_allclose(apart, whole, atol=1e-6)
    assert np.abs(whole).max() > 0.01


def test_a_text_that_cannot_be_spoken_is_refused_at_the_first_piece() -> None:
    with pytest.raises(InputError, match="text 0 is empty"):
        next(stream_speech(speaker(2), codec(), [], None, 0, SAMPLING))


def sine(samples: int) -> np.ndarray:
    return (0.3 * np.sin(np.arange(samples) / 20)).astype(np.float32)


def test_a_growing_file_can_be_read_at_any_moment_and_is_plain_wav_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "growing.wav"
    with wav_stream(path) as append:
        append(sine(1000))
        assert len(read_audio(path)) == 1000
        append(sine(500))
    with wave.open(str(path)) as whole:
        assert (whole.getnchannels(), whole.getframerate(), whole.getnframes()) == (1, 16_000, 1500)
    np.testing.assert_allclose(read_audio(path)[1000:], sine(500), atol=2e-5)


def test_what_was_written_before_a_failure_can_be_heard(tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    with pytest.raises(MediaError, match="not numbers"), wav_stream(path) as append:
        list(map(append, [sine(1000), np.array([np.nan], np.float32)]))
    with wave.open(str(path)) as whole:
        assert whole.getnframes() == 1000


def test_a_player_that_goes_away_ends_the_stream_with_a_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "player")
    player = os.open(tmp_path / "player", os.O_RDONLY | os.O_NONBLOCK)
    with wav_stream(tmp_path / "player") as append:
        os.close(player)
        with pytest.raises(MediaError, match="nobody listens"):
            append(sine(1000))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("speaking")
    tiny.tiny_models(folder / "models")
    cartoon.write_bundle(folder / "avatars", size=128)
    return {"models": str(folder / "models"), "avatars": [folder / "avatars"]}


SCRIPT = "Good morning. This is a test. [pause 0.4] Bye. Good morning."


@pytest.fixture(scope="module")
def whole(place: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.wav"
    seconds = speak(SCRIPT, "cartoon", path, **place)
    assert len(read_audio(path)) == round(16_000 * seconds)
    return path


def test_a_script_streams_as_what_speak_writes(place: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    seconds = stream(SCRIPT, "cartoon", tmp_path / "stream.wav", **place)
    streamed = read_audio(tmp_path / "stream.wav")
    assert len(streamed) == round(16_000 * seconds)
    np.testing.assert_allclose(streamed, read_audio(whole), atol=2 / 32768)


def test_speaking_few_sentences_at_once_changes_nothing(
    place: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "SENTENCES_AT_ONCE", 1)
    speak(SCRIPT, "cartoon", tmp_path / "one_by_one.wav", **place)
    assert whole.read_bytes() == (tmp_path / "one_by_one.wav").read_bytes()


@pytest.fixture
def command(
    place: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, bytes, bytes]]:
    from flows import cli

    monkeypatch.setattr(cli, "terminate_as_interrupt", lambda: None)

    def run(*arguments: object) -> tuple[int, bytes, bytes]:
        options = ["--models", place["models"], "--avatars", place["avatars"][0], "--voice", "cartoon"]
        monkeypatch.setattr("sys.argv", ["avatarlab", "speak", *map(str, [*arguments, *options])])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfdbinary.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_the_command_streams_wav_to_stdout_and_nothing_else(
    command: Callable[..., tuple[int, bytes, bytes]], tmp_path: Path
) -> None:
    code, sound, messages = command("Good morning.", "--stream", "-o", "-")
    assert code == 0, messages
    assert sound[:4] == b"RIFF"
    assert sound[40:44] == b"\xff" * 4  # of unknown length
    (tmp_path / "heard.wav").write_bytes(sound)
    assert command("Good morning.", "--stream", "-o", tmp_path / "file.wav")[0] == 0
    assert (tmp_path / "file.wav").read_bytes()[44:] == sound[44:]
    assert len(read_audio(tmp_path / "heard.wav")) == (len(sound) - 44) // 2 > 0


@pytest.mark.parametrize(
    "arguments", [("-o", "-"), ("--stream", "-o", "-", "--json"), ("--stream", "-o", "/nowhere/at/all.wav")]
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_spoken(
    command: Callable[..., tuple[int, bytes, bytes]], arguments: tuple[str, ...]
) -> None:
    code, _, messages = command("Good morning.", *arguments)
    assert code == 2
    assert b"stdout is for streamed sound alone" in messages or b"cannot be written" in messages
