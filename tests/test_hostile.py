"""Whatever is given as a manifest, a script, a lexicon, an avatar, a model set or a name in a store: only our own errors
with a remedy come out, nothing is written outside the folder meant for it, and no code is run from weights."""

import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cartoon
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from avatarlab.artifacts import Artifacts, action_name
from avatarlab.avatar_checks import validate_avatar
from avatarlab.avatars import Avatar, avatar_frames, load_avatar
from avatarlab.columns import MANIFEST_COLUMNS
from avatarlab.errors import AvatarLabError, LexiconError, ScriptError
from avatarlab.manifest import read_manifest, read_portions
from avatarlab.models import STAGES, ModelSet, read_model_set, read_tensors
from avatarlab.plan import Planner
from avatarlab.results import write_results
from avatarlab.stages import lip_space, recipe
from avatarlab.store import FolderStore, open_store
from avatarlab.text import NO_LEXICON, Lexicon, Pause, Script, read_lexicon, split_script, units

hostile = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
few = settings(hostile, max_examples=25)

NASTY = st.sampled_from(
    [
        "../../etc/passwd", "/etc/passwd", "..", ".", "", "\0", "a\0b", "\ud800", "\u202egnp.exe", "a/../../b", "con", "~root/x",
        "~nobody-of-that-name/x", "-rf", "%2e%2e%2f", "a" * 300, "${HOME}", "{0.__class__}", "file:///etc/passwd",
        "http://127.0.0.1:9/x", "s3://bucket/x", "\r\nSet-Cookie: a", "\N{RIGHT-TO-LEFT MARK}", "\ufeff", "é" * 200,
        "\\\\host\\share",
        "NaN", "1e999", "9" * 5000, "=cmd|' /C calc'!A0", "<script>", "'; drop table rows; --", "\x1b]0;title\x07",
    ]
)  # fmt: skip
TEXT = NASTY | st.text(max_size=60) | st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), max_size=4)
NUMBER = st.sampled_from([0, -1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400, 1e308, -0.0, float("inf"), float("nan")])
SCALAR = st.none() | st.booleans() | NUMBER | TEXT | st.integers() | st.floats()
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DEEP = 100_000
COLUMN = st.sampled_from([column.name for column in MANIFEST_COLUMNS]) | NASTY


def ours(act: Callable[[], object]) -> object:
    """What it gives, or the error of ours that it raises; any other escapes and fails the test."""
    try:
        return act()
    except AvatarLabError as error:
        raised = error
    assert raised.message and raised.remedy, raised
    assert str(raised).isprintable()
    str(raised).encode("utf-8")
    return raised


def outside(folder: Path) -> list[Path]:
    """Everything beside a folder in the folder that holds it."""
    return sorted(path for path in folder.parent.rglob("*") if path != folder and folder not in path.parents)


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bytes changed, cut off or put in."""

    def change(edits: list[tuple[float, bytes, bool]], kept: float) -> bytes:
        data = bytearray(content)
        for place, new, inserted in edits:
            at = int(place * len(data))
            data[at : at if inserted else at + len(new)] = new
        return bytes(data[: int(kept * len(data)) + 1])

    place, whole = st.floats(0, 1, exclude_max=True), st.just(1.0)
    edit = st.tuples(place | st.floats(0, 0.05), st.binary(min_size=1, max_size=8), st.booleans())
    return st.builds(change, st.lists(edit, min_size=1, max_size=6), whole | whole | st.floats(0, 1))


# --- manifests -------------------------------------------------------------------------------------------------------


def checked(path: Path) -> None:
    """Reads, lists problems, plans what is left, and writes results for all of it beside the manifest."""
    manifest = read_manifest(path)
    assert manifest.rows or manifest.problems
    for problem in manifest.problems:
        assert problem.message and problem.remedy
        assert problem.message.isprintable(), problem.message
    planned = Planner([], path.parent).plan(manifest)
    for row in planned.rows:
        assert ".." not in row.row.id or "/" not in row.row.id
    parts = list(read_portions(path, 2))
    if not manifest.unreadable:
        assert [row.number for part in parts for row in part.rows] == [row.number for row in manifest.rows]
    ours(manifest.require_valid)
    if not manifest.unreadable:
        only_invalid = read_manifest(path).only([row.id for row in manifest.invalid if row.id])
        write_results(path.parent / "results.parquet", [], type(manifest)((), manifest.problems, (), manifest.invalid))
        assert len(only_invalid.invalid) <= len(manifest.invalid)


class TestManifests:
    @hostile
    @given(records=st.lists(st.dictionaries(COLUMN, ANYTHING, max_size=5), min_size=1, max_size=4))
    @example(records=[{"id": "a" * 127, "script": "One.", "avatar": "ada", "background": "a\0b"}])
    @example(records=[{"id": "a", "script": "One.", "avatar": "ada", "background": "~nobody-of-that-name/x.png"}])
    @example(records=[{"id": "a", "script": "One.", "avatar": "ada", "background": "x" * 5000 + ".png"}])
    @example(records=[{"id": "a", "script": "One.", "avatar": "ada", "background": "/proc/self/mem"}])
    def test_any_json_lines(self, records: list[dict[str, object]], tmp_path: Path) -> None:
        (folder := tmp_path / "given").mkdir(exist_ok=True)
        (folder / "m.jsonl").write_text("\n".join(map(json.dumps, records)))
        checked(folder / "m.jsonl")
        assert outside(folder) == []

    def test_json_without_end_in_depth_or_digits(self, tmp_path: Path) -> None:
        for value in (
            "[" * DEEP,
            '{"a":' * DEEP,
            '{"id": ' + "9" * 5000 + "}",
            '{"id": ' + "[" * DEEP + "]" * DEEP + "}",
        ):
            (tmp_path / "m.jsonl").write_text(value)
            checked(tmp_path / "m.jsonl")

    @hostile
    @given(
        columns=st.lists(COLUMN, min_size=1, max_size=5, unique=True),
        cells=st.lists(st.lists(TEXT, min_size=1, max_size=6), max_size=3),
        mark=st.sampled_from(["\n", "\r", "\r\n", "\0", '"\n']),
    )
    def test_any_csv(self, columns: list[str], cells: list[list[str]], mark: str, tmp_path: Path) -> None:
        text = mark.join(",".join(line) for line in [columns, *cells])
        (tmp_path / "m.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
        checked(tmp_path / "m.csv")

    @hostile
    @given(data=st.data())
    def test_any_columns_of_parquet(self, data: st.DataObject, tmp_path: Path) -> None:
        kinds = [
            pa.int64(), pa.uint64(), pa.float32(), pa.bool_(), pa.string(), pa.binary(), pa.large_string(), pa.date32(),
            pa.timestamp("ns", "UTC"), pa.duration("s"), pa.list_(pa.string()), pa.struct([("a", pa.int8())]), pa.null(),
            pa.decimal128(38, 2), pa.dictionary(pa.int8(), pa.string()), pa.map_(pa.string(), pa.int8()), pa.time64("us"),
        ]  # fmt: skip
        raw = st.binary(min_size=16, max_size=16)
        names = data.draw(st.lists(COLUMN.filter(lambda name: name.isprintable()), min_size=1, max_size=5))
        columns = []
        for _ in names:
            kind = data.draw(st.sampled_from(kinds))
            values = data.draw(st.lists(st.none() | raw | NUMBER | TEXT, min_size=2, max_size=2))
            try:
                columns.append(pa.array(values, kind))
            except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
                columns.append(pa.array(values[:0] + [None, None], kind))
        pq.write_table(pa.table(columns, names=names), tmp_path / "m.parquet")
        checked(tmp_path / "m.parquet")

    @pytest.mark.parametrize("count", [10**12, 2**53])
    @pytest.mark.parametrize(
        "kind", [pa.duration("s"), pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.date64()], ids=str
    )
    def test_a_time_that_python_cannot_hold(self, kind: pa.DataType, count: int, tmp_path: Path) -> None:
        own = pa.array([count], pa.int64()).cast(kind)
        table = {"id": ["a"], "script": ["One."], "avatar": ["ada"], "own": own}
        pq.write_table(pa.table(table), tmp_path / "m.parquet")
        checked(tmp_path / "m.parquet")

    @hostile
    @given(data=st.data())
    def test_any_damage_to_parquet(self, data: st.DataObject, tmp_path: Path) -> None:
        (tmp_path / "m.parquet").write_bytes(data.draw(mutated(good_parquet())))
        checked(tmp_path / "m.parquet")


@cache
def good_parquet() -> bytes:
    buffer = io.BytesIO()
    rows = {
        "id": ["a", "b"],
        "script": ["One.", "Two."],
        "avatar": ["ada", "ben"],
        "width": [64, 128],
        "own": ["x", None],
    }
    pq.write_table(pa.table(rows), buffer)
    return buffer.getvalue()


# --- scripts and lexicons --------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "[pause 1e9]", "[pause -1]", "[pause nan]", "[pause", "<break time='", '<break time="9e99s"/>', "<say-as>", "</p>",
        "\\frac{",
        "$$", "1/0", "0" * 400, "10^" + "9" * 99, "99/99/9999", "25:61", "MMMMMMMM", "http://" + "a." * 60, "a@b" * 20,
        "\u0301" * 50,
        "\u202e", "\u200b", "\0", "\x1b[2J", "ﷺ", "１２３", "٣٤", "𝔘", "🏳️‍🌈", "\ud83d", "Ⅷ", "¾", "½" * 9, "#" * 40,
        "* " * 30, "| a | b |",
        "word", "Dr.", "e.g.", "-", "'", "/K UW2/", "\n\n", "\r", "\v", "\u2028",
    ]
)  # fmt: skip
SCRIPT = st.lists(PIECES | TEXT, max_size=8).map(" ".join) | st.lists(PIECES, max_size=12).map("".join)


def spoken(script: str, lexicon: Lexicon = NO_LEXICON) -> None:
    found = ours(lambda: split_script(script, lexicon=lexicon))
    if not isinstance(found, Script):
        assert isinstance(found, ScriptError)
        return
    for part in found.parts:
        if isinstance(part, Pause):
            assert 0.04 <= part.seconds <= 30
        else:
            ids = units(part.spoken)
            assert ids and all(isinstance(unit, int) and 0 < unit < 1000 for unit in ids)
            assert part.spoken.isascii()


@settings(hostile, max_examples=200)
@given(SCRIPT)
def test_any_script_is_spoken_or_refused(script: str) -> None:
    spoken(script)


@hostile
@given(
    rows=st.lists(
        st.lists(TEXT | PIECES | st.sampled_from(["word", "/K UW2/", "//", "en", "/", '"']), max_size=4), max_size=5
    ),
    header=st.sampled_from(["word,spoken", "word,spoken,language", "language,spoken,word", "word", "word,word", ""]),
    script=SCRIPT,
)
def test_any_lexicon_is_used_or_refused(rows: list[list[str]], header: str, script: str, tmp_path: Path) -> None:
    path = tmp_path / "lexicon.csv"
    text = "\n".join([header, *(",".join(row) for row in rows)])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = ours(lambda: read_lexicon(path))
    if isinstance(found, Lexicon):
        spoken(script, found)
    else:
        assert isinstance(found, LexiconError) and all(problem.remedy for problem in found.problems)


@hostile
@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_lexicon_or_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lexicon.csv").write_bytes(content)
    ours(lambda: read_lexicon(tmp_path / "lexicon.csv"))


# --- avatars ---------------------------------------------------------------------------------------------------------


@cache
def bundle(still: bool) -> dict[str, bytes]:
    """The files of a good bundle by name."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = cartoon.write_bundle(Path(name), size=128, count=3, still=still)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / "avatars/own"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def looked_at(root: Path) -> object:
    """Loads, checks and decodes a bundle."""

    def act() -> Avatar:
        avatar = load_avatar([root / "avatars"], "own")
        validate_avatar(avatar)
        avatar_frames(avatar)
        return avatar

    return ours(act)


TOML_VALUE = st.sampled_from(
    [
        "1", "-1", "0x" + "f" * 5000, "9" * 5000, "nan", "inf", "true", "1979-05-27", "07:32:00", "[]", "[1, [2]]", "{a = 1}", "''",
        '"\\u0000"', '"../../etc/passwd"', '"/etc/passwd"', '"avatar.toml"', '"."', '"#fff"', '"a\\nb"',
        "[" * DEEP, '"""a', "1e999",
        '"~nobody-of-that-name"', "'" + "x" * 5000 + "'",
    ]
)  # fmt: skip
TOML_KEY = st.sampled_from(
    [
        "name",
        "licence",
        "background",
        "consent.who",
        "consent",
        "voice.transcript",
        "voice",
        "life.sway",
        "life.blinks",
        "life",
        "x",
        "'a b'",
    ]
)
TOML_LINE = st.tuples(TOML_KEY, TOML_VALUE).map(" = ".join) | st.sampled_from(
    ["[consent]", "[life]", "[[voice]]", "[x", "\0"]
)


class TestAvatars:
    @hostile
    @given(lines=st.lists(TOML_LINE, min_size=1, max_size=6), whole=st.booleans())
    @example(lines=["a." * DEEP + "b = 1"], whole=False)
    @example(lines=["name = " + "[" * 5000], whole=True)
    @example(lines=["life.sway = 0x" + "f" * 5000], whole=True)
    @example(lines=["name = 0x" + "f" * 5000], whole=True)
    @example(lines=["life.sway = " + "9" * 4000], whole=True)
    def test_any_avatar_toml(self, lines: list[str], whole: bool, tmp_path: Path) -> None:
        files = bundle(still=True)
        text = "\n".join(lines) + ("\n" + cartoon.TOML.split("\n", 3)[3] if whole else "")
        write(tmp_path, {**files, "avatar.toml": text.encode("utf-8")})
        ours(lambda: load_avatar([tmp_path / "avatars"], "own"))

    @hostile
    @given(content=st.binary(max_size=200) | mutated(cartoon.TOML.encode()))
    def test_any_bytes_of_avatar_toml(self, content: bytes, tmp_path: Path) -> None:
        write(tmp_path, {**bundle(still=True), "avatar.toml": content})
        ours(lambda: load_avatar([tmp_path / "avatars"], "own"))

    @few
    @given(data=st.data())
    def test_any_picture_voice_landmarks_or_matte(self, data: st.DataObject, tmp_path: Path) -> None:
        files = bundle(still=data.draw(st.booleans()))
        name = data.draw(st.sampled_from(sorted(files.keys() - {"avatar.toml"})))
        content = data.draw(st.binary(max_size=100) | mutated(files[name]) | mutated(files[name]))
        write(tmp_path, {**files, name: content})
        looked_at(tmp_path)
        assert {path.name for path in (tmp_path / "avatars/own").iterdir()} == set(files), "nothing is written there"
        assert outside(tmp_path / "avatars") == []

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_any_damage_to_a_picture(self, kind: str, tmp_path: Path) -> None:
        files = dict(bundle(still=True))
        del files["picture.png"]
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a presenter"
        Image.fromarray(cartoon.draw(size=64)[0]).save(buffer, kind, exif=exif)
        name = f"picture.{kind.lower()}"

        @hostile
        @given(mutated(buffer.getvalue()))
        def try_one(content: bytes) -> None:
            write(tmp_path, {**files, name: content})
            looked_at(tmp_path)

        try_one()

    @pytest.mark.parametrize(
        "content",
        [
            b"PK\x05\x06" + bytes(18),
            b"PK\x03\x04 is no archive",
            b"\x93NUMPY\x01\x00\x76\x00"
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 68, 2), }".ljust(118),
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 68, 2), }".ljust(118),
            b"\x93NUMPY\x01\x00\x76\x00" + (b"(" * 117 + b"\n"),
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
            pickle.dumps([1]),
        ],
        ids=["empty zip", "zip", "huge", "objects", "nested", "long header", "pickle"],
    )
    def test_landmarks_that_are_no_array(self, content: bytes, tmp_path: Path) -> None:
        write(tmp_path, {**bundle(still=True), "landmarks.npy": content})
        assert isinstance(looked_at(tmp_path), AvatarLabError)

    @pytest.mark.parametrize("far", [3e38, -1e300, 2**63])
    def test_landmarks_beyond_all_measure(self, far: float, tmp_path: Path) -> None:
        folder = write(tmp_path, bundle(still=True))
        points = np.load(folder / "landmarks.npy").astype(type(far) if isinstance(far, float) else np.uint64)
        points[0, 40, 1] = far
        np.save(folder / "landmarks.npy", points)
        assert "far from any picture" in str(looked_at(tmp_path))

    @pytest.mark.parametrize("target", ["/proc/self/mem", "/dev/zero", "/nowhere", "/", "loop", "../../secret.txt"])
    @pytest.mark.parametrize(
        "name", ["picture.png", "voice.wav", "landmarks.npy", "avatar.toml", "voice_state.safetensors"]
    )
    def test_links_to_anywhere(self, name: str, target: str, tmp_path: Path) -> None:
        folder = write(tmp_path, bundle(still=True))
        (tmp_path / "secret.txt").write_text("canary-7c1f")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(name if target == "loop" else target)
        found = looked_at(tmp_path)
        assert "canary-7c1f" not in str(found)
        assert (tmp_path / "secret.txt").read_text() == "canary-7c1f"

    @hostile
    @given(id=TEXT)
    def test_any_id(self, id: str, tmp_path: Path) -> None:
        (tmp_path / "avatars").mkdir(exist_ok=True)
        assert isinstance(ours(lambda: load_avatar([tmp_path / "avatars"], id)), AvatarLabError | Avatar)


# --- model sets ------------------------------------------------------------------------------------------------------

MODEL_VALUE = TOML_VALUE | st.sampled_from(
    [
        '"~nobody-of-that-name/x"', '"file://[/x"', '"file:///etc/passwd"', '"http://127.0.0.1:9/x"', '"a\\u0000b"',
        '"/proc/self/mem"',
        '"' + "0" * 64 + '"', '"."', '"' + "a/" * 3000 + '"',
    ]
)  # fmt: skip
MODEL_KEY = st.sampled_from(
    ["name", "description", "renderer.uri", "renderer.sha256", "renderer.settings.steps", "renderer.settings.engine", "small_e.uri",
     "small_e.sha256", "small_e.settings.engine", "small_e.settings.seconds", "small_e.settings.voice_state", "text.settings.units",
     "text.settings.languages", "text", "motion", "codec.settings", "x"]
)  # fmt: skip


def used(models: ModelSet) -> None:
    """What a run does with a model set before and when it loads it."""
    ours(lambda: recipe(models, "cpu"))
    assert all(problem.remedy for problem in models.verify())
    ours(lambda: models.languages)
    for stage in STAGES:
        if stage in models.files:
            models.digest(stage)
            ours(lambda stage=stage: models.load_tensors(stage))


def header(table: object, tail: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + tail


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I64", "BOOL", "F8_E4M3", "F4", "C64", "", "X"]) | SCALAR,
        "shape": st.lists(st.sampled_from([0, 1, 2, 2**40, -1]), max_size=3) | SCALAR,
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, -4, 2**62]), min_size=2, max_size=2) | SCALAR,
    }
)
HEADER = st.dictionaries(
    st.sampled_from(["encoder.a", "sample_window", "ema_model.encoder.x", "__metadata__", "w"]), ENTRY | ANYTHING
)


class TestModelSets:
    @hostile
    @given(
        lines=st.lists(
            st.tuples(MODEL_KEY, MODEL_VALUE).map(" = ".join),
            min_size=1,
            max_size=6,
            unique_by=lambda line: line.split()[0],
        )
    )
    @example(lines=["renderer.sha256 = 0x" + "f" * 5000, 'renderer.uri = "x"'])
    @example(lines=[f'renderer.sha256 = "{"0" * 64}"', 'renderer.uri = "a\\u0000b"'])
    @example(lines=[f'renderer.sha256 = "{"0" * 64}"', 'renderer.uri = "~nobody-of-that-name/x"'])
    @example(lines=[f'renderer.sha256 = "{"0" * 64}"', 'renderer.uri = "file://[/x"'])
    @example(lines=["a." * DEEP + "b = 1"])
    @example(lines=["a." * 4000 + "b = 1"])
    @example(lines=["text.settings.languages = " + "[" * 5000])
    @example(lines=['text.settings.languages = ["en", 1]'])
    def test_any_models_toml(self, lines: list[str], tmp_path: Path) -> None:
        (tmp_path / "models.toml").write_text("\n".join(lines))
        models = ours(lambda: read_model_set(tmp_path))
        if isinstance(models, ModelSet):
            used(models)

    @hostile
    @given(content=st.binary(max_size=200) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_any_bytes_of_models_toml(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "models.toml").write_bytes(content)
        models = ours(lambda: read_model_set(tmp_path))
        if isinstance(models, ModelSet):
            used(models)

    @hostile
    @given(TEXT)
    def test_any_name_of_a_set(self, name: str) -> None:
        assert isinstance(ours(lambda: read_model_set(name)), AvatarLabError)

    @settings(hostile, max_examples=150)
    @given(
        start=HEADER.map(header) | st.binary(max_size=60) | st.binary(max_size=60).map(header),
        tail=st.binary(max_size=20),
    )
    @example(start=header(b"[" * DEEP), tail=b"")
    @example(start=header(b'{"encoder.a":' + b"9" * 5000 + b"}"), tail=b"")
    @example(start=struct.pack("<Q", 2**63 - 1), tail=b"")
    @example(start=header({"encoder.a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}), tail=b"\0" * 4)
    @example(start=header({"encoder.a": 3}), tail=b"")
    @example(start=header({"encoder.a": {"dtype": "F32", "shape": [], "data_offsets": [0, 2**62]}}), tail=b"")
    def test_any_header_of_safetensors(self, start: bytes, tail: bytes, tmp_path: Path) -> None:
        path = tmp_path / "renderer.safetensors"
        path.write_bytes(start + tail)
        ours(lambda: lip_space(path))
        ours(lambda: read_tensors(path))

    @settings(hostile, max_examples=100)
    @given(data=st.data())
    def test_any_damage_to_a_checkpoint(self, data: st.DataObject, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        path.write_bytes(data.draw(mutated(checkpoint(zipped=data.draw(st.booleans())))))
        ours(lambda: read_tensors(path))

    @pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.bin", "weights"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_place_of_weights_is_never_run(self, name: str, zipped: bool, tmp_path: Path) -> None:
        effect = tmp_path / "it-ran"
        path = tmp_path / name
        if zipped:
            torch.save({"state_dict": {"w": Bomb(effect)}}, path)
        else:
            path.write_bytes(pickle.dumps(Bomb(effect)))
        assert isinstance(ours(lambda: read_tensors(path)), AvatarLabError)
        assert not effect.exists()
        pickle.loads(pickle.dumps(Bomb(effect)))
        assert effect.exists(), "elsewhere it would have run"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@cache
def checkpoint(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.ones(3, 2)}}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


# --- stores ----------------------------------------------------------------------------------------------------------

NAME = TEXT | st.lists(st.sampled_from(["..", ".", "a", "", "é", "\0", ".tmp", "b"]), max_size=5).map("/".join)


class TestStores:
    @settings(hostile, max_examples=120)
    @given(name=NAME, other=NAME)
    def test_no_name_leaves_its_store(self, name: str, other: str, tmp_path: Path) -> None:
        store = FolderStore.at(tmp_path / "outer/store")
        (tmp_path / "outer/beside").write_bytes(b"not to be read or changed")
        for act in (
            lambda: store.put(name, b"x"),
            lambda: store.put_new(name, b"y"),
            lambda: store.put_file(name, tmp_path / "outer/beside"),
            lambda: store.copy(name, other),
            lambda: list(store.list(name)),
            lambda: store.stat(name),
            lambda: store.public_uri(name),
            lambda: store.get_file(name, tmp_path / "outer/store/.tmp/got"),
            lambda: store.delete(name),
            lambda: store.get(f"../{name}"),
        ):
            ours(act)
        assert outside(tmp_path / "outer/store") == [tmp_path / "outer/beside"]
        assert (tmp_path / "outer/beside").read_bytes() == b"not to be read or changed"
        assert list(tmp_path.iterdir()) == [tmp_path / "outer"]
        shutil.rmtree(tmp_path / "outer/store")

    @hostile
    @given(
        uri=st.sampled_from(["~nobody-of-that-name/x", "a\0b", "ftp://x", "s3://", "file://", "s3://a@b/c", "x" * 5000])
        | NASTY
    )
    def test_any_place_of_a_store(self, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if uri.startswith(("/", "file:///")) or uri in ("file://", ".", "..", "") or "../" in uri:
            return  # folders that are there
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        ours(lambda: open_store(uri))

    @hostile
    @given(id=TEXT | st.just("a"), version=TEXT)
    def test_no_id_and_no_version_leaves_its_store(self, id: str, version: str, tmp_path: Path) -> None:
        artifacts = Artifacts(FolderStore.at(tmp_path / "outer/store"))
        ours(lambda: artifacts.history(id))
        ours(lambda: artifacts.promote(id, version))
        assert outside(tmp_path / "outer/store") == []

    @hostile
    @given(content=ANYTHING.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=80))
    @example(content=b"[" * DEEP)
    @example(content=b'{"history": ' + b"[" * DEEP + b"}")
    def test_any_record_that_lies_in_a_store_is_set_aside(self, content: bytes, tmp_path: Path) -> None:
        artifacts = Artifacts(FolderStore.at(tmp_path / "outer/store"))
        key = "0" * 64
        artifacts.store.put(action_name("tokens", key), content)
        artifacts.store.put("videos/a/current.json", content)
        assert artifacts.find("tokens", [key]) == {}
        assert artifacts.current_version("a") is None
        assert outside(tmp_path / "outer/store") == []

    @hostile
    @given(
        changes=st.dictionaries(
            st.sampled_from(["schema", "stage", "key", "outputs", "inputs", "seconds", "device", "notes"]), ANYTHING
        )
    )
    @example(changes={"seconds": 10**400})
    @example(changes={"outputs": {"codes.npy": {"sha256": "../../../outer/beside", "size": 3, "type": "x"}}})
    @example(changes={"outputs": {"codes.npy": {"sha256": "0" * 64 + "\n", "size": 3, "type": "x"}}})
    @example(changes={"outputs": {"codes.npy": {"sha256": 3, "size": 3, "type": "x"}}})
    def test_any_changed_record_is_set_aside_or_means_what_it_says(
        self, changes: dict[str, object], tmp_path: Path
    ) -> None:
        artifacts = Artifacts(FolderStore.at(tmp_path / "outer/store"))
        key = "1" * 64
        artifacts.commit("tokens", key, {"codes.npy": (b"abc", "x")})
        name = action_name("tokens", key)
        artifacts.store.put(name, json.dumps({**json.loads(artifacts.store.get(name)), **changes}).encode())
        for action in artifacts.find("tokens", [key]).values():
            for blob in action.outputs.values():
                assert artifacts.read(blob) == b"abc"
        assert outside(tmp_path / "outer/store") == []
