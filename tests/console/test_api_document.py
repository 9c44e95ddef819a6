"""The page that renders the OpenAPI document."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import reverse

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])
ROOT = Path(__file__).parents[2]


def test_the_page_loads_the_document_and_the_files_of_the_console(client: Client, bob: User, charlie: User) -> None:
    client.force_login(bob)
    answer = client.get(reverse("api-document"))
    page = answer.content.decode()
    assert f'href="{reverse("api-document")}"' in client.get("/admin/").content.decode()
    assert reverse("api:openapi") in page
    assert "swagger-ui-bundle." in page
    assert "//cdn" not in page
    assert "'unsafe-inline'" not in answer["Content-Security-Policy"].split("script-src")[1].split(";")[0]
    client.force_login(charlie)
    assert client.get(reverse("api-document")).status_code == 403
    assert reverse("api-document") not in client.get(reverse("sessions")).content.decode()


def test_the_files_come_from_the_package() -> None:
    assert Path(str(finders.find("ninja/swagger-ui.css"))).is_file()
    assert not finders.find("ninja/redoc.standalone.js")
    assert not finders.find("ninja/../ninja/swagger-ui.css")


def test_a_process_without_pages_does_not_import_the_package() -> None:
    code = "import os, sys, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'opsconsole.settings'; django.setup()"
    code += "; from django.contrib.staticfiles import finders; finders.find('x'); assert 'ninja' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
