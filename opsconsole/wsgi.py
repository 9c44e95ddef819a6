"""The web process. Only it pools PostgreSQL connections: a pool does not survive qcluster's fork."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "opsconsole.settings")
os.environ["OPSCONSOLE_POOL"] = "true"

application = get_wsgi_application()
