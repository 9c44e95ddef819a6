"""How an interrupted workflow goes on: through the platform's own compiled graph, or at its resume endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import orjson
from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from opsconsole.operations.alerts import SIGNATURE, TIMESTAMP, signature
from opsconsole.stores.store import Store, StoreUnusable
from roadmaps import checkpoints
from roadmaps.checkpoints import Standing
from roadmaps.consistency import STATUS, moved_at, stuck_before
from roadmaps.models import RoadmapTask

TIMEOUT = httpx.Timeout(600, connect=10)  # an endpoint that resumes at once may take long to answer
POLL_SECONDS = 5.0


class NotConfigured(StoreUnusable):
    """Neither a graph nor an endpoint is known."""


class NotRecovered(Exception):
    """The workflow did not go on. The message says why."""


def require_way() -> None:
    """Refuse before anything starts. Raises NotConfigured."""
    if not settings.ROADMAPS_WORKFLOW_GRAPH and not settings.ROADMAPS_RESUME_URL:
        raise NotConfigured(
            _(
                "An interrupted workflow can't go on from here: set ROADMAPS_WORKFLOW_GRAPH to the platform's compiled "
                "graph, or ROADMAPS_RESUME_URL to its resume endpoint. Nothing was changed."
            )
        )
    if settings.ROADMAPS_WORKFLOW_GRAPH:
        _graph()


def go_on(store: Store, task_id: str, standing: Standing) -> bool:
    """From the last checkpoint to the end, or to where a person is waited for: then False. Raises whatever fails."""
    if settings.ROADMAPS_WORKFLOW_GRAPH:
        return _by_graph(store, task_id)
    _by_endpoint(store, task_id, standing)
    return True


# --- the graph -----------------------------------------------------------------------------------------------


def _graph() -> Any:
    """What the dotted path names: a compiled graph, or a function that makes one from a checkpointer."""
    path = settings.ROADMAPS_WORKFLOW_GRAPH
    try:
        return import_string(path)
    except Exception as error:
        raise NotConfigured(
            _("ROADMAPS_WORKFLOW_GRAPH: %(path)s can't be imported: %(reason)s") % {"path": path, "reason": error}
        ) from error


def _compiled(saver: Any) -> Any:
    found = _graph()
    if not hasattr(found, "stream"):
        return found(saver)
    return found if found.checkpointer else found.copy(update={"checkpointer": saver})


def _by_graph(store: Store, task_id: str) -> bool:
    """Node by node; what is finished is not run again. A graph that raises leaves its last checkpoint.

    Each checkpoint is written before the next node begins: otherwise a worker that dies would lose the last one.
    """
    with checkpoints.saver(store, writes=True) as saver:
        graph, config = _compiled(saver), checkpoints.config_of(task_id)
        for _finished in graph.stream(None, config, stream_mode="updates", durability="sync"):
            pass
        return not graph.get_state(config).next


# --- the endpoint ------------------------------------------------------------------------------------------------


def _by_endpoint(store: Store, task_id: str, standing: Standing) -> None:
    """A signed POST. 202: the platform goes on by itself, and is waited for. Any other success: it is done."""
    body = orjson.dumps({"task_id": task_id, "checkpoint_id": standing.checkpoint_id})
    timestamp = str(int(timezone.now().timestamp()))
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f"{task_id}:{standing.checkpoint_id}",
        TIMESTAMP: timestamp,
    }
    if settings.ROADMAPS_RESUME_SECRET:
        headers[SIGNATURE] = signature(settings.ROADMAPS_RESUME_SECRET, timestamp, body)
    try:
        answer = httpx.post(settings.ROADMAPS_RESUME_URL, content=body, headers=headers, timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotRecovered(_("The resume endpoint can't be reached: %(reason)s") % {"reason": error}) from error
    if not answer.is_success:
        raise NotRecovered(_("The resume endpoint answered %(status)d.") % {"status": answer.status_code})
    if answer.status_code == httpx.codes.ACCEPTED:
        _wait(store, task_id)


def _wait(store: Store, task_id: str, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until the platform says that the task is over, or does not move it any more."""
    asked = timezone.now()
    rows = RoadmapTask.objects.using(store.alias).filter(pk=task_id)
    while True:
        status, text = rows.values_list("status", "updated_at").get()
        if status != STATUS.PROCESSING:
            return
        moved = moved_at(text)
        if max(asked, moved or asked) < stuck_before(timezone.now()):
            raise NotRecovered(_("The platform took the task and has not moved it since."))
        sleep(POLL_SECONDS)
