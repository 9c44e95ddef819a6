"""The rows of a plan that are stored: pinned rows, and rows that were given."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, Self

import orjson
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.before_images import encode_before_image, writes_of
from opsconsole.engine.models.runs import Run
from opsconsole.stores.rows import Write


class PinnedRows(models.Model):
    """Rows that a plan with deletes or external effects has pinned: key and digest of each.

    The run touches exactly these rows, if they are unchanged. They are deleted when the run ends.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="pinned")
    number = models.PositiveIntegerField()
    rows = models.BinaryField()  # compressed JSON

    class Meta:
        constraints = (models.UniqueConstraint(fields=("run", "number"), name="pinned_number"),)

    def __str__(self) -> str:
        return f"{self.run_id}/{self.number}"

    @classmethod
    def keep(cls, run: Run, rows: list[tuple[Any, str]]) -> None:
        """Append rows to the pinned rows of `run`."""
        if rows:
            packed = zlib.compress(orjson.dumps(rows), 1)
            cls.objects.create(run=run, number=cls.objects.filter(run=run).count(), rows=packed)

    @classmethod
    def of(cls, run: Run) -> dict[Any, str]:
        """Return key → digest of all pinned rows of `run`."""
        parts = cls.objects.filter(run=run).order_by("number").values_list("rows", flat=True)
        return {key: digest for part in parts for key, digest in orjson.loads(zlib.decompress(part))}


class GivenRows(models.Model):
    """Rows from a form, a file or a statement: keys, old values, new values.

    They are stored like a before-image, and as long. A plan refers to them by their digest, so that exactly these rows
    are confirmed, approved and written.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    inserts = models.JSONField(default=list)  # columns of the new rows
    updates = models.JSONField(default=list)  # columns that change in existing rows
    count = models.PositiveIntegerField(_("rows"))
    content = models.BinaryField()  # compressed: see `encode_before_image`
    at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.digest

    @classmethod
    def of(cls, writes: Sequence[Write]) -> Self:
        """Return the rows without saving them. Raises TypeError for values that cannot be stored exactly."""
        content = encode_before_image(list(writes), {}, {})
        digest = hashlib.sha256(content).hexdigest()
        columns: dict[str, dict[str, None]] = {"insert": {}, "update": {}, "delete": {}}
        for write in writes:
            if any(old != new for _key, old, new in write.rows):
                columns[write.kind].update(dict.fromkeys(write.columns))
        return cls(
            digest=digest,
            inserts=list(columns["insert"]),
            updates=list(columns["update"]),
            count=sum(len(write.rows) for write in writes),
            content=content,
        )

    @classmethod
    def keep(cls, writes: Sequence[Write]) -> str:
        """Store the rows and return their digest. Raises TypeError for values that cannot be stored exactly."""
        rows = cls.of(writes)
        rows.save()
        return rows.digest

    @property
    def writes(self) -> list[Write]:
        """Return the rows in their given order. Raises ValueError if they were altered."""
        if hashlib.sha256(self.content).hexdigest() != self.digest:
            raise ValueError(f"The digest of the given rows is not {self.digest}.")
        return writes_of(self.content)
