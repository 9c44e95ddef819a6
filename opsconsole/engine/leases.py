"""The lease of a worker on a run. Only its holder may write."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import psutil
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import QuerySet
from django.utils import timezone

from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import RESUMABLE, Request, Run, Shard, Status, Trigger

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)


class LostOwnership(Exception):
    """A run that another worker owns, or that has ended."""


@cache
def host_name() -> str:
    """Return the name of this host."""
    return socket.gethostname()


def this_worker() -> dict[str, Any]:
    """Return host, process id and start time of this process."""
    process = psutil.Process()
    return {"host": host_name(), "pid": process.pid, "started": process.create_time()}


def is_stale(run: Run | Shard) -> bool:
    """Return whether a running run or shard has no worker: its process is gone or its lease has expired."""
    if run.status != Status.RUNNING:
        return False
    if run.lease_until is None or run.lease_until < timezone.now():
        return True
    worker = run.worker
    if not worker or worker["host"] != host_name():
        return False
    try:
        process = psutil.Process(worker["pid"])
        return abs(process.create_time() - worker["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def worker_actor(run: Run) -> Actor:
    """Return this process as the actor of a run."""
    return Actor(f"worker@{host_name()}", f"{host_name()}:{os.getpid()}", Trigger(run.trigger))


def _request_to_shard(request: str, error: str, status: str) -> str | None:
    """Return what a shard has to do when its run has these values, None if the run has ended."""
    if status in RESUMABLE or error:  # interrupted, or another shard has failed
        return Request.PAUSE
    return request if status in {Status.RUNNING, Status.QUEUED} else None


class Lease:
    """The lease of this process on a run or shard that it has claimed. It ends when another worker claims it."""

    def __init__(self, part: Run | Shard) -> None:
        self.part = part
        self.request = Request(part.whole.request)  # as of the last check
        # Each batch uses these queries: the part while this worker owns it, and what is requested of it.
        owned = {"pk": part.pk, "generation": part.generation, "status": Status.RUNNING}
        self._owned: QuerySet[Any] = type(part)._default_manager.filter(**owned)
        names = ("request",) if isinstance(part, Run) else ("run__request", "run__error", "run__status")
        self._asked = self._owned.values_list(*names)

    def update(self, **fields: Any) -> None:
        """Save fields and renew the lease. Raises LostOwnership."""
        fields.setdefault("lease_until", timezone.now() + LEASE)
        if not self._owned.update(**fields):
            raise LostOwnership

    def check(self) -> None:
        """Read the request of the run. Raises LostOwnership."""
        found = next(iter(self._asked.all()), None)
        request = None
        if found is not None:
            request = _request_to_shard(*found) if isinstance(self.part, Shard) else found[0]
        if request is None:
            raise LostOwnership
        self.request = Request(request)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease during a long step. Raises LostOwnership."""
        over, lost = threading.Event(), threading.Event()

        def renew() -> None:
            try:
                while not over.wait(LEASE.total_seconds() / 3):
                    try:
                        self.update()
                    except LostOwnership:
                        lost.set()
                        return
                    except (DatabaseError, InterfaceError):  # tried again at the next renewal
                        logger.warning("Could not renew the lease", exc_info=True)
                        connections["default"].close()
            finally:
                connections.close_all()

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if lost.is_set():
            raise LostOwnership
