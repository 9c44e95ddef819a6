"""The graph of the tasks within two dependencies of a task, as a drawing and as a table."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from opsconsole.console.store_admin import row_link, row_url, table
from opsconsole.formatting import truncate
from opsconsole.stores.store import Store
from tasks.agentos.cycles import cycles
from tasks.agentos.models import Task, TaskDependency

HOPS = 2
MAX_NODES = 50
MAX_EDGES = 400  # read in one step, even if every task depends on one

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 46, 64, 14, 10
TITLE_CELLS = 24  # columns of a monospaced text; a Chinese character takes two


class Edge(NamedTuple):
    task: str
    depends_on: str
    kind: str
    reason: str


@dataclass
class Graph:
    """The tasks around `root`. `names` contains title and status of each task that exists."""

    root: str
    nodes: list[str]
    edges: list[Edge]
    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    cut: bool = False

    def in_cycle(self) -> set[Edge]:
        """Return the edges that are part of a cycle."""
        groups = cycles((edge.task, edge.depends_on) for edge in self.edges)
        group_of = {node: number for number, group in enumerate(groups) for node in group}
        return {e for e in self.edges if e.task in group_of and group_of[e.task] == group_of.get(e.depends_on)}

    def layers(self) -> list[list[str]]:
        """Return the columns of the drawing: except in cycles, a task is to the right of its dependencies."""
        cyclic = self.in_cycle()
        before: dict[str, list[str]] = {node: [] for node in self.nodes}
        for edge in self.edges:
            if edge not in cyclic:
                before[edge.task].append(edge.depends_on)
        depth: dict[str, int] = {}

        def measure(node: str) -> int:
            if node not in depth:
                depth[node] = 1 + max(map(measure, before[node]), default=-1)
            return depth[node]

        columns: list[list[str]] = []
        for node in self.nodes:
            while len(columns) <= measure(node):
                columns.append([])
            columns[depth[node]].append(node)
        for left, right in pairwise(columns):  # close to their dependencies
            place = {node: number for number, node in enumerate(left)}
            right.sort(key=lambda node: _mean([place[one] for one in before[node] if one in place]))
        return columns


def _mean(numbers: list[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0


def neighbourhood(store: Store, root: str) -> Graph:
    """Read the graph around `root`: two queries for each step, one for the edges and one for the titles."""
    graph = Graph(root, [root], [])
    rows = TaskDependency.objects.using(store.alias)
    nodes: dict[str, None] = {root: None}
    # First along the dependencies, then against them.
    for here, there in (("task_id", "depends_on_task_id"), ("depends_on_task_id", "task_id")):
        frontier = [root]
        for _hop in range(HOPS):
            # Only columns of the unique key and no order: against the dependencies there is no documented index, and
            # scanning the key takes a quarter of the time of scanning the rows.
            found = rows.filter(**{f"{here}__in": frontier}).values_list(there, flat=True)[:MAX_EDGES]
            step = [node for node in dict.fromkeys(found) if node not in nodes]
            frontier = step[: MAX_NODES - len(nodes)]
            graph.cut = graph.cut or len(frontier) < len(step)
            nodes |= dict.fromkeys(frontier)
    graph.nodes = list(nodes)
    columns = [f for f in ("dependency_type", "reason") if f in store.tables[TaskDependency._meta.db_table]]
    edges = rows.filter(task_id__in=graph.nodes, depends_on_task_id__in=graph.nodes)
    for task, depends_on, *rest in edges.order_by("pk").values_list("task_id", "depends_on_task_id", *columns)[
        :MAX_EDGES
    ]:
        values = dict(zip(columns, rest, strict=True))
        graph.edges.append(Edge(task, depends_on, values.get("dependency_type") or "", values.get("reason") or ""))
    names = Task.objects.using(store.alias).filter(pk__in=graph.nodes).values_list("pk", "title", "status")
    graph.names = {key: (truncate(title, 200), truncate(status, 40)) for key, title, status in names}
    return graph


def drawing(graph: Graph) -> SafeString | str:
    """Return the graph as SVG, with a table that can be opened below it."""
    if not graph.edges:
        return _("none")
    cyclic = graph.in_cycle()
    at: dict[str, tuple[int, int]] = {}
    columns = graph.layers()
    tallest = max(map(len, columns))
    for x, column in enumerate(columns):
        top = MARGIN + (tallest - len(column)) * (HEIGHT + GAP_Y) // 2
        for y, node in enumerate(column):
            at[node] = (MARGIN + x * (WIDTH + GAP_X), top + y * (HEIGHT + GAP_Y))
    lines = format_html_join(
        "",
        '<path class="graph-edge{}" d="{}" marker-end="url(#graph-arrow{})"><title>{}</title></path>',
        (
            (
                f" graph-{edge.kind}" * (edge.kind in {"requires", "suggests"}) + " graph-cycle" * (edge in cyclic),
                _curve(at[edge.depends_on], at[edge.task]),
                "-cycle" * (edge in cyclic),
                _("%(task)s depends on %(other)s") % {"task": edge.task, "other": edge.depends_on},
            )
            for edge in graph.edges
        ),
    )
    boxes = format_html_join("", "{}", ((_box(graph, node, *at[node]),) for node in graph.nodes))
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + tallest * (HEIGHT + GAP_Y) - GAP_Y
    return format_html(
        '<figure class="graph"><figcaption>{}</figcaption>'
        '<div class="scroll-x" tabindex="0" role="group" aria-label="{}">'
        '<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}"><defs>{}{}</defs>{}{}</svg></div>'
        "<details><summary>{}</summary>{}</details></figure>",
        _caption(graph, bool(cyclic)),
        _("Dependencies"),
        _arrow(""),
        _arrow("-cycle"),
        lines,
        boxes,
        _("As a table"),
        _as_table(graph, cyclic),
        w=width,
        h=height,
    )


def _caption(graph: Graph, cyclic: bool) -> str:
    parts = [_("An arrow leads from a task to the tasks that depend on it.")]
    if cyclic:
        parts.append(_("Red arrows form a cycle. None of its tasks can start."))
    if graph.cut:
        parts.append(_("The graph shows only the nearest %(count)s tasks.") % {"count": len(graph.nodes)})
    return " ".join(parts)


def _arrow(suffix: str) -> SafeString:
    return format_html(
        '<marker id="graph-arrow{0}" class="graph-head{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker>',
        suffix,
    )


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return a path from the right side of a box to the left side of another, or in a bow to its right side."""
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT // 2, end[0], end[1] + HEIGHT // 2
    bend = GAP_X // 2
    if x2 > x1:
        return f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    x2 += WIDTH
    bow = x1 + bend + abs(y2 - y1) // 8
    return f"M{x1} {y1 + 8} C{bow} {y1 + 8} {bow} {y2 - 8} {x2} {y2 - 8}"


def _box(graph: Graph, node: str, x: int, y: int) -> SafeString:
    title, status = graph.names.get(node, ("", ""))
    kind = " graph-root" if node == graph.root else "" if node in graph.names else " graph-gone"
    status = status if node in graph.names else _("missing")
    box = format_html(
        '<g class="graph-node{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>'
        '<text x="{}" y="{}">{}</text><text class="graph-status" x="{}" y="{}">{}</text></g>',
        kind,
        f"{title} ({node})" if title else node,
        x,
        y,
        WIDTH,
        HEIGHT,
        x + 10,
        y + 19,
        _fitted(title or node),
        x + 10,
        y + 36,
        _fitted(status),
    )
    return (
        format_html('<a href="{}">{}</a>', row_url("agentos.task", node), box) if node and node in graph.names else box
    )


def _fitted(text: str) -> str:
    """Cut a text to the width of a box."""
    room = TITLE_CELLS
    for number, character in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return f"{text[: max(number - 1, 1)]}…"
    return text


def _as_table(graph: Graph, cyclic: set[Edge]) -> SafeString:
    kinds = dict(TaskDependency.Type.choices)

    def link(node: str) -> SafeString | str:
        return row_link("agentos.task", node, graph.names.get(node, ("",))[0])

    return table(
        [_("Task"), _("Depends on"), _("Type"), _("Reason"), _("In a cycle")],
        [
            [
                link(edge.task),
                link(edge.depends_on),
                kinds.get(edge.kind, edge.kind) or "–",
                edge.reason or "–",
                _("yes") if edge in cyclic else _("no"),
            ]
            for edge in graph.edges
        ],
    )
