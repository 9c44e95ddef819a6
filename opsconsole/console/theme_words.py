"""The words of the theme and of the queue, which ship no Chinese: named here, so that the catalogue keeps them."""

# ruff: noqa: E501

from __future__ import annotations

from django.utils.translation import gettext_noop, ngettext

WORDS = (
    gettext_noop("Select record"),
    gettext_noop("Select action"),
    gettext_noop("Select action to run"),
    gettext_noop("Select value"),
    gettext_noop("Select format"),
    gettext_noop("Date"),
    gettext_noop("Value"),
    gettext_noop("To"),
    gettext_noop("Date from"),
    gettext_noop("Date to"),
    gettext_noop("This exporter will export the following fields"),
    gettext_noop("Type to search"),
    gettext_noop("Expand row"),
    gettext_noop("Welcome back to"),
    gettext_noop("Filters"),
    gettext_noop("Apply Filters"),
    gettext_noop("Reset filters"),
    gettext_noop("After you've created a user, you’ll be able to edit more user options."),
    gettext_noop("You have been successfully logged out from the administration"),
    gettext_noop("No results matching your query"),
    gettext_noop("Loading more results..."),
    gettext_noop("Previous"),
    gettext_noop("Next"),
    gettext_noop("Light"),
    gettext_noop("Dark"),
    gettext_noop("System"),
    gettext_noop("Return to site"),
    gettext_noop("True"),
    gettext_noop("False"),
    gettext_noop("No results found"),
    gettext_noop("This page yielded into no results. Create a new item or reset your filters."),
    gettext_noop("Search apps and models..."),
    gettext_noop("Select all rows"),
    gettext_noop("All applications"),
    gettext_noop("General"),
    gettext_noop("Cancel"),
    gettext_noop("More actions"),
    gettext_noop("Go back"),
    gettext_noop("Recent searches"),
    gettext_noop("No recent searches"),
    gettext_noop("This item will be deleted."),
    gettext_noop("Click to cancel"),
    gettext_noop("No data"),
    gettext_noop("Name"),
    gettext_noop("Function"),
    gettext_noop("Cron"),
    gettext_noop("Arguments"),
    gettext_noop("Keyword arguments"),
    gettext_noop("Result"),
    gettext_noop("Attempt count"),
    gettext_noop("Cluster key"),
    gettext_noop("Name of the target cluster"),
    gettext_noop("Optional label to identify this schedule in the admin."),
    gettext_noop("e.g. module.tasks.function"),
    gettext_noop("%(class_name)s %(instance)s"),
    gettext_noop("Image preview"),
    gettext_noop("Click to download"),
    gettext_noop("View traceback"),
    gettext_noop("Record picture"),
    gettext_noop("Toggle password visibility"),
    gettext_noop("Choose file to upload"),
    gettext_noop(
        'Raw passwords are not stored, so there is no way to see this user’s password, but you can change the password using <a href="{}" class="text-primary-600 dark:text-primary-500">this form</a>.'
    ),
)


def _counted() -> None:
    """Never called: read by xgettext alone."""
    ngettext(
        "\n                Found %(counter)s result in %(time)s seconds\n            ",
        "\n                Found %(counter)s results in %(time)s seconds\n            ",
        0,
    )
    ngettext(
        "\n                    Export %(len)s selected item.\n                ",
        "\n                    Export %(len)s selected items.\n                ",
        0,
    )
