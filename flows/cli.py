"""The command `avatarlab`. Logs and progress go to stderr; `--json` prints one JSON object on stdout.

Exit status: 0 all done, 1 some rows failed, 2 nothing was started because the input is wrong, 130 interrupted.
Engines, Dask and Prefect are imported only where a command uses them.
"""

import json
import logging
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from avatarlab.errors import AvatarLabError, InputError, ManifestError, Problem
from flows.launch import launch
from flows.prepare import Request, checked_portions, describe, planner_of, prepare
from flows.session import Report
from flows.signals import ignore_signals, terminate_as_interrupt

DEFAULT_AVATAR = "ada"
TRAINING = Path("training")
ROWS_SHOWN = 50
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    help="Talking lecture videos from a manifest.",
)
avatars_app = typer.Typer(no_args_is_help=True, help="Avatar bundles: picture and voice of a presenter.")
voices_app = typer.Typer(no_args_is_help=True, help="Voices of avatars.")
models_app = typer.Typer(no_args_is_help=True, help="Model sets: the weights of every stage.")
train_app = typer.Typer(no_args_is_help=True, help="Make the bundled model set from nothing but free tools.")
app.add_typer(avatars_app, name="avatars")
app.add_typer(voices_app, name="voices")
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")

errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
output = Console(highlight=False, markup=False)

ManifestArgument = Annotated[str, typer.Argument(help="Manifest: Parquet, CSV or JSON lines.", metavar="MANIFEST")]
StoreOption = Annotated[str, typer.Option("--store", help="Folder, or s3://bucket/prefix.", envvar="AVATARLAB_STORE")]
ModelsOption = Annotated[
    str | None, typer.Option("--models", help="models.toml, a folder with one, or a bundled set. Default: mini.")
]
AvatarsOption = Annotated[
    list[str] | None,
    typer.Option("--avatars", help="Folder of avatar bundles; may be repeated. The bundled ones are always there."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="Only these ids, separated by commas; may be repeated.")
]
SkipOption = Annotated[bool, typer.Option("--skip-invalid", help="Render the valid rows; invalid ones fail alone.")]
LexiconOption = Annotated[
    str | None, typer.Option("--lexicon", help="CSV of word, spoken and language: how names and terms are said.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def main() -> None:
    """Entry point: an error of ours is one line with its remedy, never a traceback."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    terminate_as_interrupt()
    as_json = "--json" in sys.argv[1:]
    try:
        app()
    except AvatarLabError as error:
        _tell(error, as_json)
        sys.exit(2)
    except KeyboardInterrupt:
        _leave_at_once()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer, too, makes an exit of a KeyboardInterrupt
            _leave_at_once()
        raise
    finally:
        ignore_signals()  # the command is over: one more would only break off the way out


def _leave_at_once() -> NoReturn:
    """In order it would wait for threads, and for workers that were only half started. What this process has started ends
    with it."""
    errors.print("interrupted; what is finished is kept, and the same command goes on from there")
    sys.stdout.flush()
    os._exit(INTERRUPTED)


@app.command("check")
def check_command(
    manifest: ManifestArgument,
    models: ModelsOption = None,
    avatars: AvatarsOption = None,
    lexicon: LexiconOption = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine a manifest, its scripts, avatars and backgrounds. Nothing is computed."""
    from avatarlab.models import read_model_set

    request = Request(manifest, "", models, tuple(avatars or ()), only=_ids(only), lexicon=lexicon)
    valid, invalid, problems, notes = 0, 0, list[Problem](), dict[str, list[str]]()
    for portion in checked_portions(request, planner_of(request, read_model_set(models))):
        valid += len(portion.rows)
        invalid += len(portion.manifest.invalid)
        problems += portion.manifest.problems
        notes.update((item.row.id, list(item.notes)) for item in portion.rows if item.notes)
        if as_json:
            continue
        for problem in portion.manifest.problems:
            errors.print(_line(problem))
        for item in portion.rows:
            for note in item.notes:
                errors.print(f"row {item.row.number}, id {item.row.id}: {note}")
    if as_json:
        found = [asdict(problem) for problem in problems]
        _print_json({"valid": valid, "invalid": invalid, "problems": found, "notes": notes})
    else:
        output.print(f"{valid} rows can be rendered, {invalid} cannot")
    if problems:
        raise typer.Exit(2)


@app.command("plan")
def plan_command(
    manifest: ManifestArgument,
    store: StoreOption = "out",
    models: ModelsOption = None,
    avatars: AvatarsOption = None,
    lexicon: LexiconOption = None,
    device: DeviceOption = "cpu",
    only: OnlyOption = None,
    skip_invalid: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a render would find in the store and what it would make. Nothing is computed."""
    request = Request(manifest, store, models, tuple(avatars or ()), device, _ids(only), skip_invalid, lexicon=lexicon)
    plan = describe(prepare(request, errors.print))
    if as_json:
        _print_json({name: value for name, value in plan.items() if name != "run_id"})
        return
    table = Table("stage", "units", "in the store", "to make")
    stages = plan["stages"]
    assert isinstance(stages, dict)
    for stage, counts in stages.items():
        table.add_row(stage, str(counts["units"]), str(counts["in_store"]), str(counts["to_make"]))
    output.print(table)


@app.command("render")
def render_command(
    manifest: ManifestArgument,
    store: StoreOption = "out",
    models: ModelsOption = None,
    avatars: AvatarsOption = None,
    lexicon: LexiconOption = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes on this machine.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="Dask scheduler, tcp://HOST:PORT.")] = None,
    device: DeviceOption = "cpu",
    only: OnlyOption = None,
    skip_invalid: SkipOption = False,
    no_prefect: Annotated[
        bool, typer.Option("--no-prefect", help="The same plan and workers without Prefect.")
    ] = False,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Name of this run's folder under runs/.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Render a manifest: every row becomes a video in the store. What is there already is not made again."""
    request = Request(
        manifest,
        store,
        models,
        tuple(avatars or ()),
        device,
        _ids(only),
        skip_invalid,
        run_id,
        workers,
        scheduler,
        lexicon,
    )
    prepared = prepare(request, errors.print)
    for note in prepared.notes:
        errors.print(note)
    try:
        report = launch(prepared, no_prefect=no_prefect, say=errors.print)
    except InputError:
        raise
    except AvatarLabError as error:
        _tell(error, as_json)
        raise typer.Exit(1) from error
    if as_json:
        _print_report_as_json(report)
    else:
        _print_report(report)
    raise typer.Exit(report.exit_code)


@app.command("worker")
def worker_command(
    scheduler: Annotated[str, typer.Argument(help="Dask scheduler, tcp://HOST:PORT.")],
    device: DeviceOption = "cpu",
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Workers. Default: one for each GPU, or one for two cores.")
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", help="Of each worker, as 4GiB. Default: what the machine has, shared out."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What logs call these workers. Default: by host.")] = None,
) -> None:
    """Work for the runs of a Dask scheduler, and come back whatever happens. Ctrl-C lets the running batch finish."""
    from flows.worker import work
    from flows.workers import bytes_of

    work(scheduler, device, count, bytes_of(memory_limit) if memory_limit else None, name, errors.print)


@app.command("speak")
def speak_command(
    text: Annotated[str, typer.Argument(help="What to say.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="WAV file to write; with --stream also - for stdout.")
    ] = Path("speech.wav"),
    voice: Annotated[
        str, typer.Option("--voice", "--avatar", help="Avatar bundle whose voice speaks.")
    ] = DEFAULT_AVATAR,
    models: ModelsOption = None,
    avatars: AvatarsOption = None,
    lexicon: LexiconOption = None,
    device: DeviceOption = "cpu",
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Draw the speech with this seed.")] = None,
    streaming: Annotated[
        bool,
        typer.Option("--stream", help="Write while speaking: sentences are drawn once, not judged, and never stored."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Speak a text in the voice of an avatar. To listen at once: `avatarlab speak TEXT --stream -o - | ffplay -`."""
    from flows.direct import speak, stream

    to_stdout = out == Path("-")
    if to_stdout and (as_json or not streaming):
        raise InputError("stdout is for streamed sound alone", "add --stream and leave out --json, or name a file")
    roots, own_lexicon = _roots(avatars), Path(lexicon) if lexicon else None
    if not streaming:
        seconds = speak(text, voice, out, models=models, avatars=roots, device=device, seed=seed, lexicon=own_lexicon)
    else:
        target = None if to_stdout else out
        seconds = stream(
            text, voice, target, models=models, avatars=roots, device=device, seed=seed, lexicon=own_lexicon
        )
    if not to_stdout:
        _say_written(out, seconds, as_json)


@app.command("dub")
def dub_command(
    audio: Annotated[Path, typer.Argument(help="A recording of a voice.")],
    avatar: Annotated[str, typer.Option("--avatar", help="Avatar bundle whose lips move.")] = DEFAULT_AVATAR,
    out: Annotated[Path, typer.Option("--out", "-o", help="MP4 file to write.")] = Path("dubbed.mp4"),
    background: Annotated[str | None, typer.Option("--background", help="#rrggbb, or an image.")] = None,
    models: ModelsOption = None,
    avatars: AvatarsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Move the lips of an avatar to a recording of a voice."""
    from flows.direct import dub

    seconds = dub(audio, avatar, out, models=models, avatars=_roots(avatars), device=device, background=background)
    _say_written(out, seconds, as_json)


@avatars_app.command("list")
def avatars_list(avatars: AvatarsOption = None, as_json: JsonOption = False) -> None:
    """The bundles that can be named in a manifest."""
    from avatarlab.avatars import list_avatars, load_avatar

    found = [load_avatar(_roots(avatars), id) for id in list_avatars(_roots(avatars))]
    if as_json:
        _print_json(
            {"avatars": [{"id": a.id, "name": a.name, "licence": a.licence, "folder": str(a.folder)} for a in found]}
        )
        return
    table = Table("id", "name", "licence", "folder")
    for avatar in found:
        table.add_row(avatar.id, avatar.name, avatar.licence, str(avatar.folder))
    output.print(table)


@avatars_app.command("add")
def avatars_add(
    picture: Annotated[Path, typer.Argument(help="Photograph (PNG, JPEG, WebP) or video of a face.")],
    voice: Annotated[Path, typer.Option("--voice", help="Recording of that person, 3 to 15 seconds.")],
    transcript: Annotated[str, typer.Option("--transcript", help="Exactly what the recording says.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of picture and voice.")] = "",
    consent_who: Annotated[str, typer.Option("--consent-who", help="Who agreed to be this presenter.")] = "",
    consent_purpose: Annotated[str, typer.Option("--consent-purpose", help="What for.")] = "",
    consent_when: Annotated[str, typer.Option("--consent-when", help="When, as in 2026-01-31.")] = "",
    id: Annotated[str | None, typer.Option("--id", help="Name of the bundle. Default: that of the picture.")] = None,
    name: Annotated[str, typer.Option("--name", help="The presenter's name. Default: the id.")] = "",
    avatars: Annotated[Path, typer.Option("--avatars", help="Folder that the bundle is made in.")] = Path("avatars"),
    face: Annotated[
        str | None, typer.Option("--face", help="Of several faces: NUMBER, 1 being the largest, or X,Y in pixels.")
    ] = None,
    eyes: Annotated[
        str | None, typer.Option("--eyes", help="X,Y,X,Y of the eye centres, the one on the left first; with --mouth.")
    ] = None,
    mouth: Annotated[
        str | None, typer.Option("--mouth", help="X,Y of the middle of the line between the lips; with --eyes.")
    ] = None,
    landmarks: Annotated[
        Path | None, typer.Option("--landmarks", help="68 points in pixels, iBUG order: .npy, or lines of x,y.")
    ] = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle of a photograph or video and a voice clip. It is examined first; an error leaves nothing behind."""
    from avatarlab.avatar_making import FaceChoice, Words, add_avatar, id_of
    from avatarlab.avatars import Consent
    from avatarlab.models import read_model_set
    from avatarlab.speech.heard import Listener

    number = int(face) if face is not None and face.isdigit() else None
    at = None if face is None or number is not None else _numbers("--face", face, 2)
    if (eyes is None) != (mouth is None):
        raise InputError("--eyes and --mouth go together", "give both, or neither")
    points = None
    if eyes is not None and mouth is not None:
        (x1, y1, x2, y2), (x, y) = _numbers("--eyes", eyes, 4), _numbers("--mouth", mouth, 2)
        points = ((x1, y1), (x2, y2), (x, y))
    added = add_avatar(
        avatars,
        id_of(picture) if id is None else id,
        picture,
        voice,
        Words(transcript, licence, Consent(consent_who, consent_when, consent_purpose), name),
        choice=FaceChoice(number, None if at is None else (at[0], at[1]), points, landmarks),
        listener=Listener(read_model_set(models)),
    )
    if as_json:
        _print_json(
            {
                "id": added.avatar.id,
                "folder": str(added.avatar.folder),
                "preview": str(added.preview),
                "findings": [asdict(finding) for finding in added.findings],
            }
        )
        return
    for finding in added.findings:
        remedy = f" ({finding.remedy})" if finding.remedy else ""
        errors.print(f"{finding.level}: {finding.what}: {finding.message}{remedy}")
    output.print(f"{added.avatar.folder}: use it with --avatars {avatars}; look at {added.preview}", soft_wrap=True)


@avatars_app.command("check")
def avatars_check(
    ids: Annotated[list[str] | None, typer.Argument(help="Bundles to examine. Default: all.")] = None,
    avatars: AvatarsOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine bundles: face, size, sharpness, voice clip and its transcript. Exit 2 when one cannot be used."""
    from avatarlab.avatar_checks import check_avatar
    from avatarlab.avatars import list_avatars, load_avatar
    from avatarlab.models import read_model_set
    from avatarlab.speech.heard import Listener

    roots = _roots(avatars)
    bundles = [load_avatar(roots, id) for id in (ids or list_avatars(roots))]
    listener = Listener(read_model_set(models))
    findings = {avatar.id: check_avatar(avatar, listener) for avatar in bundles}
    if as_json:
        _print_json({id: [asdict(finding) for finding in found] for id, found in findings.items()})
    else:
        table = Table("avatar", "", "what", "finding", "remedy")
        for id, found in findings.items():
            for finding in found:
                table.add_row(id, finding.level, finding.what, finding.message, finding.remedy)
        output.print(table)
    if any(finding.level == "error" for found in findings.values() for finding in found):
        raise typer.Exit(2)


@voices_app.command("tune")
def voices_tune(
    avatar: Annotated[str, typer.Argument(help="Avatar bundle whose voice is tuned.")],
    clips: Annotated[
        Path | None,
        typer.Option(
            "--clips", help="Folder of more recordings: name.wav with its words in name.txt.", file_okay=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write. Default: voice_state.safetensors in the bundle.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of Adam.")] = 75,
    rank: Annotated[int, typer.Option("--rank", min=1, max=32, help="Rank of the start memories.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result.")] = 0,
    models: ModelsOption = None,
    avatars: AvatarsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Learn the memory that the speech model starts from in an avatar's voice: a few kilobytes in its bundle."""
    from avatarlab.avatars import load_avatar
    from avatarlab.models import read_model_set
    from avatarlab.training.voices import tune_avatar

    bundle, model_set = load_avatar(_roots(avatars), avatar), read_model_set(models)
    path, tuned = tune_avatar(
        bundle, model_set, clips=clips, out=out, steps=steps, rank=rank, seed=seed, device=device, progress=errors.print
    )
    before, after = round(tuned.loss_before, 4), round(tuned.loss_after, 4)
    if as_json:
        _print_json({"path": str(path), "loss_before": before, "loss_after": after})
    else:
        output.print(f"{path}: cross-entropy {before} before, {after} after")


@models_app.command("list")
def models_list(as_json: JsonOption = False) -> None:
    """The bundled model sets."""
    from avatarlab.models import list_model_sets

    sets = list_model_sets()
    if as_json:
        _print_json({"models": [{"name": s.name, "path": str(s.path), "digest": s.set_digest} for s in sets]})
        return
    table = Table("name", "digest", "stage", "weights", "settings")
    for models in sets:
        for stage, file in models.files.items():
            settings = ", ".join(f"{name}={value}" for name, value in file.settings.items())
            table.add_row(models.name, models.set_digest[:12], stage, file.path.name if file.path else "", settings)
    output.print(table)


@models_app.command("verify")
def models_verify(
    models: Annotated[str | None, typer.Argument(help="models.toml, a folder with one, or a bundled set.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of a model set again. Exit 2 when one is missing or damaged."""
    from avatarlab.models import read_model_set

    model_set = read_model_set(models)
    problems = model_set.verify()
    if as_json:
        _print_json({"name": model_set.name, "digest": model_set.set_digest, "problems": [str(p) for p in problems]})
    else:
        for problem in problems:
            errors.print(str(problem))
        output.print(f"{model_set.name}: {len(problems)} problems" if problems else f"{model_set.name}: whole")
    if problems:
        raise typer.Exit(2)


@models_app.command("import")
def models_import(
    out: Annotated[Path, typer.Option("--out", help="Folder of the new model set.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="Published Small-E (.pt) or Lina (.ckpt) checkpoint. Default: the bundled voice."),
    ] = None,
    codec: Annotated[
        list[Path] | None,
        typer.Option("--codec", help="File of its codec: WavTokenizer's, or EnCodec's and again Vocos's."),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", help="The published bpe256.json.")] = None,
    renderer: Annotated[
        Path | None, typer.Option("--renderer", help="DiffDub's stage1_state_dict.ckpt. Default: the bundled lips.")
    ] = None,
    motion: Annotated[Path | None, typer.Option("--motion", help="DiffDub's stage2_state_dict.ckpt.")] = None,
    audio_features: Annotated[
        Path | None, typer.Option("--audio-features", help="pytorch_model.bin of chinese-hubert-large.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the set. Default: that of the network.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model set from published checkpoints. Sizes come from their tensors; nothing in them is executed."""
    from avatarlab.imports import import_models

    made = import_models(
        file,
        out,
        codec=codec or (),
        tokenizer=tokenizer,
        renderer=renderer,
        motion=motion,
        audio_features=audio_features,
        name=name,
    )
    if as_json:
        _print_json(
            {
                "name": made.models.name,
                "path": str(made.models.path),
                "digest": made.models.set_digest,
                "network": made.network,
                "parameters": made.parameters,
                "config": asdict(made.config) if made.config else None,
                "licences": list(made.licences),
                "lacking": list(made.lacking),
                "notes": list(made.notes),
            }
        )
        return
    output.print(f"{made.network}: {made.parameters:,} parameters, {made.models.path}")
    for licence in made.licences:
        errors.print(f"licence: {licence}")
    for note in made.notes:
        errors.print(f"note: {note}")
    for what in made.lacking:
        errors.print(f"lacking: {what}")


@models_app.command("pull")
def models_pull(
    repo: Annotated[str, typer.Argument(help="Repository of a model hub: owner/name.")],
    revision: Annotated[str, typer.Option("--revision", help="Commit, 40 hex digits.")],
    file: Annotated[str, typer.Option("--file", help="Path in the repository.")],
    sha256: Annotated[str, typer.Option("--sha256", help="What the file must hold, 64 hex digits.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    as_json: JsonOption = False,
) -> None:
    """Fetch one pinned file from a hub (HF_ENDPOINT, HF_TOKEN). Continues where it stopped; other content is refused."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from avatarlab.hub import Pin, pull

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("fetching", total=None)
        pin = Pin(repo, revision, file, sha256)
        path = pull(pin, out, progress=lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        _print_json({"path": str(path), "sha256": sha256, "bytes": path.stat().st_size})
    else:
        output.print(str(path))


OutOption = Annotated[Path, typer.Option("--out", help="Folder of everything that is trained.")]
MinutesOption = Annotated[float, typer.Option("--minutes", min=0.01, help="Training time of this part, all sittings.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0)]
StartOption = Annotated[
    Path | None, typer.Option("--start", help="Weights of an earlier one, to train on.", exists=True)
]


@train_app.command("corpus")
def train_corpus(
    out: OutOption = TRAINING, utterances: Annotated[int, typer.Option(min=1)] = 22_000, seed: SeedOption = 0
) -> None:
    """Speech: the flite synthesiser reads sentences, with the time of every phone."""
    from flows import training

    training.corpus(out, utterances, seed, errors.print)


@train_app.command("faces")
def train_faces(
    out: OutOption = TRAINING, samples: Annotated[int, typer.Option(min=1)] = 40_000, seed: SeedOption = 0
) -> None:
    """Faces: drawn presenters speak those sentences."""
    from flows import training

    training.faces(out, samples, seed, errors.print)


@train_app.command("prepare")
def train_prepare(
    folder: Annotated[Path, typer.Argument(help="Folder of talking-head videos with sound.", metavar="FOLDER")],
    out: OutOption = TRAINING,
    as_json: JsonOption = False,
) -> None:
    """Your own videos: what the renderer and motion are trained on besides, or instead of, drawn faces."""
    from flows import training

    prepared = training.prepare(out, folder, errors.print)
    if as_json:
        _print_json(asdict(prepared))
    else:
        table = Table("video", "", Column("why", overflow="fold"))
        for what, items in (("refused", prepared.refused), ("left out", prepared.left_out)):
            for item in items:
                table.add_row(item.name, what, item.reason)
        if table.row_count:
            output.print(table)
        output.print(
            f"{prepared.clips} clips ({prepared.held_out} held out) of {prepared.videos} videos: "
            f"{prepared.frames} frames, {prepared.frames_without_face} without a face; {len(prepared.refused)} refused"
        )
    if not prepared.clips:
        raise typer.Exit(1)


@train_app.command("codec")
def train_codec(
    out: OutOption = TRAINING, minutes: MinutesOption = 30, seed: SeedOption = 0, start: StartOption = None
) -> None:
    """The codec: speech to codes and back."""
    from flows import training

    training.codec(out, minutes, seed, errors.print, start)


@train_app.command("small-e")
def train_small_e(
    out: OutOption = TRAINING, minutes: MinutesOption = 120, seed: SeedOption = 0, start: StartOption = None
) -> None:
    """Small-E: text to codes in a given voice."""
    from flows import training

    training.small_e(out, minutes, seed, errors.print, start)


@train_app.command("decoder")
def train_decoder(out: OutOption = TRAINING, minutes: MinutesOption = 60, seed: SeedOption = 0) -> None:
    """The codec's decoder: codes to sound, for the codec and the language model trained before."""
    from flows import training

    training.decoder(out, minutes, seed, errors.print)


@train_app.command("renderer")
def train_renderer(
    out: OutOption = TRAINING, minutes: MinutesOption = 60, seed: SeedOption = 0, start: StartOption = None
) -> None:
    """DiffDub's first stage: draws a mouth. With --start, motion trained against those weights stays valid."""
    from flows import training

    training.renderer(out, minutes, seed, errors.print, start)


@train_app.command("motion")
def train_motion(out: OutOption = TRAINING, minutes: MinutesOption = 30, seed: SeedOption = 0) -> None:
    """DiffDub's second stage: speech to lip latents, for the renderer trained before."""
    from flows import training

    training.motion(out, minutes, seed, errors.print)


@train_app.command("set")
def train_set(out: OutOption = TRAINING) -> None:
    """Gather what was trained into a model set, for `--models`."""
    from flows import training

    output.print(str(training.model_set(out).path))


@train_app.command("all")
def train_all(
    out: OutOption = TRAINING,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Training time of all parts together.")] = 240,
    seed: SeedOption = 0,
) -> None:
    """Everything in its order; half of the minutes go to Small-E."""
    from flows import training

    training.corpus(out, training.UTTERANCES, seed, errors.print)
    training.faces(out, training.FACES, seed, errors.print)
    training.codec(out, minutes * 0.15, seed, errors.print)
    training.small_e(out, minutes * 0.35, seed, errors.print)
    training.decoder(out, minutes * 0.15, seed, errors.print)
    training.renderer(out, minutes * 0.25, seed, errors.print)
    training.motion(out, minutes * 0.1, seed, errors.print)
    output.print(str(training.model_set(out).path))


def _print_report_as_json(report: Report) -> None:
    """One object, whose rows are written as they are read."""
    told = {
        "run_id": report.run_id,
        "exit_code": report.exit_code,
        "interrupted": report.interrupted,
        "given_up": report.given_up,
        "not_stored": report.not_stored,
        "unrecorded": report.unrecorded,
        "counts": dict(report.counts),
        "seconds": round(report.seconds, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "results": report.results_uri,
        "set_aside": [asdict(found) for found in report.set_aside],
    }
    sys.stdout.write(json.dumps(told, ensure_ascii=False)[:-1] + ', "rows": [')
    for number, row in enumerate(report.rows):
        sys.stdout.write((", " if number else "") + json.dumps(asdict(row), ensure_ascii=False))
    sys.stdout.write("]}\n")


def _print_report(report: Report) -> None:
    """Every row of a short run; of a long one what failed, as far as a terminal can hold it."""
    total = sum(report.counts.values())
    table = Table("id", "status", "seconds", Column("video", overflow="fold"))
    shown = 0
    for row in report.rows:
        if total <= ROWS_SHOWN:
            length = f"{row.duration_seconds:.2f}" if row.duration_seconds is not None else ""
            table.add_row(row.id, row.status, length, row.video_uri or "")
        if row.error and (shown := shown + 1) <= ROWS_SHOWN:
            errors.print(f"{row.id}: {row.error}" + (f" ({row.remedy})" if row.remedy else ""))
        for note in row.notes if total <= ROWS_SHOWN else ():
            errors.print(f"{row.id}: {note}")
    if shown > ROWS_SHOWN:
        errors.print(f"and {shown - ROWS_SHOWN} rows more that failed")
    if table.row_count:
        output.print(table)
    if report.given_up:
        errors.print(f"ended early: {report.given_up}")
    if report.not_stored:
        errors.print(f"the store did not take the results: {report.not_stored}")
    counts = ", ".join(f"{count} {status}" for status, count in report.counts.items())
    errors.print(f"{counts or 'nothing to do'} in {report.seconds:.1f} s; results: {report.results_uri}")


def _numbers(option: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise InputError(f"{option} {text} is not {count} numbers", "separate pixels by commas, as in 120,80")
    return numbers


def _say_written(out: Path, seconds: float, as_json: bool) -> None:
    if as_json:
        _print_json({"path": str(out), "seconds": round(seconds, 2)})
    else:
        output.print(f"{out}: {seconds:.2f} s")


def _tell(error: AvatarLabError, as_json: bool) -> None:
    problems = list(error.problems) if isinstance(error, ManifestError) else []
    if as_json:
        _print_json(
            {
                "error": error.message,
                "remedy": error.remedy,
                "kind": type(error).__name__,
                "problems": [asdict(problem) for problem in problems],
            }
        )
    for problem in problems:
        errors.print(_line(problem))
    if not problems:
        errors.print(str(error))


def _line(problem: Problem) -> str:
    place = f"row {problem.row}, id {problem.id}, " if problem.row else ""
    column = f"{problem.column}: " if problem.column else ""
    return f"{place}{column}{problem.message} ({problem.remedy})"


def _print_json(value: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _ids(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(id for value in values or () for id in value.split(",") if id)


def _roots(values: Sequence[str] | None) -> list[Path]:
    return [Path(value) for value in values or ()]
