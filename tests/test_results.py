"""Results: every row is answered once, in parts while a run goes on and in one table in the end."""

from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avatarlab.columns import RESULT_COLUMNS
from avatarlab.manifest import read_manifest, read_portions, write_manifest
from avatarlab.results import Ledger, ResultRow, read_results, write_results
from avatarlab.store import open_store

GOOD = {"id": "algebra-1", "script": "Hello.", "avatar": "ada"}


def parquet(path: Path, *rows: dict[str, object]) -> Path:
    pd.DataFrame(rows).to_parquet(path)
    return path


class TestResults:
    DONE = ResultRow(
        "b",
        "done",
        "out/videos/b/0123456789abcdef/video.mp4",
        "0123456789abcdef",
        12.48,
        notes=("2 emoji dropped", "poster made again"),
        attempts=1,
        seconds={"tokens": 1.5, "video": 2.0},
        cached={"tokens": 0, "audio": 3},
        peak_memory_mb=512.5,
        device="cpu",
        models_digest="ab" * 32,
    )

    def test_there_is_one_row_per_manifest_row_in_its_order_with_its_columns(self, tmp_path: Path) -> None:
        rows: list[dict[str, object]] = [
            {**GOOD, "id": "a", "course": "M1", "when": datetime(2026, 9, 1)},
            {**GOOD, "id": "x/y", "course": "M2", "script": ""},
            {**GOOD, "id": "b", "course": None, "status": "mine"},
        ]
        manifest = read_manifest(parquet(tmp_path / "m.parquet", *rows))
        write_results(tmp_path / "run/results.parquet", [self.DONE, ResultRow("a", "cached")], manifest)
        table = pq.read_table(tmp_path / "run/results.parquet")
        found = table.to_pylist()
        assert [(row["id"], row["status"], row["course"]) for row in found] == [
            ("a", "cached", "M1"),
            ("x/y", "failed", "M2"),
            ("b", "done", None),
        ]
        by_id = {row.id: row for row in read_results(open_store(str(tmp_path / "run")), "results.parquet")}
        assert list(by_id) == ["a", "x/y", "b"]
        assert by_id["b"] == self.DONE
        assert table.schema.field("when").type == pa.timestamp("us")
        assert "leave its folder" in found[1]["error"]
        assert "script is empty" in found[1]["error"]
        assert "write what shall be said" in found[1]["remedy"]
        assert found[2]["notes"] == "2 emoji dropped; poster made again"
        assert (found[2]["seconds_tokens"], found[2]["seconds_face"], found[2]["cached_audio"]) == (1.5, None, 3)
        assert found[2]["manifest_status"] == "mine"
        assert (found[2]["duration_seconds"], found[2]["peak_memory_mb"], found[2]["attempts"]) == (12.48, 512.5, 1)

    def test_the_schema_is_the_published_one_even_without_rows(self, tmp_path: Path) -> None:
        manifest = read_manifest(parquet(tmp_path / "m.parquet", GOOD))
        write_results(tmp_path / "r.parquet", [], manifest)
        schema = pq.read_schema(tmp_path / "r.parquet")
        types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}
        assert [(field.name, field.type) for field in schema] == [
            (column.name, types[column.type]) for column in RESULT_COLUMNS
        ]

    def test_results_are_written_into_a_store(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        manifest = read_manifest(parquet(tmp_path / "m.parquet", GOOD))
        write_results(store, [ResultRow("algebra-1", "cached")], manifest, "runs/1/results.parquet")
        write_manifest(store, manifest.rows, "runs/1/manifest.parquet")
        assert [name for name, _ in store.list("runs/1/")] == ["runs/1/manifest.parquet", "runs/1/results.parquet"]
        assert pd.read_parquet(store.public_uri("runs/1/results.parquet"))["status"].to_list() == ["cached"]

    def test_a_result_of_no_row_or_given_twice_is_refused(self, tmp_path: Path) -> None:
        manifest = read_manifest(parquet(tmp_path / "m.parquet", GOOD))
        row = ResultRow("algebra-1", "cached")
        for rows in ([ResultRow("other", "done")], [row, row]):
            with pytest.raises(ValueError, match="not a row of the manifest"):
                write_results(tmp_path / "r.parquet", rows, manifest)
        assert not (tmp_path / "r.parquet").exists()

    def test_unknown_statuses_and_stages_are_refused(self) -> None:
        with pytest.raises(ValueError, match="not a status"):
            ResultRow("a", "finished")
        with pytest.raises(ValueError, match="not stages"):
            ResultRow("a", "done", seconds={"sound": 1.0})


class TestLedger:
    def test_parts_appear_when_their_rows_are_answered_and_are_joined_in_the_end(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        rows = [{**GOOD, "id": f"r{n}", "script": "" if n == 4 else "Hello.", "course": f"M{n}"} for n in range(6)]
        ledger = Ledger(store, "runs/1")
        for portion in read_portions(parquet(tmp_path / "m.parquet", *rows), 2):
            ledger.expect(portion)
        ledger.answer(ResultRow("r3", "done"))
        assert not list(store.list("runs/1/"))
        ledger.answer(ResultRow("r2", "cached"))
        assert [name for name, _ in store.list("runs/1/")] == ["runs/1/results-000001.part.parquet"]
        kept_in, name = ledger.close(lambda id: ResultRow(id, "failed", error="cut off"))
        assert (kept_in.uri, ledger.trouble) == (store.uri, "")
        assert [found for found, _ in store.list("runs/1/")] == [name] == ["runs/1/results.parquet"]
        told = [(row.id, row.status) for row in read_results(store, name)]
        assert told == [
            ("r0", "failed"),
            ("r1", "failed"),
            ("r2", "cached"),
            ("r3", "done"),
            ("r4", "failed"),
            ("r5", "failed"),
        ]
        assert ledger.counts == {"done": 1, "cached": 1, "failed": 4}
        assert pq.read_table(store.public_uri(name)).column("course").to_pylist() == [f"M{n}" for n in range(6)]

    def test_a_row_is_answered_once(self, tmp_path: Path) -> None:
        ledger = Ledger(open_store(str(tmp_path)), "runs/1")
        ledger.expect(read_manifest(parquet(tmp_path / "m.parquet", GOOD, {**GOOD, "id": "b"})))
        ledger.answer(ResultRow("b", "done"))
        for id in ("b", "other"):
            with pytest.raises(ValueError, match="not expected"):
                ledger.answer(ResultRow(id, "done"))

    def test_results_that_the_store_does_not_take_are_kept_on_this_machine(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        ledger = Ledger(open_store(str(folder)), "runs/1")
        ledger.expect(read_manifest(parquet(tmp_path / "m.parquet", GOOD)))
        folder.rmdir()
        kept_in, name = ledger.close(lambda id: ResultRow(id, "done"))
        assert "gone" in ledger.trouble
        assert [(row.id, row.status) for row in read_results(kept_in, name)] == [("algebra-1", "done")]
