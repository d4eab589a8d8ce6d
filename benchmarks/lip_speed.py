"""How fast the lips are drawn on a CPU, and that the memory of a dubbed voice-over does not grow with its length."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.avatars import avatar_frames, load_avatar
from avatarlab.compose import idle_path
from avatarlab.errors import WorkerError
from avatarlab.lips.lip_images import lip_references
from avatarlab.media import write_lossless
from avatarlab.training.corpus import synthesise, write_wav
from avatarlab.training.evaluate_lips import paint_clip
from benchmarks.lips import held_out_voice, load_lips
from benchmarks.speech import LECTURE, lines_of
from benchmarks.workshop import bench_threads

WORKERS = 2
DRAWN_FRAMES = 96
COMPUTING_SECONDS = 180.0  # for the longer voice-over, unless its length is given
# As flows.workers sets them for worker processes.
WORKER_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}


@dataclass(frozen=True)
class LipSpeed:
    """Frames a second of all workers together, from latents to finished windows; `stored` with the lossless writing, which
    is the whole face stage; `network` the networks alone; at windows of `window_px` in a picture of `picture_px`.
    """

    workers: int
    window_px: int
    picture_px: int
    drawn: float
    stored: float
    network: float

    @property
    def network_share(self) -> float:
        """Of the time of the face stage."""
        return self.stored / self.network


def measure_lip_speed(models: str | None, steps: int = 0, avatar: str = "ada", frames: int = DRAWN_FRAMES) -> LipSpeed:
    """Worker processes of one thread each draw the same frames at the same time. `steps` 0 is the renderer's own number.

    Raises WorkerError where one fails.
    """
    code = "from benchmarks.lip_speed import work; work()"
    environment = os.environ | WORKER_MEMORY | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for _ in range(WORKERS)
    ]
    job = json.dumps({"models": models, "steps": steps, "avatar": avatar, "frames": frames}).encode() + b"\n"
    told: list[dict[str, float]] = []
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(job)
            process.stdin.flush()
        for turn in range(2):  # every worker says that it is ready before any may start
            for process in processes:
                assert process.stdin is not None
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    raise WorkerError("a worker that draws lips ended early", "see its message above")
                if turn:
                    told.append(json.loads(line))
            for process in processes:
                assert process.stdin is not None
                if not turn:
                    process.stdin.write(b"go\n")
                    process.stdin.flush()
    finally:
        for process in processes:
            process.communicate()
    rate = {name: sum(one[name] for one in told) for name in ("drawn", "stored", "network")}
    sizes = told[0]
    return LipSpeed(WORKERS, int(sizes["window"]), int(sizes["picture"]), **rate)


def work() -> None:
    """One worker: reads its job, warms up, says so, waits for the word, draws, and tells frames a second."""
    job = json.loads(sys.stdin.readline())
    lips = load_lips(job["models"])
    lips = replace(lips, settings=replace(lips.settings, steps=job["steps"] or lips.settings.steps))
    assert lips.renderer.config.window is not None
    size, count = lips.renderer.config.window[0], int(job["frames"])
    pictures = avatar_frames(load_avatar((), job["avatar"]))
    path = idle_path(count, len(pictures.frames))
    with bench_threads(1), tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as folder:
        rest = lip_references(lips.renderer, pictures.frames, pictures.landmarks)
        noise = np.random.default_rng(0).normal(size=(count, rest.shape[1]))
        latents = (rest[0] + rest.std() * noise).astype(np.float32)
        paint_clip(lips, pictures, path[:16], latents[:16])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        started = time.perf_counter()
        painted = paint_clip(lips, pictures, path, latents)
        drawn = time.perf_counter() - started
        write_lossless(Path(folder) / "windows.mkv", painted.windows)
        stored = time.perf_counter() - started
        batch = lips.settings.batch_size
        picture = torch.zeros(batch, 3, size, size)
        z = torch.from_numpy(np.resize(latents, (batch, latents.shape[1])))
        batches = -(-count // batch)
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(batches):
                lips.renderer.sample(picture, picture, picture[:, :1], picture, z, lips.settings.steps or 1)
        network = time.perf_counter() - started
    told = {"drawn": count / drawn, "stored": count / stored, "network": count / network}
    told |= {"window": size, "picture": pictures.frames.shape[1]}
    sys.stdout.write(json.dumps(told) + "\n")


# --- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DubMemory:
    """Peak resident megabytes of a process that dubs a voice-over of one minute, and of one of `minutes`."""

    minutes: float
    one_minute: float
    longer: float
    seconds: float  # of computing, for the longer one

    @property
    def growth(self) -> float:
        return self.longer / self.one_minute - 1

    @property
    def whole_hour(self) -> bool:
        return self.minutes >= 60


def measure_dub_memory(models: str | None, minutes: float | None = None, avatar: str = "ada") -> DubMemory:
    """`flows.direct.dub` in a process of its own, once for each length.

    Without `minutes` the longer voice-over is what about three minutes of computing are enough for, two at least.
    Raises WorkerError where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as name:
        folder = Path(name)
        first, took = dub_peak(voice_over(folder / "one.wav", 1.0), avatar, models)
        longest = minutes or max(2.0, np.floor(2 * COMPUTING_SECONDS / took) / 2)
        longer, seconds = dub_peak(voice_over(folder / "longer.wav", longest), avatar, models)
    return DubMemory(longest, first, longer, seconds)


def voice_over(path: Path, minutes: float, sentences: Sequence[str] = ()) -> Path:
    """Sentences in turn with pauses of half a second, as long as asked; no stretch of it comes twice."""
    texts = sentences or lines_of(LECTURE)
    total = round(60 * minutes * SAMPLE_RATE_HZ)
    said: list[np.ndarray] = []
    samples = 0
    while samples < total and len(said) < 2 * len(texts):
        waveform, _ = synthesise(texts[len(said) // 2 % len(texts)], held_out_voice(len(said) // 2))
        said += [waveform, np.zeros(SAMPLE_RATE_HZ // 2, np.int16)]
        samples += len(said[-1]) + len(said[-2])
    whole = np.resize(np.concatenate(said), total)
    # Equal pieces would be found in the store and not be made again.
    faint = np.random.default_rng(0).integers(-1, 2, len(whole))
    write_wav(path, np.clip(whole.astype(np.int32) + faint, -32768, 32767).astype(np.int16))
    return path


def dub_peak(audio: Path, avatar: str, models: str | None) -> tuple[float, float]:
    """Peak resident megabytes of dubbing, and seconds it took."""
    code = (
        "import json, resource, sys; from pathlib import Path; from flows.direct import dub; "
        "audio, avatar, models = json.loads(sys.argv[1]); "
        "seconds = dub(Path(audio), avatar, Path(audio).with_suffix('.mp4'), models=models); "
        "print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
    )
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps([str(audio), avatar, models])], capture_output=True, text=True
    )
    if run.returncode:
        raise WorkerError(f"dubbing failed: {run.stderr.strip()[-300:]}", "run `avatarlab dub` on a recording")
    _, peak = json.loads(run.stdout.splitlines()[-1])
    return float(peak), time.monotonic() - started
