"""Tokens: how a program says who it is."""

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

PREFIX = "ops_"  # so that a token in the wrong place is recognised
SHOWN_CHARACTERS = 10


def expiry() -> datetime:
    return timezone.now() + timedelta(days=settings.TOKEN_DAYS)


class Scope(models.TextChoices):
    """What of its account's rights a token has."""

    FULL = "full", _("all rights of the account")
    READ = "read", _("reading only")
    REPORT = "report", _("reporting status only")

    def allows(self, permission: str) -> bool:
        codename = permission.partition(".")[2]
        if self == Scope.READ:
            return not codename or codename.startswith("view_")
        return self == Scope.FULL or codename.startswith("report_")


class Token(models.Model):
    """Acts for an account, with the account's rights. Only its hash is kept: it is shown once, when made."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("account")
    )
    name = models.CharField(_("name"), max_length=100, help_text=_("who uses it, and what for"))
    begins_with = models.CharField(_("begins with"), max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    made_at = models.DateTimeField(_("made at"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(
        _("expires at"),
        null=True,
        blank=True,
        default=expiry,
        help_text=_("left empty, it is good until it is revoked"),
    )
    scope = models.CharField(
        _("scope"), max_length=10, choices=Scope, default=Scope.FULL, help_text=_("what of the account's rights it has")
    )
    last_used_at = models.DateTimeField(_("last used at"), null=True, editable=False)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")

    def __str__(self) -> str:
        return f"{self.name} ({self.begins_with}…)"

    def draw(self) -> str:
        """A new secret for this token: the only time that it is known."""
        secret = PREFIX + secrets.token_urlsafe(32)
        self.begins_with, self.digest = secret[:SHOWN_CHARACTERS], digest(secret)
        return secret

    def end(self) -> bool:
        """Expire now, for good; return whether it was good until now."""
        now = timezone.now()
        if self.expires_at is not None and self.expires_at <= now:
            return False
        self.expires_at = now
        self.save(update_fields=("expires_at",))
        return True

    @classmethod
    def make(cls, user: Any, name: str, **fields: Any) -> str:
        """A token for `user`, saved; returns its secret."""
        token = cls(user=user, name=name, **fields)
        secret = token.draw()
        token.save()
        return secret


class Session(AbstractBaseSession):
    """Django's session, with what its list shows. The columns are copies of what the session itself holds."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="+")
    address = models.CharField(max_length=45, default="")
    browser = models.CharField(max_length=200, default="")
    started_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)

    @property
    def handle(self) -> str:
        """What names the session on a page: its key would open it."""
        return digest(self.session_key)

    @classmethod
    def get_session_store_class(cls) -> Any:
        from opsconsole.accounts.sessions import SessionStore

        return SessionStore


def digest(secret: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
