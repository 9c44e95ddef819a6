"""The audit log."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.models.incidents import Incident
from opsconsole.engine.models.runs import Run
from opsconsole.engine.seals import seal_of, serialised
from opsconsole.redaction import redact_all


class AppendOnly(models.QuerySet["Event"]):
    """Entries can be added and read."""

    def update(self, **kwargs: Any) -> int:
        raise TypeError("Events are appended, never changed.")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise TypeError("Events are appended, never changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("Events are appended, never removed.")


class Event(models.Model):
    """An entry of the audit log. Entries are appended and never changed."""

    run = models.ForeignKey(Run, models.PROTECT, null=True, related_name="events")
    incident = models.ForeignKey(Incident, models.PROTECT, null=True, related_name="events")
    at = models.DateTimeField(_("at"), default=timezone.now)
    verb = models.CharField(_("verb"), max_length=40)
    who = models.CharField(_("who"), max_length=150)
    origin = models.CharField(_("from"), max_length=150, blank=True)  # address or host
    detail = models.JSONField(_("detail"), default=dict)
    number = models.BigIntegerField(unique=True, null=True, editable=False)  # its place in the log
    seal = models.CharField(max_length=64, editable=False, default="")  # over itself and the seal before it

    objects = AppendOnly.as_manager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        indexes = (
            models.Index(fields=("-at",), name="event_at"),
            models.Index(fields=("verb", "-at"), name="event_verb"),
        )

    def __str__(self) -> str:
        return f"{self.verb} {self.run_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("Events are appended, never changed.")
        self.detail = redact_all(self.detail)
        with serialised("audit log"):
            last = Event.objects.exclude(number=None).order_by("-number").values_list("number", "seal").first()
            number, before = last or (0, "")
            self.number = number + 1
            self.seal = seal_of(before, self)
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError("Events are appended, never removed.")
