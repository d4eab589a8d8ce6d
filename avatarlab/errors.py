"""Every error this library raises on purpose.

AvatarLabError                 message + remedy; `retryable` says whether trying again can help
├── InputError                 what the user gave is wrong; nothing was started
│   ├── ManifestError          carries the list of problems, one per row and column
│   │   └── LexiconError       the same of a pronunciation lexicon; its problems name the line
│   ├── ScriptError            a script that cannot be spoken
│   ├── AvatarError            a bundle that cannot be used
│   └── SettingsError          a configuration file, option or environment variable
├── WeightsError               weights missing, damaged, misnamed or misshapen
├── StoreError                 the object store refused
│   ├── StoreUnreachable       (retryable) nobody answered in time
│   ├── StoreForbidden         credentials missing or refused
│   ├── NotFound               no object under that name
│   └── DamagedArtifact        (retryable) size or digest differ from the record; it was set aside
├── MediaError                 ffmpeg or a media file
└── WorkerError                (retryable) a worker died or did not answer
    ├── NoWorkersLeft          none has the resource, and none came in time
    ├── ForeignWorker          a worker has other code than the run
    └── DeviceLost             the GPU of a process is of no more use to it
"""

from collections.abc import Sequence
from dataclasses import dataclass


class AvatarLabError(Exception):
    """Base of the tree. `str(error)` is one line: what is wrong, then what to do."""

    retryable = False

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = _printable(message), _printable(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.remedy))


def _printable(text: str) -> str:
    """One line that any terminal and any file can hold: what a message quotes may have been made to break these."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class InputError(AvatarLabError):
    pass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a manifest. `row` counts from 1; 0 speaks of the file as a whole."""

    row: int
    id: str
    column: str
    message: str
    remedy: str


class ManifestError(InputError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        place = f"row {first.row}, id {first.id!r}, column {first.column!r}: " if first.row else ""
        more = f" and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
        super().__init__(f"{place}{first.message}{more}", first.remedy)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


class LexiconError(ManifestError):
    pass


class ScriptError(InputError):
    pass


class AvatarError(InputError):
    pass


class SettingsError(InputError):
    pass


class WeightsError(AvatarLabError):
    pass


class StoreError(AvatarLabError):
    pass


class StoreUnreachable(StoreError):
    retryable = True


class StoreForbidden(StoreError):
    pass


class NotFound(StoreError):
    pass


class DamagedArtifact(StoreError):
    retryable = True


class MediaError(AvatarLabError):
    pass


class WorkerError(AvatarLabError):
    retryable = True


class NoWorkersLeft(WorkerError):
    retryable = False


class ForeignWorker(WorkerError):
    retryable = False


class DeviceLost(WorkerError):
    pass
