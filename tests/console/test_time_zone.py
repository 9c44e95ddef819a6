"""Every page has one time zone, which its band names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from opsconsole.engine.models import Freeze
from opsconsole.formatting import zone_label

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


@pytest.mark.parametrize(
    ("zone", "band", "shown"),
    [("UTC", "UTC", "2026-05-01 20:30:00"), ("Asia/Shanghai", "Asia/Shanghai, UTC+08:00", "2026-05-02 04:30:00")],
)
def test_the_band_names_the_zone_of_the_times(
    client: Client, alice: User, settings: Any, zone: str, band: str, shown: str
) -> None:
    settings.TIME_ZONE = zone
    Freeze.objects.create(who="bob", note="a fire", at=datetime(2026, 5, 1, 20, 30, tzinfo=UTC))
    client.force_login(alice)
    page = client.get("/admin/operations/freeze/").content.decode()
    assert f'<span class="band-zone">{band}</span>' in page
    assert shown in page
    sessions = client.get("/admin/sessions/").content.decode()
    assert f"{timezone.localtime():%Y-%m-%d %H:}" in sessions
    days = client.get("/admin/audits/taskaudit/").content.decode()
    assert ("day in UTC" in days) is (zone != "UTC")


def test_the_offset_is_the_present_one(settings: Any) -> None:
    with timezone.override("Asia/Kolkata"):
        assert zone_label() == "Asia/Kolkata, UTC+05:30"
