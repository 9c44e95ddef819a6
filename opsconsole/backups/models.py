"""The tables of a copied store."""

from __future__ import annotations

from django.db import models


class TableCopy(models.Model):
    """The copy of one table: its row counts, the rows that were left out, and the comparison."""

    run = models.ForeignKey("operations.Run", models.CASCADE, related_name="table_copies")
    table = models.TextField()
    source_rows = models.BigIntegerField(default=0)
    target_rows = models.BigIntegerField(default=0)
    left_rows = models.BigIntegerField(default=0)  # that the target cannot store
    left = models.JSONField(default=list)  # key and reason of the first ones
    agrees = models.BooleanField(null=True)  # None until both are compared
    obstacle = models.CharField(default="", max_length=20)  # why the table was not copied
    columns_left = models.JSONField(default=dict)  # columns missing in the target: name → rows with a value

    class Meta:
        constraints = (models.UniqueConstraint(fields=("run", "table"), name="copy_of_table"),)

    def __str__(self) -> str:
        return self.table
