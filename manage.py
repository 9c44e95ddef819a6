#!/usr/bin/env python
"""The console's command line."""

from __future__ import annotations

import gc
import os
import sys

# Commands of Django that write to no database of the console. Our commands check the environment themselves.
READING = {
    *("check", "collectstatic", "compilemessages", "diffsettings", "dumpdata", "findstatic", "help", "inspectdb"),
    *("makemessages", "makemigrations", "qinfo", "show_urls", "showmigrations", "sqlmigrate", "test", "version"),
    *("-h", "--help", "--version"),
}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "opsconsole.settings")
    gc.disable()  # imports leave no garbage, and looking for it takes a sixth of the start-up time
    import django
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line, get_commands

    try:
        settings.INSTALLED_APPS  # noqa: B018  # an error in the settings is reported here, Django would print its help
        if sys.argv[1:] and sys.argv[1] not in READING:
            django.setup()
            from opsconsole.cli.command import refusal_of_process

            if sentence := refusal_of_process(sys.argv[1]):
                raise ImproperlyConfigured(sentence)
        gc.freeze()
        gc.enable()
        try:
            execute_from_command_line(sys.argv)
        except SystemExit as exit:
            if exit.code == 1 and sys.argv[1] not in get_commands():  # Django has reported the unknown command
                sys.exit(2)
            raise
    except ImproperlyConfigured as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
