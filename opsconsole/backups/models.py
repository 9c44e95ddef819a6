"""The tables of a copied store."""

from __future__ import annotations

from django.db import models


class TableCopy(models.Model):
    """One table of a copied store: how far it is, and whether source and target agree."""

    run = models.ForeignKey("operations.Run", models.CASCADE, related_name="table_copies")
    table = models.TextField()
    source_rows = models.BigIntegerField(default=0)
    target_rows = models.BigIntegerField(default=0)
    left_rows = models.BigIntegerField(default=0)  # that the target can't hold
    left = models.JSONField(default=list)  # the first of them: key and reason
    agrees = models.BooleanField(null=True)  # counts and contents; None until compared
    obstacle = models.CharField(default="", max_length=20)  # why the whole table stays behind
    columns_left = models.JSONField(default=dict)  # that the target lacks: name → rows that hold something there

    class Meta:
        constraints = (models.UniqueConstraint(fields=("run", "table"), name="copy_of_table"),)

    def __str__(self) -> str:
        return self.table
