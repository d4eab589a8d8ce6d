"""`avatarlab train`: what made the bundled model set, part by part, in one folder.

    OUT/speech/  OUT/faces/                    the corpora      train corpus, train faces
    OUT/own/   OUT/faces/                      one's own videos train prepare FOLDER
    OUT/codec/   OUT/small_e/   OUT/decoder/   speech           train codec, train small-e, train decoder
    OUT/renderer/   OUT/motion/                lips             train renderer, train motion
    OUT/mini/                                  the model set    train set

Every part resumes where it stopped and keeps to its minutes. Nothing here is imported by any other command.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.models import ModelSet, Setting, read_model_set, write_model_set

if TYPE_CHECKING:
    from avatarlab.training.own_videos import Prepared

Say = Callable[[str], None]
UTTERANCES = 22_000
PREDICTED = 6_000  # recordings whose codes the language model predicts for the decoder
FACES = 40_000
SET_NAME = "mini"
WEIGHTS = {
    "small_e": ("small_e/small_e.safetensors", "small-e"),
    "codec": ("decoder/codec.safetensors", "decoder"),
    "motion": ("motion/motion.safetensors", "motion"),
    "renderer": ("renderer/renderer.safetensors", "renderer"),
}


def corpus(out: Path, utterances: int, seed: int, say: Say) -> None:
    """The flite synthesiser reads sentences, with the time of every phone."""
    from avatarlab.training.corpus import make_corpus

    make_corpus(out / "speech", utterances, seed, progress=_every(say, "utterances", 100))


def faces(out: Path, samples: int, seed: int, say: Say) -> None:
    """Drawn presenters speak those sentences; windows around their mouths, with the truth about them."""
    from avatarlab.training.face_corpus import make_face_corpus

    make_face_corpus(out / "faces", _made(out / "speech", "corpus"), samples, seed, _every(say, "windows", 1000))


def prepare(out: Path, folder: Path, say: Say) -> "Prepared":
    """One's own talking-head videos: windows for the renderer, clips with sound for motion."""
    from avatarlab.training.own_videos import prepare

    return prepare(folder, out, say)


def codec(out: Path, minutes: float, seed: int, say: Say, start: Path | None = None) -> Path:
    """The encoder and the codes of speech; `start` is the file of an earlier codec to train on."""
    from avatarlab.training.codec import train_codec

    speech = _made(out / "speech", "corpus")
    return train_codec(speech, out / "codec", minutes=minutes, seed=seed, start=start, progress=say)


def small_e(out: Path, minutes: float, seed: int, say: Say, start: Path | None = None) -> Path:
    """The language model on those codes; `start` is the file of an earlier one to train on."""
    from safetensors.torch import load_file

    from avatarlab.speech.codec import Codec
    from avatarlab.training.small_e import train_small_e
    from avatarlab.training.speech_data import tokenise_corpus

    codec_file = _made(out / "codec/codec.safetensors", "codec")
    tokens = out / "tokens.safetensors"
    if not tokens.exists():
        speech = _made(out / "speech", "corpus")
        tokenise_corpus(speech, Codec.from_state_dict(load_file(codec_file)), tokens, say)
    return train_small_e(tokens, codec_file, out / "small_e", minutes=minutes, seed=seed, start=start, progress=say)


def decoder(out: Path, minutes: float, seed: int, say: Say) -> Path:
    """The codec's decoder: half the time on the codes of the recordings, then on what the language model predicts."""
    from avatarlab.training.decoder import predict_codes, train_decoder

    speech, tokens = _made(out / "speech", "corpus"), _made(out / "tokens.safetensors", "small-e")
    codec_file = _made(out / "codec/codec.safetensors", "codec")
    first = train_decoder(
        speech, tokens, codec_file, out / "decoder/true", minutes=minutes / 2, seed=seed, progress=say
    )
    predicted = out / "decoder/predicted.safetensors"
    if not predicted.exists():
        predict_codes(tokens, _made(out / "small_e/small_e.safetensors", "small-e"), predicted, PREDICTED, say)
    return train_decoder(
        speech, predicted, first, out / "decoder", minutes=minutes / 2, seed=seed, adversary_from=0.0, progress=say
    )


def renderer(out: Path, minutes: float, seed: int, say: Say, start: Path | None = None) -> Path:
    """What draws a mouth; `start` is the file of an earlier one to train on, whose lip encoder is kept."""
    from avatarlab.training.renderer import train_renderer

    return train_renderer(_made(out / "faces", "faces"), out / "renderer", minutes, seed, say, continued=start)


def motion(out: Path, minutes: float, seed: int, say: Say) -> Path:
    """Speech to lip latents; heard through the codec too, where one was trained, and learned from own videos, if any."""
    from avatarlab.training.motion import train_motion
    from avatarlab.training.own_videos import load_own_clips

    weights, codec_file = _made(out / "renderer/renderer.safetensors", "renderer"), out / WEIGHTS["codec"][0]
    return train_motion(
        _made(out / "speech", "corpus"),
        weights,
        out / "motion",
        minutes,
        seed,
        say,
        codec_path=codec_file if codec_file.exists() else None,
        own=load_own_clips(out, without_held_out=True),
    )


def model_set(out: Path) -> ModelSet:
    """Gathers what was trained into OUT/mini with a models.toml; settings as in the bundled set, if there is one."""
    folder = out / SET_NAME
    folder.mkdir(parents=True, exist_ok=True)
    for stage, (file, command) in WEIGHTS.items():
        shutil.copyfile(_made(out / file, command), folder / f"{stage}.safetensors")
    settings: dict[str, dict[str, Setting]] = {}
    with suppress(WeightsError):  # without a bundled set: the defaults of every stage
        settings = {stage: dict(file.settings) for stage, file in read_model_set().files.items()}
    return write_model_set(folder, SET_NAME, settings)


def _made(path: Path, command: str) -> Path:
    if not path.exists():
        raise SettingsError(f"there is no {path}", f"run `avatarlab train {command}` first")
    return path


def _every(say: Say, what: str, step: int) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if done % step == 0 or done == total:
            say(f"{done} of {total} {what}")

    return tell
