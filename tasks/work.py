"""What a worker process does with a batch: the library's work, and an end to a process whose GPU is of no more use."""

import logging
import os
from collections.abc import Sequence

from avatarlab.errors import DeviceLost
from avatarlab.execute import run_batch
from avatarlab.stages import Item, Outcome, StageContext

logger = logging.getLogger(__name__)

DEVICE_LOST = 70  # exit status


def run_on_worker(stage: str, items: Sequence[Item], context: StageContext) -> list[Outcome]:
    """As `run_batch`. After a fault of the GPU the process ends, and its supervisor starts another: every later batch would
    fail here. The batch is then taken apart like that of any worker that dies, so that a deadly item fails alone."""
    try:
        return run_batch(stage, items, context)
    except DeviceLost as error:
        logger.error("this worker ends: %s", error)
        os._exit(DEVICE_LOST)
