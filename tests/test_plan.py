"""What is made, what is not, and in which order: the render graph over a real folder store, without engines."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avatarlab.artifacts import STAGES, Artifacts
from avatarlab.avatars import Avatar, Consent
from avatarlab.errors import WeightsError
from avatarlab.graph import BATCH_LIMITS, Batch, Finished, RenderGraph
from avatarlab.manifest import Row, read_manifest
from avatarlab.plan import PlannedRow, Planner
from avatarlab.stages import (
    AudioItem,
    FaceItem,
    Item,
    Line,
    MotionItem,
    Outcome,
    Recipe,
    Said,
    Silence,
    TokensItem,
    failed,
    lip_space,
)
from avatarlab.store import open_store
from avatarlab.text import units

RECIPE = Recipe(
    small_e="s1", codec="c1", audio_features="a1", motion="m1", renderer="r1", lip_space="l1", numerics="cpu-float32"
)
OUTPUTS = {
    "tokens": ("codes.npy", "words.json"),
    "audio": ("audio.npy",),
    "motion": ("latents.npy", "emphasis.npy"),
    "face": ("windows.mkv", "corners.npy", "emphasis.npy"),
    "video": ("video.mp4", "captions.vtt", "captions.srt", "poster.jpg"),
}


def avatar(id: str, picture: str = "", voice: str = "") -> Avatar:
    here = Path("/nowhere")
    return Avatar(
        id=id,
        folder=here,
        name=id.title(),
        licence="CC0-1.0",
        background="#20304a",
        consent=Consent("nobody", "2026", "tests"),
        transcript="Hello.",
        picture=here,
        is_clip=True,
        landmarks=None,
        matte=None,
        voice=here,
        voice_digest=voice or f"voice of {id}",
        picture_digest=picture or f"picture of {id}",
        matte_digest="",
    )


CAST = {"ada": avatar("ada"), "ben": avatar("ben")}


def planned(id: str, *sentences: str, speaker: str = "ada", voice: str = "", seed: int | None = None) -> PlannedRow:
    parts: list[Said | Silence] = []
    for sentence in sentences:
        line = Line(units(sentence), sentence, speaker, voice or speaker, seed)
        parts += [Said(line, sentence.capitalize()), Silence(6)]
    return PlannedRow(Row(id, " ".join(sentences), speaker), tuple(parts), "#20304a", "#20304a")


def content(item: Item) -> str:
    """What an engine would make: decided by what the stage reads, not by its key."""
    match item:
        case TokensItem():
            return f"{item.units} {item.voice_digest} {item.seed}"
        case AudioItem():
            return item.codes.sha256
        case MotionItem():
            return f"{item.audio.sha256} {item.picture_digest}"
        case FaceItem():
            return f"{item.motion.sha256} {item.picture_digest}"
        case _:
            return repr(replace(item, key=""))


def work(artifacts: Artifacts, batch: Batch) -> list[Outcome]:
    outcomes = []
    for item in batch.items:
        outputs = {name: (f"{name} {content(item)}".encode(), "text/plain") for name in OUTPUTS[batch.stage]}
        outcomes.append(Outcome(batch.stage, item.key, artifacts.commit(batch.stage, item.key, outputs), seconds=1.0))
    return outcomes


def run(
    artifacts: Artifacts, rows: Sequence[PlannedRow], recipe: Recipe = RECIPE, poison: str = ""
) -> tuple[dict[str, int], list[Finished]]:
    """Units made by stage, and the finished rows, of a whole run; a sentence holding `poison` cannot be spoken."""
    graph = RenderGraph(rows, CAST, recipe)
    graph.resolve(artifacts.find)
    made = dict.fromkeys(STAGES, 0)
    finished = graph.finished()
    while batch := graph.next_batch(slots=2):
        bad = [item for item in batch.items if poison and isinstance(item, TokensItem) and poison in item.spoken]
        good = Batch(batch.number, batch.stage, tuple(item for item in batch.items if item not in bad))
        graph.report(failed(batch.stage, item.key, RuntimeError("poison")) for item in bad)
        graph.report(work(artifacts, good))
        made[batch.stage] += len(good.items)
        graph.resolve(artifacts.find)
        finished += graph.finished()
    return made, finished


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(open_store(str(tmp_path / "store")))


def counts(tokens: int = 0, audio: int = 0, motion: int = 0, face: int = 0, video: int = 0) -> dict[str, int]:
    return {"tokens": tokens, "audio": audio, "motion": motion, "face": face, "video": video}


def test_the_same_run_again_makes_nothing_and_starts_no_batch(artifacts: Artifacts) -> None:
    rows = [planned("one", "good morning.", "this is a test."), planned("two", "and a third.")]
    assert run(artifacts, rows)[0] == counts(3, 3, 3, 3, 2)
    made, finished = run(artifacts, rows)
    assert made == counts()
    assert [row.planned.row.id for row in finished] == ["one", "two"]
    assert all(row.found and row.seconds["face"] == 0 for row in finished)


def test_a_sentence_is_spoken_once_whichever_rows_it_stands_in(artifacts: Artifacts) -> None:
    rows = [planned("one", "welcome.", "first."), planned("two", "welcome.", "second.", "welcome.")]
    assert run(artifacts, rows)[0] == counts(3, 3, 3, 3, 2)


def test_rows_that_are_equal_but_for_the_id_are_rendered_once_and_both_finished(artifacts: Artifacts) -> None:
    made, finished = run(artifacts, [planned("one", "hello."), planned("two", "hello.")])
    assert made == counts(1, 1, 1, 1, 1)
    assert {row.planned.row.id for row in finished} == {"one", "two"}


def test_another_avatar_with_the_same_voice_shares_tokens_and_audio_only(artifacts: Artifacts) -> None:
    run(artifacts, [planned("one", "hello.")])
    assert run(artifacts, [planned("two", "hello.", speaker="ben", voice="ada")])[0] == counts(0, 0, 1, 1, 1)


def test_a_seed_of_its_own_makes_a_reading_of_its_own(artifacts: Artifacts) -> None:
    run(artifacts, [planned("one", "hello.")])
    assert run(artifacts, [planned("one", "hello.", seed=7)])[0] == counts(1, 1, 1, 1, 1)


def test_an_edited_sentence_is_the_only_one_made_again(artifacts: Artifacts) -> None:
    run(artifacts, [planned("one", "first.", "second.", "third.")])
    assert run(artifacts, [planned("one", "first.", "changed.", "third.")])[0] == counts(1, 1, 1, 1, 1)


def test_sentences_in_another_order_are_only_composed_again(artifacts: Artifacts) -> None:
    run(artifacts, [planned("one", "first.", "second.")])
    assert run(artifacts, [planned("one", "second.", "first.")])[0] == counts(video=1)


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        ({"small_e": "s2"}, counts(tokens=1)),  # the same codes come out: everything after them is kept
        ({"codec": "c2"}, counts(tokens=1, audio=1)),
        ({"audio_features": "a2"}, counts(motion=1)),
        ({"motion": "m2"}, counts(motion=1)),
        ({"lip_space": "l2"}, counts(motion=1)),
        ({"renderer": "r2"}, counts(face=1)),
        ({"numerics": "cuda-float32"}, counts(tokens=1, audio=1, motion=1, face=1)),
    ],
)
def test_new_weights_make_their_own_stage_again_and_what_follows_only_where_its_content_differs(
    artifacts: Artifacts, changed: dict[str, str], made: dict[str, int]
) -> None:
    run(artifacts, [planned("one", "hello.")])
    assert run(artifacts, [planned("one", "hello.")], replace(RECIPE, **changed))[0] == made


@pytest.mark.parametrize("change", ["background", "title", "width", "layout", "caption"])
def test_what_only_the_video_uses_leaves_every_other_stage_valid(artifacts: Artifacts, change: str) -> None:
    row = planned("one", "hello.")
    run(artifacts, [row])
    match change:
        case "background":
            row = replace(row, background="#ffffff", background_digest="#ffffff")
        case "title":
            row = replace(row, row=replace(row.row, title="A title"))
        case "width":
            row = replace(row, row=replace(row.row, width=640, height=360))
        case "layout":
            row = replace(row, row=replace(row.row, layout="pip-top-left"))
        case "caption":
            row = replace(row, parts=(replace(row.parts[0], text="Hello!"), *row.parts[1:]))  # type: ignore[type-var]
    assert run(artifacts, [row])[0] == counts(video=1)


def test_what_names_a_row_is_in_no_key(artifacts: Artifacts) -> None:
    run(artifacts, [planned("one", "hello.")])
    row = planned("other-id", "hello.")
    row = replace(row, row=replace(row.row, number=17, seed=3, extra={"course": "x"}))
    assert run(artifacts, [row])[0] == counts()


def test_a_sentence_that_cannot_be_made_fails_its_rows_and_no_other(artifacts: Artifacts) -> None:
    rows = [planned("one", "good.", "poison."), planned("two", "good."), planned("three", "poison.")]
    made, finished = run(artifacts, rows, poison="poison")
    by_id = {row.planned.row.id: row for row in finished}
    assert len(finished) == 3
    assert by_id["two"].video is not None
    assert by_id["one"].video is None
    assert "poison" in (by_id["one"].failure or pytest.fail("no failure")).error
    assert by_id["three"].failure is not None
    assert made == counts(1, 1, 1, 1, 1)


def test_a_lost_artifact_is_made_again_alone(artifacts: Artifacts, tmp_path: Path) -> None:
    rows = [planned("one", "first.", "second.")]
    _, finished = run(artifacts, rows)
    line = rows[0].lines[1]
    blob = finished[0].actions[line]["motion"].outputs["latents.npy"]
    (tmp_path / "store" / blob.name).unlink()
    assert run(artifacts, rows)[0] == counts(motion=1)


def sizes(batch: Batch) -> list[int]:
    return [len(item.units) for item in batch.items if isinstance(item, TokensItem)]


def test_batches_are_small_while_little_is_ready_so_that_every_slot_has_work(artifacts: Artifacts) -> None:
    graph = RenderGraph([planned("one", "a.", "b.", "c.", "d.", "e.")], CAST, RECIPE)
    graph.resolve(artifacts.find)
    batches = list(iter(lambda: graph.next_batch(slots=2), None))
    assert sorted(len(batch.items) for batch in batches) == [1, 1, 3] or [len(b.items) for b in batches] == [3, 1, 1]
    assert len({batch.number for batch in batches}) == len(batches)


def test_no_batch_is_larger_than_its_stage_allows_and_lines_of_like_length_go_together(artifacts: Artifacts) -> None:
    sentences = [("word " * (1 + number % 9)).strip() + f" {'abcdefghij'[number // 9]}." for number in range(90)]
    graph = RenderGraph([planned("one", *sentences)], CAST, RECIPE)
    graph.resolve(artifacts.find)
    batches: Iterable[Batch] = iter(lambda: graph.next_batch(slots=2), None)
    lengths = [sizes(batch) for batch in batches]
    assert sum(map(len, lengths)) == 90
    assert max(map(len, lengths)) == BATCH_LIMITS["tokens"]
    assert max(max(batch) - min(batch) for batch in lengths[:2]) < max(map(max, lengths)) - min(map(min, lengths))


def test_rows_that_can_be_finished_are_finished_before_new_ones_are_begun(artifacts: Artifacts) -> None:
    rows = [planned("one", "first."), planned("two", "second.")]
    run(artifacts, rows[:1])
    graph = RenderGraph([replace(rows[0], background_digest="#000000"), rows[1]], CAST, RECIPE)
    graph.resolve(artifacts.find)
    first = graph.next_batch(slots=2)
    assert first is not None
    assert first.stage == "video"


def test_of_one_stage_the_earlier_rows_go_first_whatever_became_ready_first(artifacts: Artifacts) -> None:
    rows = [
        planned("one", "a long sentence with very many words in it."),
        *(planned(f"r{n}", f"{n}.") for n in "abcde"),
    ]
    graph = RenderGraph(rows, CAST, RECIPE)
    graph.resolve(artifacts.find)
    tokens = list(iter(lambda: graph.next_batch(slots=2), None))
    for batch in reversed(tokens):
        graph.report(work(artifacts, batch))
        graph.resolve(artifacts.find)
    audio = graph.next_batch(slots=2)
    assert audio is not None
    assert audio.stage == "audio"
    long_one = tokens[0].items[0]
    assert isinstance(long_one, TokensItem)
    made = artifacts.find("tokens", [long_one.key])[long_one.key]
    assert any(isinstance(item, AudioItem) and item.codes == made.outputs["codes.npy"] for item in audio.items)


def test_the_plan_counts_what_is_there_and_what_is_to_be_made(artifacts: Artifacts) -> None:
    run(artifacts, [planned("one", "first.")])
    graph = RenderGraph([planned("one", "first."), planned("two", "second.", "third.")], CAST, RECIPE)
    graph.resolve(artifacts.find)
    assert graph.totals == counts(3, 3, 3, 3, 2)
    assert graph.settled == counts(1, 1, 1, 1, 1)
    assert {line.spoken for line, made in graph.line_actions.items() if not made} == {"second.", "third."}
    assert graph.rows_with_video == 1
    assert graph.missing == {"tokens": 2}


def renderer_file(path: Path, **tensors: float) -> Path:
    save_file({name.replace("__", "."): torch.full((2,), value) for name, value in tensors.items()}, path)
    return path


def test_the_lip_space_is_that_of_the_encoder_alone(tmp_path: Path) -> None:
    base = lip_space(renderer_file(tmp_path / "a", encoder__x=1.0, out__x=1.0))
    assert lip_space(renderer_file(tmp_path / "b", encoder__x=1.0, out__x=2.0)) == base
    assert lip_space(renderer_file(tmp_path / "c", encoder__x=2.0, out__x=1.0)) != base
    assert lip_space(renderer_file(tmp_path / "d", encoder__x=1.0, out__x=1.0, sample_window=3.0)) != base


def test_of_a_published_renderer_the_averaged_half_decides(tmp_path: Path) -> None:
    names = {"model__encoder__x": 1.0, "ema_model__encoder__x": 1.0}
    base = lip_space(renderer_file(tmp_path / "a", **names))
    assert lip_space(renderer_file(tmp_path / "b", **names | {"model__encoder__x": 2.0})) == base
    assert lip_space(renderer_file(tmp_path / "c", **names | {"ema_model__encoder__x": 2.0})) != base


@pytest.mark.parametrize("data", [b"", b"12345678", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"])
def test_a_renderer_that_is_no_safetensors_file_is_an_error_with_a_remedy(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "renderer.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="cannot be read"):
        lip_space(path)


def test_a_row_refused_for_its_script_is_told_of_its_avatar_too(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("id,script,avatar,voice\nx,,nobody,ada\n")
    problems = Planner([], tmp_path).plan(read_manifest(path)).problems
    assert sorted(problem.column for problem in problems) == ["avatar", "script"]
