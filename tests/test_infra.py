"""What is deployed is what exists: files, entry points, parameters, resources and the demo manifest."""

import configparser
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from avatarlab.manifest import read_manifest
from flows.workers import DASK_SETTINGS, slot_of

ROOT = Path(__file__).parent.parent
INFRA = ROOT / "infra"


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return read


def test_the_deployment_names_the_flow_and_only_parameters_it_has() -> None:
    from flows.render import render

    (deployment,) = yaml.safe_load((INFRA / "prefect.yaml").read_text())["deployments"]
    assert deployment["entrypoint"] == "flows/render.py:render"
    known = inspect.signature(render.fn).parameters
    assert set(deployment["parameters"]) <= set(known)
    required = {name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty}
    assert required <= set(deployment["parameters"])
    assert deployment["concurrency_limit"]["limit"] == 1


def test_workers_declare_the_slots_that_runs_ask_for_and_have_one_thread() -> None:
    services = compose()["services"]
    for name, device in (("cpu-worker", "cpu"), ("gpu-worker", "cuda")):
        assert f"--resources {slot_of(device)}=1" in services[name]["command"]
        assert "--nthreads 1" in services[name]["command"]
        assert services[name]["restart"] == "always"


def test_a_remote_scheduler_gives_up_on_a_killing_item_as_early_as_a_local_one() -> None:
    settings = compose()["services"]["scheduler"]["environment"]
    for name, value in DASK_SETTINGS.items():
        variable = "DASK_" + name.upper().replace(".", "__").replace("-", "_")
        if name.startswith("distributed.scheduler."):
            assert settings[variable] == str(value)


def test_no_secret_is_written_down() -> None:
    for path in INFRA.iterdir():
        for match in re.finditer(r"(?im)^[^:=]*?(password|secret)\w*\s*[:=]\s*(\S+)", path.read_text()):
            assert match[2].startswith("${"), match[0]


def test_every_service_that_is_ours_is_built_from_the_one_image() -> None:
    for name, service in compose()["services"].items():
        if service["image"] == "avatarlab":
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).exists(), name


def test_the_image_copies_only_what_exists() -> None:
    copied = re.findall(r"(?m)^COPY (.+) \S+$", (INFRA / "Dockerfile").read_text())
    names = {name for line in copied for name in line.split()}
    assert {"avatarlab", "tasks", "flows", "constraints.txt"} <= names
    assert all((ROOT / name).exists() for name in names)


def test_a_worker_service_comes_back_when_it_ends() -> None:
    service = configparser.ConfigParser(interpolation=None, strict=False)
    service.optionxform = str  # type: ignore[assignment, method-assign]
    service.read(INFRA / "avatarlab-worker@.service")
    assert service["Service"]["Restart"] == "always"
    assert "--resources GPU=1" in service["Service"]["ExecStart"]


def test_the_demo_manifest_is_what_its_script_writes_and_has_no_problem() -> None:
    script = runpy.run_path(str(ROOT / "manifests/make_demo.py"))
    manifest = read_manifest(ROOT / "manifests/demo.parquet")
    assert not manifest.problems
    for row, told in zip(manifest.rows, script["ROWS"], strict=True):
        assert all(told[name] == getattr(row, name, row.extra.get(name)) for name in told)
        assert row.background is not None
        assert row.background.startswith("#") or (ROOT / "manifests" / row.background).is_file()


@pytest.mark.parametrize("wanted", ["1969", "Dr.", "[pause 1.0]"])
def test_the_demo_has_a_number_an_abbreviation_and_a_pause(wanted: str) -> None:
    assert any(wanted in row.script for row in read_manifest(ROOT / "manifests/demo.parquet").rows)
