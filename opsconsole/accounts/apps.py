from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    name = "opsconsole.accounts"
    label = "accounts"
    verbose_name = _("Accounts")

    def ready(self) -> None:
        from django.contrib.auth.models import Group, User
        from django.contrib.auth.signals import user_logged_in

        from opsconsole.accounts.models import Token
        from opsconsole.accounts.sessions import begin
        from opsconsole.accounts.tokens import forget

        user_logged_in.connect(begin, dispatch_uid="opsconsole.accounts")
        for model in (Token, User):
            for saved in (post_save, post_delete):
                saved.connect(forget, sender=model, dispatch_uid="opsconsole.accounts")
        for rights in (User.groups, User.user_permissions, Group.permissions):
            m2m_changed.connect(forget, sender=rights.through, dispatch_uid="opsconsole.accounts")
