"""Spoken words to text units, as a model set wants them: phones, or the byte pairs of the published models."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from avatarlab import text
from avatarlab.errors import SettingsError, WeightsError
from avatarlab.models import ModelSet
from avatarlab.text import WordSpan

if TYPE_CHECKING:
    from avatarlab.text.bytepairs import BytePairs

PHONES, BYTE_PAIRS = "phones", "bytepairs"


@runtime_checkable
class FrontEnd(Protocol):
    """Text units of what `normalise` gives."""

    def units(self, spoken: str) -> tuple[int, ...]:
        """Text ids, without BOS and EOS."""

    def prompt_units(self, spoken: str) -> tuple[int, ...]:
        """Text ids of what a voice said before the sentence it is to say."""

    def word_spans(self, spoken: str) -> list[WordSpan]:
        """Where each word lies in `units(spoken)`."""

    def unit_names(self, ids: Iterable[int]) -> tuple[str, ...]:
        """What text ids stand for."""


class Phones:
    """The units of the bundled models: ARPAbet phones."""

    def units(self, spoken: str) -> tuple[int, ...]:
        return text.units(spoken)

    def prompt_units(self, spoken: str) -> tuple[int, ...]:
        return text.units(spoken)

    def word_spans(self, spoken: str) -> list[WordSpan]:
        return text.word_spans(spoken)

    def unit_names(self, ids: Iterable[int]) -> tuple[str, ...]:
        return text.unit_names(ids)


def front_end(models: ModelSet) -> FrontEnd:
    """What the setting `units` of [text] names: "phones" (also where it is silent), or "bytepairs" with a file.

    Raises SettingsError for any other, WeightsError where the file of the byte pairs is missing or damaged.
    """
    file = models.files.get("text")
    chosen = PHONES if file is None else file.settings.get("units", PHONES)
    if chosen == PHONES:
        return Phones()
    if chosen != BYTE_PAIRS:
        raise SettingsError(f"{models.path}: text.units is {chosen!r}", f'write "{PHONES}" or "{BYTE_PAIRS}"')
    if file is None or file.path is None or file.sha256 is None:
        raise WeightsError(
            f"the model set {models.path} lacks the tokenizer of its byte pairs",
            "import it again with --tokenizer bpe256.json",
        )
    return _byte_pairs(models.checked_path("text"), file.sha256)


@cache
def _byte_pairs(path: Path, sha256: str) -> "BytePairs":  # noqa: ARG001 - a changed file is read again
    from avatarlab.text.bytepairs import BytePairs

    return BytePairs.read(path)
