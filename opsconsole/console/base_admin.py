"""The base of all admin classes, and the admin of accounts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.core.paginator import Paginator
from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.views import ChangeList

from opsconsole.console import filter_chips, saved_views
from opsconsole.console.actors import actor_of
from opsconsole.engine import keyset
from opsconsole.engine.audit_log import record
from opsconsole.engine.models import Freeze
from opsconsole.formatting import environment_label, format_number, zone_label
from opsconsole.stores.rows import plain_key

COUNT_CAP = 10_000
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that stops counting at a limit, so that a list of millions of rows opens fast."""

    template_name = "admin/capped_pagination.html"

    @cached_property
    def _keys(self) -> list[Any]:
        """Read the keys of the counted rows, in any order."""
        rows: Any = self.object_list
        return list(rows.order_by().values_list("pk", flat=True)[: COUNT_CAP + 1])

    @cached_property
    def count(self) -> int:
        return len(self._keys)

    @cached_property
    def few_rows(self) -> list[Any] | None:
        """All rows, by their keys, if they fit on one page.

        Without an index, few rows that match a filter are found by reading the whole table. This happens once.
        """
        rows: Any = self.object_list
        return list(keyset.with_keys(rows, list(map(plain_key, self._keys)))) if self.count <= self.per_page else None

    @property
    def count_text(self) -> str:
        """Return the formatted count, "10,000+" above the limit."""
        return format_number(COUNT_CAP) + "+" if self.count > COUNT_CAP else format_number(self.count)


class ConsoleChangeList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        few = self.paginator.few_rows
        if few is not None and len(few) == self.result_count:  # SQLite may store a key that no condition finds
            self.result_list = few
        self.full_result_count = self.result_count  # the footer shows it
        self.result_count_text = self.paginator.count_text


class ConsoleModelAdmin(ModelAdmin):
    """The base of all admin classes. Its lists are fast at any size."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    list_max_show_all = 0
    list_fullwidth = True
    list_before_template = "console/list_before.html"
    compressed_fields = True
    # Columns in which a search finds exact values. `search_fields` is for lists of few rows.
    exact_search_fields: ClassVar[tuple[str, ...]] = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ConsoleChangeList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuse lookups with expensive values: regular expressions and ranges."""
        if lookup.rpartition("__")[2] in {"regex", "iregex", "range"}:
            return False
        return bool(super().lookup_allowed(lookup, value, request))

    def get_search_fields(self, request: HttpRequest) -> Sequence[str]:
        return self.exact_search_fields or super().get_search_fields(request)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Return the rows with exactly this value in one of `exact_search_fields`, if there are any."""
        term = search_term.strip()
        if not self.exact_search_fields or not term:
            return super().get_search_results(request, queryset, search_term)  # type: ignore[no-any-return]
        matches = Q()
        for name in self.get_search_fields(request):
            if can_hold(self.model._meta.get_field(name), term):
                matches |= Q(**{name: term})
        return queryset.filter(matches) if matches else queryset.none(), False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Switch off Django's delete. Planned runs delete rows, accounts are deactivated, and tokens are revoked."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response: Any = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None)
        if context is not None and "cl" in context:
            chips = filter_chips.chips(context["cl"], request)
            cleared = filter_chips.cleared(request.GET)
            context["title"] = capfirst(self.opts.verbose_name_plural)  # Django's: "Select run to view"
            context["chips"] = chips
            context["clear_all"] = cleared if cleared != filter_chips.without(request.GET) else ""
            context["saved"] = saved_views.menu(self.model, request)
            context["selection_note_all"] = _("All %(count)s selected") % {"count": context["cl"].result_count_text}
        return response  # type: ignore[no-any-return]


def can_hold(field: Any, text: str) -> bool:
    """Return whether a column can contain this text: an integer column contains digits only."""
    target = getattr(field, "target_field", field)
    return not isinstance(target, models.IntegerField) or bool(_NUMBER.fullmatch(text))  # AutoFields among them


class AuditedMixin:
    """An admin that records each addition and change in the audit log, with the names of the fields."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record("added", request, obj, message)
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record("changed", request, obj, message)
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def _record(self, verb: str, request: HttpRequest, obj: Any, message: Any) -> None:
        name = "account" if isinstance(obj, User) else obj._meta.model_name
        detail: dict[str, Any] = {name: str(obj), "message": message}
        record(None, f"{name}_{verb}", actor_of(request), **detail)


class ViewOnlyMixin:
    """An admin without adding and editing."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


# --- called by the theme, see UNFOLD in the settings ------------------------------------------------------------


def site_context(request: HttpRequest) -> dict[str, Any]:
    """Return what every page shows: the environment, the time zone, and the freeze of all runs."""
    freeze = Freeze.objects.order_by("pk").first() if request.user.is_authenticated else None
    band = {"code": settings.ENVIRONMENT, "name": environment_label(), "zone": zone_label()}
    return {"band": band, "freeze": freeze}


def title_prefix(request: HttpRequest) -> str:
    """Return a prefix of the titles of browser tabs, so that they tell production apart."""
    return "" if settings.ENVIRONMENT == "development" else f"[{environment_label()}]"


# --- accounts -----------------------------------------------------------------------------------------------

PERMISSION_VERBS = {
    "add": gettext_lazy("add"),
    "change": gettext_lazy("change"),
    "delete": gettext_lazy("delete"),
    "view": gettext_lazy("view"),
}
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(AuditedMixin, DjangoUserAdmin, ConsoleModelAdmin):  # type: ignore[misc, type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_filter = ("is_active", "is_staff", "is_superuser")
    filter_horizontal = ()
    # Groups grant permissions, see accounts.py.
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (gettext_lazy("Personal info"), {"fields": ("first_name", "last_name", "email")}),
        (gettext_lazy("Permissions"), {"fields": ("is_active", "is_staff", "is_superuser", "groups")}),
        (gettext_lazy("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")


@admin.register(Group)
class GroupAdmin(AuditedMixin, DjangoGroupAdmin, ConsoleModelAdmin):  # type: ignore[misc]
    filter_horizontal = ()

    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_manytomany(db_field, request, **kwargs)
        if field is not None and db_field.name == "permissions":
            field.label_from_instance = permission_label
        return field


def permission_label(permission: Permission) -> str:
    """Return the label of a permission in the reader's language. Django stores an English sentence."""
    verb, __, model = permission.codename.partition("_")
    is_usual = verb in PERMISSION_VERBS and model == permission.content_type.model
    return f"{permission.content_type} | {PERMISSION_VERBS[verb] if is_usual else _(permission.name)}"
