"""An UPDATE or DELETE statement, taken apart so that its rows and new values can be read before it is executed.

The database itself evaluates the WHERE clause and the new values, in the text that the user wrote: a parser that writes
SQL again may change it. The parser only decides whether the statement is one that can be planned. So that both read the
same statement, comments are removed first, and the parser must find the same literals and quoted names as the rules of
the database (`_LEXEMES`). `evaluation` then lets the database confirm the table, its columns and the functions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlglot
from django.utils.translation import gettext as _
from sqlglot import exp
from sqlglot.errors import SqlglotError

from opsconsole.stores.statement import MAX_CHARACTERS, POSTGRESQL_QUOTED, Assignment, Statement, StatementRefused

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of statements that are refused here
MAX_NAME_BYTES = 63  # of PostgreSQL
DIALECTS = {"sqlite": "sqlite", "postgresql": "postgres"}


def parse(text: str, engine: str) -> Statement:
    """Return the statement. Raise StatementRefused unless it is one UPDATE or DELETE that can be planned exactly."""
    if len(text) > MAX_CHARACTERS:
        raise StatementRefused(_("The statement has more than 100,000 characters. Shorten it."))
    text, lexemes = _without_comments(text, engine)
    if not lexemes:
        raise StatementRefused(_("The statement is empty. Write one UPDATE or DELETE."))
    tree = _tree(text, engine, lexemes)
    _require_plain(tree)
    sets, where = _clauses(lexemes)
    given: Sequence[Any] = tree.expressions if isinstance(tree, exp.Update) else ()
    if len(given) != len(sets):
        raise _unclear()
    table = tree.this
    named = table.args["alias"].this if table.args.get("alias") else table.this
    schema = table.args.get("db")
    names, reads_whole_row = _read_names(tree, {table.name.lower(), named.name.lower()}, engine)
    return Statement(
        text=text,
        kind="update" if isinstance(tree, exp.Update) else "delete",
        schema=_folded(schema, engine) if schema else "",
        table=_folded(table.this, engine),
        alias=_folded(named, engine),
        assignments=tuple(
            Assignment(_assigned(one, engine), _expression(text[start:end]))
            for one, (start, end) in zip(given, sets, strict=True)
        ),
        where=text[where:].strip(),
        names=names,
        reads_whole_row=reads_whole_row,
        has_subselect=tree.find(exp.Select) is not None,
    )


# --- the lexical rules of the database ------------------------------------------------------------------------


class _Lexeme(NamedTuple):
    kind: str
    start: int
    end: int
    text: str


_SQLITE_QUOTED = r"""[xX]?'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^]]*\]"""
_LEXEMES = {
    engine: re.compile(
        rf"""(?P<quoted>{quoted}) | (?P<comment>--{line}*|/\*) | (?P<word>[^\W0-9][\w$]*)
        | (?P<number>\.?[0-9][\w.]*) | (?P<symbol>[^ \t\r\n\f\v])""",
        re.VERBOSE | re.DOTALL,
    )
    for engine, quoted, line in (("postgresql", POSTGRESQL_QUOTED, r"[^\r\n]"), ("sqlite", _SQLITE_QUOTED, r"[^\n]"))
}


def _without_comments(text: str, engine: str) -> tuple[str, list[_Lexeme]]:
    """Return the statement with a space for each comment and without a final semicolon, and its lexemes."""
    parts: list[str] = []
    found: list[_Lexeme] = []
    place = length = 0
    while match := _LEXEMES[engine].search(text, place):
        between, lexeme = text[place : match.start()], match[0]
        kind, place = str(match.lastgroup), match.end()
        if kind == "comment":
            place = _end_of_comment(text, match.start(), engine) if lexeme == "/*" else place
            lexeme = " "
        elif kind == "symbol" and (lexeme in "'\"`" or not lexeme.isascii() or lexeme < " "):
            raise StatementRefused(
                _("The statement contains %(character)s outside of a complete text or name. Correct or quote it.")
                % {"character": repr(lexeme)}
            )
        elif kind == "symbol" and engine == "sqlite" and lexeme in "?:@$#":
            raise _parameter()
        parts += [between, lexeme]
        length += len(between)
        # PostgreSQL continues a text in the next line, with the escapes of its start.
        if engine == "postgresql" and found and found[-1].text[:2] in ("E'", "e'") and lexeme[0] == "'":
            raise _unclear()
        if kind != "comment":
            found.append(_Lexeme("quoted" if kind == "tag" else kind, length, length + len(lexeme), lexeme))
        length += len(lexeme)
    last = next((one for one in found if one.text == ";" and one.kind == "symbol"), None)
    clean = "".join(parts)
    if last is not None:
        if last is not found[-1]:
            raise StatementRefused(_("There are several statements. Write one UPDATE or DELETE."))
        clean = clean[: last.start]
        found.pop()
    if "\0" in clean or any("\ud800" <= character <= "\udfff" for character in clean):
        raise StatementRefused(_("The statement contains a character that no text can hold. Remove it."))
    return clean, found


def _end_of_comment(text: str, start: int, engine: str) -> int:
    """Return the end of a comment. Comments of PostgreSQL nest."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if mark[0] == "/*" and (engine == "postgresql" or not depth) else -1 if mark[0] == "*/" else 0
        if not depth:
            return start + mark.end()
    raise StatementRefused(_("A comment has no end. Close it with */."))


def _clauses(lexemes: Sequence[_Lexeme]) -> tuple[list[tuple[int, int]], int]:
    """Return where each expression of SET starts and ends, and where the condition of WHERE starts."""
    top = list(_outside_brackets(lexemes))
    words = [one.text.upper() if one.kind == "word" else "" for one in top]
    try:
        where = words.index("WHERE", words.index("SET") if words[0] == "UPDATE" else 0)
    except ValueError:
        raise _unclear() from None
    found: list[tuple[int, int]] = []
    start = None
    for one in top[words.index("SET") + 1 : where] if words[0] == "UPDATE" else ():
        if one.kind != "symbol":
            continue
        if one.text == "=" and start is None:
            start = one.end
        elif one.text == "," and start is not None:
            found.append((start, one.start))
            start = None
    if start is not None:
        found.append((start, top[where].start))
    return found, top[where].end


def _outside_brackets(lexemes: Sequence[_Lexeme]) -> Iterator[_Lexeme]:
    depth = 0
    for one in lexemes:
        if one.kind == "symbol" and one.text in "([":
            depth += 1
        elif one.kind == "symbol" and one.text in ")]":
            depth -= 1
        elif not depth:
            yield one


# --- the parsed statement -------------------------------------------------------------------------------------


def _tree(text: str, engine: str, lexemes: Sequence[_Lexeme]) -> Any:
    """Parse the statement. The parser must find the literals and quoted names that the database finds."""
    dialect = DIALECTS[engine]
    try:
        tokens = sqlglot.tokenize(text, dialect=dialect)
        trees = [one for one in sqlglot.parse(text, dialect=dialect) if one is not None]
    except SqlglotError as error:
        details = (getattr(error, "errors", None) or [{}])[0]
        reason = re.sub(" (but got|missing for) <.*", "", details.get("description") or str(error).splitlines()[0])
        place = _("line %(line)s, column %(column)s") % {
            "line": details.get("line", 1),
            "column": details.get("col", 1),
        }
        raise StatementRefused(
            _("The statement cannot be read: %(reason)s (%(place)s).")
            % {"reason": reason.removesuffix("."), "place": place}
        ) from None
    except RecursionError:
        raise StatementRefused(_("The statement is nested too deeply. Simplify it.")) from None
    ours = {(one.start, one.end) for one in lexemes if one.kind == "quoted"}
    spans = {(one.start, one.end + 1) for one in tokens}
    theirs = {span for span in spans if _is_quoted(text[slice(*span)], engine)}
    if ours != theirs:
        raise _unclear()
    if len(trees) != 1 or not isinstance(trees[0], exp.Update | exp.Delete):
        raise StatementRefused(
            _("Only one UPDATE or DELETE of one table can be planned. This statement is something else.")
        )
    return trees[0]


def _is_quoted(source: str, engine: str) -> bool:
    if engine == "sqlite":
        return bool(re.search("['\"`]", source)) or (source.startswith("[") and len(source) > 1)
    return bool(re.search("['\"]", source)) or (len(source) > 2 and source[0] == source[-1] == "$")


def _unclear() -> StatementRefused:
    return StatementRefused(
        _("The statement cannot be read in only one way. Write it with plain texts, such as 'a', and names, such as b.")
    )


def _parameter() -> StatementRefused:
    return StatementRefused(_("The statement contains a parameter. Write its value into the statement."))


_CLAUSES = {
    "returning": "RETURNING",
    "from_": "FROM",
    "using": "USING",
    "with_": "WITH",
    "order": "ORDER BY",
    "limit": "LIMIT",
    "conflict": "ON CONFLICT",
    "only": "ONLY",
    "catalog": "a database",
    "tables": "DELETE without FROM",
}
_WRITING = (
    exp.Insert,
    exp.Update,
    exp.Delete,
    exp.Merge,
    exp.Create,
    exp.Drop,
    exp.Into,
    exp.Lock,
    exp.Command,
)


def _require_plain(tree: Any) -> None:
    """Refuse clauses whose effect on rows cannot be read by one SELECT on the table."""
    _refuse_others(tree, {"this", "expressions", "where"})
    table = tree.this
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        raise StatementRefused(_("The statement must name one table. Name it without further clauses."))
    _refuse_others(table, {"this", "db", "alias"})
    if table.args.get("alias") is not None:
        _refuse_others(table.args["alias"], {"this"})
    if not tree.args.get("where"):
        raise StatementRefused(
            _("The statement has no WHERE clause. Say which rows it is about; WHERE true means all of them.")
        )
    for node in tree.walk():
        if node is not tree and isinstance(node, _WRITING):
            raise StatementRefused(
                _("A part of the statement writes or locks (%(part)s). Only the statement itself may write.")
                % {"part": node.key.upper()}
            )
        if isinstance(node, exp.Placeholder | exp.Parameter | exp.SessionParameter):
            raise _parameter()


def _refuse_others(node: Any, allowed: set[str]) -> None:
    for name, value in node.args.items():
        if value and name not in allowed:
            raise StatementRefused(
                _(
                    "The statement uses %(clause)s, which cannot be planned row by row. Leave it out, or use a "
                    "sub-select."
                )
                % {"clause": _CLAUSES.get(name, name.strip("_").upper())}
            )


def _assigned(assignment: Any, engine: str) -> str:
    """Return the column that an assignment of SET sets."""
    column = assignment.this if isinstance(assignment, exp.EQ) else None
    if not isinstance(column, exp.Column) or column.table or not isinstance(column.this, exp.Identifier):
        raise StatementRefused(
            _("SET must assign each column by itself, such as a = 1, b = 2. Name the column without its table.")
        )
    return _folded(column.this, engine)


def _expression(text: str) -> str:
    text = text.strip()
    if text.upper() == "DEFAULT":
        raise StatementRefused(_("SET uses DEFAULT, whose value no query can read. Write the value."))
    return text


def _folded(identifier: Any, engine: str) -> str:
    """Return a name as the database looks it up: PostgreSQL folds A to Z of a name without quotes."""
    name = str(identifier.name)
    if engine == "sqlite" or identifier.args.get("quoted"):
        return name
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), name)


def _read_names(tree: Any, own: set[str], engine: str) -> tuple[frozenset[str], bool]:
    """Return the columns that the statement may read, and whether it may read the whole row of its table."""
    names: set[str] = set()
    whole = False
    targets = {id(one.this) for one in tree.expressions} if isinstance(tree, exp.Update) else set()
    for column in tree.find_all(exp.Column):
        if id(column) in targets:
            continue
        name = column.name.lower()
        if engine == "postgresql":  # it cuts a longer name
            name = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        names.add(name)
        whole = whole or (isinstance(column.this, exp.Star) and column.table.lower() in own) or name in own
    return frozenset(names), whole
