"""Models of API tokens, sessions and saved views."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

PREFIX = "ops_"  # identifies a leaked token
SHOWN_CHARACTERS = 10
MAX_NAME, MAX_QUERY = 80, 4000  # characters of a saved view


def expiry() -> datetime:
    return timezone.now() + timedelta(days=settings.TOKEN_DAYS)


class Scope(models.TextChoices):
    """The permissions of its account that a token grants."""

    FULL = "full", _("all permissions of the account")
    READ = "read", _("read only")
    REPORT = "report", _("report status only")

    def allows(self, permission: str) -> bool:
        codename = permission.partition(".")[2]
        if self == Scope.READ:
            return not codename or codename.startswith("view_")
        return self == Scope.FULL or codename.startswith("report_")


class Token(models.Model):
    """A secret with which a program acts for an account. Only its hash is stored."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("account")
    )
    name = models.CharField(_("name"), max_length=100, help_text=_("The program that uses the token, and its purpose."))
    begins_with = models.CharField(_("begins with"), max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    made_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(
        _("expires at"),
        null=True,
        blank=True,
        default=expiry,
        help_text=_("Leave empty for a token without expiry."),
    )
    scope = models.CharField(
        _("scope"),
        max_length=10,
        choices=Scope,
        default=Scope.FULL,
        help_text=_("The permissions of the account that the token grants."),
    )
    last_used_at = models.DateTimeField(_("last used at"), null=True, editable=False)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")

    def __str__(self) -> str:
        return f"{self.name} ({self.begins_with}…)"

    def set_secret(self) -> str:
        """Set a new secret and return it. It cannot be read again."""
        secret = PREFIX + secrets.token_urlsafe(32)
        self.begins_with, self.digest = secret[:SHOWN_CHARACTERS], digest(secret)
        return secret

    def end(self) -> bool:
        """Expire the token now. Return whether it was valid before."""
        now = timezone.now()
        if self.expires_at is not None and self.expires_at <= now:
            return False
        self.expires_at = now
        self.save(update_fields=("expires_at",))
        return True

    @classmethod
    def issue(cls, user: Any, name: str, **fields: Any) -> str:
        """Create a token and return its secret."""
        token = cls(user=user, name=name, **fields)
        secret = token.set_secret()
        token.save()
        return secret


class Session(AbstractBaseSession):
    """Django's session with columns for the list of sessions, copied from its data."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="+")
    address = models.CharField(max_length=45, default="")
    browser = models.CharField(max_length=200, default="")
    started_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)

    @property
    def handle(self) -> str:
        """Return an identifier for pages, because the key itself grants access."""
        return digest(self.session_key)

    @classmethod
    def get_session_store_class(cls) -> Any:
        from opsconsole.accounts.sessions import SessionStore

        return SessionStore


class SavedView(models.Model):
    """The filters of a list under a name. Everybody who may see the list sees a shared view."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_views", verbose_name=_("owner")
    )
    table = models.CharField(_("list"), max_length=100)  # app.model
    name = models.CharField(_("name"), max_length=MAX_NAME)
    query = models.CharField(_("filters"), max_length=MAX_QUERY, blank=True)
    shared = models.BooleanField(_("shared"), default=False)

    class Meta:
        verbose_name = _("saved view")
        verbose_name_plural = _("saved views")
        constraints = (models.UniqueConstraint(fields=("owner", "table", "name"), name="view_name"),)
        indexes = (models.Index(fields=("table", "shared"), name="view_table"),)

    def __str__(self) -> str:
        return self.name


class SentForm(models.Model):
    """A form that a browser has sent, so that sending it again does nothing."""

    key = models.CharField(max_length=64, primary_key=True)
    location = models.TextField(default="")  # the redirect of its answer; empty until then
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = (models.Index(fields=("at",), name="sent_form_at"),)

    def __str__(self) -> str:
        return self.key


def digest(secret: str) -> str:
    """Return the hash of a secret. A fast hash is sufficient for 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()
