"""The command `search`: full-text search of memory and knowledge."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from rich.table import Table
from rich.text import Text

from opsconsole.cli.command import ConsoleCommand, Refused
from opsconsole.cli.flags import add_json_flag, add_store_flags, store_to_read
from opsconsole.cli.output import Output
from tasks.agentos.search import LIMIT, MAX_LIMIT, SOURCES, Hit, SearchResult, search

PIPE_WIDTH = 120


class Command(ConsoleCommand):
    help = gettext_noop(
        'Search memory and knowledge for texts with all words. Also: "phrases", prefixes* and -excluded words.'
    )
    examples = ("search 'redis timeout'", "search '\"数据 库\" -draft' --in knowledge --json")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("text", nargs="+", metavar="TEXT", help=_("The query, in quotes."))
        parser.add_argument("--in", dest="source", choices=list(SOURCES), help=_("Search only this source."))
        parser.add_argument("--limit", type=_limit, default=LIMIT, metavar="N", help=_("Number of results, 1 to 500."))
        add_store_flags(parser)
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        store = store_to_read("agentos", options)
        sources = (options["source"],) if options["source"] else tuple(SOURCES)
        found = search(store, " ".join(options["text"]), sources=sources, limit=options["limit"])
        if not found.query:
            raise Refused(_("The text contains no word to search for. Enter at least one word."))
        output = Output.of(options)
        if options["json"]:
            output.json(result_of(found))
        else:
            show(found, output)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_LIMIT):
        raise argparse.ArgumentTypeError(_("must be a whole number from 1 to 500, not %s") % repr(text))
    return int(text)


def result_of(found: SearchResult) -> dict[str, Any]:
    """Return the result as JSON. The best match has `rank` 1."""
    return {
        "query": found.query.text,
        "method": found.method,
        "methods": {name: str(method) for name, method in found.methods.items()},
        "more": found.more,
        "results": [
            {
                "in": hit.source.name,
                "id": hit.key,
                "rank": place,
                "score": round(hit.score, 4),
                "snippet": str(hit.snippet),
                **hit.values,
            }
            for place, hit in enumerate(found.hits, 1)
        ],
    }


def show(found: SearchResult, output: Output) -> None:
    if not output.console.is_terminal:
        output.console.width = PIPE_WIDTH
    for title, method in found.method_labels:
        output.line(f"{title}: {method}")
    if not found.hits:
        output.line(_("Nothing found."))
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("", justify="right")
        table.add_column(_("In"))
        table.add_column(_("Key"), overflow="fold")
        table.add_column(_("Text"), overflow="fold", ratio=1)
        for place, hit in enumerate(found.hits, 1):
            table.add_row(str(place), str(hit.source.title), Text(hit.key), _marked(hit))
        output.console.print(table)
        if found.more:
            output.line(_("There are more matches. Use --limit to show up to 500."))


def _marked(hit: Hit) -> Text:
    return Text.assemble(*((part, "bold reverse" if marked else "") for part, marked in hit.snippet.parts))
