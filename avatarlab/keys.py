"""Content keys: what made an artifact, as one digest (design section 3.5).

A key never holds a path, a time, a row number, a batch size or source code. Upstream *content* digests enter, not
upstream keys, so that identical audio from a new speech model reuses the lips.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence

SCHEMA = 1
VERSION_DIGITS = 16


def quantised(value: float, decimals: int = 6) -> str:
    """A float as fixed-point text, the only way a float may enter a key.

    >>> quantised(0.85, 3), quantised(-0.0001, 3)
    ('0.850', '0.000')
    """
    text = f"{value:.{decimals}f}"
    if not text.lstrip("-").replace(".", "").isdigit():
        raise ValueError(f"{value!r} is not a finite number and cannot enter a key")
    return text.lstrip("-") if not text.strip("-0.") else text


def canonical_json(value: object) -> bytes:
    """The one UTF-8 JSON spelling of a value: sorted names, NFC text, no spaces.

    Takes None, bool, int, str and mappings and sequences of them. Raises TypeError for anything else: a float has many
    spellings (use `quantised`), a path or an object would carry this machine into the key.

    >>> canonical_json({"b": [1, True], "a": "é"}).decode()
    '{"a":"é","b":[1,true]}'
    """
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def content_key(stage: str, version: int, **inputs: object) -> str:
    """The key of one artifact: sha256 in hex over the canonical JSON of stage, stage version and inputs."""
    record = {"schema": SCHEMA, "stage": stage, "version": version, "inputs": inputs}
    return hashlib.sha256(canonical_json(record)).hexdigest()


def video_version(key: str) -> str:
    """The public version of a video: the first 16 hex digits of its video key."""
    return key[:VERSION_DIGITS]


def seed_from(*parts: str) -> int:
    """A seed in 0 .. 2**63 - 1 by hash of texts, the same on every machine."""
    return int.from_bytes(hashlib.sha256(canonical_json(["seed", *parts])).digest()[:8]) >> 1


def _plain(value: object) -> object:
    match value:
        case None | bool() | int():
            return value
        case str():
            return unicodedata.normalize("NFC", value)
        case Mapping():
            names = [unicodedata.normalize("NFC", name) if isinstance(name, str) else name for name in value]
            if not all(isinstance(name, str) for name in names):
                raise TypeError("only text can be a name in a key")
            if len(set(names)) != len(names):
                raise ValueError("two names in a key differ only in their Unicode form")
            return dict(zip(names, map(_plain, value.values()), strict=True))
        case bytes() | bytearray():
            raise TypeError("bytes cannot enter a key; give their sha256")
        case Sequence():
            return [_plain(item) for item in value]
        case float():
            raise TypeError(f"the float {value!r} cannot enter a key; give quantised(value, decimals)")
    raise TypeError(f"a {type(value).__name__} cannot enter a key")
