"""The tables of the engine in `default`."""

from __future__ import annotations

from opsconsole.engine.models.alerts import Alert, Channel, Delivery, ReportedProblem
from opsconsole.engine.models.events import Event
from opsconsole.engine.models.incidents import Finding, Incident, IncidentQuerySet, IncidentState
from opsconsole.engine.models.installation import Installation, SystemUser
from opsconsole.engine.models.locks import Freeze, Lock
from opsconsole.engine.models.plan_rows import GivenRows, PinnedRows
from opsconsole.engine.models.runs import Batch, FailedItem, Progress, Run, Shard
from opsconsole.engine.models.schedules import Heartbeat, ScheduleSetting
from opsconsole.engine.models.statuses import ENDED, RESUMABLE, TRANSITIONS, Rejection, Request, Status, Trigger

__all__ = [
    "ENDED",
    "RESUMABLE",
    "TRANSITIONS",
    "Alert",
    "Batch",
    "Channel",
    "Delivery",
    "Event",
    "FailedItem",
    "Finding",
    "Freeze",
    "GivenRows",
    "Heartbeat",
    "Incident",
    "IncidentQuerySet",
    "IncidentState",
    "Installation",
    "Lock",
    "PinnedRows",
    "Progress",
    "Rejection",
    "ReportedProblem",
    "Request",
    "Run",
    "ScheduleSetting",
    "Shard",
    "Status",
    "SystemUser",
    "Trigger",
]
