from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.stores import platforms


class AuditsConfig(platforms.StoreAppConfig):
    name = "audits"
    verbose_name = _("Audits")
    store = "agentos"
    icons = {
        "taskaudit": "fact_check",
        "guardianverdict": "gavel",
        "inboxentry": "inbox",
    }
    identifiers = {"taskaudit": ("task",)}
    json_columns = {
        "task_audits": ("payload",),
        "guardian_verdicts": ("policy_json", "reasons_json"),
        "supervisor_inbox": ("payload_json",),
    }
    hot_queries = (
        platforms.by("task_audits", "task_id"),
        platforms.by("task_audits", "event_type"),
        platforms.newest("task_audits", "created_at"),
    )
