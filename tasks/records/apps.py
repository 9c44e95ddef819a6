from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.stores import platforms


class RecordsConfig(platforms.StoreAppConfig):
    name = "tasks.records"
    verbose_name = _("Execution records")
    store = "records"
    store_title = _("Execution records")
    icons = {
        "testrecord": "lab_profile",
        "taskstatus": "hourglass",
    }
    identifiers = {"testrecord": ("execution_id",), "taskstatus": ("task_id",)}
    json_columns = {
        "test_records": ("ai_models_used", "questions_used"),
    }
    hot_queries = (platforms.by("test_records", "execution_id"),)
