"""`make bench`: what Avatar Lab promises, and what it does. One table on stdout, progress on stderr.

    python -m benchmarks.bench [--only words,lips,...] [--json] [--store out]

Rows whose ground is missing (no videos rendered yet, flite not installed) say so and neither pass nor fail.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from avatarlab import FPS
from avatarlab.errors import AvatarLabError, NotFound
from avatarlab.training.bundles import CAST
from benchmarks.lips import measure_lips
from benchmarks.runs import cached_render, compute_by_stage, fresh_demo, video_lengths
from benchmarks.speech import lecture_sentences, measure_words

FRESH_SECONDS = 600.0
CACHED_SECONDS = 20.0
WORD_ERROR_RATE = 0.50
LIP_CORRELATION = 0.60
LIP_LAG_FRAMES = 2
LIP_UTTERANCES = 10


@dataclass(frozen=True)
class Row:
    """One line of the table; `passed` is None where nothing was measured or nothing is promised."""

    measure: str
    bar: str
    measured: str
    passed: bool | None


@dataclass(frozen=True)
class Options:
    store: Path
    manifest: Path
    models: str | None


def fresh_row(_: Options) -> Row:
    measure, bar = "`make demo` on a fresh clone, install included", f"under {FRESH_SECONDS / 60:.0f} min"
    run = fresh_demo()
    done = bool(run.statuses) and set(run.statuses) == {"done"}
    return Row(
        measure, bar, f"{run.seconds / 60:.1f} min, rows {_counted(run.statuses)}", done and run.seconds < FRESH_SECONDS
    )


def cached_row(options: Options) -> Row:
    measure, bar = "the same command again", f"every row cached, no engine loaded, under {CACHED_SECONDS:.0f} s"
    if not list(options.store.glob("runs/*/results.parquet")):
        raise NotFound(f"nothing was rendered into {options.store}", "run `make demo` first")
    run = cached_render(options.manifest.absolute(), options.store.absolute())
    engines = f"loaded {', '.join(run.engines)}" if run.engines else "no engine loaded"
    good = set(run.statuses) == {"cached"} and not run.engines and run.seconds < CACHED_SECONDS
    return Row(measure, bar, f"{run.seconds:.1f} s, rows {_counted(run.statuses)}, {engines}", good)


def words_row(options: Options) -> Row:
    sentences = lecture_sentences()
    voices = measure_words(options.models, tuple(CAST), sentences)
    mean = sum(voice.error_rate for voice in voices) / len(voices)
    each = "; ".join(
        f"{voice.avatar} {voice.error_rate:.0%}"
        + (f" (flite {voice.source_voice} {voice.source:.0%})" if voice.source is not None else "")
        for voice in voices
    )
    note = "" if shutil.which("flite") else "; flite is not installed, so its own rate is missing"
    return Row(
        f"words: WER by pocketsphinx, {len(sentences)} unseen sentences, {len(voices)} bundled voices",
        f"under {WORD_ERROR_RATE:.0%}",
        f"{mean:.1%}: {each}{note}",
        mean < WORD_ERROR_RATE,
    )


def lips_row(options: Options) -> Row:
    scores = measure_lips(options.models, lecture_sentences()[:LIP_UTTERANCES])
    mean = sum(score.correlation for score in scores) / len(scores)
    lag = max((score.lag_frames for score in scores), key=abs)
    each = "; ".join(
        f"{name} {sum(own) / len(own):.2f}"
        for name in CAST
        if (own := [score.correlation for score in scores if score.presenter == name])
    )
    return Row(
        f"lips: correlation of mouth opening with the truth, {len(scores)} unseen utterances, best lag",
        f"over {LIP_CORRELATION}, within {LIP_LAG_FRAMES} frames",
        f"{mean:.2f} ({each}), largest lag {lag:+d} frames",
        mean > LIP_CORRELATION and abs(lag) <= LIP_LAG_FRAMES,
    )


def lengths_row(options: Options) -> Row:
    measure, bar = "audio and video length in each MP4", f"differ by under one frame ({1000 / FPS:.0f} ms)"
    videos = video_lengths(options.store)
    if not videos:
        raise NotFound(f"there is no video in {options.store}", "run `make demo` first")
    worst = max(videos, key=lambda video: video.apart)
    by = "our probe and ffprobe" if worst.ffprobe_video is not None else "our probe; ffprobe is not installed"
    measured = f"at most {worst.apart * 1000:.1f} ms, {len(videos)} files ({by})"
    return Row(measure, bar, measured, worst.apart < 1 / FPS)


def compute_row(options: Options) -> Row:
    found = compute_by_stage(options.store)
    split = ", ".join(f"{stage} {seconds / found.video_seconds:.2f}" for stage, seconds in found.seconds.items())
    return Row(
        "whole pipeline, seconds of compute per second of video",
        "reported",
        f"{found.per_second:.2f}: {split} ({found.rows} videos, {found.video_seconds:.0f} s)",
        None,
    )


MEASURES: dict[str, Callable[[Options], Row]] = {
    "fresh": fresh_row,
    "cached": cached_row,
    "words": words_row,
    "lips": lips_row,
    "lengths": lengths_row,
    "compute": compute_row,
}


def measured(name: str, options: Options) -> Row:
    """One row; what cannot be measured here is told in it."""
    try:
        return MEASURES[name](options)
    except AvatarLabError as error:
        return Row(name, "", f"not measured: {error}", None)


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table with aligned columns."""
    verdicts = {True: "pass", False: "FAIL", None: "-"}
    cells = [("measure", "bar", "measured", "verdict")]
    cells += [(row.measure, row.bar, row.measured, verdicts[row.passed]) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _counted(statuses: Sequence[str]) -> str:
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)) or "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 where no row failed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="What is promised, and what is.")
    parser.add_argument("--only", default=",".join(MEASURES), help=f"some of {','.join(MEASURES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--store", type=Path, default=Path("out"), help="folder store that `make demo` filled")
    parser.add_argument("--manifest", type=Path, default=Path("manifests/demo.parquet"))
    parser.add_argument("--models", default=None, help="model set; default: the bundled one")
    given = parser.parse_args(arguments)
    names = [name for name in given.only.split(",") if name]
    if not names or not set(names) <= set(MEASURES):
        parser.error(f"--only takes some of {','.join(MEASURES)}")
    options = Options(given.store, given.manifest, given.models)
    rows = []
    for name in names:
        sys.stderr.write(f"measuring {name} ...\n")
        rows.append(measured(name, options))
    text = json.dumps({"rows": [asdict(row) for row in rows]}, indent=2) if given.json else table(rows)
    sys.stdout.write(text + "\n")
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
