"""`make bench`: what Avatar Lab promises, and what it does. One table on stdout, progress on stderr.

    python -m benchmarks.bench [--only words,lips,...] [--json] [--store out] [--minutes 60]

Rows whose ground is missing (no videos rendered yet, flite not installed) say so and neither pass nor fail.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import fsum
from pathlib import Path
from statistics import mean

from avatarlab import FPS
from avatarlab.errors import AvatarLabError, NotFound
from avatarlab.training.bundles import CAST
from avatarlab.training.styles import HELD_OUT, TRAINED
from benchmarks import nights
from benchmarks.lip_speed import measure_dub_memory, measure_lip_speed
from benchmarks.lips import (
    bench_ear,
    measure_flicker,
    measure_outside,
    measure_silence,
    measure_steps,
    measure_sync,
    said_by,
    wrongly_fitting,
)
from benchmarks.published_lips import measure_agreement, measure_gpu_lips, measure_published
from benchmarks.runs import cached_render, compute_by_stage, fresh_demo, video_lengths
from benchmarks.speech import LECTURE, READING, lines_of, measure_identity, measure_reading, measure_words
from benchmarks.speed import measure_bundled, measure_gpu, measure_memory, measure_step, measure_stream

FRESH_SECONDS = 600.0
CACHED_SECONDS = 20.0
WORDS_LOST = 0.08  # word error rate above the synthesiser's own
MISREAD = 2  # of a hundred sentences
TRAINED_PICKED, HELD_OUT_PICKED = 0.95, 0.75
ONE_REAL_TIME, BATCHED_REAL_TIME, BATCH_GAIN = 3.0, 10.0, 3.0
STEP_GAIN = 3.0
GPU_REAL_TIME = 100.0
PUBLISHED_GAIN, PUBLISHED_PSNR_DB, GPU_FACES = 6.0, 40.0, 60.0
GROWTH_MEGABYTES = 16.0
LIPS_TRAINED, LIPS_UNSEEN = 0.90, 0.85
LIP_LAG_FRAMES = 1
OPEN_IN_SILENCE = 0.03  # share of frames
TOLD_APART_SHARE = 19 / 20
FLICKER_LEVELS = 1.0
LIP_FRAMES_PER_SECOND = 25.0
DUB_GROWTH = 0.10
ROWS_PER_SECOND = 20.0
WARM_SECONDS, WARM_MEGABYTES = 60.0, 1024.0
FEW_ROWS, NIGHT_GROWTH_MEGABYTES = 1000, 200.0
BATCHES = 2000
REAL_ROWS, OVERHEAD = 20, 0.05
TWO_WORKERS = 1.8
OUTAGE_ROWS, OUTAGE_SECONDS = 120, 60.0
DEADLY_ROWS, DEADLY_STARTS = 20, 6
SOAK_KILLS, SOAK_ROWS = 50, 40
STEP_COUNTS = (1, 2, 3, 4)
STEP_FRAMES = 32


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
    minutes: float | None = None
    rows: int = 10_000


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
    sentences = lines_of(LECTURE)
    voices = measure_words(options.models, tuple(CAST), sentences)
    source, codec, model = (
        sum(getattr(voice, name) for voice in voices) / len(voices) for name in ("source", "codec", "model")
    )
    each = "; ".join(
        f"{voice.avatar} (flite {voice.source_voice}) {voice.source:.0%}, {voice.codec:.0%}, {voice.model:.0%}"
        for voice in voices
    )
    return Row(
        f"words: WER by pocketsphinx, {len(sentences)} unseen sentences, {len(voices)} bundled voices",
        f"within {100 * WORDS_LOST:.0f} points of the source",
        f"source {source:.1%}, codec {codec:.1%}, model {model:.1%}, {100 * (model - source):+.1f} points: {each}",
        model - source <= WORDS_LOST,
    )


def reading_row(options: Options) -> Row:
    read = measure_reading(options.models, tuple(CAST), lines_of(READING))
    heard = f"{read.lost_passages} with 3 words in a row that the recogniser misses or adds"
    return Row(
        f"skips, repeats, early stops, of {read.sentences} sentences of 5 to 40 words",
        f"at most {MISREAD}",
        f"{len(read.faults)} by the alignment{''.join(f' ({fault})' for fault in read.faults[:3])}; {heard}",
        len(read.faults) <= MISREAD,
    )


def voices_row(options: Options) -> Row:
    sentences = lines_of(LECTURE)
    trained = measure_identity(options.models, TRAINED, sentences)
    held_out = measure_identity(options.models, HELD_OUT, sentences)
    return Row(
        "voice: Resemblyzer picks the right one, among the trained / among the held-out, cloned from one clip each",
        f"{TRAINED_PICKED:.0%} / {HELD_OUT_PICKED:.0%}",
        f"{trained:.0%} of {len(TRAINED)} voices / {held_out:.0%} of {len(HELD_OUT)} voices, two sentences each",
        trained >= TRAINED_PICKED and held_out >= HELD_OUT_PICKED,
    )


def speed_row(options: Options) -> Row:
    speed = measure_bundled(options.models, lines_of(LECTURE)[:16])
    good = speed.one >= ONE_REAL_TIME and speed.batched >= BATCHED_REAL_TIME and speed.gain >= BATCH_GAIN
    return Row(
        f"speech, {speed.threads} CPU cores: one utterance / {speed.sentences} batched / the batch against one by one",
        f"{ONE_REAL_TIME:.0f}x real time / {BATCHED_REAL_TIME:.0f}x / {BATCH_GAIN:.0f}x",
        f"{speed.one:.1f}x / {speed.batched:.1f}x / {speed.gain:.1f}x",
        good,
    )


def step_row(_: Options) -> Row:
    times = [measure_step(batch) for batch in (1, 16)]
    each = "; ".join(
        f"batch {step.batch} {step.ours:.1f} ms, {step.ratio:.1f}x (text kept: {step.ratio_cached:.1f}x)"
        for step in times
    )
    return Row(
        f"the published 60M configuration, one step on {times[0].threads} cores, against the naive recurrent form",
        f"{STEP_GAIN:.0f}x",
        each,
        min(step.ratio for step in times) >= STEP_GAIN,
    )


def stream_row(options: Options) -> Row:
    speed = measure_stream(options.models, lines_of(LECTURE)[:8])
    return Row(
        "`speak --stream`: from a sentence to its first sound",
        "reported",
        f"{speed.first_sound_seconds:.2f} s, then {speed.real_time:.1f}x real time",
        None,
    )


def memory_row(options: Options) -> Row:
    growth = measure_memory(options.models, lines_of(LECTURE))
    return Row(
        f"memory while speaking {growth.words:,} words",
        f"flat: grows by under {GROWTH_MEGABYTES:.0f} MB",
        f"{growth.growth_megabytes:+.1f} MB over {growth.early_megabytes:.0f} after the first {growth.early_seconds:.0f} s "
        f"of {growth.heard_seconds:.0f} s heard",
        growth.growth_megabytes < GROWTH_MEGABYTES,
    )


def gpu_row(_: Options) -> Row:
    speed = measure_gpu()
    return Row(
        f"the published 60M configuration on {speed.device}, batch {speed.batch}, bfloat16",
        f"over {GPU_REAL_TIME:.0f}x real time",
        f"{speed.real_time:.0f}x, {speed.step_milliseconds:.2f} ms a step, {speed.floor_share:.0%} of the memory floor",
        speed.real_time > GPU_REAL_TIME,
    )


def lips_row(options: Options) -> Row:
    told, means, lags = [], [], []
    for name, unseen in (("trained", False), ("unseen", True)):
        scores = [said.score() for said in said_by(options.models, unseen)]
        means.append(mean([score.correlation for score in scores]))
        lags.append(max((score.lag_frames for score in scores), key=abs))
        voices = _means((score.voice, score.correlation) for score in scores)
        people = "" if unseen else f"; {_means((score.presenter, score.correlation) for score in scores)}"
        worst = min(score.correlation for score in scores)
        shut = mean([score.silent_opening for score in scores])
        told.append(
            f"{name} {means[-1]:.3f} (worst {worst:.2f}; {voices}{people}), largest lag {lags[-1]:+d}, "
            f"{shut:.2f} open where shut is true"
        )
    return Row(
        f"lips: correlation of mouth opening with the truth at the best lag, {len(scores)} unseen utterances in unseen "
        "voices, trained / unseen presenters",
        f"{LIPS_TRAINED} / {LIPS_UNSEEN}, lag within {LIP_LAG_FRAMES} frame",
        "; ".join(told),
        means[0] >= LIPS_TRAINED and means[1] >= LIPS_UNSEEN and max(map(abs, lags)) <= LIP_LAG_FRAMES,
    )


def silence_row(options: Options) -> Row:
    leaks = measure_silence(options.models)
    each = "; ".join(f"{name} {leak.wide:.1%} (over 0.1: {leak.a_little:.1%})" for name, leak in leaks.items())
    return Row(
        "mouth open by over 0.25 of its width while nobody speaks, 20 presenters, by what is heard",
        f"each under {OPEN_IN_SILENCE:.0%} of frames",
        f"{each}; {sum(leak.frames for leak in leaks.values())} frames",
        max(leak.wide for leak in leaks.values()) < OPEN_IN_SILENCE,
    )


def sync_row(options: Options) -> Row:
    """The measure must first prove itself: on true mouths it has to make no mistake."""
    found = measure_sync(options.models)
    still, random = wrongly_fitting(bench_ear(), said_by(options.models, False))
    each = "; ".join(
        f"{name} mouths {one.late}, {one.early}, {one.other} of {one.utterances} (heard with {one.correlation:.2f})"
        for name, one in found.items()
    )
    true = found["true"]
    sound = true.fewest == true.utterances and not still and not random
    good = all(one.fewest >= TOLD_APART_SHARE * one.utterances for one in found.values())
    return Row(
        "told from the right audio: 4 frames late, 4 early, another sentence's",
        "19 of 20 each; true mouths 20 of 20; no still or random mouth fits",
        f"{each}; {still} still and {random} random mouths fit",
        sound and good,
    )


def outside_row(options: Options) -> Row:
    found = {id: measure_outside(options.models, id) for id in CAST}
    each = "; ".join(
        f"{id} {one.changed} and composed {one.changed_composed} of {one.pixels:,} ({one.changed_inside:.0%} of those "
        "inside did)"
        for id, one in found.items()
    )
    same = not any(one.changed or one.changed_composed for one in found.values())
    return Row(
        f"pixels outside the mask that changed, whole clips of {next(iter(found.values())).frames} frames, before encoding",
        "none",
        each,
        same and all(one.changed_inside > 0 for one in found.values()),
    )


def flicker_row(options: Options) -> Row:
    found = measure_flicker(options.models)
    each = "; ".join(f"{name} {one.mask:.2f} (liveliest tenth {one.liveliest:.2f})" for name, one in found.items())
    count = next(iter(found.values())).presenters
    return Row(
        f"flicker: mean change per frame of a still mouth inside the mask, the worst of {count} presenters",
        f"under {FLICKER_LEVELS:.0f} level of 255",
        each,
        max(one.mask for one in found.values()) < FLICKER_LEVELS,
    )


def faces_row(options: Options) -> Row:
    speed = measure_lip_speed(options.models)
    return Row(
        f"bundled renderer, {speed.workers} CPU cores: latents to windows of {speed.window_px} pixels in a "
        f"{speed.picture_px} picture / stored losslessly too",
        f"{LIP_FRAMES_PER_SECOND:.0f} face frames a second",
        f"{speed.drawn:.1f} / {speed.stored:.1f}; the network alone {speed.network:.1f}, {speed.network_share:.0%} of the "
        "face stage",
        speed.stored >= LIP_FRAMES_PER_SECOND,
    )


def steps_row(options: Options) -> Row:
    left, errors = measure_steps(options.models, STEP_COUNTS)
    speeds = {steps: measure_lip_speed(options.models, steps, frames=STEP_FRAMES).drawn for steps in STEP_COUNTS}
    each = "; ".join(f"{steps}: {errors[steps]:.2f}, {speeds[steps]:.1f} frames/s" for steps in STEP_COUNTS)
    return Row(
        "bundled renderer by sampling steps: error where the mouth changed the picture, 20 unseen presenters; speed on "
        "2 CPU cores",
        "reported",
        f"{each} (levels of 255; left as it was: {left:.1f})",
        None,
    )


def hour_row(options: Options) -> Row:
    """Less than an hour can fail, but not pass."""
    memory = measure_dub_memory(options.models, options.minutes)
    flat = abs(memory.growth) <= DUB_GROWTH
    shorter = "" if memory.whole_hour else "; not the whole hour, which --minutes 60 measures"
    return Row(
        f"peak memory of a voice-over of {memory.minutes:g} minutes against one of one minute",
        f"within {DUB_GROWTH:.0%}, of an hour",
        f"{memory.longer:.0f} against {memory.one_minute:.0f} MB, {memory.growth:+.1%}, {memory.seconds:.0f} s of "
        f"computing{shorter}",
        flat if memory.whole_hour or not flat else None,
    )


def published_row(options: Options) -> Row:
    """Without the published weights the two halves of the bar are measured apart, and nothing is passed."""
    agree = measure_agreement(options.models)
    speed = measure_published()
    good = speed.ratio >= PUBLISHED_GAIN and agree.least_db >= PUBLISHED_PSNR_DB
    return Row(
        f"published configuration, {speed.threads} CPU cores: dpm++ in {speed.steps} steps against the plain "
        "20-step frame-by-frame loop; PSNR between them in the mask",
        f"{PUBLISHED_GAIN:.0f}x at {PUBLISHED_PSNR_DB:.0f} dB",
        f"{speed.ratio:.1f}x ({speed.ours_seconds:.0f} s a frame against {speed.plain_seconds:.0f}), seeded weights; with the "
        f"trained bundled renderer {agree.mean_db:.1f} dB, the worst of {agree.windows} windows {agree.least_db:.1f}",
        None if good else False,
    )


def gpu_lips_row(_: Options) -> Row:
    speed = measure_gpu_lips()
    share = "" if speed.peak_share is None else f", {speed.peak_share:.0%} of the matrix units' peak"
    return Row(
        f"published configuration at 256 px on {speed.device}, {speed.steps} steps, batch {speed.batch}, bfloat16",
        f"{GPU_FACES:.0f} frames a second",
        f"{speed.frames_per_second:.0f}{share}",
        speed.frames_per_second >= GPU_FACES,
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


@cache
def _scale(rows: int) -> nights.Scale:
    return nights.measure_scale(rows)


def scale_row(options: Options) -> Row:
    night = _scale(options.rows)
    engines = fsum(night.cold.engine_seconds.values())
    video = night.cold.engine_seconds["video"]
    return Row(
        f"{night.rows:,} rows of two sentences, null engines, folder store, {night.workers} workers, cold: planning and "
        "bookkeeping, engines and encoders excluded",
        f"{ROWS_PER_SECOND:.0f} rows a second",
        f"{night.rows_per_second:.0f}: {night.cold.seconds:.0f} s in all, {engines:.0f} worker-seconds at engines and "
        f"encoders ({video:.0f} of them composing), {night.bookkeeping_seconds:.0f} s the rest",
        night.rows_per_second >= ROWS_PER_SECOND and night.cold.report["counts"] == {"done": night.rows},
    )


def warm_row(options: Options) -> Row:
    night = _scale(options.rows)
    good = night.warm.seconds < WARM_SECONDS and night.warm.peak_megabytes < WARM_MEGABYTES
    return Row(
        "the same again, all cached",
        f"under {WARM_SECONDS:.0f} s and 1 GB",
        f"{night.warm.seconds:.0f} s, {night.warm.peak_megabytes:.0f} MB, {night.warm.units} units made",
        good and night.warm.report["counts"] == {"cached": night.rows} and night.warm.units == 0,
    )


def growth_row(options: Options) -> Row:
    few, many = _scale(FEW_ROWS).cold.peak_megabytes, _scale(options.rows).cold.peak_megabytes
    return Row(
        f"peak memory of the flow, {FEW_ROWS:,} against {options.rows:,} rows, cold",
        f"grows by under {NIGHT_GROWTH_MEGABYTES:.0f} MB",
        f"{few:.0f} and {many:.0f} MB, {many - few:+.0f}",
        many - few < NIGHT_GROWTH_MEGABYTES,
    )


def recorded_row(_: Options) -> Row:
    recorded = nights.measure_recording(BATCHES)
    return Row(
        f"task runs that Prefect has on record when the flow ends, {BATCHES:,} batches that do nothing",
        "all",
        f"{recorded:,}",
        recorded == BATCHES,
    )


def overhead_row(_: Options) -> Row:
    engines, seconds = nights.measure_overhead(REAL_ROWS)
    share = seconds / engines - 1
    return Row(
        f"added by the pipeline to the engines' and encoders' own time, {REAL_ROWS} real rows, one worker, first unit to last",
        f"under {OVERHEAD:.0%}",
        f"{share:.1%}: {seconds:.0f} s for {engines:.0f} s of work",
        share < OVERHEAD,
    )


def workers_row(_: Options) -> Row:
    one, two = nights.measure_two_workers(REAL_ROWS)
    return Row(
        f"two workers on two cores against one on one, {REAL_ROWS} real rows, first unit to last",
        f"{TWO_WORKERS:.1f}x",
        f"{one / two:.2f}x: {one:.0f} and {two:.0f} s",
        one / two >= TWO_WORKERS,
    )


def outage_row(_: Options) -> Row:
    night, away = nights.measure_outage(OUTAGE_ROWS, OUTAGE_SECONDS)
    counts = night.report["counts"]
    return Row(
        f"S3 server gone for {OUTAGE_SECONDS:.0f} s in the middle of {OUTAGE_ROWS} rows",
        "the run completes",
        f"{counts} in {night.seconds:.0f} s, of which it was gone for {away:.0f}",
        counts == {"done": OUTAGE_ROWS},
    )


def soak_row(_: Options) -> Row:
    found = nights.measure_soak(SOAK_KILLS, SOAK_ROWS)
    bad = {name: found[name] for name in ("lost", "duplicated", "half_published")}
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in bad.items())
    return Row(
        f"soak: {SOAK_KILLS} kills over nights of {SOAK_ROWS} rows",
        "0 lost, 0 duplicated, 0 half-published, at most the units in flight done again",
        f"{told}; {found['kills']} kills, {found['rows']} rows, {found['begun']} units begun, {found['made']} finished, each once",
        not any(bad.values()),
    )


def deadly_row(_: Options) -> Row:
    night, starts, repeated = nights.measure_deadly(DEADLY_ROWS)
    counts = night.report["counts"]
    return Row(
        f"a row that ends its worker every time, among {DEADLY_ROWS} others",
        "fails alone after a bounded number of starts; the others are made once",
        f"{counts}, {starts} starts, {repeated} units made twice",
        counts == {"done": DEADLY_ROWS, "failed": 1} and starts <= DEADLY_STARTS and repeated == 0,
    )


MEASURES: dict[str, Callable[[Options], Row]] = {
    "fresh": fresh_row,
    "cached": cached_row,
    "words": words_row,
    "reading": reading_row,
    "voices": voices_row,
    "speed": speed_row,
    "step": step_row,
    "stream": stream_row,
    "memory": memory_row,
    "gpu": gpu_row,
    "lips": lips_row,
    "sync": sync_row,
    "silence": silence_row,
    "outside": outside_row,
    "flicker": flicker_row,
    "faces": faces_row,
    "steps": steps_row,
    "hour": hour_row,
    "published": published_row,
    "gpu_lips": gpu_lips_row,
    "scale": scale_row,
    "warm": warm_row,
    "growth": growth_row,
    "recorded": recorded_row,
    "overhead": overhead_row,
    "workers": workers_row,
    "outage": outage_row,
    "soak": soak_row,
    "deadly": deadly_row,
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


def _means(named: Iterable[tuple[str, float]]) -> str:
    """The mean of each name, in order of appearance."""
    found: dict[str, list[float]] = {}
    for name, value in named:
        found.setdefault(name, []).append(value)
    return ", ".join(f"{name} {mean(values):.2f}" for name, values in found.items())


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
    parser.add_argument(
        "--minutes", type=float, help="length of the longer voice-over of `hour`; default: what 3 minutes allow"
    )
    parser.add_argument("--rows", type=int, default=Options.rows, help="of the nights `scale`, `warm` and `growth`")
    given = parser.parse_args(arguments)
    names = [name for name in given.only.split(",") if name]
    if not names or not set(names) <= set(MEASURES):
        parser.error(f"--only takes some of {','.join(MEASURES)}")
    options = Options(given.store, given.manifest, given.models, given.minutes, given.rows)
    rows = []
    for name in names:
        sys.stderr.write(f"measuring {name} ...\n")
        rows.append(measured(name, options))
    text = json.dumps({"rows": [asdict(row) for row in rows]}, indent=2) if given.json else table(rows)
    sys.stdout.write(text + "\n")
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
