"""The `accounts` command: links between users of the operating system and console accounts."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.accounts import NotAuthenticated, authenticated, system_user_at_host
from opsconsole.cli.command import ConsoleCommand, Refused, add_verb, require_environment, require_setup
from opsconsole.cli.flags import add_json_flag, add_user_flag
from opsconsole.cli.output import Output
from opsconsole.console.accounts import link, unlink
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import SystemUser, Trigger


class Command(ConsoleCommand):
    help = gettext_noop("List, link and unlink the console accounts of system users.")
    examples = ("accounts list", "accounts link mira mira.k --user admin")

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = add_verb(
            verbs,
            "list",
            help=_("List system users and their accounts."),
            examples=("accounts list", "accounts list --json"),
        )
        add_json_flag(listing)
        linking = add_verb(
            verbs,
            "link",
            help=_("Link a system user to an account."),
            examples=("accounts link mira mira.k", "accounts link mira mira.k --user admin"),
        )
        linking.add_argument("account", metavar="ACCOUNT", help=_("A console account."))
        unlinking = add_verb(
            verbs,
            "unlink",
            help=_("Remove a link."),
            examples=("accounts unlink mira.k", "accounts unlink mira.k --user admin"),
        )
        for verb in (linking, unlinking):
            verb.add_argument(
                "system_user", metavar="SYSTEM_USER", help=_("The name of a user of the operating system.")
            )
            add_user_flag(verb)

    def handle(self, *args: Any, **options: Any) -> None:
        require_setup()
        output = Output.of(options)
        values = {"account": options.get("account"), "system_user": options.get("system_user")}
        if options["verb"] == "list":
            self._list(output)
        elif options["verb"] == "link":
            users: Any = get_user_model()
            account = users.objects.filter(**{users.USERNAME_FIELD: options["account"]}, is_active=True).first()
            actor = _superuser(options["user"])
            if account is None:
                raise Refused(_("No active account is called %(name)s.") % {"name": options["account"]})
            link(account, options["system_user"], actor)
            output.line(_("The system user %(system_user)s is linked to the account %(account)s.") % values)
        else:
            unlink(options["system_user"], _superuser(options["user"]))
            output.line(_("The system user %(system_user)s is not linked to an account any more.") % values)

    def _list(self, output: Output) -> None:
        links = [(one.name, one.account.get_username()) for one in SystemUser.objects.select_related("account")]
        if output.as_json:
            output.json({"links": [{"system_user": name, "account": account} for name, account in sorted(links)]})
            return
        output.table([(_("system user"), _("account")), *sorted(links)], heading=True)


def _superuser(name: str | None) -> Actor:
    """Return the authenticated superuser as an actor. Raise Refused for any other account."""
    require_environment()
    try:
        user = authenticated(name)
    except NotAuthenticated as error:
        raise Refused(error) from None
    if user is None or not user.is_superuser:
        raise Refused(
            _("Only an authenticated superuser may link accounts. Set OPSCONSOLE_TOKEN, or pass --user on a terminal.")
        )
    return Actor(user.get_username(), system_user_at_host(), Trigger.SHELL, user)
