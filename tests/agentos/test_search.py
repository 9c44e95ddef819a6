"""Tests of the full-text search: the query language and the maintenance of the indexes, on both engines."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.urls import reverse

from opsconsole.stores import rows
from opsconsole.stores.store import Store, StoreUnavailable, attach_file
from tasks.agentos import search as searching
from tasks.agentos.models import KbChunk, MemoryItem
from tasks.agentos.search import search, search_queryset
from tasks.agentos.search_index import check, rebuild
from tasks.agentos.search_query import json_strings
from tests.conftest import Managed, attach_url

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

#: The documented table definitions.
FULL_TEXT = """
CREATE VIRTUAL TABLE memory_fts USING fts5(
    id UNINDEXED,
    content,
    tags,
    content='memory_items',
    content_rowid='rowid'
);
CREATE VIRTUAL TABLE kb_chunks_fts USING fts5(
    chunk_id UNINDEXED,
    content,
    content='kb_chunks',
    content_rowid='rowid'
);
"""
MOMENT = "2026-01-20T10:00:00"
sqlite_only = pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
postgresql_only = pytest.mark.parametrize("managed", ["postgresql"], indirect=True)


def remember(managed: Managed, key: str, content: str, tags: str | None = None, how: str = "INSERT") -> None:
    managed.execute(
        f"{how} INTO memory_items (id, scope, type, content, tags) VALUES (?, 'global', 'decision', ?, ?)",
        *(key, content, tags),
    )


def learn(managed: Managed, key: str, content: str) -> None:
    if not managed.execute("SELECT 1 FROM kb_sources"):
        managed.execute("INSERT INTO projects (id, path) VALUES ('p', '/')")
        managed.execute("INSERT INTO kb_sources VALUES ('s', 'p', 'file', 'a.md', NULL, NULL)")
    managed.execute(
        "INSERT INTO kb_chunks (chunk_id, source_id, content, chunk_index, created_at) VALUES (?, 's', ?, 0, ?)",
        *(key, content, MOMENT),
    )


def keys(store: Store, text: str, **options: Any) -> list[str]:
    return sorted(hit.key for hit in search(store, text, limit=500, **options).hits)


# --- the language -----------------------------------------------------------------------------------------------

TEXTS = {
    "redis": "Use Redis for the cache; never Memcached.",
    "timeout": "Cache timeouts are 30 s (redis_timeout = 30).",
    "中文": "我们使用Python处理数据库的备份。",
    "mixed": "数据 处理 and 备份 tools",
    "json": json.dumps({"text": "决定：数据库每天备份", "by": ["ops", 42], "text_too": True}),
    "json-as-it-is": json.dumps({"note": "用 Redis 缓存会话"}, ensure_ascii=False),
    "accent": "Der Café-Betreiber grüßt",
    "日本": "カタカナとひらがな、한국어도",
    "empty": "",
}
FINDS = [
    ("redis", {"redis", "timeout", "json-as-it-is"}),
    ("REDIS", {"redis", "timeout", "json-as-it-is"}),
    ("cache redis", {"redis", "timeout"}),
    ("cache -memcached", {"timeout"}),
    ('"the cache"', {"redis"}),
    ('"cache the"', set()),
    ('cache -"never memcached"', {"timeout"}),
    ("time*", {"timeout"}),
    ("time", set()),
    ("timeout", {"timeout"}),
    ("redis_timeout", {"timeout"}),
    ("redis-timeout", {"timeout"}),
    ('"redis time"*', {"timeout"}),
    ("mem* use", {"redis"}),
    ("数据", {"中文", "mixed", "json"}),
    ("据库", {"中文", "json"}),
    ("库", {"中文", "json"}),
    ("备份", {"中文", "mixed", "json"}),
    ("数据库", {"中文", "json"}),
    ("数据库的备份", {"中文"}),
    ("每天备份", {"json"}),
    ("数库", set()),
    ('"数据 处理"', {"mixed"}),
    ("数据处理", set()),
    ("使用Python", {"中文"}),
    ('"使用 python 处理"', {"中文"}),
    ("python", {"中文"}),
    ("备份 -数据库", {"mixed"}),
    ("备份 -python", {"mixed", "json"}),
    ("备份 -每天", {"中文", "mixed"}),
    ("决定 ops", {"json"}),
    ("42", {"json"}),
    ("by", set()),  # values of the document, not its syntax
    ("缓存 redis", {"json-as-it-is"}),
    ("café", {"accent"}),
    ("CAFÉ", {"accent"}),
    ("cafe", set()),
    ("grüß*", {"accent"}),
    ("カナ", {"日本"}),
    ("らが", {"日本"}),
    ("국어", {"日本"}),
    ("", set()),
    ("!!! -- *", set()),
    ("-redis", {"redis", "timeout", "json-as-it-is"}),  # without another word, the minus is literal text
]


def test_one_language_on_both_engines(managed: Managed) -> None:
    for key, text in TEXTS.items():
        remember(managed, key, text)
        learn(managed, key, json.loads(text)["text"] if key == "json" else text)
    for text, expected in FINDS:
        for source, queryset in (("memory", MemoryItem.objects.all()), ("knowledge", KbChunk.objects.all())):
            there = expected
            if source == "knowledge":
                there = expected - ({"json"} if re.search("ops|42", text) else set())
            found = search(managed.store, text, sources=(source,), limit=100)
            assert {hit.key for hit in found.hits} == there, (text, source)
            assert {row.pk for row in search_queryset(queryset, text)} == there, (text, source)
            assert found.method == "index"


def test_tags_are_searched_too(managed: Managed) -> None:
    remember(managed, "a", '{"text": "x"}', '["security", "数据安全"]')
    assert keys(managed.store, "security") == keys(managed.store, "安全") == keys(managed.store, "x") == ["a"]


def test_line_breaks_in_json_do_not_split_words(managed: Managed) -> None:
    remember(managed, "a", json.dumps({"text": "first line\ndeadline\ttabbed C:\\new"}))
    assert keys(managed.store, "deadline") == keys(managed.store, "tabbed new") == ["a"]


def test_the_best_comes_first(managed: Managed) -> None:
    remember(managed, "long", "redis " + "and other words " * 200)
    remember(managed, "often", "redis redis redis")
    remember(managed, "once", "redis is one word of these")
    learn(managed, "chunk", "redis twice: redis")
    found = search(managed.store, "redis")
    assert [hit.key for hit in found.hits] == ["often", "chunk", "once", "long"]
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    found = search(managed.store, "redis", limit=2)
    assert len(found.hits) == 2
    assert found.more
    assert found.hits[0].values == {"type": "decision", "scope": "global", "project_id": None}


HOSTILE = [
    *(
        '"',
        '""',
        '"""',
        "'",
        "''",
        "*",
        "**",
        "-",
        "--",
        "- -",
        '-"',
        "(",
        ")",
        "()",
        "{}",
        "[]",
        "^",
        ":",
        "|",
        "&",
        "!",
    ),
    *(
        "a AND",
        "AND",
        "OR",
        "NOT",
        "NEAR",
        "NEAR(a b, 2)",
        "a NOT b",
        "content:a",
        "memory_fts:a",
        "rank",
        "a:b",
        "a*b",
    ),
    *(
        "\\",
        "\\'",
        "'; DROP TABLE memory_items; --",
        "%",
        "%s",
        "%(x)s",
        "_",
        "\x00",
        "a\x00b",
        "\ud800",
        "\u202e",
        "𠀀𠀁",
    ),
    *("a" * 5_000, "中" * 5_000, '"' * 5_000, "a " * 5_000, "-a " * 5_000, "(" * 5_000, "é" * 500, "ß", "İ", "ﬁ", "𝒳"),
    *(
        "<script>",
        "&amp;",
        "a\tb\nc",
        "\u3000",
        "！",
        "“quoted”",
        "—",
        "🙂",
        "👨‍👩‍👧",
        "नमस्ते",
        "สวัสดี",
        "مرحبا",
        "0",
        "1e5",
        "-1",
        "½",
    ),
    *(":*", "a:*", "a <-> b", "!a", "a & !b", "{a b}: c", "+a", "^a", '"a" "b', "a\u0301", "h\u0131"),
]


def test_no_query_raises_an_error(managed: Managed) -> None:
    remember(managed, "a", "a b c")
    rng = Random(5)
    alphabet = "ab中文\"'*-()&|!:<>\\{}^~+%_ \t,é\u3000"
    for text in [*HOSTILE, *("".join(rng.choices(alphabet, k=rng.randrange(1, 30))) for _ in range(300))]:
        found = search(managed.store, text)
        queryset = search_queryset(MemoryItem.objects.all(), text)
        assert {row.pk for row in queryset} == {hit.key for hit in found.hits}, text
    assert managed.execute("SELECT COUNT(*) FROM memory_items") == [(1,)]


def test_a_snippet_shows_the_place_and_is_safe(managed: Managed) -> None:
    content = "lead " * 100 + "<script>alert('redis')</script> & 数据库\x1b[31m\n" + "tail " * 100
    remember(managed, "a", json.dumps({"text": content}))
    (hit,) = search(managed.store, "redis 据库").hits
    assert "<script>alert('redis')</script> & 数据库 [31m tail" in str(hit.snippet)
    html = hit.snippet.html()
    assert "&lt;script&gt;alert(&#x27;<mark>redis</mark>&#x27;)" in html
    assert "数<mark>据库</mark>" in html
    assert "<script>" not in html
    assert len(str(hit.snippet)) <= 203


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (json.dumps({"text": "数据库 𠀀", "tags": ["a", {"b": 1.5}], "done": True, "none": None}), "数据库 𠀀 a 1.5"),
        ('"text"', "text"),
        ("[]", ""),
        ('{"broken": "数"', '{"broken": "数"'),
        ("[" * 20_000, "[" * 20_000),
        ("plain", "plain"),
        ("42", "42"),
        ("", ""),
    ],
)
def test_strings_and_numbers_of_a_document_are_searched(managed: Managed, text: str, says: str) -> None:
    assert json_strings(text) == says
    remember(managed, "a", text)
    if managed.engine == "postgresql":
        (said,) = managed.execute("SELECT json_strings(content) FROM memory_items")
        assert sorted(said[0].split()) == sorted(says.split())  # jsonb reorders keys
    assert check(managed.store) == []


def test_the_index_accepts_every_text(managed: Managed) -> None:
    odd = [
        '{"a": "\\u0000"}',
        '{"a": "\\ud800 redis"}',
        '{"a": 1e999999}',
        '["' + "a" * 3_000 + '"]',
        "[NaN, 'x']",
        "\x01",
    ]
    for number, text in enumerate(odd):
        remember(managed, str(number), text, text)
    assert len(keys(managed.store, "redis")) == 1
    assert check(managed.store) == []


# --- long texts -------------------------------------------------------------------------------------------------


def test_a_long_text_is_stored_and_searched_as_far_as_documented(managed: Managed) -> None:
    rng = Random(3)
    chinese = "".join(chr(0x4E00 + rng.randrange(20_000)) for _ in range(100_000))
    rare = "".join(chr(0x20000 + rng.randrange(40_000)) for _ in range(100_000))
    latin = " ".join(f"w{number:x}" for number in range(400_000))
    for key, text in (("chinese", chinese), ("rare", rare), ("latin", latin), ("blob", "x" * 3_000_000)):
        learn(managed, key, text)
    assert keys(managed.store, chinese[63_000:63_007]) == ["chinese"]
    assert keys(managed.store, rare[63_000:63_004]) == ["rare"]
    assert keys(managed.store, chinese[64_100:64_107]) == []
    assert keys(managed.store, "w1f") == ["latin"]
    assert check(managed.store) == []
    managed.execute("UPDATE kb_chunks SET content = 'short'")
    managed.execute("DELETE FROM kb_chunks WHERE chunk_id = 'latin'")
    assert keys(managed.store, "short") == ["blob", "chinese", "rare"]
    assert check(managed.store) == []


# --- maintenance of the indexes ---------------------------------------------------------------------------------

VOCABULARY = ("alpha", "beta", "gamma", "Alphabet", "naïve", "数据", "数据库", "备份", "库", "中文字", "x1", "30")


def _text(rng: Random) -> str:
    joints = (" ", ", ", "", "。", "\n", "-")
    text = "".join(rng.choice(VOCABULARY) + rng.choice(joints) for _ in range(rng.randrange(0, 8)))
    return json.dumps({"t": text}) if rng.random() < 0.2 else text


class Oracle:
    """An independent search that examines a text character by character."""

    def __init__(self, text: str) -> None:
        with suppress(ValueError, TypeError):
            text = f"t {json.loads(text)['t']}"
        self.text = text.lower()
        self.words: list[str] = []
        word = ""
        for letter in f"{self.text} ":
            if letter.isalnum() and not "\u4e00" <= letter <= "\u9fff":
                word += letter
            elif word:
                self.words.append(word)
                word = ""

    def has(self, term: str) -> bool:
        if "\u4e00" <= term[0] <= "\u9fff":
            return term in self.text
        return any(word.startswith(term[:-1]) if term.endswith("*") else word == term for word in self.words)


def _check_against_oracle(managed: Managed, rng: Random) -> None:
    stored = managed.execute("SELECT id, coalesce(tags, ''), content FROM memory_items")
    oracles = {key: (Oracle(tags), Oracle(content)) for key, tags, content in stored}
    for _ in range(12):
        wanted = rng.sample(("alpha", "alph*", "beta", "naïve", "数据", "据库", "库", "文字", "备份", "x1", "g*"), 2)
        excluded = rng.choice(("gamma", "中文", "30", None))
        expected = sorted(
            key
            for key, forms in oracles.items()
            if all(any(form.has(term) for form in forms) for term in wanted)
            and not (excluded and any(form.has(excluded) for form in forms))
        )
        text = " ".join(wanted) + (f" -{excluded}" if excluded else "")
        assert keys(managed.store, text, sources=("memory",)) == expected, (text, stored)
        assert sorted(row.pk for row in search_queryset(MemoryItem.objects.all(), text)) == expected, (text, stored)
    if managed.engine == "sqlite":  # the documented query in a plain client
        found = managed.execute(
            "SELECT m.id FROM memory_fts JOIN memory_items AS m ON m.rowid = memory_fts.rowid"
            " WHERE memory_fts MATCH 'beta' ORDER BY m.id"
        )
        spaced = [key for key, forms in oracles.items() if any("beta" in _unicode61(form.text) for form in forms)]
        assert [row[0] for row in found] == sorted(spaced)


def _unicode61(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text).split()


def _write(managed: Managed, rng: Random) -> None:
    """Execute one random statement, which the database may refuse."""
    key, other = (f"m{rng.randrange(12)}" for _ in range(2))
    tags = rng.choice((None, _text(rng)))
    sqlite = managed.engine == "sqlite"
    insert = "INSERT INTO memory_items (id, scope, type, content, tags) VALUES (?, 'global', 'decision', ?, ?)"
    row = (key, _text(rng), tags)
    statements: list[tuple[Any, ...]] = [
        (insert, *row),
        (f"{insert} ON CONFLICT DO NOTHING", *row),
        (f"{insert} ON CONFLICT (id) DO UPDATE SET content = excluded.content", *row),
        ("UPDATE memory_items SET content = ? WHERE id = ?", _text(rng), key),
        ("UPDATE memory_items SET tags = ? WHERE id = ?", tags, key),
        ("UPDATE memory_items SET id = ? WHERE id = ?", other, key),
        ("UPDATE memory_items SET use_count = use_count + 1",),
        ("UPDATE memory_items SET content = content, tags = NULL WHERE id >= ?", key),
        ("DELETE FROM memory_items WHERE id = ?", key),
        ("DELETE FROM memory_items WHERE id > ?", "m9"),
    ]
    if sqlite:
        statements += [
            (insert.replace("INSERT", "INSERT OR REPLACE"), *row),
            (insert.replace("INSERT", "REPLACE"), *row),
            (insert.replace("INSERT", "INSERT OR IGNORE"), *row),
            ("UPDATE OR REPLACE memory_items SET id = ? WHERE id = ?", other, key),
            ("UPDATE OR IGNORE memory_items SET id = ? WHERE id = ?", other, key),
            ("UPDATE memory_items SET rowid = rowid + 1000 WHERE id = ?", key),
            ("UPDATE OR REPLACE memory_items SET rowid = ? WHERE id = ?", rng.randrange(-1, 12), key),
            (
                "INSERT OR REPLACE INTO memory_items (rowid, id, scope, type, content, tags)"
                " VALUES (?, ?, 'global', 'decision', ?, ?)",
                rng.randrange(-1, 12),
                *row,
            ),
        ]
    with (
        suppress(sqlite3.IntegrityError, psycopg.IntegrityError),
        nullcontext() if sqlite else managed.client.transaction(),
    ):
        managed.execute(*rng.choice(statements))


@pytest.mark.parametrize("seed", range(4))
def test_the_indexes_follow_every_statement(managed: Managed, seed: int) -> None:
    rng = Random(seed)
    if managed.engine == "sqlite" and seed % 2:
        managed.execute("PRAGMA recursive_triggers = ON")  # then REPLACE fires the triggers of deletes
    for lap in range(8):
        managed.execute("BEGIN")
        for _ in range(25):
            _write(managed, rng)
        managed.execute("ROLLBACK" if lap % 4 == 3 else "COMMIT")
        assert check(managed.store) == []
        _check_against_oracle(managed, rng)


def test_rows_of_the_engine_are_counted_without_the_triggers(managed: Managed) -> None:
    columns = ("id", "scope", "type", "content")
    written: list[Any] = [(f"m{number}", None, (f"m{number}", "global", "decision", "数据 a")) for number in range(20)]
    with transaction.atomic(using="agentos"):
        assert rows.write(managed.store, rows.Write("memory_items", columns, written)) == 20
    assert len(keys(managed.store, "数据")) == 20
    changed: list[Any] = [(key, ("数据 a",), ("备份 a",)) for key, _, _ in written[:5]]
    with transaction.atomic(using="agentos"):
        assert rows.write(managed.store, rows.Write("memory_items", ("content",), changed)) == 5
    gone: list[Any] = [(key, new, None) for key, _, new in written[3:]]
    with pytest.raises(rows.RowsChanged) as refused, transaction.atomic(using="agentos"):
        rows.write(managed.store, rows.Write("memory_items", columns, gone))
    assert refused.value.unmet == {("memory_items", "m3"): None, ("memory_items", "m4"): None}
    with transaction.atomic(using="agentos"):
        assert rows.write(managed.store, rows.Write("memory_items", columns, gone[2:])) == 15
    assert keys(managed.store, "a") == ["m0", "m1", "m2", "m3", "m4"]
    assert keys(managed.store, "备份") == ["m0", "m1", "m2", "m3", "m4"]
    assert check(managed.store) == []


@sqlite_only
def test_the_documented_tables_are_created_unchanged(managed: Managed) -> None:
    with closing(sqlite3.connect(":memory:")) as reference:
        reference.executescript("CREATE TABLE memory_items (id); CREATE TABLE kb_chunks (id);" + FULL_TEXT)
        definitions = dict(reference.execute("SELECT name, sql FROM sqlite_master WHERE rootpage = 0"))
    assert len(definitions) == 2
    for name, definition in definitions.items():
        (made,) = managed.execute("SELECT sql FROM sqlite_master WHERE name = ?", name)
        assert made[0].split() == definition.split()


@sqlite_only
def test_deleting_a_source_removes_its_chunks_from_the_index(managed: Managed) -> None:
    learn(managed, "c", "words")
    managed.execute("DELETE FROM kb_sources")
    assert managed.execute("SELECT COUNT(*) FROM kb_chunks_fts_docsize") == [(0,)]
    assert check(managed.store) == []


@sqlite_only
def test_a_rebuild_repairs_the_index_after_rowids_changed(managed: Managed) -> None:
    for number in range(40):
        remember(managed, f"m{number:02}", f"word{number} 数据{number}")
        learn(managed, f"c{number:02}", f"word{number}")
    managed.execute("DELETE FROM memory_items WHERE id < 'm20'")
    managed.execute("DELETE FROM kb_chunks WHERE chunk_id < 'c20'")
    assert check(managed.store) == []
    managed.execute("VACUUM")  # SQLite may renumber the rows or not
    for table, fts in (("memory_items", "memory_fts"), ("kb_chunks", "kb_chunks_fts")):
        (trigger,) = managed.execute("SELECT sql FROM sqlite_master WHERE name = ?", f"{fts}_after_update")
        managed.execute(f"DROP TRIGGER {fts}_after_update")
        managed.execute(f"UPDATE {table} SET rowid = rowid - 20")
        managed.execute(trigger[0])
    problems = check(managed.store)
    assert {problem.split()[0] for problem in problems} == {
        *("memory_fts", "memory_grams", "kb_chunks_fts", "kb_chunks_grams")
    }
    found = search(managed.store, "word30", sources=("memory",))  # until then, the search scans the table
    assert [hit.key for hit in found.hits] == ["m30"]
    assert found.method == "scan of 20 rows"
    rebuild(managed.store)
    assert check(managed.store) == []
    assert keys(managed.store, "word30") == ["c30", "m30"]
    assert keys(managed.store, "数据") == [f"m{number}" for number in range(20, 40)]


@sqlite_only
def test_an_index_that_differs_from_its_rows_is_detected(managed: Managed) -> None:
    remember(managed, "a", "words")
    for fts, columns in (("memory_fts", "content"), ("memory_grams", "words")):
        managed.execute(f"INSERT INTO {fts} ({fts}, rowid, {columns}) VALUES ('delete', 1, 'words')")
        managed.execute(f"INSERT INTO {fts} (rowid, {columns}) VALUES (1, 'others')")
    assert [problem.split()[0] for problem in check(managed.store)] == ["memory_fts", "memory_grams"]
    managed.execute("DROP TABLE kb_chunks_grams")
    assert len(check(managed.store)) == 3


@postgresql_only
def test_a_missing_index_is_noticed_on_postgresql(managed: Managed) -> None:
    remember(managed, "a", "words 数据")
    rebuild(managed.store)
    assert check(managed.store) == []
    assert [row for row in managed.execute("EXPLAIN SELECT 1") if row]
    managed.execute("DROP INDEX memory_items_search")
    assert check(managed.store) == ["The index memory_items_search is missing or invalid."]
    found = search(managed.store, "数据", sources=("memory",))
    assert [hit.key for hit in found.hits] == ["a"]
    assert found.method == "scan of 1 rows"


# --- attached stores --------------------------------------------------------------------------------------------

TABLES = """
CREATE TABLE memory_items (id TEXT PRIMARY KEY, scope TEXT, type TEXT, content TEXT NOT NULL, tags TEXT);
CREATE TABLE kb_chunks (chunk_id TEXT PRIMARY KEY, source_id TEXT, content TEXT NOT NULL, chunk_index INTEGER);
"""


def _fill_attached(client: Any, mark: str) -> None:
    for key, text in TEXTS.items():
        client.execute(f"INSERT INTO memory_items VALUES ({mark}, 'global', 'decision', {mark}, NULL)", (key, text))
        client.execute(f"INSERT INTO kb_chunks VALUES ({mark}, 's', {mark}, 0)", (key, text))


def _file(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as client:
        client.executescript(script)
        _fill_attached(client, "?")
        client.commit()
    return path


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text", "postgresql-jsonb"])
def test_an_attached_store_is_read_and_nothing_is_created_in_it(engine: str, tmp_path: Path, request: Any) -> None:
    texts = TEXTS
    if engine == "sqlite":
        path = _file(tmp_path / "theirs.db", TABLES)
        before = path.read_bytes()
        store = attach_file("agentos", path)
    else:
        server = request.getfixturevalue("postgres")
        url = server.create_database("theirs")
        with psycopg.connect(url) as client:
            client.execute(TABLES)
            _fill_attached(client, "%s")
            if engine.endswith("jsonb"):
                texts = {key: text for key, text in TEXTS.items() if text.startswith("{")}
                client.execute("DELETE FROM memory_items WHERE content NOT LIKE '{%'")
                client.execute("ALTER TABLE memory_items ALTER COLUMN content TYPE jsonb USING content::jsonb")
        store = attach_url("agentos", url)
    for text, expected in FINDS:
        found = search(store, text, sources=("memory",), limit=100)
        assert {hit.key for hit in found.hits} == expected & set(texts), text
        assert found.method == f"scan of {len(texts)} rows"
        queryset = MemoryItem.objects.using(store.alias)
        assert {row.pk for row in search_queryset(queryset.only("id"), text)} == expected & set(texts)
    if engine == "sqlite":
        store.close()
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["theirs.db"]


def test_the_documented_index_is_used_while_it_is_complete(tmp_path: Path) -> None:
    path = _file(tmp_path / "theirs.db", TABLES + FULL_TEXT)
    store = attach_file("agentos", path)
    assert search(store, "redis").method == "scan of 9 rows"  # it is empty
    with closing(sqlite3.connect(path)) as client:
        client.execute("INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")
        client.commit()
    before = path.read_bytes()
    found = search(store, "redis")
    assert found.methods["memory"] == searching.DOCUMENTED_INDEX
    assert found.method == "memory: documented index; knowledge: scan of 9 rows"
    assert keys(store, "redis cache", sources=("memory",)) == ["redis", "timeout"]
    assert search(store, "数据", sources=("memory",)).method == "scan of 9 rows"  # its words are whole runs of Chinese
    assert keys(store, "数据", sources=("memory",)) == ["json", "mixed", "中文"]
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as client:  # now each entry belongs to another row
        client.execute("UPDATE memory_items SET rowid = -rowid")
        client.execute("UPDATE memory_items SET rowid = 10 + rowid")
        client.commit()
    found = search(store, "redis", sources=("memory",))
    assert {hit.key for hit in found.hits} == {"redis", "timeout", "json-as-it-is"}
    assert found.method == "scan of 9 rows"
    store.close()


def test_a_large_store_without_index_is_read_up_to_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SCANNED", 5)
    store = attach_file("agentos", _file(tmp_path / "theirs.db", TABLES))
    found = search(store, "redis", sources=("memory",))
    assert found.methods["memory"].capped
    assert found.method == "scan of 5 rows"
    assert "5 rows; older rows were not searched" in found.method_labels[0][1]
    assert [hit.key for hit in found.hits] == ["json-as-it-is"]  # the newest
    store.close()


def test_a_virtual_table_of_a_missing_extension_is_ignored(tmp_path: Path) -> None:
    path = _file(tmp_path / "theirs.db", TABLES)
    with closing(sqlite3.connect(path)) as client:
        client.executescript(
            "PRAGMA writable_schema = ON;"
            "INSERT INTO sqlite_master"
            " VALUES ('table', 'vectors', 'vectors', 0, 'CREATE VIRTUAL TABLE vectors USING vec0(x)')"
        )
        client.commit()
    store = attach_file("agentos", path)
    assert store.virtual_tables() == ["vectors"]
    assert "memory_items" in store.tables
    assert not [one for one in store.foreign_keys if store.is_parent(one, "memory_items")]
    assert keys(store, "timeout", sources=("memory",)) == ["timeout"]
    store.close()


def test_an_older_store_shows_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as client:
        client.executescript("CREATE TABLE kb_chunks (chunk_id TEXT PRIMARY KEY, content TEXT NOT NULL)")
        client.execute("INSERT INTO kb_chunks VALUES ('a', 'words')")
        client.commit()
    store = attach_file("agentos", path)
    assert keys(store, "words") == ["a"]
    with pytest.raises(StoreUnavailable, match="is missing memory_items"):
        search(store, "words", sources=("memory",))
    store.close()


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_shows_a_table_or_json(managed: Managed, capsys: pytest.CaptureFixture[str]) -> None:
    remember(managed, "m1", "我们使用Redis缓存")
    learn(managed, "c1", "Redis [red]cache[/red]")
    call_command("search", "redis")
    shown = capsys.readouterr().out
    assert "by the index" in shown
    assert "我们使用Redis缓存" in shown
    assert "[red]cache[/red]" in shown
    call_command("search", "redis", "缓存", "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["query"] == "redis 缓存"
    assert result["method"] == "index"
    (only,) = result["results"]
    assert (only["in"], only["id"], only["rank"], only["snippet"]) == ("memory", "m1", 1, "我们使用Redis缓存")
    call_command("search", "redis", "--in", "knowledge", "--limit", "1", "--json")
    assert [hit["id"] for hit in json.loads(capsys.readouterr().out)["results"]] == ["c1"]
    with pytest.raises(CommandError, match="contains no word to search for") as refused:
        call_command("search", "!?")
    assert refused.value.returncode == 2


def test_the_command_reads_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path / "theirs.db", TABLES)
    path.chmod(0o444)
    call_command("search", "数据", "--db-path", str(path), "--json")
    result = json.loads(capsys.readouterr().out)
    assert {hit["id"] for hit in result["results"]} == {"中文", "mixed", "json"}
    assert result["method"] == "scan of 9 rows"
    with pytest.raises(CommandError) as refused:
        call_command("search", "x", "--db-path", str(tmp_path / "none.db"))
    assert refused.value.returncode == 2


# --- the page ---------------------------------------------------------------------------------------------------


def test_the_page_finds_and_escapes(managed: Managed, client: Any, viewer: Any) -> None:
    remember(managed, "m1", "<b>数据库</b> in redis")
    client.force_login(viewer)
    page = client.get(reverse("search"))
    assert page.status_code == 200
    page = client.get(reverse("search"), {"q": "据库 redis"})
    text = page.content.decode()
    assert "&lt;b&gt;数<mark>据库</mark>&lt;/b&gt; in <mark>redis</mark>" in text
    assert "m1" in text
    assert client.get(reverse("search"), {"q": '\x00"*-', "in": "nowhere"}).status_code == 200


def test_the_page_requires_the_view_permission(client: Any, charlie: Any) -> None:
    client.force_login(charlie)
    assert client.get(reverse("search"), {"q": "x"}).status_code == 403
