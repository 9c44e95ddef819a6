"""Cycles in a graph of dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def cycles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other, sorted.

    These are Tarjan's strongly connected components, found without recursion, because a chain may be longer than
    Python's stack.
    """
    after: dict[str, list[str]] = {}
    loops = set()
    for start, end in edges:
        after.setdefault(start, []).append(end)
        if start == end:
            loops.add(start)
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for root in after:
        if root in order:
            continue
        path: list[tuple[str, Iterator[str]]] = [(root, iter(after[root]))]
        order[root] = lowest[root] = len(order)
        waiting.append(root)
        on_stack.add(root)
        while path:
            node, ahead = path[-1]
            following = next(ahead, None)
            if following is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    group = _group(waiting, on_stack, node)
                    if len(group) > 1 or node in loops:
                        found.append(sorted(group))
            elif following not in order:
                order[following] = lowest[following] = len(order)
                waiting.append(following)
                on_stack.add(following)
                path.append((following, iter(after.get(following, ()))))
            elif following in on_stack:
                lowest[node] = min(lowest[node], order[following])
    return sorted(found)


def _group(waiting: list[str], on_stack: set[str], last: str) -> list[str]:
    group: list[str] = []
    while not group or group[-1] != last:
        group.append(waiting.pop())
    on_stack.difference_update(group)
    return group
