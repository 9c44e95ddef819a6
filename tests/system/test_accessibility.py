"""Every page: axe-core finds nothing in light and dark, nothing scrolls sideways, and keys reach every control.

The browser opens each page with a kind of element that no earlier page has.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.template.loader import render_to_string
from django.test import Client

from tests.support.every_page import Page, fill, pages
from tests.system.test_browser import browser

__all__ = ["browser"]
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
# The menu is the same on every page, so one page tests it.
CONTENT = "{exclude: [['#nav-sidebar'], ['.page-header']]}"
FIND = (
    "axe.run(%s, %s).then((result) => result.violations.flatMap((one) => one.nodes.map((node) => [one.id, node.html])))"
)
COLOURS = "{runOnly: ['color-contrast', 'link-in-text-block']}"  # the slowest rules: only for looks not yet seen
NEW_PARTS = "{include: [['[data-new-look]']], exclude: [['#nav-sidebar'], ['.page-header']]}"
OTHERS = "{resultTypes: ['violations'], rules: {'color-contrast': {enabled: false}}}"
# The theme reads the preferred scheme once, when it starts.
DARK = "document.documentElement.classList.add('dark')"
# Marks the elements whose look no earlier page has, and returns these looks.
LOOKS = """
(seen) => {
  const known = new Set(seen), found = new Set();
  const parts = Array.from(document.querySelectorAll("body *"));
  for (const part of parts.filter((part) => !seen.length || !part.closest("#nav-sidebar, .page-header"))) {
    const look = `${part.parentElement.className} > ${part.tagName} ${part.className}`;
    if (!known.has(look)) {
      found.add(look);
      part.setAttribute("data-new-look", "");
    }
  }
  return [...found];
}
"""
# The live parts of a page would change during its test.
KEEP_PAGE = "document.addEventListener('htmx:beforeRequest', (event) => event.preventDefault(), true)"
CLASS = re.compile(r"\.((?:[\w-]|\\.)+)")  # in a style sheet
UNREACHABLE = """
() => {
  const control = "a[href], button, input, label, select, option, textarea, summary, [tabindex='0']";
  const isUnreachable = (part) => {
    if (part.tabIndex > 0) return true;
    if (part.closest(".opblock-tag")) return false;  // of Swagger UI: its button does the same
    if (part.closest(control) || !part.checkVisibility() || !part.textContent.trim()) return false;
    if (part.hasAttribute("onclick") || part.hasAttribute("x-on:click")) return true;
    return getComputedStyle(part).cursor === "pointer" && !part.querySelector(control);
  };
  const found = Array.from(document.querySelectorAll("body *")).filter(isUnreachable);
  return found.map((part) => part.outerHTML.slice(0, 200));
}
"""
SUBMIT = """
([address, values]) => {
  const form = document.createElement("form");
  Object.assign(form, {method: "post", action: address});
  for (const [name, value] of Object.entries(values)) {
    form.append(Object.assign(document.createElement("input"), {type: "hidden", name, value}));
  }
  document.body.append(form);
  form.submit();
}
"""


class Kinds(HTMLParser):
    """The kinds of elements of a page: tag, names of the attributes, and those classes that a style sheet names."""

    def __init__(self, text: str, styled: set[str]) -> None:
        super().__init__()
        self.found = set[tuple[str, frozenset[str], frozenset[str]]]()
        self._styled = styled
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        classes = self._styled.intersection((values.get("class") or "").split())
        self.found.add((tag, frozenset(values), frozenset(classes)))


class Visitor:
    """A browser in which Alice is signed in. It opens pages, also those that answer a form."""

    def __init__(self, browser: Any, url: str, account: User) -> None:
        client = self.client = Client(raise_request_exception=False)
        client.force_login(account)
        self.url, self._kinds = url, set[Any]()
        sheets = Path(settings.STATIC_ROOT).rglob("*.css")
        self._styled = {name.replace("\\", "") for sheet in sheets for name in CLASS.findall(sheet.read_text())}
        context = browser.new_context(viewport=WIDE)
        session = settings.SESSION_COOKIE_NAME
        context.add_cookies([{"name": session, "value": client.cookies[session].value, "url": url}])
        self.page = context.new_page()
        self.page.add_init_script(KEEP_PAGE)
        self.page.goto(f"{url}/admin/")
        self.token = {one["name"]: one["value"] for one in context.cookies()}[settings.CSRF_COOKIE_NAME]

    def is_new(self, one: Page) -> bool:
        """Return whether a page has a kind of element that no earlier page has. It is rendered without the browser."""
        if one.address.startswith("/errors/"):
            return True
        if one.form is None:
            answer = self.client.get(one.address)
        else:
            answer = self.client.post(one.address, one.form, follow=True)
        found = set() if answer.streaming else Kinds(answer.content.decode(), self._styled).found
        new = found - self._kinds
        self._kinds |= new
        return bool(new) or answer.status_code >= 500

    def opens(self, one: Page) -> bool:
        """Open a page. Return whether there is one: it may need a permission that nobody has, or another method."""
        if one.address.startswith("/errors/"):
            text = render_to_string(f"{one.address.rpartition('/')[2]}.html")
            self.page.route("**/errors/*", lambda route: route.fulfill(body=text, content_type="text/html"))
            response = self.page.goto(self.url + one.address)
            self.page.unroute("**/errors/*")  # a route keeps the browser from caching files
        elif one.form is None:
            response = self.page.goto(self.url + one.address)
        else:
            with self.page.expect_navigation() as navigation:
                self.page.evaluate(SUBMIT, [one.address, {**one.form, "csrfmiddlewaretoken": self.token}])
            response = navigation.value
        assert response.status < 500, one
        is_document = response.headers.get("content-type", "").startswith("text/html")
        return is_document and response.status not in {403, 404, 405} and bool(self.page.title())

    def wide(self, size: Any) -> list[tuple[str, int]]:
        """Return a problem if the page scrolls sideways in a window of this size."""
        self.page.set_viewport_size(size)
        width = self.page.evaluate("document.documentElement.scrollWidth")
        return [("wide", width)] if width > size["width"] else []

    def wide_in_chinese(self) -> list[tuple[str, int]]:
        self._read("zh-hans")
        self.page.reload()
        found = self.wide(NARROW)
        self._read("en")
        return found

    def _read(self, language: str) -> None:
        name = settings.LANGUAGE_COOKIE_NAME
        self.page.context.add_cookies([{"name": name, "value": language, "url": self.url}])


def test_every_page(browser: Any, live_server: Any, alice: User, monkeypatch: Any) -> None:
    visitor = Visitor(browser, live_server.url, alice)
    page, seen, looks = visitor.page, set[str](), set[str]()
    problems: dict[tuple[Any, ...], Page] = {}  # with the first page that has it
    for one in pages(fill(monkeypatch, alice)):
        page.set_viewport_size(WIDE)
        if not visitor.is_new(one) or not visitor.opens(one) or (one.form is None and page.url in seen):
            continue
        where = "document" if not seen else CONTENT
        seen.add(page.url)
        found = page.evaluate(f"{AXE}; {FIND % (where, OTHERS)}")
        found += [("clicks without keys", part) for part in page.evaluate(UNREACHABLE)]
        found += visitor.wide(WIDE)
        new_looks = page.evaluate(LOOKS, list(looks))
        if new_looks:
            where = NEW_PARTS if looks else "document"
            found += page.evaluate(FIND % (where, COLOURS))
            page.evaluate(DARK)
            found += [("dark", *entry) for entry in page.evaluate(FIND % (where, COLOURS))]
        looks.update(new_looks)
        found += visitor.wide(NARROW)
        if new_looks and one.form is None:
            found += visitor.wide_in_chinese()
        for entry in found:
            problems.setdefault(tuple(entry), one)
    assert problems == {}
    assert len(seen) > 50
