"""The causes of incidents that any store can have: damage, and what is missing in its schema."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.causes import Cause

UPGRADE = ("backups.upgrade_store",)
BY_HAND = _("Each finding names the rows. Open them, then correct or delete them.")
BY_STATEMENT = _("Each finding names the statement that repairs it. Ask an administrator of the database to run it.")

MISSING_COLUMN = Cause(
    "missing_column",
    ngettext_lazy("%(count)s documented column is missing", "%(count)s documented columns are missing", "number"),
    UPGRADE,
    advice=BY_STATEMENT,
)
MISSING_INDEX = Cause(
    "missing_index",
    ngettext_lazy("%(count)s documented index is missing", "%(count)s documented indexes are missing", "number"),
    UPGRADE,
    advice=BY_STATEMENT,
)
CAUSES = {
    cause.code: cause
    for cause in (
        Cause(
            "damaged",
            ngettext_lazy(
                "The database file is damaged in %(count)s place",
                "The database file is damaged in %(count)s places",
                "number",
            ),
            advice=_("Restore the newest verified backup, or copy what is still readable with rebuild_store."),
        ),
        Cause(
            "damaged_index",
            ngettext_lazy(
                "%(count)s full-text index does not match its rows",
                "%(count)s full-text indexes do not match their rows",
                "number",
            ),
            ("agentos.rebuild_search_index",),
            advice=BY_STATEMENT,
        ),
        Cause(
            "unchecked_index",
            ngettext_lazy(
                "%(count)s full-text index could not be checked",
                "%(count)s full-text indexes could not be checked",
                "number",
            ),
            ("agentos.rebuild_search_index",),
            advice=_("Each finding names the error of the database. Correct it, then check the store again."),
        ),
        Cause(
            "unanswered",
            _("The rule “%(question)s” could not be checked"),
            per_row=True,
            advice=_("The finding names the error of the database. Correct it, then check the store again."),
        ),
        Cause(
            "invalid_index",
            ngettext_lazy("%(count)s index is invalid", "%(count)s indexes are invalid", "number"),
            advice=_("Rebuild each index with REINDEX, or drop and create it again."),
        ),
        Cause(
            "dangling_reference",
            ngettext_lazy(
                "%(rows)s row of %(table)s refers to a row of %(parent)s that does not exist",
                "%(rows)s rows of %(table)s refer to rows of %(parent)s that do not exist",
                "rows",
            ),
            per_row=True,
            advice=_("Delete the referring rows, or restore the missing ones from a backup."),
        ),
        Cause(
            "broken_reference",
            _("The foreign keys of %(table)s could not be checked"),
            per_row=True,
            advice=_("The finding names the error of the database. Correct it, then check the store again."),
        ),
        Cause(
            "invalid_json",
            ngettext_lazy(
                "%(rows)s row of %(table)s has invalid JSON in %(column)s",
                "%(rows)s rows of %(table)s have invalid JSON in %(column)s",
                "rows",
            ),
            per_row=True,
            advice=BY_HAND,
        ),
        Cause(
            "outside_enumeration",
            ngettext_lazy(
                "%(rows)s row of %(table)s has the unknown value “%(value)s” in %(column)s",
                "%(rows)s rows of %(table)s have the unknown value “%(value)s” in %(column)s",
                "rows",
            ),
            per_row=True,
            advice=BY_HAND,
        ),
        Cause(
            "missing_table",
            ngettext_lazy("%(count)s documented table is missing", "%(count)s documented tables are missing", "number"),
            advice=BY_STATEMENT,
        ),
        Cause(
            "absent_table",
            ngettext_lazy(
                "The platform has not created %(count)s documented table",
                "The platform has not created %(count)s documented tables",
                "number",
            ),
            advice=_("Run the migrations of the platform."),
        ),
        MISSING_COLUMN,
        MISSING_INDEX,
        Cause(
            "other_shape",
            ngettext_lazy(
                "%(count)s table differs from its documented form",
                "%(count)s tables differ from their documented form",
                "number",
            ),
            advice=_("Each finding names the difference. Compare the version of the platform with the documented one."),
        ),
        Cause(
            "pending_migration",
            ngettext_lazy(
                "%(count)s column waits for a migration of the platform",
                "%(count)s columns wait for a migration of the platform",
                "number",
            ),
            advice=_("Run the migrations of the platform."),
        ),
        Cause(
            "query_without_index",
            ngettext_lazy(
                "%(count)s frequent query reads a whole table",
                "%(count)s frequent queries read whole tables",
                "number",
            ),
            UPGRADE,
            advice=_("The database does not use an index for it. Update its statistics with ANALYZE."),
        ),
        Cause(
            "setting_advised",
            ngettext_lazy(
                "%(count)s setting of the database is below its recommended value",
                "%(count)s settings of the database are below their recommended values",
                "number",
            ),
            advice=_("Each finding names the recommended value. Ask an administrator of the database to set it."),
        ),
    )
}
