"""What is deployed is what exists: files, entry points, parameters, resources and the demo manifest."""

import configparser
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from s3_server import free_port

from avatarlab.manifest import read_manifest
from flows.worker import DRAIN_SECONDS

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


def test_the_compose_workers_are_supervised_and_join_the_compose_scheduler() -> None:
    services = compose()["services"]
    for name, device in (("cpu-worker", "cpu"), ("gpu-worker", "cuda")):
        command = services[name]["command"].split()
        assert command[:3] == ["avatarlab", "worker", "tcp://scheduler:8786"]
        assert (command[command.index("--device") + 1] if "--device" in command else "cpu") == device
        assert services[name]["restart"] == "always"
    assert "--port 8786" in services["scheduler"]["command"]


def own(command: str, **replaced: str) -> list[str]:
    """A command line of infra/ as this machine runs it."""
    for name, value in replaced.items():
        command = command.replace(name, value)
    program, *options = command.split()
    return [str(Path(sys.executable).with_name(Path(program).name)), *options]


@contextmanager
def started(*commands: list[str]) -> Iterator[None]:
    """Processes that end with the block, with all that they have started."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()


RENDER = """
import sys, time
from pathlib import Path
from distributed import Client
from night import Night
folder, address, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with Client(address, timeout=120) as client:
    client.wait_for_workers(workers, timeout=120)
done = Night.make(folder, 2).run("--scheduler", address)
print(done.code, dict(done.statuses), done.err[-500:])
"""


def rendered(folder: Path, address: str, workers: int, *inside: str) -> str:
    """What a night on that scheduler came to, once so many workers are there; `inside` goes before the command."""
    done = subprocess.run(
        [*inside, sys.executable, "-c", RENDER, str(folder), address, str(workers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_lines_of_scheduler_and_workers_make_a_cluster_that_renders(tmp_path: Path) -> None:
    services, port = compose()["services"], str(free_port())
    place = {"scheduler:8786": f"127.0.0.1:{port}", "8786": port, "0.0.0.0": "127.0.0.1"}
    scheduler = own(services["scheduler"]["command"], **place)
    worker = own(services["cpu-worker"]["command"], **place)
    with started(scheduler, worker):
        assert rendered(tmp_path, f"tcp://127.0.0.1:{port}", 2).startswith("0 {'done': 2}")


@contextmanager
def two_machines() -> Iterator[tuple[str, str, str]]:
    """Two network namespaces joined by a cable: the names of both, and the address of the first."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    one, two = (f"avatarlab-{side}-{os.getpid()}" for side in "ab")
    address = "10.77.0.1"
    script = f"""
        ip netns add {one} && ip netns add {two} &&
        ip -n {one} link add cable type veth peer name cable netns {two} &&
        ip -n {one} addr add {address}/24 dev cable && ip -n {two} addr add 10.77.0.2/24 dev cable &&
        ip -n {one} link set lo up && ip -n {two} link set lo up &&
        ip -n {one} link set cable up && ip -n {two} link set cable up"""
    try:
        if subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode:
            pytest.skip("this machine does not allow network namespaces")
        yield one, two, address
    finally:
        for name in (one, two):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_on_another_machine_join_by_its_network_alone(tmp_path: Path) -> None:
    services = compose()["services"]
    with two_machines() as (one, two, address):
        place = {"scheduler:8786": f"{address}:8786", "0.0.0.0": address}
        scheduler = ["ip", "netns", "exec", one, *own(services["scheduler"]["command"], **place)]
        worker = ["ip", "netns", "exec", two, *own(services["cpu-worker"]["command"], **place)]
        with started(scheduler, worker):
            inside = ("ip", "netns", "exec", one)
            assert rendered(tmp_path, f"tcp://{address}:8786", 2, *inside).startswith("0 {'done': 2}")


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
    command = own(service["Service"]["ExecStart"])
    assert command[1:3] == ["worker", "${SCHEDULER}"]
    assert command[command.index("--device") + 1] == "cuda:%i"
    assert float(service["Service"]["TimeoutStopSec"]) > DRAIN_SECONDS


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
