"""A statement as a run does what the database would do, and its undo restores every value."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from opsconsole.accounts.models import Token
from opsconsole.engine import lifecycle, queue, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import PlanDrifted, RunRefused
from opsconsole.engine.models import GivenRows, Run, Status, Trigger
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import PlanRefused, advice
from opsconsole.engine.registry import InvalidParameters
from opsconsole.engine.stored_plans import operation_of
from opsconsole.stores import evaluation
from opsconsole.stores.rows import Write
from opsconsole.stores.store import Store, StoreUnavailable
from tests.matrix.harness import CATALOGUE, Place, differences, dump
from tests.support import shop
from tests.support.contract import (
    TESTER,
    after_batches,
    die,
    execute_run,
    operation_called,
    plan_whole,
    start,
    undo,
    work,
)
from tests.support.shop import UUIDS

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
ENGINES = ("sqlite", "postgresql")


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    """Yield an attached shop, and an equal one for the plain driver."""
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    with shop.shops(tmp_path, request.param, server, ("shop_run", "shop_plain")) as (one, other):
        shop.attach(one)
        yield one, other


@pytest.fixture
def place(pair: tuple[Place, Place]) -> Place:
    return pair[0]


def change(statement: str, key_list: str = "") -> Operation:
    return operation_called("operations.change_rows", store="agentos", statement=statement, key_list=key_list)


# Statements that a run executes like the database does.
EXACT = (
    "UPDATE orders SET status = 'closed' WHERE status = 'open'",
    "update ORDERS set N = N + 1, NOTE = status where N > 1",
    "UPDATE orders AS o SET status = upper(o.status), price = o.price * 2 WHERE o.status LIKE '%en' OR o.note = '100%'",
    "UPDATE orders SET n = '7' WHERE id = 1",
    "UPDATE orders SET n = n WHERE id IN (1, 3)",
    "UPDATE orders SET price = 1.005, paid = 3 WHERE id < 3;",
    "UPDATE orders SET status = NULL WHERE NOT (n > 3)",
    "UPDATE orders SET status = 'none' WHERE n IS NULL -- and\n OR status IS NULL /* or WHERE false; */",
    "UPDATE orders SET status = 'none' WHERE n > 0 -- note\r AND id = 1",
    "UPDATE orders SET n = (WITH c AS (SELECT max(id) AS m FROM orders) SELECT m FROM c) WHERE id = 1",
    "UPDATE orders SET n = (SELECT count(*) FROM orders AS other WHERE other.n < orders.n) WHERE n IS NOT NULL",
    "UPDATE orders SET status = CASE WHEN id IN (SELECT id FROM customers WHERE vip = 1) THEN 'vip' ELSE 'other' END, "
    "n = coalesce((SELECT max(vip) FROM customers c WHERE c.id = orders.id), -1) WHERE true",
    "UPDATE orders SET note = 'it''s; --' WHERE note = 'it''s'",
    "UPDATE orders SET note = 'ü' || chr_placeholder WHERE false",
    "DELETE FROM orders WHERE status = 'open' AND n = 1",
    "DELETE FROM orders WHERE n = NULL",
    "DELETE FROM orders WHERE id NOT IN (SELECT id FROM customers) AND length(note) > 0",
    "UPDATE parts SET v = region || '-' || n WHERE region = 'eu'",
    "DELETE FROM parts WHERE (region, n) IN (SELECT region, n FROM parts WHERE n < 3)",
    'UPDATE "Mixed Case" SET "State ""now"" 100%" = "select" || \'%s\', "select" = NULL WHERE "Id" = 1',
    'DELETE FROM "Mixed Case" WHERE "State ""now"" 100%" = \'a\'',
    "UPDATE codes SET v = 'new' WHERE code = '%' OR code < 'b'",
    "DELETE FROM codes WHERE code LIKE '%'",
    f"UPDATE ids SET v = v + 10 WHERE id > '{UUIDS[1]}'",
    f"DELETE FROM ids WHERE id = '{UUIDS[0]}'",
    "UPDATE made SET v = v + twice WHERE twice > 2",
    "DELETE FROM made WHERE v = 2",
    "DELETE FROM parents WHERE id = 2",
)
EXACT_ON = {
    "sqlite": (
        "UPDATE [orders] SET `status` = \"note\" WHERE \"status\" IS 'open' AND status == 'open'",
        "UPDATE orders SET n = 'text', price = '12', status = 5, paid = '1e2', note = X'FF00' WHERE id = 2",
        "UPDATE main.orders SET n = 5.0, price = 2.50 WHERE id = 2 AND status GLOB 'o*'",
        "UPDATE ids SET v = 1.5, raw = CAST('x' AS BLOB), at = 7 WHERE raw = X'FF00'",
        "UPDATE ids SET v = '1.50' WHERE at = 'never'",
        "UPDATE ids SET v = at, raw = at, at = (SELECT at FROM ids LIMIT 1) WHERE true",
        "UPDATE ids SET v = CASE WHEN at = 'never' THEN 9e999 ELSE -9e999 END WHERE true",
        'UPDATE orders SET status = "a text" WHERE id = 1',
        "UPDATE orders SET n = rowid * 10 WHERE rowid > 3",
        "DELETE FROM orders WHERE status = 'OPEN' COLLATE NOCASE",
    ),
    "postgresql": (
        "UPDATE orders SET note = E'a\\'b\\\\' WHERE note = $q$it's$q$ OR note = U&'\\00e9'",
        "UPDATE ids SET mood = 'happy', tags = tags || 'b'::text, doc = jsonb_set(doc, '{a,0}', '2'), ok = NOT ok, "
        "span = '[2,3)', day = '2026-02-28', raw = '\\x00'::bytea, at = '2026-01-01 00:00+02', small = '{ab}' "
        "WHERE tags @> '{a}' AND doc ? 'a' AND at > now() AND day < CURRENT_DATE + 1000",
        "UPDATE ids SET at = NULL, day = day + 1, v = extract(month FROM day)::int WHERE mood = 'sad' AND v IN (0, 1)",
        "UPDATE public.orders o SET price = round(o.price::numeric, 1) WHERE o.price IS DISTINCT FROM 1",
        "UPDATE events SET v = 'c' WHERE v = 'a'",
        "DELETE FROM events WHERE at >= '2026-02-01' AND at < '2026-02-06'",
        "UPDATE events_2 SET v = upper(v) WHERE id = 2",
        "UPDATE orders SET n = fixed(n), note = substring(note from 1 for 1) WHERE n = ANY (ARRAY[1, 2])",
        "UPDATE orders SET status = 'c' WHERE status < 'a' COLLATE \"C\"",
        "UPDATE amounts SET v = 'x' WHERE k > 1",
        "DELETE FROM amounts WHERE true",
        "UPDATE precise SET a = 1.005, b = a * 1.333::float8, c = 'abc  ', d = 'ab', e = '2026-01-01 10:00:00.6', "
        "f = '1.6 s', g = ARRAY[1.25, NULL], h = '101', i = '{ab,\"a \"}', j = '10:00:00.16', k = 1250, l = '{1.005}' "
        "WHERE id < 3",
        "UPDATE precise SET a = NULL, c = NULL, d = 'a   ', "
        "e = (SELECT timestamptz '2026-01-01 00:00:00.5+02'), k = id * 149, g = '{}' WHERE id > 1",
        "UPDATE precise SET c = substring('100%\"\\' from 4 for 3), d = E'\\'\\\\' WHERE id = 3",
    ),
}


def cases() -> list[tuple[str, str]]:
    found = [(engine, text) for engine in ENGINES for text in (*EXACT, *EXACT_ON[engine])]
    return [(engine, text) for engine, text in found if "placeholder" not in text]


@pytest.mark.parametrize(("pair", "statement"), cases(), indirect=["pair"])
def test_a_run_does_what_the_database_would_do(pair: tuple[Place, Place], statement: str) -> None:
    place, plain = pair
    before = dump(place)
    shop.do(plain, statement)
    planned = plan_whole(change(statement))
    assert differences(dump(place), before) == []
    run = execute_run(change(statement))
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    others = [(CATALOGUE, "*")]  # names of constraints contain numbers of the database
    assert differences(dump(place), dump(plain), but=others) == []
    assert planned.counts() == {name: getattr(run, name) for name in planned.counts()}
    if run.changed:
        back = undo(run)
        assert back.status == Status.SUCCEEDED
        assert differences(dump(place), before) == []


# --- what cannot be planned exactly ---------------------------------------------------------------------------

# Statement → a part of the sentence.
REFUSED = {
    "": "required|empty",
    " ; ": "empty|cannot be read|something else",
    "SELECT 1": "Only one UPDATE or DELETE",
    "INSERT INTO orders (id) VALUES (9) ON CONFLICT DO NOTHING": "Only one UPDATE or DELETE",
    "DROP TABLE orders": "Only one UPDATE or DELETE",
    "EXPLAIN UPDATE orders SET n = 1 WHERE id = 1": "Only one UPDATE or DELETE",
    "UPDATE orders SET n = 1": "no WHERE clause",
    "UPDATE orders SET n = 1 WHERE id = 1; DELETE FROM orders WHERE true": "several statements",
    "UPDATE orders SET n = 1 WHERE id = 1 -- x\n; DELETE FROM parts WHERE true": "several statements",
    "UPDATE orders SET n = 1 WHERE note = 'a;": "outside of a complete text",
    "UPDATE orders SET n = 1 WHERE id = 1 /* open": "no end",
    "UPDATE orders SET n = 1 WHERE id\u00a0= 1": "outside of a complete text",
    "UPDATE orders SET note = 'a\0b' WHERE id = 1": "no text can hold|Null characters|null",
    "UPDATE orders SET n = 1 WHERE id = 1 RETURNING *": "RETURNING",
    "DELETE FROM orders WHERE id = 1 ORDER BY id LIMIT 1": "ORDER BY",
    "UPDATE orders SET n = c.vip FROM customers AS c WHERE c.id = orders.id": "FROM",
    "WITH x AS (SELECT 1) UPDATE orders SET n = 1 WHERE id = 1": "WITH",
    "DELETE FROM orders WHERE id IN (WITH x AS (DELETE FROM parts RETURNING n) SELECT n FROM x)": "writes",
    "UPDATE orders SET n = :value WHERE id = 1": "parameter|cannot be read",
    "UPDATE orders SET n = ? WHERE id = 1": "parameter|cannot be read",
    "UPDATE orders SET n = DEFAULT WHERE id = 1": "DEFAULT",
    "UPDATE orders SET (n, note) = (1, 'a') WHERE id = 1": "each column by itself",
    "UPDATE orders SET orders.n = 1 WHERE id = 1": "each column by itself",
    "UPDATE orders SET n = 1, n = 2 WHERE id = 1": "twice",
    "UPDATE orders SET id = 9 WHERE id = 1": "identifies the row",
    "UPDATE parts SET n = 9 WHERE n = 2": "identifies the row",
    "UPDATE orders SET nothing = 1 WHERE id = 1": "no column nothing",
    "UPDATE orders SET n = 1 WHERE nothing = 1": "refuses the statement on .*nothing",
    "UPDATE nothing SET n = 1 WHERE id = 1": "The table nothing is missing",
    "UPDATE elsewhere.orders SET n = 1 WHERE id = 1": "elsewhere",
    "UPDATE orders SET n = random() WHERE id = 1": r"random\(\)",
    "DELETE FROM orders WHERE id IN (SELECT id FROM customers WHERE RANDOM() > 0)": r"random\(\)",
    "UPDATE orders SET n = (WITH c AS (SELECT random() AS r) SELECT r FROM c) WHERE id = 1": r"random\(\)",
    "UPDATE orders SET n = 1 WHERE id IN (SELECT id FROM orders LIMIT random())": r"random\(\)",
    "UPDATE orders SET n = 1 WHERE id IN (VALUES (random()), (1))": r"random\(\)",
    "UPDATE orders SET n = 1 WHERE random() IN (SELECT id FROM orders)": r"random\(\)",
    "UPDATE heap SET v = 'x' WHERE true": "no key",
    "UPDATE seen SET n = 1 WHERE id = 1": "view",
    "UPDATE made SET twice = 1 WHERE id = 1": "generated column",
    "UPDATE orders SET n = (SELECT id FROM missing) WHERE id = 1": "refuses the statement on .*missing",
    "UPDATE orders SET n = 1 WHERE " + "(" * 5_000 + "1" + ")" * 5_000: "nested too deeply",
}
REFUSED_ON = {
    "sqlite": {
        "UPDATE OR IGNORE orders SET n = 1 WHERE id = 1": "cannot be read",
        "UPDATE orders SET n = $value WHERE id = 1": "parameter",
        "UPDATE orders SET n = 1 WHERE status = n'open'": "only one way",
        "UPDATE orders SET n = last_insert_rowid() WHERE id = 1": r"last_insert_rowid\(\)",
        "UPDATE orders SET note = load_extension('x') WHERE id = 1": r"load_extension\(\)",
        "UPDATE temp.orders SET n = 1 WHERE id = 1": "temp",
        "UPDATE search_content SET c0 = 'x' WHERE true": "virtual table",
        "UPDATE search SET body = 'x' WHERE true": "virtual table",
        "UPDATE odd_keys SET v = 'x' WHERE true": "fraction",
        "UPDATE sqlite_master SET sql = 'x' WHERE true": "missing",
        "UPDATE orders SET n = (SELECT count(*) FROM pragma_journal_mode) WHERE id = 1": "not authorized",
        "UPDATE orders SET n = 1 WHERE note REGEXP '(a+)+$'": r"regexp\(\)",
        **{
            f"UPDATE orders SET n = length({long}) WHERE id = 1": "more than 1,000,000 bytes"
            for long in (
                "zeroblob(900000000)",
                "printf('%900000000d', 1)",
                "replace(hex(zeroblob(400000)), '0', 'many')",
                "(WITH RECURSIVE c(v) AS (SELECT 'a' UNION ALL SELECT v || v FROM c) SELECT max(v) FROM c)",
                "(SELECT group_concat(hex(zeroblob(400000))) FROM customers)",
            )
        },
        "UPDATE orders SET n = 1 WHERE note LIKE hex(zeroblob(1000))": "too complex",
    },
    "postgresql": {
        "UPDATE ONLY orders SET n = 1 WHERE id = 1": "ONLY",
        "UPDATE odd_keys SET v = 'x' WHERE true": "neither a text nor a whole number",
        "UPDATE spans SET v = 'x' WHERE true": "neither a text nor a whole number",
        "UPDATE orders SET n = 1 WHERE id = 1 AND": "cannot be read: Required keyword: 'expression' \\(",
        "UPDATE orders SET note = pg_read_file('/etc/hostname') WHERE id = 1": r"pg_read_file\(\)",
        "UPDATE orders SET note = query_to_xml('delete from parts', true, true, '')::text WHERE id = 1": "query_to_xml",
        "UPDATE orders SET n = (WITH x AS (UPDATE parts SET v = 'q' RETURNING 1) SELECT 1) WHERE id = 1": "writes",
        "UPDATE pg_class SET relname = 'x' WHERE oid = 1": "missing",
        "UPDATE orders SET n = $1 WHERE id = 1": "parameter",
        "UPDATE orders SET n = 1 WHERE CURRENT OF cursor": "cannot be read|refuses",
        "UPDATE \"Other\".orders SET status = 'x' WHERE id = 1": "not in the schemas of this store",
        "UPDATE orders SET n = dice() WHERE id = 1": r"dice\(\)",
        "UPDATE orders SET n = public.dice() WHERE id = 1": r"dice\(\)",
        "UPDATE orders SET n = 1 WHERE id IN (SELECT roll::int FROM rolls)": r"random\(\)",
        "UPDATE orders SET n = 1 WHERE id IN (SELECT id FROM orders OFFSET dice ())": r"dice\(\)",
        "UPDATE orders SET n = (SELECT sum(id) OVER (ORDER BY id ROWS dice() PRECEDING) FROM orders LIMIT 1) "
        "WHERE id = 1": r"dice\(\)",
        'UPDATE orders AS "x\'" SET n = CASE WHEN "x\'".n > 0 THEN "dice"() ELSE "x\'".n END WHERE id = 1': r"dice\(\)",
        "UPDATE orders SET note = E'a'\n'\\'' WHERE id = 1": "only one way|cannot be read",
        "UPDATE orders SET n = nextval('log_id_seq') WHERE id = 1": r"nextval\(\)",
        "UPDATE orders SET note = set_config('search_path', 'x', false) WHERE id = 1": r"set_config\(\)",
        "DELETE FROM orders WHERE pg_sleep(100) IS NULL": r"pg_sleep\(\)",
        "UPDATE orders SET n = 1 / (n - n) WHERE id = 1": "division by zero",
        "UPDATE orders SET n = 'x' WHERE id = 1": "refuses the statement on .*invalid input",
        "UPDATE orders SET n = note WHERE id = 1": "refuses the statement on .*type",
        "UPDATE made SET number = 9 WHERE id = 1": "generated column",
        "UPDATE frozen SET n = 1 WHERE id = 1": "materialized view",
        "UPDATE base SET v = 'x' WHERE id = 1": "no key",
        "DELETE FROM orders WHERE id = 1 AND EXISTS (SELECT 1 FROM parts FOR UPDATE)": "writes or locks",
        "UPDATE ids SET tags[1] = 'x' WHERE v = 1": "each column by itself",
        "UPDATE precise SET a = a - 2 WHERE id < 3": "refuses the statement on .*amount",
        "UPDATE precise SET a = 1e8 WHERE id = 1": "refuses the statement on .*overflow",
        "UPDATE precise SET c = 'ab' || id || 'c' WHERE id = 1": "refuses the statement on .*too long",
        "UPDATE precise SET d = repeat('x', id + 3) WHERE id < 3": "refuses the statement on .*too long",
        "UPDATE precise SET h = repeat('1', id + 3)::varbit WHERE id = 1": "refuses the statement on .*too long",
        "UPDATE precise SET i = ARRAY['a', 'abc'] WHERE id = 1": "refuses the statement on .*too long",
        "UPDATE orders SET note = repeat('x', 9) WHERE id = 1": "refuses the statement on .*too long",
        "UPDATE orders SET status = repeat(status, 3000000) WHERE id = 1": "more than 10,000,000 characters",
        "UPDATE orders SET n = 1 WHERE note = repeat('x', 30000000)": "shorter constants",
        "UPDATE orders SET n = 1 WHERE note = (1::bit(30000000))::text": "shorter constants",
        "UPDATE orders SET status = repeat('x', 100000000) WHERE id = 1": "shorter constants",
        "UPDATE orders SET status = repeat('x', 2000000000) WHERE id = 1": "refuses the statement on .*too large",
    },
}


@pytest.mark.parametrize("pair", ENGINES, indirect=True)
def test_what_cannot_be_planned_is_refused_in_a_sentence(pair: tuple[Place, Place]) -> None:
    place, _plain = pair
    before = dump(place)
    wrong = []
    for text, part in (REFUSED | REFUSED_ON[place.engine]).items():
        try:
            plan_whole(change(text))
        except (PlanRefused, StoreUnavailable, InvalidParameters) as error:
            if not re.search(part, str(error)) or "\n" in str(error).strip():
                wrong.append((text[:100], str(error)))
        else:
            wrong.append((text[:100], "was planned"))
    assert wrong == []
    assert differences(dump(place), before) == []


@pytest.mark.parametrize("pair", ["postgresql"], indirect=True)
def test_rows_that_row_level_security_hides_are_not_overlooked(place: Place) -> None:
    role = f"{place.address.rpartition('/')[2]}_role"
    shop.do(
        place, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    )
    try:
        shop.do(
            place, "ALTER TABLE customers ENABLE ROW LEVEL SECURITY", "CREATE POLICY one ON customers USING (id = 1)"
        )
        shop.attach(Place("postgresql", re.sub("//[^@]*@", f"//{role}@", place.address)))
        for statement in (
            "UPDATE customers SET vip = 5 WHERE true",
            "DELETE FROM customers WHERE id = 1",
            "UPDATE orders SET n = 1 WHERE id NOT IN (SELECT id FROM customers)",
            "UPDATE orders SET n = (SELECT count(*) FROM customers) WHERE id = 1",
        ):
            with pytest.raises((PlanRefused, StoreUnavailable), match=r"(?i)row-level security"):
                plan_whole(change(statement))
        assert plan_whole(change("UPDATE orders SET n = 1 WHERE id = 2")).total == 1
    finally:
        Store("agentos", "agentos").close()
        shop.do(place, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# What the statement names without parentheses, and what it calls.
NAMED = {
    "CREATE VIEW named AS SELECT x FROM (VALUES (dice()), (1)) AS v(x)": "id IN (SELECT x FROM named)",
    "CREATE DOMAIN named AS integer CHECK (dice() > VALUE)": "n::named = 1",
    "CREATE AGGREGATE named(integer) (SFUNC = add_dice, STYPE = integer)": "n < (SELECT named(id) FROM orders)",
    "CREATE OPERATOR <<# (LEFTARG = integer, RIGHTARG = integer, FUNCTION = add_dice)": "id OPERATOR(public.<<#) 1 = 2",
    "CREATE OPERATOR = (LEFTARG = numeric, RIGHTARG = integer, FUNCTION = eq_dice)": "price OPERATOR(public.=) 1",
    "CREATE CAST (integer AS pair) WITH FUNCTION pair_dice(integer)": "(n::pair).a = 1",
}


@pytest.mark.parametrize("pair", ["postgresql"], indirect=True)
def test_no_name_hides_a_volatile_function(place: Place) -> None:
    shop.do(place, "CREATE FUNCTION add_dice(a integer, b integer) RETURNS integer LANGUAGE sql AS 'SELECT a + dice()'")
    shop.do(place, "CREATE FUNCTION eq_dice(a numeric, b integer) RETURNS boolean LANGUAGE sql AS 'SELECT dice() = b'")
    shop.do(place, "CREATE TYPE pair AS (a integer, b integer)")
    shop.do(place, "CREATE FUNCTION pair_dice(a integer) RETURNS pair LANGUAGE plpgsql AS 'BEGIN RETURN (a, a); END'")
    for definition, where in NAMED.items():
        shop.do(place, definition)
        with pytest.raises(PlanRefused, match=r"dice\(\)"):
            plan_whole(change(f"UPDATE orders SET status = 'x' WHERE {where}"))
        if " VIEW " in definition:
            shop.do(place, "DROP VIEW named")
        elif " DOMAIN " in definition:
            shop.do(place, "DROP DOMAIN named")
    assert plan_whole(change("UPDATE orders SET status = 'x' WHERE n = 1 AND price > 1"))  # these operators are safe


@pytest.mark.parametrize("pair", ["sqlite"], indirect=True)
@pytest.mark.parametrize("statement", ["UPDATE orders SET price = 1 WHERE id < 3", "DELETE FROM orders WHERE id < 3"])
def test_an_undo_restores_infinite_numbers(place: Place, statement: str) -> None:
    shop.do(place, "UPDATE orders SET price = CASE id WHEN 1 THEN 9e999 ELSE -9e999 END")
    before = dump(place)
    run = execute_run(change(statement))
    assert run.changed == 2
    assert undo(run).status == Status.SUCCEEDED
    assert differences(dump(place), before) == []


@pytest.mark.parametrize("pair", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "statement", ["UPDATE orders SET note = note || 'x' WHERE id = 1", "DELETE FROM orders WHERE id = 1"]
)
def test_rows_may_be_longer_than_what_a_statement_may_build(place: Place, statement: str) -> None:
    shop.do(place, "UPDATE orders SET note = hex(zeroblob(1000000)) WHERE id = 1")
    before = dump(place)
    run = execute_run(change(statement))
    assert (run.changed, run.status) == (1, Status.SUCCEEDED)
    assert undo(run).status == Status.SUCCEEDED
    assert differences(dump(place), before) == []


ENDLESS = {
    "sqlite": "(WITH RECURSIVE c(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM c) SELECT max(v) FROM c)",
    "postgresql": "(WITH RECURSIVE c(v) AS (SELECT 1 UNION ALL SELECT 1 FROM c) SELECT max(v) FROM c)",
}


def test_an_endless_statement_is_stopped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("agentos", "agentos")
    monkeypatch.setattr(evaluation, "SQLITE_SECONDS", 0.5)
    if place.engine == "postgresql":
        store.execute("SET statement_timeout = '500ms'")
    with pytest.raises(PlanRefused, match="stopped the statement"):
        plan_whole(change(f"UPDATE orders SET n = {ENDLESS[place.engine]} WHERE id = 1"))
    assert plan_whole(change("UPDATE orders SET n = 1 WHERE id = 1"))


def test_a_plan_of_long_rows_is_limited(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ", ".join(f"({key}, '{'x' * 5_000}')" for key in range(100, 1_400))
    shop.do(place, f"INSERT INTO orders (id, status) VALUES {rows}")
    monkeypatch.setattr(evaluation, "FETCHED_BYTES", 50_000)
    run = execute_run(change("DELETE FROM orders WHERE id >= 100"))
    assert (run.changed, run.status) == (1_300, Status.SUCCEEDED)
    assert undo(run).status == Status.SUCCEEDED
    monkeypatch.setattr(evaluation, "MAX_BYTES", 6_000_000)
    with pytest.raises(PlanRefused, match="more than 1 GB"):
        plan_whole(change("DELETE FROM orders WHERE id >= 100"))


@pytest.mark.parametrize("pair", ["sqlite"], indirect=True)
def test_a_statement_cannot_update_the_statistics(place: Place) -> None:
    shop.do(place, "CREATE INDEX by_n ON orders (n)")
    shop.do(place, "ANALYZE")
    shop.do(
        place,
        "WITH RECURSIVE c(n) AS (SELECT 10 UNION ALL SELECT n + 1 FROM c WHERE n < 5000) "
        "INSERT INTO orders (id, n) SELECT n, n FROM c",
    )
    statistics = "SELECT tbl, idx, stat FROM sqlite_stat1"
    before = shop.do(place, statistics)
    Store("agentos", "agentos").query("SELECT 1 FROM orders WHERE n = 5")
    with pytest.raises(PlanRefused, match=r"readonly|not authorized"):
        plan_whole(change("UPDATE orders SET n = (SELECT count(*) FROM pragma_optimize) WHERE n = 5"))
    assert Store("agentos", "agentos").query("PRAGMA query_only") == [(0,)]
    assert shop.do(place, statistics) == before


# --- the run --------------------------------------------------------------------------------------------------


def orders(place: Place) -> dict[int, Any]:
    return dict(shop.do(place, "SELECT id, status FROM orders"))


def test_rows_that_changed_since_the_plan_are_not_written(place: Place) -> None:
    run = start(change("UPDATE orders SET status = 'closed' WHERE n > 0"))
    shop.do(place, "UPDATE orders SET n = 99 WHERE id = 1")  # the statement reads n, so the decision may be another
    shop.do(place, "DELETE FROM orders WHERE id = 2")
    shop.do(place, "UPDATE orders SET paid = 7 WHERE id = 4")  # the statement does not read it
    shop.do(place, "INSERT INTO orders (id, status, n) VALUES (6, 'new', 6)")
    run = work(run)
    assert run.reasons["skipped"] == {"changed_since_plan": 1, "no_longer_in_scope": 1}
    assert run.status == Status.SUCCEEDED
    assert orders(place) == {1: "open", 3: "paid", 4: "closed", 5: "closed", 6: "new"}


def test_a_value_is_evaluated_once_for_the_plan(place: Place) -> None:
    run = start(change("UPDATE orders SET status = CURRENT_TIMESTAMP WHERE true"))
    (part,) = GivenRows.objects.filter(digest__in=run.plan["frozen"]["parts"])
    planned = {key: (new or ())[0] for write in part.writes for key, _old, new in write.rows}
    time.sleep(1.1)
    work(run)
    assert orders(place) == planned
    assert len(set(planned.values())) == 1


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_a_run_that_dies_changes_each_row_once(place: Place, batch_size: int) -> None:
    rows = ", ".join(f"({key}, 'many', {key})" for key in range(100, 2_600))
    shop.do(place, f"INSERT INTO orders (id, status, n) VALUES {rows}")
    before = dump(place)
    run = start(change("UPDATE orders SET n = n + 1 WHERE status = 'many'"), batch_size=batch_size)
    until, on_progress = after_batches(2)
    work(run, until=until, on_progress=on_progress)
    run = work(die(run))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 2_500)
    assert shop.do(place, "SELECT count(*), sum(n - id) FROM orders WHERE status = 'many'") == [(2_500, 2_500)]
    assert undo(run).status == Status.SUCCEEDED
    assert differences(dump(place), before) == []


@pytest.mark.parametrize("pair", ["postgresql"], indirect=True)
def test_a_column_is_guarded_by_the_name_that_the_database_reads(place: Place) -> None:
    name = "n" * 63
    shop.do(place, f"ALTER TABLE orders ADD COLUMN {name} INTEGER")
    run = start(change(f"UPDATE orders SET status = 'x' WHERE id < 3 AND {name}{name} IS NULL"))
    shop.do(place, f"UPDATE orders SET {name} = 1 WHERE id = 1")
    assert work(run).reasons["skipped"] == {"changed_since_plan": 1}
    assert orders(place)[1] == "open"


def test_rows_that_others_refer_to_are_not_deleted(place: Place) -> None:
    run = execute_run(change("DELETE FROM parents WHERE true"))
    assert (run.changed, run.reasons["invalid"], run.status) == (1, {"referenced": 1}, Status.SUCCEEDED)
    assert shop.do(place, "SELECT id FROM parents") == [(1,)]
    assert shop.do(place, "SELECT id FROM children") == [(10,)]


def test_a_delete_whose_rows_have_changed_is_planned_again(place: Place) -> None:
    run = lifecycle.create_run(plan_whole(change("DELETE FROM orders WHERE status = 'open'")), TESTER)
    shop.do(place, "UPDATE orders SET paid = 7 WHERE id = 1")
    with pytest.raises(PlanDrifted):
        lifecycle.confirm(run, TESTER, background=False)
    assert len(orders(place)) == 5


def test_failed_rows_are_retried_with_the_planned_values(place: Place) -> None:
    shop.do(place, "CREATE UNIQUE INDEX one_note ON orders (note)")
    run = execute_run(change("UPDATE orders SET note = 'same' WHERE id < 3"))
    assert (run.changed, run.failed, run.status) == (1, 1, Status.NEEDS_ATTENTION)
    shop.do(place, "DROP INDEX one_note")
    again = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
    assert (again.changed, again.status) == (1, Status.SUCCEEDED)
    assert shop.do(place, "SELECT count(*) FROM orders WHERE note = 'same'") == [(2,)]


def test_a_retry_does_not_evaluate_the_statement_again(place: Place) -> None:
    shop.do(place, "CREATE UNIQUE INDEX one_note ON orders (note)")
    statement = "UPDATE orders SET note = 'same', status = status || '!', n = n + 1 WHERE status = 'open'"
    run = execute_run(change(statement))
    assert (run.changed, run.failed) == (1, 1)
    shop.do(place, "DROP INDEX one_note")
    again = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
    assert (again.total, again.changed, again.status) == (1, 1, Status.SUCCEEDED)
    assert shop.do(place, "SELECT id, n FROM orders WHERE note = 'same' AND status = 'open!' ORDER BY 1") == [
        (1, 2),
        (2, 3),
    ]


def test_altered_rows_of_a_plan_are_refused(place: Place) -> None:
    run = start(change("UPDATE orders SET status = 'closed' WHERE id = 1"))
    GivenRows.objects.update(content=GivenRows.of([Write("orders", ("status",), [(1, ("open",), ("bad",))])]).content)
    with pytest.raises(PlanRefused, match="altered"):
        work(run)
    assert orders(place)[1] == "open"


def test_triggers_are_announced(place: Place) -> None:
    planned = plan_whole(change("UPDATE watched SET v = 'x' WHERE id = 1"))
    assert any("audit" in note and "log" in note for note in advice(planned))
    assert execute_run(change("UPDATE watched SET v = 'x' WHERE id = 1")).status == Status.SUCCEEDED


# --- keys -----------------------------------------------------------------------------------------------------


def test_keys_narrow_a_statement(place: Place) -> None:
    run = execute_run(change("UPDATE orders SET status = 'closed' WHERE id <> 2", "1\n2\n\n5\n"))
    assert (run.changed, run.status) == (2, Status.SUCCEEDED)
    assert [key for key, status in orders(place).items() if status == "closed"] == [1, 5]
    execute_run(change("UPDATE parts SET v = 'new' WHERE true", 'region,n\neu,10\r\n"a,b",3\n'))
    assert shop.do(place, "SELECT n FROM parts WHERE v = 'new' ORDER BY n") == [(3,), (10,)]
    execute_run(change("UPDATE codes SET v = 'new' WHERE true", "%\n"))
    assert shop.do(place, "SELECT code FROM codes WHERE v = 'new'") == [("%",)]
    execute_run(change(f"UPDATE ids SET v = 99 WHERE id < '{UUIDS[0]}'", "\n".join(UUIDS)))
    assert shop.do(place, "SELECT count(*) FROM ids WHERE v = 99") == [(2,)]


@pytest.mark.parametrize(
    ("table", "keys", "part"),
    [
        ("orders", "1\n77", "no row with the key 77"),
        ("orders", "1\nx", "not a whole number"),
        ("orders", "1\n１", "not a whole number"),
        ("orders", "99999999999999999999", "not a whole number"),
        ("parts", "eu", "consists of region, n"),
        ("parts", "eu,3", "no row with the key"),
        ("parts", "eu,2,1", "consists of region, n"),
        ("parts", "region\neu", "consists of region, n"),
        ("parts", '"eu,2\ncn,1', "consists of region, n"),
        ("parts", f"eu,{'2' * 200_000}", "not a whole number"),
        ("orders", "1_000", "not a whole number"),
        ("orders", '"1"', "not a whole number"),
        ("orders", "id,status\n1,open", "not a whole number"),
        ("ids", "not-a-uuid", "does not have the type of id|no row with the key"),
    ],
)
def test_wrong_keys_are_refused(place: Place, table: str, keys: str, part: str) -> None:
    column = "status" if table == "orders" else "v"
    value = 1 if table == "ids" else "'x'"
    with pytest.raises(PlanRefused, match=part) as refused:
        plan_whole(change(f"UPDATE {table} SET {column} = {value} WHERE true", keys))
    assert len(str(refused.value)) < 500


# --- confirmation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "keys", "typed"),
    [
        *((where, "", True) for where in ("true", "id > 0", "not false", "id = id", "id IS NOT NULL OR id IS NULL")),
        ("coalesce(n > 1, true) OR NOT n > 1", "", True),
        ("id > 1", "", False),
        ("true", "1", False),
        ("id > 9", "", False),
    ],
)
def test_a_statement_that_leaves_out_no_row_must_be_typed(place: Place, where: str, keys: str, typed: bool) -> None:
    run = lifecycle.create_run(plan_whole(change(f"UPDATE orders SET status = 'x' WHERE {where}", keys)), TESTER)
    assert lifecycle.needs_typing(operation_of(run)) == typed


def test_the_permission_is_asked_of_planner_and_confirmer(place: Place, bob: User, alice: User) -> None:
    planned = plan_whole(change("UPDATE orders SET status = 'x' WHERE id = 1"))
    operator, superuser = (Actor(one.username, "here", Trigger.ADMIN, one) for one in (bob, alice))
    with pytest.raises(RunRefused, match="change_by_statement"):
        lifecycle.create_run(planned, operator)
    run = lifecycle.create_run(planned, superuser)
    with pytest.raises(RunRefused, match="change_by_statement"):
        lifecycle.confirm(run, operator, background=False)
    bob.user_permissions.add(Permission.objects.get(codename="change_by_statement"))
    operator = Actor("bob", "here", Trigger.ADMIN, User.objects.get(pk=bob.pk))
    assert lifecycle.confirm(run, operator, background=False).status == Status.RUNNING


@pytest.fixture
def production(settings: Any) -> None:
    settings.ENVIRONMENT, settings.PRODUCTION = "production", True


def waiting(operation: Operation, actor: Actor = TESTER) -> Run:
    run = lifecycle.confirm(lifecycle.create_run(plan_whole(operation), actor), actor, background=True)
    assert run.status == Status.AWAITING_APPROVAL
    return run


def approved(run: Run, approver: User) -> Run:
    lifecycle.approve(run, Actor(approver.username, "here", Trigger.ADMIN, approver))
    return work(workers.claim(Run.objects.get(pk=run.pk)))


@pytest.mark.parametrize("trigger", list(Trigger))
def test_production_needs_a_second_approver(place: Place, production: None, alice: User, trigger: Trigger) -> None:
    actor = Actor("alice", "here", trigger, alice)
    run = waiting(change("UPDATE orders SET status = 'x' WHERE id = 1"), actor)
    with pytest.raises(RunRefused):
        lifecycle.approve(run, actor)


def test_no_emergency_replaces_the_approver(place: Place, production: None, alice: User, client: Any) -> None:
    run = waiting(change("UPDATE orders SET status = 'x' WHERE id = 1"))
    with pytest.raises(RunRefused, match="always needs a second approver"):
        lifecycle.break_glass(run, Actor("alice", "here", Trigger.ADMIN, alice), "no approver can be reached tonight")
    client.force_login(alice)
    page = client.get(reverse("run", args=[run.pk])).content.decode()
    assert reverse("run-act", args=[run.pk, "approve"]) in page
    assert reverse("run-act", args=[run.pk, "break-glass"]) not in page


def test_what_repeats_a_statement_needs_the_same(place: Place, production: None, alice: User, bob: User) -> None:
    shop.do(place, "CREATE UNIQUE INDEX one_note ON orders (note)")
    run = approved(waiting(change("UPDATE orders SET note = 'same' WHERE id < 3")), alice)
    assert (run.changed, run.failed) == (1, 1)
    shop.do(place, "DROP INDEX one_note")
    without = Actor("bob", "here", Trigger.ADMIN, bob)
    retry = operation_called("operations.retry_failed_rows", run=run.pk)
    with pytest.raises(RunRefused, match="change_by_statement"):
        lifecycle.create_run(plan_whole(retry), without)
    assert approved(waiting(retry), alice).changed == 1
    back = undo(run)
    redo = operation_called("operations.undo_run", run=back.pk)
    with pytest.raises(RunRefused, match="change_by_statement"):
        lifecycle.create_run(plan_whole(redo), without)
    redone = approved(waiting(redo), alice)
    assert redone.changed == 1
    assert execute_run(operation_called("operations.undo_run", run=redone.pk)).changed == 1


@pytest.mark.parametrize("flags", [(), ("--fast",), ("--batch-size", "1"), ("--json",)])
def test_no_flag_replaces_the_approver(
    place: Place, production: None, alice: User, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    before = orders(place)
    monkeypatch.setenv("OPSCONSOLE_TOKEN", Token.issue(alice, "test"))
    statement = "UPDATE orders SET status = 'x' WHERE id = 1"
    with suppress(SystemExit, CommandError):
        call_command("change", "agentos", statement, "--execute", "--yes", "--note", "why it is needed", *flags)
    assert [run.status for run in Run.objects.all()] == [Status.AWAITING_APPROVAL]
    assert orders(place) == before


def test_no_schedule_starts_a_statement(place: Place) -> None:
    with pytest.raises(RunRefused, match="cannot be scheduled"):
        queue.switch("operations.change_rows", on=True, cron="* * * * *", actor=TESTER)
    assert not Run.objects.exists()
    assert all(one.operation.name != "operations.change_rows" for one in queue.schedules())


def test_the_console_itself_is_not_changed() -> None:
    with pytest.raises(InvalidParameters, match="default"):
        operation_called("operations.change_rows", store="default", statement="DELETE FROM auth_user WHERE true")


def test_evaluated_rows_are_pruned_with_before_images(place: Place) -> None:
    old, recent = (execute_run(change(f"UPDATE orders SET status = '{one}' WHERE id = 1")) for one in "xy")
    long_ago = timezone.now() - timedelta(days=91)
    GivenRows.objects.update(at=long_ago)
    Run.objects.filter(pk=old.pk).update(finished_at=long_ago)
    execute_run(operation_called("operations.prune_runs", Store("default", "default")))
    assert list(GivenRows.objects.values_list("digest", flat=True)) == recent.plan["frozen"]["parts"]
