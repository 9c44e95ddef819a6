"""The WSGI application. Only web processes pool PostgreSQL connections: a pool does not survive a fork."""

from __future__ import annotations

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "opsconsole.settings")
os.environ["OPSCONSOLE_POOL"] = "true"

try:
    application = get_wsgi_application()

    from opsconsole.engine import environments  # its models need the settings

    if sentence := environments.refusal():
        raise ImproperlyConfigured(sentence)

    get_resolver().url_patterns  # noqa: B018  # load the pages now, not in the first request
except ImproperlyConfigured as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(3)  # gunicorn stops with this code only, and restarts the worker with any other
