"""Formatting of values for pages: numbers, times, identifiers, JSON and differences."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from opsconsole.timestamps import parse_timestamp

PRETTY_CHARACTERS = 20_000
ENVIRONMENTS = {
    "development": gettext_lazy("Development"),
    "staging": gettext_lazy("Staging"),
    "production": gettext_lazy("Production"),
}


def environment_label() -> str:
    """Return the label of the environment."""
    return str(ENVIRONMENTS[settings.ENVIRONMENT])


def format_number(number: float | None, decimals: int | None = None) -> str:
    """Return a number with the separators of the language."""
    return "–" if number is None else str(number_format(number, decimals, force_grouping=True))


def format_number_or_text(value: Any) -> str:
    """Return a figure of a run, which is a number, a text, or a pair: the done part of a whole."""
    if isinstance(value, list | tuple):
        done, total = map(format_number, value)
        return _("%(done)s of %(total)s") % {"done": done, "total": total}
    return value if isinstance(value, str) else format_number(value)


def format_time(value: datetime | str | None, zone: tzinfo = UTC) -> SafeString | str:
    """Return a time as HTML, with the store's text as its title. Text that is not a time is returned unchanged.

    The time is in the zone of the console, which the band of each page names.
    """
    if value is None:
        return "–"
    at = value if isinstance(value, datetime) else parse_timestamp(str(value), zone)
    if at is None:
        return truncate(value, 80)
    try:
        local = timezone.localtime(at)
    except OverflowError:  # the first or last possible day in another zone
        return str(value)
    own = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}" if isinstance(value, datetime) else str(value)
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), own, f"{local:%Y-%m-%d %H:%M:%S}")


def zone_label() -> str:
    """Return the name of the console's time zone and its present offset, such as "Asia/Shanghai, UTC+08:00"."""
    offset = f"{timezone.localtime():%z}"
    name = timezone.get_current_timezone_name()
    return name if name == "UTC" else f"{name}, UTC{offset[:3]}:{offset[3:]}"


_LABELLED: Any = gettext_lazy("{label}: {value}")


def labelled(label: Any, value: Any) -> SafeString:
    """Return a label and its value, with the colon of the reader's language."""
    return format_html(_LABELLED, label=label, value=value)


def labelled_text(label: Any, value: Any) -> str:
    """Return the same as text, which a page escapes."""
    return str(_LABELLED).format(label=label, value=value)


def listed(values: Iterable[Any]) -> str:
    """Return values in one line, with the separator of the reader's language."""
    return _(", ").join(map(str, values))


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that suits it."""
    if seconds is None:
        return "–"
    if seconds < 0.1:
        return _("less than 0.1 s")
    if seconds < 10:
        return _("%(n)s s") % {"n": format_number(seconds, 1)}
    if seconds < 100:
        return _("%(n)s s") % {"n": format_number(round(seconds))}
    minutes = round(seconds / 60)
    if minutes < 100:
        return _("%(n)s min") % {"n": format_number(minutes)}
    hours = round(seconds / 3600)
    if hours < 72:
        return _("%(n)s h") % {"n": format_number(hours)}
    days = round(hours / 24)
    return ngettext("%(n)s day", "%(n)s days", days) % {"n": format_number(days)}


def duration_range(low: float, high: float) -> str:
    """Return the range from `low` to `high` seconds in words."""
    if high < 1:
        return _("less than a second")
    first, last = duration(low), duration(max(high, math.ceil(low)))
    return first if first == last else _("%(low)s to %(high)s") % {"low": first, "high": last}


def copy_button(text: Any) -> SafeString | str:
    """Return an identifier as a button that copies it."""
    if text in (None, ""):
        return "–"
    return format_html(
        '<button type="button" class="copyable" data-copy="{0}" title="{1}">{0}</button>', text, _("Copy")
    )


def pretty_json(text: str | None, keys: Iterable[str] = (), *, colours: bool = False) -> SafeString | str:
    """Return indented JSON as HTML with a summary of `keys` (default: the first three), or other text unchanged."""
    if text is None:
        return "–"
    if isinstance(text, CutText):
        return format_html("<code>{}</code>", truncate(text))
    try:
        document = json.loads(text)
        # An escaped lone surrogate is valid JSON, but cannot be encoded for a page.
        indented = json.dumps(document, indent=2, ensure_ascii=False).encode(errors="backslashreplace").decode()
    except (ValueError, RecursionError):
        return format_html('<code class="broken" title="{}">{}</code>', _("not JSON"), text[:PRETTY_CHARACTERS])
    if not isinstance(document, dict | list):
        return format_html("<code>{}</code>", text[:PRETTY_CHARACTERS])
    folded: Any = [_("list of %(n)s") % {"n": format_number(len(document))}]
    if isinstance(document, list) and document and not any(isinstance(part, dict | list) for part in document):
        folded = [*map(_short, document[:3]), *(["…"] if len(document) > 3 else [])]
    if isinstance(document, dict):
        wanted = [key for key in keys if key in document] or list(document)[:3]
        folded = [f"{key}: {_short(document[key])}" for key in wanted] or ["{}"]
    return format_html(
        '<details class="json"><summary>{}</summary><pre tabindex="0">{}</pre></details>',
        format_html_join(" · ", "<code>{}</code>", ((part,) for part in folded)),
        highlighted(indented[:PRETTY_CHARACTERS]) if colours else indented[:PRETTY_CHARACTERS],
    )


def highlighted(text: str) -> SafeString:
    """Return JSON as HTML with CSS classes for its kinds of values. console.css has the colours."""
    from pygments import highlight  # only pages need it
    from pygments.formatters import HtmlFormatter
    from pygments.lexers.data import JsonLexer

    lexer, formatter = JsonLexer(stripnl=False, ensurenl=False), HtmlFormatter(nowrap=True, classprefix="json-")
    return mark_safe(str(highlight(text, lexer, formatter)))  # noqa: S308  # the formatter escapes


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 40 else f"{text[:39]}…"


class CutText(str):
    """The beginning of a longer text, with an ellipsis at its end."""

    __slots__ = ()


def truncate(value: Any, characters: int = 160) -> str:
    """Return the beginning of a value on one line, bytes as hexadecimal digits."""
    if value is None:
        return "–"
    text = " ".join(value_text(value).split())
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


# --- vectors ------------------------------------------------------------------------------------------------

PLAUSIBLE = 1e6  # above any component of an embedding; bytes that are decoded at the wrong width exceed it


def vector(value: Any) -> list[float] | None:
    """Return the numbers of an embedding, None for other values.

    The value is little-endian float32 or float64, or a JSON list.
    """
    if isinstance(value, memoryview | bytearray):
        value = bytes(value)
    if isinstance(value, bytes):
        if not value.lstrip().startswith(b"["):
            return _floats(value)
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        return None
    try:
        numbers = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(numbers, list) or not numbers:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return None
    return numbers


def _floats(data: bytes) -> list[float] | None:
    for width, code in ((4, "f"), (8, "d")):
        if not data or len(data) % width:
            continue
        numbers = list(struct.unpack(f"<{len(data) // width}{code}", data))
        # The lower half of a round float64 is zero as a float32.
        halves = width == 4 and len(data) % 8 == 0 and any(numbers) and not any(numbers[::2])
        if not halves and all(map(_plausible, numbers)):
            return numbers
    return None


def _plausible(number: float) -> bool:
    """Return whether this may be a component. Text and halves of wider numbers are too large, too small or NaN."""
    return number == 0 or 1e-20 < abs(number) < PLAUSIBLE


def vector_words(value: Any) -> str:
    """Return dimension and norm of an embedding. Of bytes in an unknown format return their number."""
    numbers = vector(value)
    if numbers is None:
        if isinstance(value, str):
            return ngettext("%(n)s character, not a vector", "%(n)s characters, not a vector", len(value)) % {
                "n": format_number(len(value))
            }
        size = len(value) if isinstance(value, bytes | bytearray | memoryview) else 0
        return ngettext("%(n)s byte of an unknown form", "%(n)s bytes of an unknown form", size) % {
            "n": format_number(size)
        }
    try:
        norm = math.hypot(*numbers)
    except OverflowError:  # integers that exceed a float
        norm = math.inf
    return _("%(n)s dimensions, norm %(norm)s") % {"n": format_number(len(numbers)), "norm": f"{norm:.4g}"}


def difference(before: Any, after: Any) -> SafeString:
    """Return a changed value as HTML, with the differences in `del` and `ins`."""
    if before == after:
        return format_html("<span>{}</span>", value_text(after))
    if not (isinstance(before, str) and isinstance(after, str)):
        return format_html(
            '<del>{}</del> <span aria-hidden="true">→</span> <ins>{}</ins>', value_text(before), value_text(after)
        )
    head = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    rest = min(len(before), len(after)) - head
    tail = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    while head and _in_word(before[head - 1]):  # mark whole words
        head -= 1
    while tail and _in_word(before[-tail]):
        tail -= 1
    return format_html(
        '<span>{}<del>{}</del>{}</span> <span aria-hidden="true">→</span> <span>{}<ins>{}</ins>{}</span>',
        before[:head],
        before[head : len(before) - tail],
        before[len(before) - tail :],
        after[:head],
        after[head : len(after) - tail],
        after[len(after) - tail :],
    )


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def value_text(value: Any) -> SafeString | str:
    """Return a raw value as a page shows it."""
    if value is None:
        return format_html('<i class="null">{}</i>', "NULL")
    if isinstance(value, bytes):
        return f"0x{value[:64].hex()}"
    return str(value)
