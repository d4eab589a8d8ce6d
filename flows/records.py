"""What the Prefect server has on record of a run: how many task runs, how far it is, and which runs died unseen.

A run never depends on it: what the server cannot take is passed over, and the results in the store are the truth.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any
from uuid import UUID

import psutil
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows.drive import Listener
from flows.progress import Pace

ARTIFACT_SECONDS = 2.0
POLL_SECONDS = 0.2
TERMINAL = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
PAGE = 200


def wait_until_recorded(flow_run_id: str, expected: int, seconds: float) -> int:
    """Waits until the server has a terminal state for `expected` task runs of a flow run; returns how many it has.

    States travel as events and are written in batches: a process that leaves at once loses them, and a server that is too
    far behind drops them.
    """
    question = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": [state.value for state in TERMINAL]}}},
    }
    deadline = time.monotonic() + seconds
    recorded = 0
    with get_client(sync_client=True) as client:
        while recorded < expected and time.monotonic() < deadline:
            with suppress(Exception):  # a server that does not answer has recorded nothing more
                recorded = int(client.request("POST", "/task_runs/count", json=question).json())
            if recorded < expected:
                time.sleep(POLL_SECONDS)
    return recorded


def sign(flow_run_id: str, run_id: str) -> None:
    """Says on a flow run which process it is, so that a later run can tell that it has died."""
    process = psutil.Process()
    tags = [_host(), f"process:{process.pid}@{process.create_time():.2f}", f"run:{run_id}"]
    with suppress(Exception), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run_id), tags=tags)


def mark_dead_runs(flow_name: str, own: str) -> int:
    """Renders of this machine that say Running while their process is gone are set to Crashed; returns how many."""
    marked = 0
    with suppress(Exception), get_client(sync_client=True) as client:
        running = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [flow_name]}}),
            flow_run_filter=FlowRunFilter.model_validate(
                {"state": {"type": {"any_": UNDER_WAY}}, "tags": {"all_": [_host()]}}
            ),
            limit=PAGE,
        )
        for found in running:
            if str(found.id) == own or _alive(found.tags):
                continue
            _crash_tasks(client, found.id)
            client.set_flow_run_state(found.id, Crashed(message="its process was killed"), force=True)
            marked += 1
    return marked


class ProgressArtifact:
    """Tells Prefect how far the run is, in a thread of its own: a server that does not answer holds nothing up."""

    def __init__(self, then: Listener, totals: Mapping[str, int]) -> None:
        self._then = then
        self._totals = totals
        self._pace = Pace(totals["video"])
        self._latest: Mapping[str, int] = {}
        self._news, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._tell,), daemon=True, name="progress")
        self._thread.start()

    def progress(self, settled: Mapping[str, int]) -> None:
        self._then.progress(settled)
        self._latest = settled
        self._news.set()

    def close(self) -> None:
        """Tells the last that was heard, if that does not take long."""
        self._end.set()
        self._news.set()
        self._thread.join(5 * ARTIFACT_SECONDS)

    def _tell(self) -> None:
        id: Any = None
        ended = False
        while not ended:
            self._news.wait()
            self._news.clear()
            ended = self._end.is_set()
            if not self._latest:
                continue
            with suppress(Exception):
                share = 100.0 * sum(self._latest.values()) / max(1, sum(self._totals.values()))
                pace = self._pace.told(self._latest["video"])
                text = f"{self._latest['video']} of {self._totals['video']} rows{f', {pace}' if pace else ''}"
                if id is None:
                    id = create_progress_artifact(share, key="render-progress", description=text)
                else:
                    update_progress_artifact(id, share, description=text)
            self._end.wait(ARTIFACT_SECONDS)


def _host() -> str:
    return f"host:{socket.gethostname()}"


def _alive(tags: list[str]) -> bool:
    """Whether the process that signed is there: another with its number was started at another time."""
    signed = next((tag.removeprefix("process:") for tag in tags if tag.startswith("process:")), "")
    pid, _, started = signed.partition("@")
    if not pid.isdigit():
        return True
    if int(pid) == os.getpid():
        return True
    with suppress(psutil.Error):
        return f"{psutil.Process(int(pid)).create_time():.2f}" == started
    return False


def _crash_tasks(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    while True:
        left = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": UNDER_WAY}}}),
            limit=PAGE,
        )
        for task_run in left:
            client.set_task_run_state(task_run.id, Crashed(message="its process was killed"), force=True)
        if len(left) < PAGE:
            return
