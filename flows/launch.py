"""Starts what a run needs and no more: nothing where all is in the store, else workers, and a server for Prefect.

Prefect, Dask and torch are imported only on the way that uses them.
"""

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from avatarlab.errors import AvatarLabError, WorkerError
from flows.prepare import Prepared
from flows.progress import progress_for_people
from flows.session import Report, ThreadStarter, carry_out
from flows.signals import stopping_on_signals

if TYPE_CHECKING:
    from tasks.pool import Pool


def launch(prepared: Prepared, *, no_prefect: bool, say: Callable[[str], object]) -> Report:
    """Carries out a prepared run. `say` hears what a person should know."""
    stop = threading.Event()
    with ExitStack() as stack:
        if prepared.missing:
            return _with_workers(prepared, no_prefect, stop, stack, say)
        if not no_prefect and os.environ.get("PREFECT_API_URL"):
            from flows.server import prefect_server

            server = stack.enter_context(prefect_server())
            server.wait()
            return _in_prefect(prepared, None, stop, stack, say)
        say("everything is in the store already: no worker, engine or Prefect server is started")
        listener = stack.enter_context(progress_for_people(prepared.survey.totals))
        with stopping_on_signals(stop):
            return carry_out(prepared, None, stop, listener)


def _with_workers(
    prepared: Prepared, no_prefect: bool, stop: threading.Event, stack: ExitStack, say: Callable[[str], object]
) -> Report:
    from flows.server import prefect_server
    from flows.workers import default_workers, open_pool

    request = prepared.request
    count = request.workers or default_workers(request.device)
    server = None if no_prefect else stack.enter_context(prefect_server())
    pool = stack.enter_context(open_pool(prepared.context, count, request.scheduler))
    pool.warm_up()  # engines load while the server starts
    if server is not None:
        server.wait()
        return _in_prefect(prepared, pool, stop, stack, say)
    listener = stack.enter_context(progress_for_people(prepared.survey.totals))
    starter = stack.enter_context(ThreadStarter(pool))
    with stopping_on_signals(stop):
        return carry_out(prepared, starter, stop, listener)


def _in_prefect(
    prepared: Prepared, pool: "Pool | None", stop: threading.Event, stack: ExitStack, say: Callable[[str], object]
) -> Report:
    from flows.render import Handover, handover, render

    given = Handover(prepared, pool, stop, stack.enter_context(progress_for_people(prepared.survey.totals)))
    token = handover.set(given)
    request = prepared.request
    broken: Exception | None = None
    try:
        render(
            manifest=request.manifest,
            store=request.store,
            models=request.models,
            avatars=request.avatars,
            device=request.device,
            only=request.only,
            skip_invalid=request.skip_invalid,
            run_id=prepared.run_id,
            workers=request.workers,
            scheduler=request.scheduler,
            lexicon=request.lexicon,
            return_state=True,
        )
    except Exception as error:  # whatever Prefect raises: what counts is whether the run itself came to its end
        broken = error
    finally:
        handover.reset(token)
    if given.report is None:
        if isinstance(given.failure, AvatarLabError | KeyboardInterrupt):
            raise given.failure
        why = type(given.failure or broken).__name__
        raise WorkerError(f"the Prefect flow ended without a report ({why})", "run again with --no-prefect")
    if broken is not None:
        say(
            f"the Prefect server could not record how the run ended ({type(broken).__name__}); the results are complete"
        )
        return replace(given.report, unrecorded=True)
    if given.recorded < given.task_runs:
        say(
            f"Prefect has recorded {given.recorded} of {given.task_runs} task runs; the results are complete all the same"
        )
    return given.report
