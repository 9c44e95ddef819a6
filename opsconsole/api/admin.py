"""Tokens: made for an account, shown once, revoked by deleting them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.admin import ConsoleModelAdmin
from opsconsole.api.models import Token
from opsconsole.display import moment


@admin.register(Token)
class TokenAdmin(ConsoleModelAdmin):
    list_display = ("name", "user", "scope", "begins", "made", "used", "expires")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
    search_help_text = gettext_lazy("Searches names of tokens and accounts.")
    fields = ("user", "name", "scope", "expires_at")
    autocomplete_fields = ("user",)

    @admin.display(description=gettext_lazy("begins with"))
    def begins(self, token: Token) -> str:
        return f"{token.begins_with}…"

    @admin.display(description=gettext_lazy("made at"), ordering="made_at")
    def made(self, token: Token) -> str:
        return moment(token.made_at)

    @admin.display(description=gettext_lazy("last used at"), ordering="last_used_at")
    def used(self, token: Token) -> str:
        return moment(token.last_used_at) if token.last_used_at else _("never")

    @admin.display(description=gettext_lazy("expires at"), ordering="expires_at")
    def expires(self, token: Token) -> str:
        return moment(token.expires_at) if token.expires_at else _("never")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # another account or another end is another token

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        if "scope" in form.base_fields:
            form.base_fields["scope"].required = False  # what is not sent has the model's default
        return form

    def save_model(self, request: HttpRequest, obj: Token, form: Any, change: bool) -> None:
        request.secret = obj.draw()  # type: ignore[attr-defined]  # for the one page that shows it
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Token, post_url_continue: str | None = None) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": _("Token %(name)s") % {"name": obj.name},
            "token": obj,
            "secret": request.secret,  # type: ignore[attr-defined]
            "list_url": reverse("admin:api_token_changelist"),
        }
        return TemplateResponse(request, "api/token.html", context)  # like every admin page, in no cache
