"""TOML that somebody else wrote."""

import tomllib
from pathlib import Path
from typing import Any

LARGEST_BYTES = 16 << 10  # the parser takes the square of a key's dots in memory: 0.3 GB at this size


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a small TOML file. Raises OSError where it cannot be read, ValueError where it is no such file."""
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES >> 10} KiB")
    try:
        table = tomllib.loads(content.decode("utf-8"))
        _refuse_huge_numbers(table)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return table


def _refuse_huge_numbers(value: object) -> None:
    """TOML's integers have 64 bits. The parser takes more, and Python then refuses to print them."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_huge_numbers(inner)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError("it holds an integer of more than 64 bits")
