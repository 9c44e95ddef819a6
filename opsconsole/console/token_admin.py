"""The admin of API tokens, which are shown once and can be revoked."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_safe

from opsconsole.accounts.models import Token, digest
from opsconsole.console.actors import actor_of
from opsconsole.console.base_admin import AuditedMixin, ConsoleModelAdmin
from opsconsole.engine.audit_log import record
from opsconsole.formatting import format_number, format_time

COOKIE = "token_secret"
COOKIE_SECONDS = 60


@admin.register(Token)
class TokenAdmin(AuditedMixin, ConsoleModelAdmin):
    list_display = ("name", "user", "scope", "begins", "made", "used", "expires")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    search_help_text = gettext_lazy("Searches names of tokens and accounts.")
    fields = ("user", "name", "scope", "expires_at")
    autocomplete_fields = ("user",)
    actions = ("revoke",)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.delete_token")

    @admin.action(description=gettext_lazy("Revoke"), permissions=["revoke"])
    def revoke(self, request: HttpRequest, tokens: QuerySet[Token]) -> None:
        """Expire the selected tokens. `accounts.prune_logins` deletes them later."""
        count = 0
        with transaction.atomic():
            for token in tokens.select_related("user"):
                if token.end():
                    record(
                        None, "token_revoked", actor_of(request), token=str(token), account=token.user.get_username()
                    )
                    count += 1
        text = ngettext("Revoked %(count)s token.", "Revoked %(count)s tokens.", count)
        self.message_user(request, text % {"count": format_number(count)})

    @admin.display(description=gettext_lazy("begins with"))
    def begins(self, token: Token) -> str:
        return f"{token.begins_with}…"

    @admin.display(description=gettext_lazy("created at"), ordering="made_at")
    def made(self, token: Token) -> str:
        return format_time(token.made_at)

    @admin.display(description=gettext_lazy("last used at"), ordering="last_used_at")
    def used(self, token: Token) -> str:
        return format_time(token.last_used_at) if token.last_used_at else _("never")

    @admin.display(description=gettext_lazy("expires at"), ordering="expires_at")
    def expires(self, token: Token) -> str:
        if token.expires_at is None:
            return _("never")
        ended = token.expires_at <= timezone.now()
        return _("%(at)s, expired") % {"at": format_time(token.expires_at)} if ended else format_time(token.expires_at)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # create a new token to change the account or the expiry

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        if "scope" in form.base_fields:
            form.base_fields["scope"].required = False  # a missing value gets the default of the model
        return form

    def save_model(self, request: HttpRequest, obj: Token, form: Any, change: bool) -> None:
        request.secret = obj.set_secret()  # type: ignore[attr-defined]  # response_add shows it once
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Token, post_url_continue: str | None = None) -> HttpResponse:
        """Redirect to the page of the secret. Only the browser has the secret until then, in a cookie of that page."""
        page = reverse("admin:accounts_token_secret", args=[obj.pk])
        response = HttpResponseRedirect(page)
        response.set_signed_cookie(
            COOKIE,
            request.secret,  # type: ignore[attr-defined]
            salt=page,
            max_age=COOKIE_SECONDS,
            path=page,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Strict",
        )
        return response

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(require_safe(self.secret_page))
        return [path("<int:pk>/secret/", view, name="accounts_token_secret"), *super().get_urls()]

    def secret_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show the secret of a new token once."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        token = get_object_or_404(Token.objects.select_related("user"), pk=pk)
        secret = request.get_signed_cookie(COOKIE, default="", salt=request.path, max_age=COOKIE_SECONDS)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Token %(name)s") % {"name": token.name},
            "token": token,
            "secret": secret if secret and digest(secret) == token.digest else "",
            "list_url": reverse("admin:accounts_token_changelist"),
            "add_url": reverse("admin:accounts_token_add"),
        }
        response = TemplateResponse(request, "console/token.html", context)  # the admin marks it as not cacheable
        response.delete_cookie(COOKIE, path=request.path, samesite="Strict")
        return response
