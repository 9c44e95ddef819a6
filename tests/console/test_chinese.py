"""Every page is Chinese for a Chinese reader, with the messages of the libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils.translation import trans_real

from tests.support.every_page import fill, pages

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
CHINESE = "zh-hans"


def own_sources() -> str:
    """Return the project's own sources. Another test checks that their messages are translated."""
    folders = ("opsconsole", "audits", "tasks", "roadmaps", "templates")
    paths = (path for folder in folders for path in Path(settings.BASE_DIR, folder).rglob("*"))
    return "\n".join(path.read_text() for path in paths if path.suffix in {".py", ".html"})


def test_no_message_of_a_library_is_english(client: Client, alice: User, monkeypatch: Any) -> None:
    missing: dict[str, str] = {}
    address = ""
    real = trans_real.DjangoTranslation.gettext

    def gettext(self: Any, message: str) -> str:
        if self.language() == CHINESE and re.search("[A-Za-z]", message) and self._catalog.get(message) is None:
            missing.setdefault(message, address)
        return str(real(self, message))

    arguments = fill(monkeypatch, alice)
    monkeypatch.setattr(trans_real.DjangoTranslation, "gettext", gettext)
    client.force_login(alice)
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = CHINESE
    for page in pages(arguments):
        address = page.address
        if page.form is None:
            client.get(address)
        else:
            client.post(address, page.form, follow=True)
    own = own_sources()
    texts = {message.rpartition("\x04")[2]: where for message, where in missing.items()}  # without its context
    assert {message: where for message, where in texts.items() if message not in own} == {}
