"""Who reads the corpus: the synthesiser's four voices, varied in formants, pitch and tempo.

A style is named after its voice and what is changed, in percent: `slt` is the plain voice, `slt-f125-p80` has formants at
125 % and pitch at 80 % of what they would be. Formants move by resampling, which moves the pitch too; pitch alone moves
inside the synthesiser, which can do that for slt and kal16 only. The pairs were chosen so that a speaker encoder tells any
two of them apart (GE2E, arXiv 1710.10467; measured with Resemblyzer on the synthesiser's own sound).
"""

from dataclasses import dataclass
from fractions import Fraction

PLAIN = ("slt", "rms", "kal16")  # the voices of the bundled presenters
PLAIN_SHARE = 0.4  # of all recordings


@dataclass(frozen=True)
class Style:
    """A flite voice with formants, pitch and duration scaled; 1 is unchanged."""

    voice: str
    formants: Fraction = Fraction(1)
    pitch: float = 1.0
    duration: float = 1.0

    @property
    def name(self) -> str:
        changes = (("f", float(self.formants)), ("p", self.pitch), ("d", self.duration))
        return "-".join((self.voice, *(f"{letter}{round(100 * value)}" for letter, value in changes if value != 1)))


def _styles(*rows: tuple[str, str, float, float]) -> dict[str, Style]:
    styles = (Style(voice, Fraction(formants), pitch, duration) for voice, formants, pitch, duration in rows)
    return {style.name: style for style in styles}


TRAINED = _styles(
    ("slt", "1", 1.0, 1.0),
    ("rms", "1", 1.0, 1.0),
    ("kal16", "1", 1.0, 1.0),
    ("slt", "4/5", 0.8, 1.1),
    ("slt", "7/8", 1.25, 1.0),
    ("slt", "1", 0.8, 0.95),
    ("slt", "9/8", 1.0, 1.05),
    ("slt", "5/4", 0.8, 1.0),
    ("slt", "5/4", 1.25, 0.95),
    ("slt", "7/5", 1.25, 1.1),
    ("rms", "4/5", 1.0, 1.0),
    ("rms", "9/8", 1.0, 1.05),
    ("rms", "7/5", 1.0, 1.0),
    ("awb", "4/5", 1.0, 1.0),
    ("awb", "1", 1.0, 1.0),
    ("awb", "9/8", 1.0, 0.95),
    ("awb", "7/5", 1.0, 1.05),
    ("kal16", "4/5", 1.0, 1.0),
    ("kal16", "7/8", 1.25, 1.1),
    ("kal16", "1", 1.25, 1.05),
    ("kal16", "9/8", 0.8, 1.0),
    ("kal16", "9/8", 1.25, 1.1),
    ("kal16", "5/4", 1.0, 1.0),
    ("kal16", "7/5", 0.8, 1.05),
    ("kal16", "7/5", 1.25, 1.1),
)
HELD_OUT = _styles(
    ("slt", "7/8", 0.8, 1.0),
    ("slt", "7/5", 1.0, 1.05),
    ("rms", "5/4", 1.0, 1.0),
    ("awb", "7/8", 1.0, 1.0),
    ("awb", "5/4", 1.0, 1.0),
    ("kal16", "7/8", 0.8, 1.0),
)
STYLES = TRAINED | HELD_OUT
