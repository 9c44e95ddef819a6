"""The audit log as a chain: every entry has a number, and a seal over itself and the one before it."""

from __future__ import annotations

from django.db import migrations, models

from opsconsole.operations.seals import seal_of


def seal_what_there_is(apps, schema_editor):
    """Number and seal the entries of before, in their order."""
    events = apps.get_model("operations", "Event")._base_manager.using(schema_editor.connection.alias)
    before = ""
    for number, event in enumerate(events.order_by("pk").iterator(chunk_size=1000), 1):
        event.number = number
        event.seal = before = seal_of(before, event)
        events.filter(pk=event.pk).update(number=event.number, seal=event.seal)


class Migration(migrations.Migration):
    dependencies = [("operations", "0004_duties")]

    operations = [
        migrations.AddField("event", "number", models.BigIntegerField(editable=False, null=True, unique=True)),
        migrations.AddField("event", "seal", models.CharField(default="", editable=False, max_length=64)),
        migrations.RunPython(seal_what_there_is, migrations.RunPython.noop),
    ]
