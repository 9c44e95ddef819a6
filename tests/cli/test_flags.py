"""Every flag and argument of every command, with bad values: exit code 2, one sentence, no traceback.

Commands and flags come from the parsers. The test fails for a flag without a line here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import get_commands, load_command_class

from opsconsole.accounts.models import Token
from opsconsole.engine import incidents, lifecycle, registry
from opsconsole.engine.models import Incident, Run
from tests.cli.test_commands import own_commands
from tests.support.contract import TESTER, operation_called, plan_whole

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])

DJANGOS = {
    *("--help", "--version", "--verbosity", "--settings", "--pythonpath"),
    *("--traceback", "--no-color", "--force-color", "--skip-checks"),
}
NUMBERS = ["-1", "x", "1.5", "1e3", "2 h 30", "٣"]
ANY_TEXT: list[str] = []  # every value is good, see tests/console/test_hostile_values.py
STATEMENTS = ["", " ", "DROP TABLE tasks", "UPDATE tasks SET title = 'x'", "DELETE FROM tasks WHERE task_id = 'x"]
BAD: dict[str, list[str]] = {
    "--alias": ["Not a name", "../x", "default", "agentos"],
    "--as": ["Not a name", "../x", "a;b"],
    "--batch-size": ["0", "-5", "100001", "abc", "1.5", "", "٣"],
    "--confirm": ["nonsense"],
    "--database": ["nowhere"],
    "--days": NUMBERS,
    "--db-path": ["/nowhere/x.db", ""],
    "--file": ["/etc/passwd", "nowhere.gz"],
    "--format": ["pdf"],
    "--idle-days": NUMBERS,
    "--in": ["nowhere"],
    "--keys": ANY_TEXT,  # an unknown key selects no row
    "--key-list": ["4711"],
    "--limit": NUMBERS,
    "--needed-by": ["no.operation"],
    "--newest": NUMBERS,
    "--note": ANY_TEXT,
    "--platform": ["nowhere"],
    "--reason": ["", " "],
    "--retention-type": ANY_TEXT,
    "--rows": ["nonsense"],
    "--run": ["0", "x", "4711"],
    "--shards": ["0", "-5", "65", "abc", "1.5", "", "٣"],
    "--state": ["nowhere"],
    "--statement": STATEMENTS,
    "--store": ["nowhere"],
    "--superuser": ["", "a b/c"],
    "--table": ["no_table"],
    "--to": ["/nowhere/x", "/proc/x"],
    "--until-grows": NUMBERS,
    "--user": ["nobody"],
    "account": ["nobody"],
    "alias": ["nowhere"],
    "execution_id": [""],
    "file": ["/etc/passwd", "nowhere.gz"],
    "identifier": [""],
    "incident": ["0", "x", "4711"],
    "keys": ANY_TEXT,
    "owner": ["nobody"],
    "run": ["0", "x", "4711"],
    "statement": STATEMENTS,
    "store": ["nowhere"],
    "system_user": ["", "x" * 151],
    "text": ["", " "],
    "until": ["", "nonsense", "-1h", "400d", "2020-01-01"],
    "url": ["javascript:alert(1)", "nonsense"],
}
GOOD = {
    "store": "agentos",
    "to": "helix",
    "file": "x.gz",
    "keys": "1",
    "alias": "helix",
    "statement": "UPDATE tasks SET title = 'x' WHERE task_id = 'x'",
    "table": "tasks",
    "until": "4h",
    "url": "https://x.example",
    "until-grows": "10",
}


class Flag(NamedTuple):
    """A flag or an argument of a command or its verb."""

    words: tuple[str, ...]
    name: str


ANY_TEXT_HERE = [Flag(("run", "roadmaps.accept_partial"), "--reason")]
OTHER_FLAGS: dict[tuple[str, ...], list[str]] = {
    ("runs", "list", "--user"): ["--awaiting-me"]
}  # flags without which another one is ignored


def parsers(parser: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield words, [action for action in parser._actions if action not in verbs]
    for action in verbs:
        for name, found in action.choices.items():
            yield from parsers(found, (*words, name))


@cache
def actions_of(command: str) -> dict[tuple[str, ...], list[Any]]:
    """Return the flags and arguments of a command and its verbs."""
    parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
    return dict(parsers(parser, (command,)))


def flags() -> Iterator[Flag]:
    for name in own_commands():
        for words, actions in actions_of(name).items():
            for action in actions:
                called = action.option_strings[-1] if action.option_strings else action.dest
                if called not in DJANGOS and action.nargs != 0:
                    yield Flag(words, called)


FLAGS = list(flags())


def test_every_flag_has_a_line() -> None:
    assert {flag.name for flag in FLAGS} == set(BAD)


@pytest.fixture
def console(bob: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Return a function that runs a command as an authenticated account, on a console with one run."""
    monkeypatch.setenv("OPSCONSOLE_TOKEN", Token.issue(bob, "test"))
    run_of = lifecycle.create_run(plan_whole(operation_called("audits.backfill_decision_fields")), TESTER)
    incidents.save_count(run_of.store, run_of.identity, registry.operation(run_of.operation), 1)

    def run(words: list[str]) -> tuple[int, str, str]:
        found = load_command_class(get_commands()[words[0]], words[0])
        code: Any = 0
        try:
            found.run_from_argv(["manage.py", *words])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def line_of(flag: Flag, value: str, run: int) -> list[str]:
    """Return the words of the command with this value, and with good values of the other required arguments."""
    words = [*flag.words, *OTHER_FLAGS.get((*flag.words, flag.name), ())]
    for action in actions_of(flag.words[0])[flag.words]:
        called = action.option_strings[-1] if action.option_strings else action.dest
        numbers = {"run": str(run), "incident": str(Incident.objects.get().pk)}
        good = numbers.get(called.removeprefix("--")) or GOOD.get(called.removeprefix("--"), "x")
        if called == flag.name:
            words += [called, value] if action.option_strings else [value]
        elif action.required and called not in DJANGOS:
            words += [called, good] if action.option_strings else [good]
    return words


@pytest.mark.parametrize("name", sorted({flag.words[0] for flag in FLAGS}))
def test_bad_values(console: Any, name: str) -> None:
    number = Run.objects.get().pk
    wrong = []
    for flag in (flag for flag in FLAGS if flag.words[0] == name):
        for value in [] if flag in ANY_TEXT_HERE else BAD[flag.name]:
            words = line_of(flag, value, number)
            code, out, err = console(words)
            if code != 2 or out or "Traceback" in err or err.strip().count("\n"):
                wrong.append((" ".join(words), code, err[-300:]))
    assert not wrong, "\n".join(map(str, wrong))
    assert Run.objects.count() == 1
