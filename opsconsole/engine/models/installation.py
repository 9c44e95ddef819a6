"""The environment of this console, and the accounts of the system's users."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class SystemUser(models.Model):
    """The account of a user of the operating system."""

    name = models.CharField(_("system user"), max_length=150, primary_key=True)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="system_users", verbose_name=_("account")
    )
    at = models.DateTimeField(_("linked at"), default=timezone.now)

    class Meta:
        verbose_name = _("system user")
        verbose_name_plural = _("system users")

    def __str__(self) -> str:
        return self.name


class Installation(models.Model):
    """The environment of this console, in one row that `setup` writes."""

    environment = models.CharField(_("environment"), max_length=20)

    def __str__(self) -> str:
        return self.environment
