"""`opsconsole.display` for templates."""

from __future__ import annotations

from django import template

from opsconsole import display

register = template.Library()
for show in (
    display.figure,
    display.moment,
    display.duration,
    display.copyable,
    display.pretty_json,
):
    register.filter(show.__name__, show)
