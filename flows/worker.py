"""`avatarlab worker`: Dask workers of this machine that come back, whatever ends them.

Each slot is a nanny of its own, which starts the worker's process anew when it dies, grows past its memory limit, or has
lost its scheduler; around it a loop waits for a scheduler that is not there (yet, or any more).
"""

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Nanny, Worker
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.core import Status, rpc
from distributed.protocol.pickle import dumps

from avatarlab.errors import SettingsError
from flows.workers import (
    DASK_SETTINGS,
    LocalWorker,
    RecycledWorker,
    default_memory_bytes,
    devices_of,
    environment_of,
    silence,
    slot_of,
)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
DRAIN_SECONDS = 120.0
DELIVER_SECONDS = 1.0
CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Place:
    """Where workers join, and what they are."""

    scheduler: str
    device: str
    count: int
    memory_bytes: int
    name: str

    @property
    def host_port(self) -> tuple[str, int]:
        """Raises SettingsError for an address that is none."""
        try:
            host, port = parse_host_port(parse_address(self.scheduler)[1])
        except ValueError as error:
            raise SettingsError(f"{self.scheduler!r} is no address", "give tcp://HOST:PORT") from error
        return host, int(port)


def work(
    scheduler: str,
    device: str,
    count: int | None,
    memory_bytes: int | None,
    name: str | None,
    say: Callable[[str], object],
) -> None:
    """Runs until it is asked to stop. `say` hears of every change of state.

    Raises SettingsError for an address that is none and for a device that this machine lacks.
    """
    slot_of(device)
    available = devices_of(device, count)
    place = Place(
        scheduler,
        device,
        len(available),
        memory_bytes or default_memory_bytes(len(available)),
        name or f"{slot_of(device).lower()}-{socket.gethostname()}-{os.getpid()}",
    )
    place.host_port  # noqa: B018  refuses an address that is none before anything starts
    with dask.config.set(DASK_SETTINGS):
        asyncio.run(_keep_all(place, available, say))


async def _keep_all(place: Place, devices: list[str], say: Callable[[str], object]) -> None:
    silence()
    asked, now = asyncio.Event(), asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            now.set()
        else:
            say("stopping: the running batch is finished first; once more to stop at once")
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    slots = [asyncio.create_task(_keep(place, index, device, asked, now, say)) for index, device in enumerate(devices)]
    await asyncio.gather(*slots)


async def _keep(
    place: Place, index: int, device: str, asked: asyncio.Event, now: asyncio.Event, say: Callable[[str], object]
) -> None:
    """One slot, kept filled until asked to stop."""
    name = f"{place.name}-{index}"
    pause, told = FIRST_PAUSE_SECONDS, False
    while not asked.is_set():
        if not await _answers(place):
            if not told:
                say(f"{name}: waiting for the scheduler at {place.scheduler}")
                told = True
            await _rest(asked, pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            continue
        pause, told = FIRST_PAUSE_SECONDS, False
        try:
            async with Nanny(place.scheduler, name=name, **_options(place, device)) as nanny:
                say(f"{name}: joined {place.scheduler} with {slot_of(place.device)}=1")
                await _until_over(nanny, asked)
                if asked.is_set():
                    await _drain(nanny, now)
        except (OSError, TimeoutError, RuntimeError) as error:
            say(f"{name}: {type(error).__name__}: {error}; starting again")
        await _rest(asked, FIRST_PAUSE_SECONDS)


async def _until_over(nanny: Nanny, asked: asyncio.Event) -> None:
    ends = [asyncio.create_task(nanny.finished()), asyncio.create_task(asked.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()


async def _drain(nanny: Nanny, now: asyncio.Event) -> None:
    """Lets the batch that runs be finished and delivered, unless asked again."""
    address = nanny.worker_address
    if address is None:
        return

    async def ask() -> None:
        async with rpc(address) as worker:
            await worker.run(function=dumps(finish_running), args=dumps(()), kwargs=dumps({}), wait=True)

    waits = [asyncio.create_task(ask()), asyncio.create_task(now.wait())]
    try:
        await asyncio.wait(waits, timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def finish_running(dask_worker: Worker) -> None:
    """Runs in the worker: it takes no new task, and returns when it has none that runs."""
    dask_worker.status = Status.closing_gracefully
    while dask_worker.state.executing_count:
        await asyncio.sleep(0.05)
    await asyncio.sleep(DELIVER_SECONDS)


async def _answers(place: Place) -> bool:
    host, port = place.host_port
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_SECONDS)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _rest(asked: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(asked.wait(), seconds * random.uniform(0.5, 1.5))
    except TimeoutError:
        return


def _options(place: Place, device: str) -> Mapping[str, Any]:
    return {
        "nthreads": 1,
        "resources": {slot_of(place.device): 1},
        "memory_limit": place.memory_bytes,
        "dashboard": False,
        "silence_logs": logging.ERROR,
        "env": environment_of(device),
        "plugins": [LocalWorker(), RecycledWorker(place.memory_bytes)],
    }
