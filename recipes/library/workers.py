"""Processes that work beside each other, and end with the one that started them."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread


@contextmanager
def worker_pool(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """So many new processes; where one's work fails, what has not begun is not begun."""
    context = get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this process at once when the one that started it has ended, killed or not.

    The processes of a pool hold each other's pipes open: of a parent that was killed they would
    wait for work for ever.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
