"""Byte pairs: the text units of the published models, 256 pieces of spelling (spec small-e, section 1.1).

Ids 0 to 2 are PAD, BOS and EOS, 3 to 54 the characters of `CHARACTERS`, the rest merged pieces in the order of their
merges. Text is lower-cased and cut at every punctuation mark and every space, so that pieces never cross words. The
published file is under a non-commercial licence and is not shipped: `BytePairs.read` takes it, `BytePairs.train` makes
one of the same layout from any text. Of a file only its pieces are used; how text is cut is fixed here.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from avatarlab.errors import InputError, ScriptError, WeightsError
from avatarlab.store import local_file
from avatarlab.text.phones import WordSpan

SPECIALS = ("[PAD]", "[BOS]", "[EOS]")
CHARACTERS = " !\"'(),-./:;?[]abcdefghijklmnopqrstuvwxyz{}¯æèéêñôœ—"
FIRST_MERGED = len(SPECIALS) + len(CHARACTERS)
SIZE = 256
LARGEST_FILE_BYTES = 1 << 20
PUBLISHED_SHA256 = ("1f91d069", "31abdc88d")  # how the digest of bpe256.json begins and ends

_PHONES = re.compile(r"/[^/\s]*/")  # what a word brings along for the phone alphabet: read/R-EH1-D/
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


class BytePairs:
    """A text front-end. Make one with `read` or `train`."""

    def __init__(self, tokenizer: Tokenizer, content: bytes) -> None:
        self._tokenizer = tokenizer
        self._content = content

    @classmethod
    def read(cls, path: Path) -> "BytePairs":
        """From a file of the library `tokenizers`. Raises WeightsError where it has another layout or is damaged."""
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_FILE_BYTES + 1)
            if len(content) > LARGEST_FILE_BYTES:
                raise ValueError("it is too large")
            model = json.loads(content)["model"]
            merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
            if model["vocab"] != _vocabulary(merges):
                raise ValueError("its pieces are not in the order of special tokens, characters and merges")
            return cls(_tokenizer(merges), content)
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error.strerror}", "check the path of the tokenizer") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WeightsError(
                f"{path} is no tokenizer of {SIZE} byte pairs: {_reason(error)}", "use bpe256.json, or one trained here"
            ) from None

    @classmethod
    def train(cls, texts: Iterable[str]) -> "BytePairs":
        """Learns the merges from texts. Raises InputError where they are too short to tell all of them."""
        tokenizer = _tokenizer([])
        trainer = BpeTrainer(
            vocab_size=SIZE,
            show_progress=False,
            special_tokens=list(SPECIALS),
            initial_alphabet=list(CHARACTERS),
            limit_alphabet=len(CHARACTERS),
        )
        tokenizer.train_from_iterator((_speakable(text) for text in texts), trainer)
        if tokenizer.get_vocab_size() != SIZE:
            raise InputError(
                f"the texts tell only {tokenizer.get_vocab_size()} of {SIZE} byte pairs", "give more text to learn from"
            )
        merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
        own = _tokenizer(merges)
        return cls(own, own.to_str().encode("utf-8"))

    @property
    def size(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def is_published(self) -> bool:
        """Whether this is the very file the published networks were trained with."""
        digest = hashlib.sha256(self._content).hexdigest()
        return digest.startswith(PUBLISHED_SHA256[0]) and digest.endswith(PUBLISHED_SHA256[1])

    def write(self, path: Path) -> None:
        """The file as it was read, or as `read` takes it."""
        with local_file(path) as file:
            file.write(self._content)

    def units(self, spoken: str) -> tuple[int, ...]:
        """Text ids of any text, without BOS and EOS. Never raises: what has no character here is left out."""
        return tuple(self._tokenizer.encode(_speakable(spoken)).ids)

    def prompt_units(self, spoken: str) -> tuple[int, ...]:
        """Text ids of what a voice said before a sentence: one space stands between the two (spec 6.3)."""
        return self.units(spoken.rstrip() + " ")

    def word_spans(self, spoken: str) -> list[WordSpan]:
        """Where each word lies in `units(spoken)`, in order, none empty."""
        text = _speakable(spoken)
        starts = [start for start, _ in self._tokenizer.encode(text).offsets]
        spans = []
        for word in _WORD.finditer(text):
            inside = [index for index, start in enumerate(starts) if word.start() <= start < word.end()]
            spans.append(WordSpan(word.group(), inside[0], inside[-1] + 1))
        return spans

    def unit_names(self, ids: Iterable[int]) -> tuple[str, ...]:
        """The pieces of text ids. Raises ScriptError for an id outside the alphabet."""
        names = []
        for unit in ids:
            name = self._tokenizer.id_to_token(unit) if 0 <= unit < self.size else None
            if name is None:
                raise ScriptError(f"text id {unit} is outside the alphabet", f"ids are 0 to {self.size - 1}")
            names.append(name)
        return tuple(names)


def _tokenizer(merges: Sequence[tuple[str, ...]]) -> Tokenizer:
    tokenizer = Tokenizer(BPE(_vocabulary(merges), [(a, b) for a, b in merges]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Split(" ", "isolated")]
    )
    return tokenizer


def _vocabulary(merges: Sequence[tuple[str, ...]]) -> dict[str, int]:
    pieces = [*SPECIALS, *CHARACTERS, *("".join(merge) for merge in merges)]
    if merges and (len(pieces) != SIZE or len(set(pieces)) != SIZE or any(len(merge) != 2 for merge in merges)):
        raise ValueError(f"it has {len(set(pieces))} different pieces")
    return {piece: id for id, piece in enumerate(pieces)}


def _speakable(text: str) -> str:
    """Lower case in CHARACTERS alone: accents are dropped, white space is a space, anything else is left out."""
    kept = []
    for character in _PHONES.sub("", text).lower():
        if character in CHARACTERS:
            kept.append(character)
        elif character.isspace():
            kept.append(" ")
        else:
            kept += [part for part in unicodedata.normalize("NFKD", character) if part in CHARACTERS]
    return "".join(kept)


def _reason(error: Exception) -> str:
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return "it is not JSON"
    return str(error)[:120] if isinstance(error, ValueError) else "it has no pieces and merges"
