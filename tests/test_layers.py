"""Imports point one way: avatarlab <- tasks <- flows; and what a command does not use it does not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORCHESTRATION = {"prefect", "prefect_dask", "dask", "distributed"}
FORBIDDEN = {
    "avatarlab": ORCHESTRATION | {"tasks", "flows", "tests"},
    "tasks": {"flows", "tests"},
    "flows": {"tests"},
}
SOURCES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert not imported(path) & FORBIDDEN[package]


def test_dask_futures_know_nothing_of_prefect() -> None:
    assert "prefect" not in imported(ROOT / "tasks/pool.py") | imported(ROOT / "flows/workers.py")


def test_the_command_and_the_plan_load_no_engine_no_dask_and_no_prefect() -> None:
    code = (
        "import sys, flows.cli, avatarlab.execute;"
        "print(sorted({'torch', 'torchaudio', 'dask', 'distributed', 'prefect'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_nothing_is_imported_with_a_star() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), path
