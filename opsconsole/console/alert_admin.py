"""The list of alerts with their deliveries, and the test message."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST
from unfold.contrib.filters.admin import RadioFilter

from opsconsole.console.operation_views import needs
from opsconsole.console.run_admin import ConsoleResource, ExportAdmin
from opsconsole.engine.messages import KINDS, Message, language_of_messages, send
from opsconsole.engine.models import Alert, Channel, Delivery
from opsconsole.engine.notifications import channels
from opsconsole.formatting import format_time, labelled

TEST_INTERVAL = timedelta(minutes=1)


class DeliveryFilter(RadioFilter):
    title = _("delivery")
    parameter_name = "delivery"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("waiting", _("not delivered yet")), ("given_up", _("given up"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        open_ = Delivery.objects.filter(delivered_at=None, next_try_at__isnull=self.value() == "given_up")
        return queryset.filter(pk__in=open_.values("alert"))


class AlertResource(ConsoleResource):
    class Meta:
        model = Alert
        fields = ("id", "key", "subject", "text", "at")
        export_order = fields


@admin.register(Alert)
class AlertAdmin(ExportAdmin):
    """The list of alerts and their delivery."""

    resource_classes = (AlertResource,)
    list_display = ("told", "subject", "by_mail", "by_webhook", "by_chat")
    list_filter = (DeliveryFilter,)
    search_fields = ("=key",)
    search_help_text = _("Searches the exact key of an alert.")
    ordering = ("-id",)
    list_before_template = "console/alerts_before.html"
    fields = ("told", "key", "subject", "text", "by_mail", "by_webhook", "by_chat")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        alerts: QuerySet[Alert] = super().get_queryset(request)
        return alerts.prefetch_related("deliveries")

    @admin.display(description=_("at"), ordering="id")
    def told(self, alert: Alert) -> str:
        return format_time(alert.at)

    @admin.display(description=_("by mail"))
    def by_mail(self, alert: Alert) -> str:
        return _delivery_words(alert, Channel.MAIL)

    @admin.display(description=_("by webhook"))
    def by_webhook(self, alert: Alert) -> str:
        return _delivery_words(alert, Channel.WEBHOOK)

    @admin.display(description=_("by chat"))
    def by_chat(self, alert: Alert) -> str:
        names = [one.target for one in alert.deliveries.all() if one.channel == Channel.CHAT]
        parts = ((labelled(name, _delivery_words(alert, Channel.CHAT, name)),) for name in names)
        return format_html_join("", "<div>{}</div>", parts) or str(_("not configured"))


def _delivery_words(alert: Alert, channel: Channel, target: str = "") -> str:
    """Return the state of an alert's delivery through one channel."""
    found = next((one for one in alert.deliveries.all() if (one.channel, one.target) == (channel, target)), None)
    if found is None:
        return str(_("not configured"))
    if found.delivered_at:
        return format_html("{} {}", _("delivered"), format_time(found.delivered_at))
    if not found.attempts:
        return str(_("queued"))
    state = format_html("{} {}", _("next try"), format_time(found.next_try_at)) if found.next_try_at else _("given up")
    return format_html(
        '{}<small class="why">{}</small>',
        format_html(
            "{} · {}", ngettext("%(count)d try", "%(count)d tries", found.attempts) % {"count": found.attempts}, state
        ),
        found.last_error,
    )


@require_POST
@needs("change_schedulesetting")
def send_test(request: HttpRequest) -> HttpResponse:
    """Queue a test message for every configured channel, at most one per minute."""
    now = timezone.now()
    if not channels():
        text = gettext("No channel is configured. Set ALERT_EMAILS, ALERT_CHANNELS or ALERT_WEBHOOK_URL.")
        messages.warning(request, text)
    elif Alert.objects.filter(key__startswith="test/", at__gt=now - TEST_INTERVAL).exists():
        text = gettext("A test message was sent less than a minute ago. Check its deliveries first.")
        messages.warning(request, text)
    else:
        with language_of_messages():
            text = gettext("%(account)s sent this message to test the channels.")
        facts = [text % {"account": request.user.get_username()}]
        page = reverse("admin:operations_alert_changelist")
        send(Message(KINDS["test"], now.isoformat(), {}, page, since=now, facts=facts))
        messages.success(request, gettext("The test message is queued. Reload this page to see its deliveries."))
    return redirect("admin:operations_alert_changelist")
