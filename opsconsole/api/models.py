"""Tokens: how a program says who it is."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

PREFIX = "ops_"  # so that a token in the wrong place is recognised
SHOWN_CHARACTERS = 10


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
        _("expires at"), null=True, blank=True, help_text=_("left empty, it is good until it is revoked")
    )

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

    @classmethod
    def make(cls, user: Any, name: str, **fields: Any) -> str:
        """A token for `user`, saved; returns its secret."""
        token = cls(user=user, name=name, **fields)
        secret = token.draw()
        token.save()
        return secret


def digest(secret: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
