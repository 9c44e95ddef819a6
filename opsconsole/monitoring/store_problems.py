"""Problems of whole stores: unreachable, few free connections, no recent backup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.conf import settings
from django.db.models import Max
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine.messages import KINDS, Message
from opsconsole.engine.operation import Priority
from opsconsole.formatting import format_number
from opsconsole.monitoring.connectivity import identities, unreachable
from opsconsole.monitoring.measurements import CONNECTIONS
from opsconsole.monitoring.models import Measurement
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, all_stores

UNREACHABLE, CONNECTION_LIMIT, BACKUP_MISSING = "store_unreachable", "connection_limit", "backup_missing"
SHOWN_DAYS = 30


@dataclass(frozen=True)
class StoreProblem:
    """A problem of a store."""

    code: str
    store: Store
    priority: Priority
    title: str
    detail: str = ""
    since: datetime | None = None

    def message(self) -> Message:
        """Return the message that reports this problem."""
        page = reverse("admin:stores_backup_changelist") if self.code == BACKUP_MISSING else reverse("stores")
        facts = [_("Database: %(location)s") % {"location": self.store.location}, *filter(None, [self.detail])]
        values = {"store": str(self.store.title), "problem": self.title}
        never = self.code == BACKUP_MISSING and self.since is None  # the dashboard shows it to those who set up
        key = self.store.alias
        return Message(KINDS[self.code], key, values, page, since=self.since, facts=facts, is_news=not never)


class StoreStates:
    """The newest measurements and backups of the stores, from the console's own database."""

    def __init__(self) -> None:
        self.now = timezone.now()
        self.stores = list(all_stores())
        self.by_alias = {store.alias: store for store in self.stores}
        self.down = unreachable([store for store in self.stores if store.alias in settings.STORES])
        self.identities = identities(self.stores)

    @cached_property
    def measured(self) -> list[Measurement]:
        """Return the measurements of the last days, oldest first."""
        first = timezone.localdate(self.now) - timedelta(days=SHOWN_DAYS - 1)
        return list(Measurement.objects.filter(day__gte=first).order_by("day"))

    @cached_property
    def latest(self) -> dict[tuple[str, str], Measurement]:
        """Return the newest measurement of each store and name."""
        return {(row.store, row.name): row for row in self.measured}

    @cached_property
    def backups(self) -> dict[str, datetime]:
        """Return the time of the newest verified backup of each store that has one."""
        rows = Backup.objects.filter(identity__in=self.identities, verified_at__isnull=False).order_by()
        newest = rows.values_list("identity").annotate(newest=Max("at"))
        return {self.identities[identity]: at for identity, at in newest}

    def problems(self) -> Iterator[StoreProblem]:
        yield from self._unreachable()
        yield from self._connection_limit()
        yield from self._backup_missing()

    def _unreachable(self) -> Iterator[StoreProblem]:
        for alias, reason in self.down.items():
            store = self.by_alias[alias]
            yield StoreProblem(UNREACHABLE, store, Priority.IMMEDIATE, _("unreachable"), reason)

    def _connection_limit(self) -> Iterator[StoreProblem]:
        for (alias, name), row in self.latest.items():
            percent = row.value or 0
            if name == CONNECTIONS and alias in self.by_alias and percent >= settings.CONNECTIONS_ALERT_PERCENT:
                title = _("%(percent)s %% of the server's connections are in use (%(share)s)") % {
                    "percent": percent,
                    "share": row.text,
                }
                yield StoreProblem(CONNECTION_LIMIT, self.by_alias[alias], Priority.IMMEDIATE, title)

    def _backup_missing(self) -> Iterator[StoreProblem]:
        limit = timedelta(hours=settings.BACKUP_MAX_AGE_HOURS)
        priority = Priority.IMMEDIATE if settings.PRODUCTION else Priority.PERIODIC
        for store in self.stores:
            at = self.backups.get(store.alias)
            if at is None:
                yield StoreProblem(BACKUP_MISSING, store, priority, _("no verified backup"))
            elif self.now - at > limit:
                hours = format_number((self.now - at) / timedelta(hours=1), 0)
                title = _("no verified backup for %(hours)s h") % {"hours": hours}
                yield StoreProblem(BACKUP_MISSING, store, priority, title, since=at)
