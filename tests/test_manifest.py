"""Manifests: every problem is found before anything starts, and every row is answered in the results."""

import json
import pickle
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatarlab.columns import MANIFEST_COLUMNS, RESULT_COLUMNS, columns_markdown
from avatarlab.errors import ManifestError, SettingsError
from avatarlab.manifest import (
    InvalidRow,
    Manifest,
    Row,
    default_seed,
    manifest_table,
    read_manifest,
    read_portions,
    write_manifest,
)
from avatarlab.results import write_results

GOOD: dict[str, object] = {"id": "algebra-1", "script": "Hello.", "avatar": "ada"}
FULL: dict[str, object] = {
    **GOOD,
    "voice": "grace",
    "language": "en-GB",
    "title": "Álgebra",
    "background": "#00fFaa",
    "layout": "pip-top-left",
    "width": 1280,
    "height": 720,
    "seed": 20260901,
}


def parquet(path: Path, *rows: Mapping[str, object]) -> Path:
    write_manifest(path, rows)
    return path


class TestGoodManifests:
    def test_a_row_needs_three_columns_and_has_defaults_for_the_rest(self, tmp_path: Path) -> None:
        manifest = read_manifest(parquet(tmp_path / "m.parquet", GOOD))
        assert manifest.problems == ()
        assert manifest.rows == (Row("algebra-1", "Hello.", "ada", seed=default_seed("algebra-1"), number=1),)

    def test_every_column_is_read(self, tmp_path: Path) -> None:
        (row,) = read_manifest(parquet(tmp_path / "m.parquet", FULL)).rows
        assert {name: getattr(row, name) for name in FULL} == FULL
        assert row.seed_given

    @pytest.mark.parametrize("seed", [0, 2**63 - 1])
    def test_any_seed_of_a_signed_column_is_kept(self, tmp_path: Path, seed: int) -> None:
        (row,) = read_manifest(parquet(tmp_path / "m.parquet", {**GOOD, "seed": seed})).rows
        assert row.seed == seed

    def test_a_default_seed_depends_on_the_id_alone(self) -> None:
        assert default_seed("a") == default_seed("a") != default_seed("b")
        assert 0 <= default_seed("a") < 2**63

    def test_parquet_is_known_by_its_content(self, tmp_path: Path) -> None:
        assert len(read_manifest(parquet(tmp_path / "m.csv", GOOD)).rows) == 1

    def test_what_pandas_writes_is_read(self, tmp_path: Path) -> None:
        frame = pd.DataFrame([{**FULL, "id": "a"}, {**GOOD, "id": "b"}])
        frame["avatar"] = frame["avatar"].astype("category")
        frame.to_parquet(tmp_path / "m.parquet")
        assert str(frame["width"].dtype) == "float64", "gaps turn whole numbers into floats"
        rows = read_manifest(tmp_path / "m.parquet").rows
        assert [(row.id, row.avatar, row.width, row.title) for row in rows] == [
            ("a", "ada", 1280, "Álgebra"),
            ("b", "ada", None, None),
        ]

    def test_csv_is_accepted(self, tmp_path: Path) -> None:
        script = 'One, "two".\n\nThree. ' + "word " * 39_000
        frame = pd.DataFrame([{**FULL, "script": script, "course": "M1"}, {**GOOD, "id": "b"}])
        frame["width"] = frame["width"].astype("Int64")
        frame["seed"] = frame["seed"].astype("Int64")
        frame.to_csv(tmp_path / "m.csv", index=False, encoding="utf-8-sig")
        manifest = read_manifest(tmp_path / "m.csv")
        assert manifest.problems == ()
        assert [(row.width, row.height, row.seed_given) for row in manifest.rows] == [
            (1280, 720, True),
            (None, None, False),
        ]
        assert manifest.rows[0].script == script
        assert [row.extra for row in manifest.rows] == [{"course": "M1"}, {"course": None}]

    def test_json_lines_are_accepted(self, tmp_path: Path) -> None:
        lines = [{**FULL, "tags": ["x", 1]}, {**GOOD, "id": "b"}]
        (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
        manifest = read_manifest(tmp_path / "m.jsonl")
        assert manifest.problems == ()
        assert [row.id for row in manifest.rows] == ["algebra-1", "b"]
        assert manifest.rows[0].extra == {"tags": ["x", 1]}

    def test_unknown_columns_are_kept_as_json_can_hold_them(self, tmp_path: Path) -> None:
        when = datetime(2026, 9, 1, tzinfo=UTC)
        manifest = read_manifest(
            parquet(
                tmp_path / "m.parquet", {**GOOD, "course": "M1", "when": when, "raw": b"\xff", "score": float("nan")}
            )
        )
        assert manifest.extra_columns == ("course", "when", "raw", "score")
        extra = manifest.rows[0].extra
        assert extra["course"] == "M1"
        json.dumps(extra, allow_nan=False)

    def test_blank_cells_of_optional_columns_are_defaults(self, tmp_path: Path) -> None:
        row = {**GOOD, "voice": "", "language": " ", "layout": "", "background": "", "title": ""}
        manifest = read_manifest(parquet(tmp_path / "m.parquet", row))
        assert manifest.problems == ()
        assert manifest.rows[0].language == "en"
        assert manifest.rows[0].voice is manifest.rows[0].background is None

    def test_what_was_written_is_read_back(self, tmp_path: Path) -> None:
        rows = read_manifest(parquet(tmp_path / "a.parquet", {**FULL, "course": "M1"}, {**GOOD, "id": "b"})).rows
        write_manifest(tmp_path / "b.parquet", rows)
        assert read_manifest(tmp_path / "b.parquet").rows == rows

    def test_manifests_travel_between_processes(self, tmp_path: Path) -> None:
        manifest = read_manifest(parquet(tmp_path / "m.parquet", FULL))
        assert pickle.loads(pickle.dumps(manifest)) == manifest


RULES = "use letters"
BAD_CELLS = [
    ("id", None, "empty", RULES),
    ("id", "", "empty", RULES),
    ("id", "a/b", "leave its folder", RULES),
    ("id", "../../etc/passwd", "leave its folder", RULES),
    ("id", "a..b", "leave its folder", RULES),
    ("id", "..", "leave its folder", RULES),
    ("id", "a\\b", "leave its folder", RULES),
    ("id", "-rf", "cannot name a folder", RULES),
    ("id", "a b", "cannot name a folder", RULES),
    ("id", "é", "cannot name a folder", RULES),
    ("id", "a\n", "cannot name a folder", RULES),
    ("id", "a\0", "cannot name a folder", RULES),
    ("id", "a" * 129, "129 characters", RULES),
    ("script", None, "empty", "write what shall be said"),
    ("script", " \n\t", "empty", "write what shall be said"),
    ("script", "a" * 200_001, "200,001 characters", "split"),
    ("avatar", None, "empty", RULES),
    ("avatar", "../secrets", "leave its folder", RULES),
    ("voice", "a/b", "leave its folder", RULES),
    ("language", "english please", "BCP-47", "en-GB"),
    ("title", "x" * 1001, "1,001 characters", "at most"),
    ("background", "#12345", "not a colour", "#rrggbb"),
    ("background", "#gggggg", "not a colour", "#rrggbb"),
    ("background", "red", "neither a colour nor", "#rrggbb"),
    ("background", "a\n.png", "neither a colour nor", "#rrggbb"),
    ("layout", "pip-middle", "no layout 'pip-middle'", "pip-top-left"),
    ("width", 1281, "1281 is odd", "1280 or 1282"),
    ("height", 719, "719 is odd", "718 or 720"),
    ("width", 62, "not 64 to 3840", "1280 x 720"),
    ("width", 3842, "not 64 to 3840", "1280 x 720"),
    ("height", 2162, "not 64 to 2160", "1280 x 720"),
    ("height", -720, "not 64 to 2160", "1280 x 720"),
    ("width", 10**12, "not 64 to 3840", "1280 x 720"),
    ("width", None, "height is given without the width", "give both"),
    ("height", None, "width is given without the height", "give both"),
    ("seed", -1, "out of range", "2^63"),
]


class TestBadCells:
    @pytest.mark.parametrize(("column", "value", "message", "remedy"), BAD_CELLS)
    def test_a_bad_cell_is_named_by_row_id_and_column_with_a_remedy(
        self, tmp_path: Path, column: str, value: object, message: str, remedy: str
    ) -> None:
        path = parquet(tmp_path / "m.parquet", {**FULL, "id": "first"}, {**FULL, column: value})
        manifest = read_manifest(path)
        (problem,) = manifest.problems
        assert (problem.row, problem.column) == (2, column)
        assert message in problem.message
        assert remedy in problem.remedy
        if column != "id":
            assert problem.id == "algebra-1"
        assert [row.id for row in manifest.rows] == ["first"]
        assert manifest.invalid == (InvalidRow(2, problem.id),)
        assert not manifest.unreadable
        with pytest.raises(ManifestError) as caught:
            manifest.require_valid()
        assert caught.value.problems == manifest.problems

    @pytest.mark.parametrize(("column", "value", "message", "remedy"), BAD_CELLS)
    def test_the_same_is_said_of_json_lines(
        self, tmp_path: Path, column: str, value: object, message: str, remedy: str
    ) -> None:
        path = tmp_path / "m.jsonl"
        path.write_text(json.dumps({**FULL, "id": "first"}) + "\n" + json.dumps({**FULL, column: value}))
        (problem,) = read_manifest(path).problems
        assert (problem.row, problem.column) == (2, column)
        assert message in problem.message
        assert remedy in problem.remedy

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("id", 7, "not text"),
            ("script", ["a"], "not text"),
            ("script", "\ud83d", "Unicode"),
            ("title", {"a": 1}, "not text"),
            ("seed", 2.0**60, "not exact"),
            ("width", "wide", "not a whole number"),
            ("width", 1280.5, "not a whole number"),
            ("height", True, "not a whole number"),
            ("seed", 2**63, "out of range"),
            ("seed", 10**40, "out of range"),
            ("seed", "9" * 40, "not a whole number"),
        ],
    )
    def test_values_of_the_wrong_type_spoil_their_row_only(
        self, tmp_path: Path, column: str, value: object, message: str
    ) -> None:
        path = tmp_path / "m.jsonl"
        path.write_text(json.dumps({**FULL, "id": "first"}) + "\n" + json.dumps({**FULL, column: value}))
        manifest = read_manifest(path)
        assert [(problem.row, problem.column) for problem in manifest.problems] == [(2, column)]
        assert message in manifest.problems[0].message
        assert [row.id for row in manifest.rows] == ["first"]

    def test_every_problem_of_every_row_is_listed(self, tmp_path: Path) -> None:
        rows = [GOOD, {**GOOD, "id": "a/b", "script": "", "layout": "x"}, {**GOOD, "id": "c"}, {**GOOD, "avatar": None}]
        manifest = read_manifest(parquet(tmp_path / "m.parquet", *rows))
        assert [(problem.row, problem.column) for problem in manifest.problems] == [
            (2, "id"),
            (2, "script"),
            (2, "layout"),
            (4, "avatar"),
            (4, "id"),
        ]
        assert [row.number for row in manifest.rows] == [1, 3]

    def test_a_second_use_of_an_id_names_the_first(self, tmp_path: Path) -> None:
        manifest = read_manifest(parquet(tmp_path / "m.parquet", GOOD, {**GOOD, "id": "b"}, GOOD))
        (problem,) = manifest.problems
        assert (problem.row, problem.id, problem.column) == (3, "algebra-1", "id")
        assert "row 1" in problem.message
        assert [row.number for row in manifest.rows] == [1, 2]

    def test_messages_hold_no_control_characters_and_stay_short(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "m.parquet", {**GOOD, "id": "\x1b[2J" + "x" * 100_000, "layout": "\x1b]0;gotcha\a"})
        for problem in read_manifest(path).problems:
            text = f"{problem.id} {problem.message}"
            assert text.isprintable()
            assert len(text) < 400

    def test_texts_that_are_not_utf8_spoil_their_row_only(self, tmp_path: Path) -> None:
        broken = pa.Array.from_buffers(
            pa.string(), 2, [None, pa.array([0, 6, 9], pa.int32()).buffers()[1], pa.py_buffer(b"Hello.a\xffb")]
        )
        table = pa.table({"id": ["a", "b"], "script": broken, "avatar": ["ada", "ada"]})
        pq.write_table(table, tmp_path / "m.parquet")
        manifest = read_manifest(tmp_path / "m.parquet")
        assert [(problem.row, problem.column) for problem in manifest.problems] == [(2, "script")]
        assert [row.script for row in manifest.rows] == ["Hello."]


class TestBadFiles:
    def problem(self, path: Path) -> str:
        manifest = read_manifest(path)
        assert manifest.rows == ()
        assert manifest.unreadable
        assert all(problem.remedy for problem in manifest.problems)
        with pytest.raises(ManifestError):
            manifest.require_valid()
        return " | ".join(f"{problem.column}: {problem.message}" for problem in manifest.problems)

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        assert "there is no manifest" in self.problem(tmp_path / "none.parquet")

    def test_a_folder_is_said(self, tmp_path: Path) -> None:
        assert "is a folder" in self.problem(tmp_path)

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("m.parquet", b"", "is empty"),
            ("m.csv", b"", "is empty"),
            ("m.parquet", b"id,script,avatar\na,b,c\n", "not a Parquet file"),
            ("m.parquet", b"PAR1 but no more", "damaged or truncated Parquet"),
            ("m.csv", b"\xff\xfei\0d\0", "neither Parquet nor UTF-8"),
            ("m.csv", b"PK\x03\x04\0\0", "neither Parquet nor text"),
            ("m.csv", b'id,script,avatar\n"a,b,c\n', "neither Parquet nor CSV"),
            ("m.csv", b"id,id\na,b\n", "distinct column names"),
            ("m.csv", b"\n\n", "header"),
            ("m.csv", b"id;script;avatar\na;b;c\n", "'id' is missing"),
            ("m.csv", b"id,script,avatar\n", "has no rows"),
            ("m.json", b'[{"id": "a"}]', "JSON list"),
        ],
    )
    def test_what_is_no_manifest_is_said(self, tmp_path: Path, name: str, content: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert words in self.problem(tmp_path / name)

    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
    def test_a_truncated_parquet_file_is_said(self, tmp_path: Path, kept: float) -> None:
        path = parquet(tmp_path / "m.parquet", FULL)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        assert "damaged or truncated" in self.problem(path)

    @pytest.mark.parametrize("column", ["id", "script", "avatar"])
    def test_a_missing_column_is_named(self, tmp_path: Path, column: str) -> None:
        pq.write_table(
            pa.table({name: [value] for name, value in GOOD.items() if name != column}), tmp_path / "m.parquet"
        )
        assert f"{column}: the column {column!r} is missing" in self.problem(tmp_path / "m.parquet")

    def test_a_column_of_nearly_the_right_name_is_pointed_at(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"id": ["a"], "Script ": ["b"], "avatar": ["c"]}), tmp_path / "m.parquet")
        (problem,) = read_manifest(tmp_path / "m.parquet").problems
        assert problem.remedy == "rename the column 'Script '"

    @pytest.mark.parametrize(
        ("column", "values", "words"),
        [
            ("id", pa.array([1, 2]), "holds int64, not text"),
            ("script", pa.array([b"a", b"b"]), "holds binary, not text"),
            ("title", pa.array([["a"], ["b"]]), "not text"),
            ("width", pa.array(["1280", "1280"]), "not whole numbers"),
            ("seed", pa.array([True, False]), "holds bool, not whole numbers"),
        ],
    )
    def test_a_column_of_the_wrong_type_is_said_once(
        self, tmp_path: Path, column: str, values: pa.Array, words: str
    ) -> None:
        columns: dict[str, object] = {"id": ["a", "b"], "script": ["x", "y"], "avatar": ["ada", "ada"]}
        pq.write_table(pa.table({**columns, column: values}), tmp_path / "m.parquet")
        assert words in self.problem(tmp_path / "m.parquet")
        assert len(read_manifest(tmp_path / "m.parquet").problems) == 1

    def test_a_file_without_rows_is_said(self, tmp_path: Path) -> None:
        assert "has no rows" in self.problem(parquet(tmp_path / "m.parquet"))

    def test_a_column_that_stands_there_twice_is_said(self, tmp_path: Path) -> None:
        table = pa.table([["a"], ["b"], ["c"], ["d"]], names=["id", "script", "avatar", "script"])
        pq.write_table(table, tmp_path / "m.parquet")
        assert "'script' stands there twice" in self.problem(tmp_path / "m.parquet")

    def test_lines_that_cannot_be_read_spoil_their_row_only(self, tmp_path: Path) -> None:
        (tmp_path / "m.csv").write_text("id,script,avatar\na,b\nc,d,e\n")
        (tmp_path / "m.jsonl").write_text("{}x\n" + json.dumps({**GOOD, "id": "c"}) + "\n" + "[" * 10_000)
        for name, rows in (("m.csv", [1]), ("m.jsonl", [1, 3])):
            manifest = read_manifest(tmp_path / name)
            assert [problem.row for problem in manifest.problems] == rows
            assert [row.id for row in manifest.rows] == ["c"]

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        content=st.binary(max_size=200)
        | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
        | st.lists(st.text("id,script\n\"{}: a1'", max_size=20), max_size=4).map(
            lambda cells: ("id,script,avatar\n" + ",".join(cells)).encode()
        )
    )
    def test_no_bytes_at_all_raise_an_exception(self, tmp_path: Path, content: bytes) -> None:
        for name in ("m.parquet", "m.csv"):
            (tmp_path / name).write_bytes(content)
            manifest = read_manifest(tmp_path / name)
            assert manifest.problems or manifest.rows

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(record=st.dictionaries(st.sampled_from([*FULL, "x"]), st.none() | st.integers() | st.floats() | st.text()))
    def test_no_values_at_all_raise_an_exception(self, tmp_path: Path, record: dict[str, object]) -> None:
        (tmp_path / "m.jsonl").write_text(json.dumps(record))
        manifest = read_manifest(tmp_path / "m.jsonl")
        assert bool(manifest.problems) != bool(manifest.rows)
        if not manifest.unreadable:
            write_results(tmp_path / "r.parquet", [], manifest)


class TestOnly:
    def test_keeps_the_rows_and_problems_of_the_ids(self, tmp_path: Path) -> None:
        rows = [{**GOOD, "id": "a"}, {**GOOD, "id": "b", "script": ""}, {**GOOD, "id": "c", "layout": "x"}]
        manifest = read_manifest(parquet(tmp_path / "m.parquet", *rows))
        assert [row.id for row in manifest.only(["a"]).rows] == ["a"]
        assert manifest.only(["a"]).problems == ()
        assert [problem.id for problem in manifest.only(["a", "c"]).problems] == ["c"]

    def test_an_id_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="no row with id nobody"):
            read_manifest(parquet(tmp_path / "m.parquet", GOOD)).only(["nobody"])


class TestColumns:
    def test_the_description_of_the_columns_is_current(self) -> None:
        described = Path(__file__).parents[1] / "manifests" / "COLUMNS.md"
        assert described.read_text(encoding="utf-8") == columns_markdown(), "run `python -m avatarlab.columns`"

    def test_the_description_names_every_column(self) -> None:
        names = re.findall(r"^\| `(\w+)` \|", columns_markdown(), re.MULTILINE)
        assert names == [column.name for column in (*MANIFEST_COLUMNS, *RESULT_COLUMNS)]


def test_an_id_is_a_duplicate_even_of_a_row_that_is_wrong_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("id,script,avatar\nx,,ada\nx,Good morning.,ada\n")
    manifest = read_manifest(path)
    assert [(problem.row, problem.column) for problem in manifest.problems] == [(1, "script"), (2, "id")]
    assert not manifest.rows


def portions(path: Path, rows: int = 3) -> list[Manifest]:
    return list(read_portions(path, rows))


class TestPortions:
    @pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl"])
    def test_portions_hold_the_rows_of_the_whole_with_their_numbers_and_columns(
        self, tmp_path: Path, name: str
    ) -> None:
        path = tmp_path / name
        rows = [{**GOOD, "id": f"r{n}", "course": f"M{n}"} for n in range(8)]
        match path.suffix:
            case ".parquet":
                pd.DataFrame(rows).to_parquet(path, row_group_size=5)
            case ".csv":
                pd.DataFrame(rows).to_csv(path, index=False)
            case _:
                pd.DataFrame(rows).to_json(path, orient="records", lines=True)
        read = portions(path)
        assert max(len(portion.rows) for portion in read) == 3
        assert [row for portion in read for row in portion.rows] == list(read_manifest(path).rows)
        assert [row.number for portion in read for row in portion.rows] == list(range(1, 9))
        tables = pa.concat_tables(manifest_table(portion) for portion in read)
        assert tables.column("course").to_pylist() == [f"M{n}" for n in range(8)]

    def test_an_id_is_a_duplicate_of_one_in_an_earlier_portion(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "m.parquet", *({**GOOD, "id": f"r{n % 5}"} for n in range(7)))
        problems = [problem for portion in portions(path) for problem in portion.problems]
        assert [(problem.row, problem.id) for problem in problems] == [(6, "r0"), (7, "r1")]
        assert "row 1" in problems[0].message

    def test_what_is_wrong_with_the_file_is_told_once_and_no_portion_has_a_valid_row(self, tmp_path: Path) -> None:
        path = tmp_path / "m.parquet"
        pd.DataFrame([{"id": f"r{n}", "avatar": "ada"} for n in range(7)]).to_parquet(path)
        read = portions(path)
        assert [problem.message for portion in read for problem in portion.problems if problem.row == 0] == [
            "the column 'script' is missing"
        ]
        assert not any(portion.rows for portion in read)

    def test_a_file_that_breaks_off_in_the_middle_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "m.parquet"
        pd.DataFrame([{**GOOD, "id": f"r{n}", "script": f"Number {n}."} for n in range(600)]).to_parquet(
            path, row_group_size=100, compression=None, use_dictionary=False
        )
        data = bytearray(path.read_bytes())
        start = data.index(b"Number 250.") - 4
        data[start : start + 400] = b"\xff" * 400
        path.write_bytes(data)
        read = portions(path, 100)
        assert read[-1].unreadable or any(portion.problems for portion in read)

    def test_long_scripts_make_short_portions(self, tmp_path: Path) -> None:
        path = parquet(
            tmp_path / "m.parquet", *({**GOOD, "id": f"r{n}", "script": "word " * 30_000} for n in range(20))
        )
        read = list(read_portions(path))
        assert max(sum(len(row.script) for row in portion.rows) for portion in read) < 1_300_000
        assert sum(len(portion.rows) for portion in read) == 20
