"""Oddities of databases. Each is applied to a store with its documented tables and rows.

`<table>`, `<key>`, `<column>` (written, or judged by a delete), `<other>` (a text that is neither), `<row>` (the
key of a row that changes), `<kept>` (of one that does not) and `<event>` are the operation's. `<role>` is a role that
owns nothing, `<database>` the database.
"""

from __future__ import annotations

import re
import sqlite3 as driver
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Making = str | Callable[[Any, Mapping[str, str]], None]
FILLS, DELETES = ("fill_audits", "fill_ids", "sync"), ("clean_memory", "clean_jobs")
CHOSEN = ("delete_jobs", "delete_tasks")  # their rows are selected, and their deletes cascade


@dataclass(frozen=True)
class Oddity:
    """An oddity of one engine."""

    name: str
    engine: str
    makes: tuple[Making, ...]
    words: tuple[str, ...] = ()  # parts of the message of a refusal or a failed row
    works: bool = False  # the operation must not be refused
    fails: bool = False  # the operation works, but the row `<row>` fails
    kinds: tuple[str, ...] = ()  # the operations that it matters for; empty for all
    touched: tuple[tuple[str, str], ...] = ()  # (table, column) that triggers of the store change
    names: tuple[str, ...] = ()  # names in the plan, if it is not refused
    derived: tuple[tuple[str, str], ...] = ()  # (table, column) that the database computes from written ones
    follows: tuple[tuple[str, str], ...] = ()  # (table, column) that it computes from `<other>`
    moments: tuple[tuple[str, str], ...] = ()  # (table, column) of times, whose form may differ
    between: tuple[str, ...] = ()  # between the run and its undo
    query: str = ""  # its result must be the same before the run and after the undo
    role: bool = False  # the console connects as `<role>`
    schema: str = ""  # the configured one
    encoding: str = "UTF8"
    children: tuple[str, ...] = ()  # tables whose rows count as rows of `<table>`
    url: str = ""  # parameters of the address
    pooler: bool = False
    leaves: tuple[str, ...] = ()  # statements of another client in the connection of the pooler


ODDITIES: list[Oddity] = []


def sqlite(name: str, *makes: Making, **options: Any) -> None:
    ODDITIES.append(Oddity(name, "sqlite", makes, **options))


def postgresql(name: str, *makes: Making, **options: Any) -> None:
    ODDITIES.append(Oddity(name, "postgresql", makes, **options))


def both(name: str, *makes: Making, **options: Any) -> None:
    sqlite(name, *makes, **options)
    postgresql(name, *makes, **options)


def the_table(definitions: list[str]) -> str:
    if not definitions:
        raise driver.OperationalError("a view has taken the table's place")
    return definitions[0]


def rebuilt(edit: Callable[[str, Mapping[str, str]], str], table: str = "<table>") -> Making:
    """Recreate a SQLite table with another definition and the same rows, indexes and triggers."""
    called = table

    def make(connection: Any, names: Mapping[str, str]) -> None:
        table = names["table"] if called == "<table>" else called
        found = connection.execute("SELECT type, sql FROM sqlite_schema WHERE tbl_name = ? AND sql > ''", [table])
        statements = {type_: [] for type_ in ("table", "index", "trigger")}  # type: ignore[var-annotated]
        for type_, text in found.fetchall():
            statements[type_].append(text)
        old = the_table(statements["table"])
        connection.execute("PRAGMA legacy_alter_table=ON")  # other tables keep referring to the name
        connection.execute(f"ALTER TABLE {table} RENAME TO rebuilt_before")
        connection.execute(edit(old, names))
        connection.execute(f"INSERT INTO {table} SELECT * FROM rebuilt_before")
        connection.execute("DROP TABLE rebuilt_before")
        for text in statements["index"] + statements["trigger"]:
            connection.execute(text)

    return make


def declared(column: str, declaration: str) -> Callable[[str, Mapping[str, str]], str]:
    """Return an edit that declares the column that `column` names differently."""

    def edit(text: str, names: Mapping[str, str]) -> str:
        made, count = re.subn(
            rf"(?<=[\s(,]){names[column]} [^,]*?(?=,|\)?$|\)\s*$)", f"{names[column]} {declaration}", text, count=1
        )
        assert count, text
        return made

    return edit


def ending(text: str) -> Callable[[str, Mapping[str, str]], str]:
    """Return an edit that inserts text before the last parenthesis of a definition."""

    def edit(definition: str, names: Mapping[str, str]) -> str:
        head, _mark, tail = definition.rpartition(")")
        added = re.sub(r"<(\w+)>", lambda found: names[found[1]], text)
        return f"{head}, {added}){tail}"

    return edit


def log(columns: str = "id BIGINT") -> str:
    return f"CREATE TABLE odd_log ({columns})"


LOG = (("odd_log", "*"),)

both("nothing_odd", works=True)

# --- triggers of PostgreSQL ------------------------------------------------------------------------


def function(body: str, name: str = "odd") -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"


def trigger(
    when: str = "", *, moment: str = "BEFORE", event: str = "<event>", each: str = "ROW", call: str = "odd"
) -> str:
    condition = f"WHEN ({when})" if when else ""
    return (
        f"CREATE TRIGGER odd_trigger {moment} {event} ON <table> FOR EACH {each} {condition} EXECUTE FUNCTION {call}()"
    )


ONE = "OLD.<key> = <row>"
PASS = "IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW;"

postgresql(
    "trigger_touches_other_column",
    function("NEW.<other> = 'touched'; RETURN NEW;"),
    trigger(),
    works=True,
    kinds=FILLS,
    touched=(("<table>", "<other>"),),
    names=("odd_trigger",),
)
postgresql("trigger_only_looks", function(PASS), trigger(), works=True)
postgresql("trigger_on_insert_only_looks", function("RETURN NEW;"), trigger(event="INSERT"), works=True)
postgresql(
    "trigger_touches_other_table",
    log("id TEXT"),
    function("INSERT INTO odd_log VALUES (OLD.<key>::text); RETURN NULL;"),
    trigger(moment="AFTER"),
    touched=LOG,
    names=("odd_trigger",),
    words=("odd_trigger",),
)
postgresql(
    "trigger_per_statement",
    log("id TEXT"),
    function("INSERT INTO odd_log VALUES ('once'); RETURN NULL;"),
    trigger(moment="AFTER", each="STATEMENT"),
    touched=LOG,
    names=("odd_trigger",),
    words=("odd_trigger",),
)
postgresql(
    "trigger_touches_its_sibling",
    function(
        "UPDATE <table> SET <other> = 'sibling' WHERE <key> <> OLD.<key> AND <other> IS DISTINCT FROM 'sibling'; "
        "RETURN NULL;"
    ),
    trigger("pg_trigger_depth() = 0", moment="AFTER"),
    touched=(("<table>", "<other>"),),
    names=("odd_trigger",),
    words=("odd_trigger",),
    kinds=FILLS,
)
postgresql("trigger_swallows_all", function("RETURN NULL;"), trigger(), words=("odd_trigger", "<table>"))
postgresql("trigger_swallows_one", function("RETURN NULL;"), trigger(ONE), words=("odd_trigger", "<table>"))
postgresql(
    "trigger_alters_what_is_written",
    function("NEW.<column> = NEW.<column> || '!'; RETURN NEW;"),
    trigger(),
    kinds=FILLS,
    words=("odd_trigger|<column>",),
)
postgresql(
    "trigger_alters_one",
    function("NEW.<column> = NEW.<column> || '!'; RETURN NEW;"),
    trigger(ONE),
    kinds=FILLS,
    words=("odd_trigger|<column>",),
)
postgresql(
    "trigger_raises_for_one",
    function("RAISE EXCEPTION 'odd refusal';"),
    trigger(ONE),
    works=True,
    fails=True,
    words=("odd refusal",),
)
postgresql(
    "trigger_raises_another_state_for_one",
    function("RAISE EXCEPTION 'odd refusal' USING ERRCODE = 'serialization_failure';"),
    trigger(ONE),
    words=("odd refusal",),
)
postgresql(
    "trigger_divides_by_zero_for_one",
    function("PERFORM 1 / 0; RETURN NEW;"),
    trigger(ONE),
    works=True,
    fails=True,
    words=("division by zero",),
)
postgresql(
    "trigger_refuses_one_at_commit",
    function("RAISE EXCEPTION 'odd refusal';"),
    "CREATE CONSTRAINT TRIGGER odd_trigger AFTER <event> ON <table> DEFERRABLE INITIALLY DEFERRED "
    f"FOR EACH ROW WHEN ({ONE}) EXECUTE FUNCTION odd()",
    works=True,
    fails=True,
    words=("odd refusal",),
)
postgresql(
    "soft_delete",
    function("UPDATE <table> SET <other> = 'deleted' WHERE <key> = OLD.<key>; RETURN NULL;"),
    trigger(),
    kinds=DELETES,
    words=("odd_trigger", "<table>"),
)
postgresql(
    "trigger_alters_what_comes_back",
    function("NEW.<other> = 'inserted'; RETURN NEW;"),
    trigger(event="INSERT"),
    kinds=DELETES,
    words=("odd_trigger", "<table>"),
)
postgresql(
    "trigger_refuses_what_comes_back",
    function("RAISE EXCEPTION 'odd refusal';"),
    trigger(event="INSERT"),
    kinds=DELETES,
    words=("<table>|odd refusal",),
)
CHILD = "CREATE TRIGGER odd_trigger BEFORE {} FOR EACH ROW {} EXECUTE FUNCTION odd()"
postgresql(
    "trigger_swallows_children",
    function("RETURN NULL;"),
    CHILD.format("DELETE ON artifacts", ""),
    kinds=("clean_jobs",),
    words=("odd_trigger|artifacts",),
)
postgresql(
    "trigger_refuses_a_child",
    function("RAISE EXCEPTION 'odd refusal';"),
    CHILD.format("DELETE ON artifacts", "WHEN (OLD.id = 2)"),
    kinds=("clean_jobs",),
    works=True,
    fails=True,
    words=("odd refusal",),
)
postgresql(
    "trigger_alters_children_that_come_back",
    function("NEW.schema_id = 'inserted'; RETURN NEW;"),
    CHILD.format("INSERT ON artifacts", ""),
    kinds=("clean_jobs",),
    words=("odd_trigger", "artifacts"),
)
postgresql(
    "trigger_swallows_the_second_table",
    function("RETURN NULL;"),
    CHILD.format("UPDATE ON roadmap_metadata", ""),
    kinds=("sync",),
    words=("odd_trigger|roadmap_metadata",),
)
postgresql(
    "trigger_refuses_a_row_of_the_second_table",
    function("RAISE EXCEPTION 'odd refusal';"),
    CHILD.format("UPDATE ON roadmap_metadata", "WHEN (OLD.roadmap_id = 'road1')"),
    kinds=("sync",),
    works=True,
    fails=True,
    words=("odd refusal",),
)
postgresql(
    "trigger_switched_off",
    function("RETURN NULL;"),
    trigger(),
    "ALTER TABLE <table> DISABLE TRIGGER odd_trigger",
    works=True,
)
postgresql("trigger_calls_what_is_gone", function("PERFORM nowhere(); RETURN NEW;"), trigger(), words=("nowhere",))
postgresql(
    "trigger_needs_a_search_path",
    "CREATE SCHEMA aside",
    "CREATE TABLE aside.odd_log (id TEXT)",
    "ALTER DATABASE <database> SET search_path = public, aside",
    function("INSERT INTO odd_log VALUES (OLD.<key>::text); RETURN NULL;"),
    trigger(moment="AFTER"),
    touched=(("aside.odd_log", "*"),),
    names=("odd_trigger",),
    words=("odd_log",),
)
postgresql(
    "rule_instead", "CREATE RULE odd_rule AS ON <event> TO <table> DO INSTEAD NOTHING", words=("odd_rule", "<table>")
)
postgresql(
    "rule_instead_for_one",
    f"CREATE RULE odd_rule AS ON <event> TO <table> WHERE {ONE} DO INSTEAD NOTHING",
    words=("odd_rule", "<table>"),
)
postgresql(
    "rule_also",
    log("id TEXT"),
    "CREATE RULE odd_rule AS ON <event> TO <table> DO ALSO INSERT INTO odd_log VALUES (OLD.<key>::text)",
    touched=LOG,
    names=("odd_rule",),
    words=("odd_rule",),
)

# --- views and other relations instead of tables -----------------------------------------------------------

postgresql(
    "view_in_its_place",
    "ALTER TABLE <table> RENAME TO odd_real",
    "CREATE VIEW <table> AS SELECT * FROM odd_real",
    words=("view", "<table>"),
)
postgresql(
    "view_with_a_trigger",
    "ALTER TABLE <table> RENAME TO odd_real",
    "CREATE VIEW <table> AS SELECT * FROM odd_real",
    function("RETURN NULL;"),
    trigger(moment="INSTEAD OF"),
    words=("view", "<table>"),
)
postgresql(
    "materialized_view_in_its_place",
    "ALTER TABLE <table> RENAME TO odd_real",
    "CREATE MATERIALIZED VIEW <table> AS SELECT * FROM odd_real",
    words=("view", "<table>"),
    kinds=("fill_audits", "clean_jobs"),
)
postgresql(
    "materialized_view_beside",
    "CREATE MATERIALIZED VIEW odd_view AS SELECT * FROM <table>",
    works=True,
    kinds=("fill_audits", "clean_jobs"),
)
FOREIGN = (
    "CREATE EXTENSION postgres_fdw",
    "CREATE SCHEMA remote",
    "CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '<port>', dbname "
    "<database_text>, options '-c lock_timeout=500')",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER loop OPTIONS (user 'postgres')",
)
postgresql(
    "foreign_table_in_its_place",
    *FOREIGN,
    "ALTER TABLE <table> SET SCHEMA remote",
    "IMPORT FOREIGN SCHEMA remote LIMIT TO (<table>) FROM SERVER loop INTO public",
    words=("foreign", "<table>"),
)
postgresql(
    "foreign_table_beside",
    *FOREIGN,
    "CREATE TABLE remote.odd_far (id INTEGER)",
    "INSERT INTO remote.odd_far VALUES (1)",
    "IMPORT FOREIGN SCHEMA remote FROM SERVER loop INTO public",
    works=True,
    kinds=("fill_audits", "clean_jobs"),
)
sqlite(
    "view_in_its_place",
    "ALTER TABLE <table> RENAME TO odd_real",
    "CREATE VIEW <table> AS SELECT * FROM odd_real",
    words=("view", "<table>"),
)

sqlite(
    "view_with_a_trigger",
    "ALTER TABLE <table> RENAME TO odd_real",
    "CREATE VIEW <table> AS SELECT * FROM odd_real",
    "CREATE TRIGGER odd_trigger INSTEAD OF <event> ON <table> BEGIN SELECT 1; END",
    words=("view", "<table>"),
)

# --- privileges --------------------------------------------------------------------

GRANTED = (
    "GRANT USAGE ON SCHEMA public TO <role>",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO <role>",
    "GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA public TO <role>",
)
SECURED = (*GRANTED, "ALTER TABLE <table> ENABLE ROW LEVEL SECURITY")
postgresql("role_with_all_rights", *GRANTED, role=True, works=True)
postgresql(
    "rows_are_hidden",
    *SECURED,
    "CREATE POLICY odd_policy ON <table> USING (<key> <> <row>)",
    role=True,
    words=("<table>", "security"),
)
postgresql(
    "rows_may_only_be_read",
    *SECURED,
    "CREATE POLICY odd_policy ON <table> FOR SELECT USING (true)",
    role=True,
    words=("<table>", "security"),
)
postgresql(
    "rows_of_children_are_hidden",
    *GRANTED,
    "ALTER TABLE artifacts ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY odd_policy ON artifacts USING (id <> 1)",
    role=True,
    words=("artifacts", "security"),
    kinds=("clean_jobs",),
)
postgresql(
    "rows_are_hidden_from_the_owner",
    *GRANTED,
    "ALTER TABLE <table> OWNER TO <role>",
    "ALTER TABLE <table> ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE <table> FORCE ROW LEVEL SECURITY",
    "CREATE POLICY odd_policy ON <table> USING (<key> <> <row>)",
    role=True,
    words=("<table>", "security"),
)
postgresql(
    "row_security_for_others",
    "ALTER TABLE <table> ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY odd_policy ON <table> USING (false)",
    works=True,
)
postgresql(
    "role_may_only_read",
    "GRANT USAGE ON SCHEMA public TO <role>",
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO <role>",
    role=True,
    words=("<role>", "<table>", "GRANT"),
)
postgresql(
    "role_may_not_write",
    *GRANTED,
    "REVOKE <event> ON <table> FROM <role>",
    role=True,
    words=("<role>", "<table>", "<event>", "GRANT"),
)
postgresql(
    "role_may_not_insert",
    *GRANTED,
    "REVOKE INSERT ON <table> FROM <role>",
    role=True,
    kinds=DELETES,
    words=("<table>", "INSERT"),
)
REFERRING = (
    "CREATE TABLE odd_child (id INTEGER PRIMARY KEY, ref <key_type> REFERENCES <table> (<key>) ON DELETE CASCADE)"
)
postgresql(
    "referring_table_is_unreadable",
    *GRANTED,
    REFERRING,
    "INSERT INTO odd_child VALUES (1, <row>)",
    role=True,
    kinds=(*DELETES, *CHOSEN),
    words=("odd_child",),
)
postgresql(
    "role_may_not_read",
    *GRANTED,
    "REVOKE SELECT ON <table> FROM <role>",
    role=True,
    words=("<role>", "<table>", "SELECT"),
)
postgresql(
    "role_may_not_enter",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO <role>",
    "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
    role=True,
    words=("<role>", "public", "USAGE"),
)
postgresql("unknown_table_is_unreadable", *GRANTED, "CREATE TABLE odd_secret (id INTEGER)", role=True, works=True)

# --- settings of databases and roles ---------------------------------------------------------------

RICH = (
    "ALTER TABLE <table> ADD COLUMN odd_date DATE DEFAULT '2026-02-01', ADD COLUMN odd_moment TIMESTAMPTZ DEFAULT "
    "'2026-02-01 03:04:05.678+05', "
    "ADD COLUMN odd_interval INTERVAL DEFAULT '1 year -2 days 03:04:05', ADD COLUMN odd_double DOUBLE PRECISION "
    "DEFAULT 0.1::float8 + 0.2::float8, "
    "ADD COLUMN odd_bytes BYTEA DEFAULT '\\x00ff5c41', ADD COLUMN odd_time TIMESTAMP DEFAULT '2026-02-01 03:04:05'",
)
SETTINGS = {
    "datestyle": "'German'",
    "intervalstyle": "'sql_standard'",
    "timezone": "'Asia/Shanghai'",
    "bytea_output": "'escape'",
    "extra_float_digits": "0",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "'serializable'",
    "client_encoding": "'LATIN1'",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "plan_cache_mode": "'force_generic_plan'",
    "row_security": "off",
}
for setting, value in SETTINGS.items():
    postgresql(
        f"database_sets_{setting}",
        *RICH,
        f"ALTER DATABASE <database> SET {setting} = {value}",
        works=True,
        kinds=("fill_audits", "clean_jobs"),
    )
postgresql(
    "database_sets_many",
    *RICH,
    *(f"ALTER DATABASE <database> SET {setting} = {value}" for setting, value in SETTINGS.items()),
    works=True,
)
postgresql(
    "datestyle_until_the_undo",
    *RICH,
    "ALTER DATABASE <database> SET datestyle = 'SQL, DMY'",
    between=("ALTER DATABASE <database> RESET datestyle",),
    works=True,
)
postgresql(
    "role_sets_datestyle",
    *RICH,
    *GRANTED,
    "ALTER ROLE <role> IN DATABASE <database> SET datestyle = 'SQL, DMY'",
    role=True,
    works=True,
    between=("ALTER ROLE <role> IN DATABASE <database> SET datestyle = 'SQL, MDY'",),
)
postgresql(
    "read_only_by_default", "ALTER DATABASE <database> SET default_transaction_read_only = on", words=("read-only",)
)
postgresql(
    "short_statement_timeout", "ALTER DATABASE <database> SET statement_timeout = '1ms'", words=("statement_timeout",)
)
postgresql("short_lock_timeout", "ALTER DATABASE <database> SET lock_timeout = '1ms'", works=True)
postgresql(
    "triggers_off_by_setting",
    "ALTER DATABASE <database> SET session_replication_role = 'replica'",
    function("NEW.<other> = 'x'; RETURN NEW;"),
    trigger(),
    touched=(("<table>", "<other>"),),
    kinds=FILLS,
    words=("session_replication_role",),
)
postgresql(
    "keys_off_by_setting",
    REFERRING,
    "INSERT INTO odd_child VALUES (1, <row>)",
    "ALTER DATABASE <database> SET session_replication_role = 'replica'",
    kinds=DELETES,
    words=("session_replication_role",),
)
postgresql(
    "lc_monetary",
    "ALTER TABLE <table> ADD COLUMN odd_money MONEY DEFAULT '12.34'",
    "ALTER DATABASE <database> SET lc_monetary = 'C.UTF-8'",
    works=True,
)

# --- schemas and names -----------------------------------------------------------------------------


def moved(schema: str) -> Making:
    """Move all tables, types and sequences into another schema."""

    def make(connection: Any, names: Mapping[str, str]) -> None:
        connection.execute(f"CREATE SCHEMA {schema}")
        for (table,) in connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall():
            connection.execute(f"ALTER TABLE {table} SET SCHEMA {schema}")
        for (type_,) in connection.execute(
            "SELECT oid::regtype::text FROM pg_type WHERE typtype = 'e' AND typnamespace = 'public'::regnamespace"
        ).fetchall():
            connection.execute(f"ALTER TYPE {type_} SET SCHEMA {schema}")

    return make


SHADOW = (
    "CREATE TABLE <schema>.<table> (LIKE public.<table> INCLUDING ALL)",
    "INSERT INTO <schema>.<table> SELECT * FROM public.<table>",
)
postgresql("another_schema", moved("platform"), schema="platform", works=True)
postgresql("another_schema_with_an_odd_name", moved('"The Platform"'), schema="The Platform", works=True)
postgresql(
    "the_same_table_in_another_schema",
    "CREATE SCHEMA shadow",
    *(text.replace("<schema>", "shadow") for text in SHADOW),
    works=True,
)
postgresql(
    "the_same_table_first_on_the_path",
    "CREATE SCHEMA shadow",
    *(text.replace("<schema>", "shadow") for text in SHADOW),
    "ALTER DATABASE <database> SET search_path = shadow, public",
    words=("search_path",),
)
postgresql(
    "a_schema_named_like_the_role",
    *GRANTED,
    "CREATE SCHEMA <role> AUTHORIZATION <role>",
    *(text.replace("<schema>", "<role>") for text in SHADOW),
    "GRANT ALL ON ALL TABLES IN SCHEMA <role> TO <role>",
    role=True,
    words=("<role>",),
)
postgresql(
    "catalogue_last_on_the_path",
    'CREATE TABLE pg_class (oid oid, relname name, relkind "char", relnamespace oid)',
    "ALTER DATABASE <database> SET search_path = public, pg_catalog",
    kinds=("fill_audits", "clean_jobs"),
    works=True,
)
postgresql(
    "platform_only_on_the_path",
    moved("platform"),
    "ALTER DATABASE <database> SET search_path = platform",
    words=("<table>",),
)
ODD_NAME = '"Odd ""%s"" Näme {x} 100%"'
postgresql(
    "odd_names_of_columns",
    f"ALTER TABLE <table> ADD COLUMN {ODD_NAME} TEXT DEFAULT 'x'",
    'ALTER TABLE <table> ADD COLUMN "select" INTEGER DEFAULT 1',
    works=True,
)
postgresql(
    "names_that_the_console_may_use",
    "ALTER TABLE <table> ADD COLUMN k TEXT DEFAULT 'k', ADD COLUMN v TEXT, ADD COLUMN t TEXT, "
    "ADD COLUMN n0 TEXT DEFAULT 'n', ADD COLUMN o0 TEXT, ADD COLUMN value TEXT, ADD COLUMN ctid_ TEXT",
    works=True,
)
postgresql(
    "odd_name_of_a_referring_table",
    f"CREATE TABLE {ODD_NAME} ({ODD_NAME} <key_type> REFERENCES <table> (<key>) ON DELETE CASCADE)",
    works=True,
)
postgresql(
    "odd_name_of_a_referring_table_with_a_row",
    f"CREATE TABLE {ODD_NAME} ({ODD_NAME} <key_type> REFERENCES <table> (<key>) ON DELETE CASCADE)",
    f"INSERT INTO {ODD_NAME} VALUES (<row>)",
    works=True,
    fails=True,
    kinds=(*DELETES, *CHOSEN),
    words=("Näme",),
)
postgresql(
    "referring_table_in_another_schema",
    'CREATE SCHEMA "Other"',
    'CREATE TABLE "Other".<table> (id INTEGER, ref <key_type> REFERENCES public.<table> (<key>) ON DELETE CASCADE)',
    'INSERT INTO "Other".<table> VALUES (1, <row>)',
    works=True,
    fails=True,
    kinds=(*DELETES, *CHOSEN),
    words=("Other",),
)
postgresql(
    "odd_name_of_a_trigger",
    function(PASS, ODD_NAME),
    f"CREATE TRIGGER {ODD_NAME} BEFORE <event> ON <table> FOR EACH ROW EXECUTE FUNCTION {ODD_NAME}()",
    works=True,
)
postgresql(
    "odd_name_of_a_type",
    f"CREATE SCHEMA {ODD_NAME}",
    f"CREATE TYPE {ODD_NAME}.{ODD_NAME} AS ENUM ('x', 'y')",
    f"ALTER TABLE <table> ADD COLUMN odd_kind {ODD_NAME}.{ODD_NAME} DEFAULT 'x'",
    works=True,
)
postgresql("mixed_case_twin", 'CREATE TABLE "<Table>" (LIKE <table> INCLUDING ALL)', works=True)

# --- keys ------------------------------------------------------------------------------------------

NO_KEY = "ALTER TABLE <table> DROP CONSTRAINT <table>_pkey CASCADE"
postgresql("no_key", NO_KEY, words=("<table>", "<key>"))
postgresql(
    "key_twice", NO_KEY, "INSERT INTO <table> SELECT * FROM <table> WHERE <key> = <row>", words=("<table>", "<key>")
)
postgresql(
    "key_is_null",
    NO_KEY,
    "ALTER TABLE <table> ALTER COLUMN <key> DROP NOT NULL",
    "UPDATE <table> SET <key> = NULL WHERE <key> = <row>",
    words=("<table>", "<key>"),
)
postgresql(
    "unique_index_instead_of_a_key",
    NO_KEY,
    "CREATE UNIQUE INDEX odd_index ON <table> (<key>)",
    words=("<table>", "<key>"),
)
SHARD = "ALTER TABLE <table> ADD COLUMN shard INTEGER NOT NULL DEFAULT 1"
postgresql("composite_key", NO_KEY, SHARD, "ALTER TABLE <table> ADD PRIMARY KEY (<key>, shard)", works=True)
postgresql(
    "composite_key_other_way_round", NO_KEY, SHARD, "ALTER TABLE <table> ADD PRIMARY KEY (shard, <key>)", works=True
)
TWIN = "INSERT INTO <table> SELECT * FROM odd_twin"
postgresql(
    "composite_key_not_unique",
    NO_KEY,
    SHARD,
    "ALTER TABLE <table> ADD PRIMARY KEY (<key>, shard)",
    "CREATE TABLE odd_twin AS SELECT * FROM <table> WHERE <key> = <row>",
    "UPDATE odd_twin SET shard = 2, <other> = 'twin'",
    TWIN,
    words=("<table>", "<key>"),
)
postgresql(
    "deferrable_key", NO_KEY, "ALTER TABLE <table> ADD PRIMARY KEY (<key>) DEFERRABLE INITIALLY DEFERRED", works=True
)


def partitioned(
    by: str, key: str, *parts: str, insert: str = "INSERT INTO <table> SELECT * FROM odd_before"
) -> tuple[Making, ...]:
    return (
        SHARD,
        "ALTER TABLE <table> RENAME TO odd_before",
        "CREATE TABLE <table> (LIKE odd_before INCLUDING DEFAULTS) PARTITION BY " + by,
        *(f"CREATE TABLE odd_part{number} PARTITION OF <table> {part}" for number, part in enumerate(parts)),
        insert,
        f"ALTER TABLE <table> ADD PRIMARY KEY ({key})",
        "DELETE FROM odd_before",
    )


ALONE = ("fill_audits", "clean_memory", "fill_ids", "sync")  # nothing refers to their tables
postgresql(
    "partitioned_by_key",
    *partitioned(
        "HASH (<key>)", "<key>", "FOR VALUES WITH (MODULUS 2, REMAINDER 0)", "FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    ),
    kinds=ALONE,
    works=True,
)
postgresql(
    "partitioned_by_another_column",
    *partitioned("LIST (shard)", "<key>, shard", "FOR VALUES IN (1)", "DEFAULT"),
    kinds=ALONE,
    works=True,
)
postgresql(
    "partitioned_and_not_unique",
    *partitioned("LIST (shard)", "<key>, shard", "FOR VALUES IN (1)", "DEFAULT"),
    "CREATE TABLE odd_twin AS SELECT * FROM <table> WHERE <key> = <row>",
    "UPDATE odd_twin SET shard = 2, <other> = 'twin'",
    TWIN,
    kinds=ALONE,
    words=("<table>", "<key>"),
)
postgresql(
    "partitioned_by_time",
    *partitioned(
        "RANGE (created_at)", "<key>, created_at", "FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')", "DEFAULT"
    ),
    kinds=("fill_audits", "clean_memory", "sync"),
    works=True,
)
INHERITED = (
    "CREATE TABLE odd_child () INHERITS (<table>)",
    "INSERT INTO odd_child SELECT * FROM <table> WHERE <key> = <row>",
)
postgresql(
    "inherited_rows",
    *INHERITED,
    "DELETE FROM ONLY <table> WHERE <key> = <row>",
    children=("odd_child",),
    kinds=ALONE,
    words=("<table>", "inherit"),
)
postgresql(
    "inherited_rows_with_the_same_key",
    *INHERITED,
    "UPDATE odd_child SET <other> = 'child'",
    children=("odd_child",),
    kinds=ALONE,
    words=("<table>", "<key>"),
)
postgresql(
    "inherited_from", "CREATE TABLE odd_parent (LIKE <table>)", "ALTER TABLE <table> INHERIT odd_parent", works=True
)
WHOLE = ("fill_audits", "fill_ids")  # their keys are numbers
TEXTUAL = ("clean_memory", "sync")  # theirs are texts
NO_DEFAULT = "ALTER TABLE <table> ALTER COLUMN <key> DROP DEFAULT"
for type_ in ("NUMERIC", "TEXT", "VARCHAR(40)", "INTEGER", "NUMERIC(20, 0)"):
    postgresql(
        f"key_is_{type_.lower()}",
        NO_DEFAULT,
        f"ALTER TABLE <table> ALTER COLUMN <key> TYPE {type_}",
        works=True,
        kinds=WHOLE,
    )
postgresql(
    "key_is_uuid",
    NO_DEFAULT,
    "ALTER TABLE <table> ALTER COLUMN <key> TYPE UUID USING md5(<key>::text)::uuid",
    works=True,
    kinds=(*WHOLE, "clean_memory"),
)
postgresql(
    "key_is_identity",
    NO_DEFAULT,
    "ALTER TABLE <table> ALTER COLUMN <key> ADD GENERATED ALWAYS AS IDENTITY",
    works=True,
    kinds=(*WHOLE, "clean_jobs"),
)
postgresql(
    "key_is_citext",
    "CREATE EXTENSION citext",
    "ALTER TABLE <table> ALTER COLUMN <key> TYPE citext",
    works=True,
    kinds=TEXTUAL,
)
postgresql(
    "key_is_citext_elsewhere",
    "CREATE SCHEMA extensions",
    "CREATE EXTENSION citext SCHEMA extensions",
    "ALTER TABLE <table> ALTER COLUMN <key> TYPE extensions.citext",
    works=True,
    kinds=TEXTUAL,
)
ORDER = (
    "UPDATE <table> SET <key> = CASE right(<key>, 1) WHEN '0' THEN 'b' WHEN '1' THEN 'A' WHEN '2' THEN 'ä' "
    "WHEN '5' THEN 'Z' ELSE <key> END"
)
postgresql(
    "keys_of_an_odd_order",
    'ALTER TABLE <table> ALTER COLUMN <key> TYPE TEXT COLLATE "en-x-icu"',
    ORDER,
    works=True,
    kinds=TEXTUAL,
)
NONDETERMINISTIC = "CREATE COLLATION odd_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
postgresql(
    "keys_of_a_nondeterministic_collation",
    NONDETERMINISTIC,
    "ALTER TABLE <table> ALTER COLUMN <key> TYPE TEXT COLLATE odd_ci",
    ORDER,
    words=("<table>", "collation"),
    kinds=TEXTUAL,
)
postgresql(
    "keys_with_odd_text",
    "UPDATE <table> SET <key> = CASE right(<key>, 1) WHEN '0' THEN 'a%s''\"{},\\' WHEN '1' THEN 'é ' WHEN '2' "
    "THEN '' WHEN '5' THEN '🙂' ELSE <key> END",
    works=True,
    kinds=TEXTUAL,
)
postgresql(
    "keys_padded", "ALTER TABLE <table> ALTER COLUMN <key> TYPE CHAR(30)", kinds=TEXTUAL, words=("<table>", "character")
)

# --- types of what is written and of what is deleted -----------------------------------------------

postgresql("rich_columns", *RICH, works=True)
postgresql(
    "odd_types",
    "CREATE EXTENSION hstore",
    "CREATE TYPE odd_pair AS (a INTEGER, b TEXT)",
    "CREATE TYPE odd_mood AS ENUM ('sad', 'so ''so''')",
    'ALTER TABLE <table> ADD COLUMN odd_array TEXT[] DEFAULT \'{a,NULL,"b \\"x"}\', '
    "ADD COLUMN odd_pair odd_pair DEFAULT '(1,\"a,b\")', "
    "ADD COLUMN odd_range TSTZRANGE DEFAULT '[2026-01-01,2026-02-01)', ADD COLUMN odd_xml XML DEFAULT '<a>1</a>', "
    "ADD COLUMN odd_hstore HSTORE DEFAULT 'a=>1', "
    "ADD COLUMN odd_moods odd_mood[] DEFAULT '{sad}', ADD COLUMN odd_bits BIT VARYING(9) DEFAULT B'101', ADD "
    "COLUMN odd_point POINT DEFAULT '(1,2)', "
    'ADD COLUMN odd_json JSON DEFAULT \'{"b": 1,  "a":2, "a": 3}\', ADD COLUMN odd_inet INET DEFAULT '
    "'10.0.0.1/8', ADD COLUMN odd_money MONEY DEFAULT '1.23', "
    "ADD COLUMN odd_numeric NUMERIC DEFAULT '1.2300', ADD COLUMN odd_words TSVECTOR DEFAULT 'a:1 b:2', ADD COLUMN "
    "odd_char CHAR(5) DEFAULT 'x', "
    "ADD COLUMN odd_nan DOUBLE PRECISION DEFAULT 'NaN', ADD COLUMN odd_infinite TIMESTAMP DEFAULT 'infinity', ADD "
    "COLUMN odd_old DATE DEFAULT '0044-03-15 BC'",
    works=True,
)
postgresql(
    "identity_columns",
    "ALTER TABLE <table> ADD COLUMN odd_always BIGINT GENERATED ALWAYS AS IDENTITY, ADD COLUMN odd_default BIGINT "
    "GENERATED BY DEFAULT AS IDENTITY",
    works=True,
)
postgresql(
    "generated_column",
    "ALTER TABLE <table> ADD COLUMN odd_made TEXT GENERATED ALWAYS AS (upper(<other>)) STORED",
    works=True,
    follows=(("<table>", "odd_made"),),
)
postgresql(
    "generated_from_what_is_written",
    "ALTER TABLE <table> ADD COLUMN odd_made TEXT GENERATED ALWAYS AS (upper(<column>)) STORED",
    works=True,
    derived=(("<table>", "odd_made"),),
)
postgresql(
    "written_column_is_generated",
    "ALTER TABLE <table> DROP COLUMN <column>",
    "ALTER TABLE <table> ADD COLUMN <column> TEXT GENERATED ALWAYS AS (NULL) STORED",
    kinds=("fill_ids",),
    words=("<table>", "<column>", "generated"),
)
postgresql(
    "dropped_columns",
    "ALTER TABLE <table> ADD COLUMN odd_gone TEXT DEFAULT 'x'",
    "ALTER TABLE <table> DROP COLUMN odd_gone",
    "ALTER TABLE <table> ADD COLUMN odd_late TEXT DEFAULT 'y'",
    works=True,
)
for length in (200, 12):
    postgresql(
        f"varchar_{length}",
        f"ALTER TABLE <table> ALTER COLUMN <column> TYPE VARCHAR({length}) USING NULL",
        works=length == 200,
        kinds=("fill_audits", "fill_ids"),
        words=("<column>|character varying",),
    )
postgresql(
    "varchar_3",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE VARCHAR(3) USING NULL",
    kinds=("fill_audits", "fill_ids"),
    words=("<column>|character varying",),
)
postgresql(
    "varchar_with_trailing_spaces",
    'UPDATE test_records SET results_summary = \'{"execution_id": "execution-1   "}\' WHERE id = 4',
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE VARCHAR(11) USING NULL",
    kinds=("fill_ids",),
    words=("<column>",),
)
postgresql(
    "char_40",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE CHAR(40) USING NULL",
    kinds=("fill_audits", "fill_ids"),
    words=("<column>|character varying",),
)
postgresql(
    "timestamp_3",
    'UPDATE <table> SET payload = \'{"source_event_ts": "2026-01-20 10:00:00.1234"}\' WHERE <key> = <row>',
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE TIMESTAMP(3) USING NULL",
    kinds=("fill_audits",),
    words=("<column>",),
    moments=(("<table>", "<column>"),),
)
postgresql(
    "numeric_2",
    "UPDATE <table> SET results_summary = convert_to('{\"execution_id\": \"12.345\"}', 'UTF8') WHERE <key> = <row>",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE NUMERIC(6, 2) USING NULL",
    kinds=("fill_ids",),
    words=("<column>|numeric",),
)
postgresql(
    "timestamps_of_seconds",
    "ALTER TABLE <table> ALTER COLUMN updated_at TYPE TIMESTAMP(0)",
    kinds=("sync",),
    works=True,
)
postgresql(
    "created_at_of_thousandths",
    "ALTER TABLE <table> ALTER COLUMN created_at TYPE TIMESTAMP(3)",
    kinds=("fill_audits",),
    works=True,
)
postgresql(
    "created_at_with_a_zone",
    "ALTER TABLE <table> ALTER COLUMN created_at TYPE TIMESTAMPTZ(6)",
    kinds=("fill_audits",),
    works=True,
)
postgresql(
    "created_at_is_infinite",
    "UPDATE <table> SET created_at = 'infinity' WHERE <key> = 9",
    kinds=("fill_audits",),
    works=True,
)
postgresql(
    "expires_at_with_a_zone",
    "ALTER TABLE <table> ALTER COLUMN expires_at TYPE TIMESTAMPTZ(3)",
    kinds=("clean_memory",),
    works=True,
)
postgresql(
    "domain",
    "CREATE DOMAIN odd_text AS TEXT",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE odd_text",
    works=True,
    kinds=("fill_audits", "fill_ids", "clean_memory", "clean_jobs"),
)
postgresql(
    "domain_over_varchar",
    "CREATE DOMAIN odd_text AS VARCHAR(100)",
    "CREATE DOMAIN odd_more AS odd_text",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE odd_more",
    works=True,
    kinds=("fill_audits", "fill_ids", "clean_memory", "clean_jobs"),
)
postgresql(
    "domain_over_a_narrow_varchar",
    "CREATE DOMAIN odd_text AS VARCHAR(5)",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE odd_text USING NULL",
    kinds=("fill_audits", "fill_ids"),
    words=("<column>|character varying",),
)
postgresql(
    "domain_that_refuses",
    "CREATE DOMAIN odd_text AS TEXT CHECK (VALUE NOT LIKE '%1')",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE odd_text",
    kinds=("fill_ids",),
    works=True,
    fails=True,
    words=("odd_text",),
)
postgresql("citext", "CREATE EXTENSION citext", "ALTER TABLE <table> ALTER COLUMN <column> TYPE citext", works=True)
postgresql(
    "citext_elsewhere",
    "CREATE SCHEMA extensions",
    "CREATE EXTENSION citext SCHEMA extensions",
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE extensions.citext",
    works=True,
)
postgresql(
    "citext_event_type",
    "CREATE EXTENSION citext",
    "ALTER TABLE <table> ALTER COLUMN event_type TYPE citext",
    kinds=("fill_audits",),
    works=True,
)
postgresql(
    "enum_event_type",
    "CREATE TYPE odd_event AS ENUM ('SUPERVISOR_DECISION', 'SUPERVISOR_PAUSED', 'supervisor_allowed', "
    "'TASK_CREATED', 'SUPERVISOR_ERROR', 'SUPERVISOR_BLOCKED')",
    "ALTER TABLE <table> ALTER COLUMN event_type TYPE odd_event USING event_type::odd_event",
    kinds=("fill_audits",),
    works=True,
)
postgresql(
    "enum_retention",
    "CREATE TYPE odd_kind AS ENUM ('project')",
    "ALTER TABLE <table> ALTER COLUMN retention_type DROP DEFAULT",
    "ALTER TABLE <table> ALTER COLUMN retention_type TYPE odd_kind USING 'project'",
    kinds=("clean_memory",),
    works=True,
)
postgresql(
    "enum_step",
    "CREATE TYPE odd_step AS ENUM ('content_generation', 'completed', 'intent_analysis')",
    "ALTER TABLE <table> ALTER COLUMN current_step TYPE odd_step USING current_step::odd_step",
    "CREATE TYPE odd_status AS ENUM ('pending', 'processing', 'completed', 'partial_failure', 'failed')",
    "ALTER TABLE <table> ALTER COLUMN status TYPE odd_status USING status::odd_status",
    kinds=("sync",),
    works=True,
)
postgresql(
    "nondeterministic_collation",
    NONDETERMINISTIC,
    "ALTER TABLE <table> ALTER COLUMN <other> TYPE TEXT COLLATE odd_ci",
    works=True,
)
postgresql(
    "nondeterministic_written",
    NONDETERMINISTIC,
    "ALTER TABLE <table> ALTER COLUMN <column> TYPE TEXT COLLATE odd_ci",
    words=("<table>", "collation"),
)
postgresql(
    "nondeterministic_event_type",
    NONDETERMINISTIC,
    "ALTER TABLE <table> ALTER COLUMN event_type TYPE TEXT COLLATE odd_ci",
    kinds=("fill_audits",),
    words=("event_type", "collation"),
)
postgresql(
    "turkish_event_type",
    'ALTER TABLE <table> ALTER COLUMN event_type TYPE TEXT COLLATE "tr-TR-x-icu"',
    kinds=("fill_audits",),
    works=True,
)
postgresql("unlogged", "ALTER TABLE <table> SET UNLOGGED", works=True, kinds=ALONE)
postgresql("huge_text", "UPDATE <table> SET <other> = repeat('äx🙂', 350000) WHERE <key> = <row>", works=True)
postgresql(
    "odd_text",
    "UPDATE <table> SET <other> = E'a\\tb\\n\\\\N %s {x} \"q\" ''s'' e\\u0301 \\U0001F642 \\u202e' WHERE <key> = <row>",
    works=True,
)

# --- constraints -----------------------------------------------------------------------------------

postgresql(
    "check_refuses_one",
    "ALTER TABLE <table> ADD CONSTRAINT odd_check CHECK (<key> <> <row> OR <column> IS NULL) NOT VALID",
    kinds=FILLS,
    works=True,
    fails=True,
    words=("odd_check",),
)
postgresql(
    "unique_twice",
    "<collide>",
    "CREATE UNIQUE INDEX odd_unique ON <table> (<column>)",
    kinds=("fill_audits", "fill_ids"),
    words=("odd_unique",),
)
postgresql(
    "unique_by_expression",
    "CREATE UNIQUE INDEX odd_unique ON <table> (left(<column>, 3)) WHERE <column> IS NOT NULL",
    kinds=("fill_audits", "fill_ids"),
    words=("odd_unique",),
)
postgresql(
    "unique_at_commit",
    "<collide>",
    "ALTER TABLE <table> ADD CONSTRAINT odd_unique UNIQUE (<column>) DEFERRABLE INITIALLY DEFERRED",
    kinds=("fill_audits", "fill_ids"),
    words=("odd_unique",),
)
postgresql(
    "exclusion",
    "CREATE EXTENSION btree_gist",
    "<collide>",
    "ALTER TABLE <table> ADD CONSTRAINT odd_unique EXCLUDE USING gist (<column> WITH =)",
    kinds=("fill_audits", "fill_ids"),
    words=("odd_unique",),
)
postgresql(
    "unique_nulls_not_distinct",
    "UPDATE <table> SET <column> = 'x' || <key> WHERE <key> <> <row>",
    "CREATE UNIQUE INDEX odd_unique ON <table> (<column>) NULLS NOT DISTINCT",
    kinds=("fill_audits", "fill_ids"),
    works=True,
)
postgresql(
    "exclusion_of_keys",
    "CREATE EXTENSION btree_gist",
    "ALTER TABLE <table> ADD CONSTRAINT odd_exclusion EXCLUDE USING gist (<key> WITH =)",
    works=True,
)
both("partial_index", "CREATE UNIQUE INDEX odd_index ON <table> (<key>, <other>) WHERE <other> IS NOT NULL", works=True)
both("expression_index", "CREATE UNIQUE INDEX odd_index ON <table> (lower(<other>), <key>)", works=True)
both("key_by_expression", "CREATE UNIQUE INDEX odd_index ON <table> ((<key> || ''))", works=True)
postgresql(
    "domain_of_another_column",
    "CREATE DOMAIN odd_text AS TEXT CHECK (length(VALUE) < 100000)",
    "ALTER TABLE <table> ALTER COLUMN <other> TYPE odd_text",
    works=True,
)
REF = "CREATE TABLE odd_child (id INTEGER PRIMARY KEY, ref <key_type> DEFAULT NULL REFERENCES <table> (<key>) {})"
for action in (
    "ON DELETE CASCADE",
    "ON DELETE SET NULL",
    "ON DELETE SET DEFAULT",
    "ON DELETE RESTRICT",
    "ON DELETE NO ACTION",
):
    word = action.removeprefix("ON DELETE ").lower().replace(" ", "_")
    both(
        f"referred_{word}",
        REF.format(action),
        "INSERT INTO odd_child VALUES (1, <row>), (2, NULL)",
        kinds=(*DELETES, *CHOSEN),
        works=True,
        fails=True,
        words=("odd_child",),
    )
both("referred_by_no_row", REF.format("ON DELETE CASCADE"), kinds=(*DELETES, *CHOSEN), works=True)
both(
    "referred_at_commit",
    REF.format("DEFERRABLE INITIALLY DEFERRED"),
    "INSERT INTO odd_child VALUES (1, <row>)",
    kinds=(*DELETES, *CHOSEN),
    works=True,
    fails=True,
    words=("odd_child",),
)
both(
    "refers_to_itself",
    "ALTER TABLE <table> ADD COLUMN parent <key_type> REFERENCES <table> (<key>) ON DELETE CASCADE",
    "UPDATE <table> SET parent = <row> WHERE <key> = <kept>",
    kinds=DELETES,
    works=True,
    fails=True,
    words=("<table>",),
)
both(
    "refers_to_itself_among_those_that_go",
    "ALTER TABLE <table> ADD COLUMN parent <key_type> REFERENCES <table> (<key>) ON DELETE CASCADE",
    "UPDATE <table> SET parent = <key> WHERE <key> = <row>",
    kinds=DELETES,
    words=("<table>",),
)
both(
    "refer_to_each_other",
    "ALTER TABLE <table> ADD COLUMN parent <key_type> REFERENCES <table> (<key>) ON DELETE CASCADE",
    "UPDATE <table> SET parent = (SELECT MIN(<key>) FROM <table> WHERE <key> <> <row> AND <key> <> <kept>)"
    " WHERE <key> = <row>",
    "UPDATE <table> SET parent = <row>"
    " WHERE <key> = (SELECT MIN(<key>) FROM <table> WHERE <key> <> <row> AND <key> <> <kept>)",
    kinds=DELETES,
    words=("<table>",),
)
both(
    "referred_by_two_columns",
    "ALTER TABLE <table> ADD COLUMN shard INTEGER DEFAULT 1",
    "CREATE UNIQUE INDEX odd_unique ON <table> (shard, <key>)",
    "CREATE TABLE odd_child (id INTEGER PRIMARY KEY, shard INTEGER, ref <key_type>, FOREIGN KEY (shard, ref) "
    "REFERENCES <table> (shard, <key>) ON DELETE CASCADE)",
    "INSERT INTO odd_child VALUES (1, 1, <row>), (2, NULL, <row>)",
    kinds=(*DELETES, *CHOSEN),
    works=True,
    fails=True,
    words=("odd_child",),
)
both(
    "referred_by_another_column",
    "ALTER TABLE <table> ADD COLUMN code TEXT",
    "UPDATE <table> SET code = 'c' || <key>",
    "CREATE UNIQUE INDEX odd_unique ON <table> (code)",
    "CREATE TABLE odd_child (id INTEGER PRIMARY KEY, ref TEXT REFERENCES <table> (code) ON DELETE CASCADE)",
    "INSERT INTO odd_child SELECT 1, code FROM <table> WHERE <key> = <row>",
    kinds=(*DELETES, *CHOSEN),
    works=True,
    fails=True,
    words=("odd_child",),
)
both(
    "referred_by_grandchildren",
    REF.format("ON DELETE CASCADE"),
    "CREATE TABLE odd_grandchild (id INTEGER PRIMARY KEY, ref INTEGER REFERENCES odd_child (id) ON DELETE CASCADE)",
    "INSERT INTO odd_child VALUES (1, <row>)",
    "INSERT INTO odd_grandchild VALUES (1, 1)",
    kinds=(*DELETES, *CHOSEN),
    works=True,
    fails=True,
    words=("odd_child",),
)
both(
    "known_children_are_referred_to",
    "CREATE TABLE odd_child (id INTEGER PRIMARY KEY, ref INTEGER REFERENCES artifacts (id) ON DELETE CASCADE)",
    "INSERT INTO odd_child SELECT 1, min(a.id) FROM artifacts AS a JOIN tasks AS t ON t.id = a.task_id WHERE "
    "t.job_id = <row>",
    kinds=("clean_jobs", "delete_jobs"),
    works=True,
    fails=True,
    words=("odd_child",),
)
ALONG = ("tasks: 3 rows are deleted with them.", "artifacts: 3 rows are deleted with them.")
both("chain_of_tables", kinds=("delete_jobs",), works=True, names=ALONG)
both(
    "diamond",
    "ALTER TABLE artifacts ADD COLUMN job INTEGER REFERENCES jobs (id) ON DELETE CASCADE",
    "UPDATE artifacts SET job = (SELECT t.job_id FROM tasks AS t WHERE t.id = task_id)",
    kinds=("clean_jobs", "delete_jobs"),
    works=True,
)
both(
    "diamond_of_which_one_side_does_not_cascade",
    "ALTER TABLE artifacts ADD COLUMN job INTEGER REFERENCES jobs (id)",
    "UPDATE artifacts SET job = (SELECT t.job_id FROM tasks AS t WHERE t.id = task_id)",
    kinds=("clean_jobs", "delete_jobs"),
    works=True,
)
for action in ("", "ON DELETE CASCADE"):
    both(
        f"chosen_rows_refer_to_each_other{'_and_cascade' if action else ''}",
        f"ALTER TABLE jobs ADD COLUMN parent INTEGER REFERENCES jobs (id) {action}",
        "UPDATE jobs SET parent = CASE id WHEN 1 THEN 2 ELSE 5 END WHERE id < 3",
        kinds=("delete_jobs",),
        works=True,
        names=ALONG,
    )
both(
    "tree",
    "ALTER TABLE jobs ADD COLUMN parent INTEGER REFERENCES jobs (id) ON DELETE CASCADE",
    "UPDATE jobs SET parent = id - 1 WHERE id IN (3, 4)",
    kinds=("delete_jobs",),
    works=True,
    names=(
        "jobs: 2 rows are deleted with them.",
        "tasks: 5 rows are deleted with them.",
        "artifacts: 4 rows are deleted with them.",
    ),
)
postgresql(
    "children_by_two_columns",
    "ALTER TABLE tasks DROP CONSTRAINT tasks_job_id_fkey, ADD COLUMN shard INTEGER DEFAULT 1",
    "ALTER TABLE jobs ADD COLUMN shard INTEGER DEFAULT 1, ADD UNIQUE (shard, id)",
    "ALTER TABLE tasks ADD FOREIGN KEY (shard, job_id) REFERENCES jobs (shard, id) ON DELETE CASCADE",
    kinds=("clean_jobs", "delete_jobs"),
    works=True,
)
sqlite(
    "children_by_two_columns",
    "ALTER TABLE jobs ADD COLUMN shard INTEGER DEFAULT 1",
    "CREATE UNIQUE INDEX odd_unique ON jobs (shard, id)",
    "ALTER TABLE tasks ADD COLUMN shard INTEGER DEFAULT 1",
    rebuilt(
        lambda text, names: ending("FOREIGN KEY (shard, job_id) REFERENCES jobs (shard, id) ON DELETE CASCADE")(
            text.replace("REFERENCES jobs (id) ON DELETE CASCADE", ""), names
        ),
        table="tasks",
    ),
    kinds=("clean_jobs", "delete_jobs"),
    works=True,
)
KEYS = (
    "ALTER TABLE task_audits DROP CONSTRAINT task_audits_task_id_fkey",
    "ALTER TABLE tasks ALTER COLUMN task_id TYPE {}",
    "ALTER TABLE task_audits ALTER COLUMN task_id TYPE {}",
    "ALTER TABLE task_audits ADD FOREIGN KEY (task_id) REFERENCES tasks (task_id) ON DELETE CASCADE",
)
for parents, children in (
    ("VARCHAR(5)", "VARCHAR(5)"),
    ("VARCHAR(5)", "TEXT"),
    ("TEXT", "CHAR(9)"),
    ('TEXT COLLATE "en-x-icu"', "VARCHAR(9)"),
):
    postgresql(
        f"children_{children.lower()}_of_{parents.lower()}".replace(' collate "en-x-icu"', "_in_english"),
        *(text.format(type_) for text, type_ in zip(KEYS, ("", parents, children, ""), strict=True)),
        kinds=("delete_tasks",),
        works=True,
        names=("task_audits: 4 rows are deleted with them.",),
    )

# --- encodings, poolers ----------------------------------------------------------------------------

for encoding, text in {
    "UTF8": "任务",
    "LATIN1": "Grün",
    "EUC_JP": "東京",
    "EUC_CN": "任务",
    "WIN1251": "Привет",
    "SQL_ASCII": "ascii",
}.items():
    postgresql(
        f"encoding_{encoding.lower()}",
        f"UPDATE <table> SET <other> = '{text}' WHERE <key> = <row>",
        encoding=encoding,
        works=True,
    )
postgresql(
    "text_that_the_encoding_lacks",
    'UPDATE test_records SET results_summary = \'{"execution_id": "\\\\u4efb"}\' WHERE id = 4',
    encoding="LATIN1",
    kinds=("fill_ids",),
    works=True,
    fails=True,
)
STRAY = "UPDATE <table> SET {} = {} || E'\\xff' WHERE <key> = <row>"
postgresql(
    "stray_byte",
    STRAY.format("<other>", "'x'"),
    encoding="SQL_ASCII",
    kinds=("fill_audits", "fill_ids", "clean_memory", "clean_jobs"),
    words=("<table>", "<other>|byte"),
)
postgresql(
    "stray_byte_in_the_payload",
    'UPDATE task_audits SET payload = E\'{"source_event_ts": "\\xff"}\' WHERE audit_id = 6',
    encoding="SQL_ASCII",
    kinds=("fill_audits",),
    works=True,
)
postgresql("pooler", pooler=True, url="pooler=transaction", works=True)
postgresql(
    "pooler_and_a_temporary_table",
    pooler=True,
    url="pooler=transaction",
    leaves=(
        "CREATE TEMPORARY TABLE <table> (LIKE public.<table> INCLUDING ALL)",
        "INSERT INTO pg_temp.<table> SELECT * FROM public.<table>",
        "CREATE TEMPORARY TABLE pg_class (oid oid, relname name)",
    ),
    works=True,
)
postgresql(
    "pooler_and_settings_of_another_client",
    *RICH,
    pooler=True,
    url="pooler=transaction",
    leaves=(
        "SET datestyle = 'German'",
        "SET timezone = 'Asia/Shanghai'",
        "SET intervalstyle = 'sql_standard'",
        "SET bytea_output = 'escape'",
        "SET standard_conforming_strings = off",
        "SET search_path = pg_catalog",
        "SET lock_timeout = '1ms'",
    ),
    works=True,
)
postgresql(
    "pooler_and_settings",
    *RICH,
    "ALTER DATABASE <database> SET datestyle = 'SQL, DMY'",
    pooler=True,
    url="pooler=transaction",
    works=True,
)

# --- SQLite ----------------------------------------------------------------------------------------


def sqlite_trigger(
    body: str, *, moment: str = "BEFORE", event: str = "<event>", when: str = "", name: str = "odd_trigger"
) -> str:
    return f"CREATE TRIGGER {name} {moment} {event} ON <table> {f'WHEN {when}' if when else ''} BEGIN {body}; END"


sqlite(
    "trigger_touches_other_column",
    sqlite_trigger(
        "UPDATE <table> SET <other> = 'touched' WHERE <key> = NEW.<key>",
        moment="AFTER",
        when="NEW.<other> IS NOT 'touched'",
    ),
    works=True,
    kinds=FILLS,
    touched=(("<table>", "<other>"),),
    names=("odd_trigger",),
)
sqlite("trigger_only_looks", sqlite_trigger("SELECT 1"), works=True)
sqlite(
    "trigger_touches_other_table",
    log("id"),
    sqlite_trigger("INSERT INTO odd_log VALUES (OLD.<key>)", moment="AFTER"),
    touched=LOG,
    names=("odd_trigger",),
    words=("odd_trigger",),
)
sqlite("trigger_swallows_all", sqlite_trigger("SELECT RAISE(IGNORE)"), words=("odd_trigger", "<table>"))
sqlite("trigger_swallows_one", sqlite_trigger("SELECT RAISE(IGNORE)", when=ONE), words=("odd_trigger", "<table>"))
for word in ("ABORT", "FAIL", "ROLLBACK"):
    sqlite(
        f"trigger_raises_{word.lower()}_for_one",
        sqlite_trigger(f"SELECT RAISE({word}, 'odd refusal')", when=ONE),
        works=True,
        fails=True,
        words=("odd refusal",),
    )
sqlite(
    "trigger_alters_what_is_written",
    sqlite_trigger("UPDATE <table> SET <column> = <column> || '!' WHERE <key> = NEW.<key>", moment="AFTER"),
    kinds=FILLS,
    words=("odd_trigger|<column>",),
)
sqlite(
    "soft_delete",
    sqlite_trigger("UPDATE <table> SET <other> = 'deleted' WHERE <key> = OLD.<key>; SELECT RAISE(IGNORE)"),
    kinds=DELETES,
    words=("odd_trigger", "<table>"),
)
sqlite(
    "trigger_alters_what_comes_back",
    sqlite_trigger("UPDATE <table> SET <other> = 'inserted' WHERE <key> = NEW.<key>", moment="AFTER", event="INSERT"),
    kinds=DELETES,
    words=("odd_trigger", "<table>"),
)
sqlite(
    "trigger_swallows_what_comes_back",
    sqlite_trigger("SELECT RAISE(IGNORE)", event="INSERT"),
    kinds=DELETES,
    words=("odd_trigger", "<table>"),
)
sqlite(
    "trigger_swallows_children",
    "CREATE TRIGGER odd_trigger BEFORE DELETE ON artifacts BEGIN SELECT RAISE(IGNORE); END",
    kinds=("clean_jobs",),
    words=("odd_trigger|artifacts",),
)
sqlite(
    "trigger_swallows_the_second_table",
    "CREATE TRIGGER odd_trigger BEFORE UPDATE ON roadmap_metadata BEGIN SELECT RAISE(IGNORE); END",
    kinds=("sync",),
    words=("odd_trigger|roadmap_metadata",),
)
sqlite("trigger_calls_what_is_missing", sqlite_trigger("SELECT nowhere(OLD.<key>)"), words=("nowhere",))
sqlite("trigger_writes_to_what_is_missing", sqlite_trigger("INSERT INTO nowhere VALUES (1)"), words=("nowhere",))


def missing_module(connection: Any, names: Mapping[str, str]) -> None:
    """Create a virtual table without its module, and a trigger that writes to it."""
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(
        "INSERT INTO sqlite_schema VALUES ('table', 'odd_search', 'odd_search', 0, 'CREATE VIRTUAL TABLE "
        "odd_search USING nowhere(x)')"
    )
    connection.execute("PRAGMA writable_schema=RESET")


sqlite("virtual_table_of_a_missing_module", missing_module, works=True)
sqlite(
    "trigger_needs_a_missing_module",
    missing_module,
    sqlite_trigger("DELETE FROM odd_search WHERE x = OLD.<key>"),
    words=("nowhere",),
)
sqlite(
    "strict",
    rebuilt(
        lambda text, names: (
            re.sub(r"TIMESTAMP|VARCHAR\(\d+\)", "TEXT", text).replace("BOOLEAN", "INTEGER").replace("JSON", "TEXT")
            + " STRICT"
        )
    ),
    works=True,
)
sqlite("without_rowid", rebuilt(lambda text, names: text.replace("AUTOINCREMENT", "") + " WITHOUT ROWID"), works=True)
sqlite(
    "generated_columns",
    "ALTER TABLE <table> ADD COLUMN odd_made TEXT GENERATED ALWAYS AS (upper(<other>)) VIRTUAL",
    works=True,
    follows=(("<table>", "odd_made"),),
)
sqlite(
    "generated_from_what_is_written",
    "ALTER TABLE <table> ADD COLUMN odd_made TEXT GENERATED ALWAYS AS (upper(<column>)) VIRTUAL",
    works=True,
    derived=(("<table>", "odd_made"),),
)


def stored(connection: Any, names: Mapping[str, str]) -> None:
    """Recreate the table: SQLite cannot add a stored generated column."""
    table = names["table"]
    columns = ", ".join(name for _cid, name, *_ in connection.execute(f"PRAGMA table_info({table})"))
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", [table])
    old = the_table([text for (text,) in found])
    indexes = connection.execute(
        "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql > ''", [table]
    ).fetchall()
    connection.execute("PRAGMA legacy_alter_table=ON")
    connection.execute(f"ALTER TABLE {table} RENAME TO rebuilt_before")
    head, _comma, tail = old.partition("(")
    connection.execute(f"{head}(odd_made TEXT GENERATED ALWAYS AS (upper({names['other']})) STORED, {tail}")
    connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM rebuilt_before")
    connection.execute("DROP TABLE rebuilt_before")
    for (text,) in indexes:
        connection.execute(text)


sqlite("stored_generated_column", stored, works=True, follows=(("<table>", "odd_made"),))
sqlite(
    "integer_affinity", rebuilt(declared("column", "INTEGER")), kinds=("fill_audits", "fill_ids"), words=("<column>",)
)
sqlite(
    "numeric_affinity",
    'UPDATE test_records SET results_summary = \'{"execution_id": "0012"}\' WHERE id = 4',
    rebuilt(declared("column", "NUMERIC")),
    kinds=("fill_ids",),
    words=("<column>",),
)
sqlite("no_affinity", rebuilt(declared("column", "")), kinds=("fill_audits", "fill_ids"), works=True)
for conflict in ("REPLACE", "IGNORE", "FAIL", "ROLLBACK"):
    sqlite(
        f"unique_on_conflict_{conflict.lower()}",
        "<collide>",
        rebuilt(ending(f"UNIQUE (<column>) ON CONFLICT {conflict}") if conflict else ending("")),
        kinds=("fill_ids",),
        words=("<table>",),
    )
sqlite(
    "unique_twice",
    "<collide>",
    "CREATE UNIQUE INDEX odd_unique ON <table> (<column>)",
    kinds=("fill_audits", "fill_ids"),
    words=("<column>",),
)
sqlite(
    "unique_by_expression",
    "CREATE UNIQUE INDEX odd_unique ON <table> (substr(<column>, 1, 3)) WHERE <column> IS NOT NULL",
    kinds=("fill_audits", "fill_ids"),
    words=("odd_unique",),
)
sqlite(
    "check_refuses_one",
    rebuilt(lambda text, names: ending("CONSTRAINT odd_check CHECK (<key> <> <row> OR <column> IS NULL)")(text, names)),
    kinds=("fill_audits", "fill_ids"),
    works=True,
    fails=True,
    words=("odd_check",),
)
sqlite(
    "key_replaces",
    rebuilt(lambda text, names: text.replace("PRIMARY KEY", "PRIMARY KEY ON CONFLICT REPLACE")),
    works=True,
)
sqlite(
    "key_in_any_case",
    rebuilt(lambda text, names: text.replace("TEXT PRIMARY KEY", "TEXT PRIMARY KEY COLLATE NOCASE")),
    ORDER.replace("right(<key>, 1)", "substr(<key>, -1)"),
    works=True,
    kinds=TEXTUAL,
)
sqlite(
    "no_key",
    rebuilt(lambda text, names: text.replace("PRIMARY KEY AUTOINCREMENT", "").replace("PRIMARY KEY", "")),
    words=("<table>", "<key>|mismatch"),
)
sqlite(
    "key_twice",
    rebuilt(lambda text, names: text.replace("PRIMARY KEY AUTOINCREMENT", "").replace("PRIMARY KEY", "")),
    "INSERT INTO <table> SELECT * FROM <table> WHERE <key> = <row>",
    words=("<table>", "<key>"),
)
sqlite("key_is_null", "UPDATE <table> SET <key> = NULL WHERE <key> = <row>", words=("<table>", "<key>"), kinds=TEXTUAL)
sqlite(
    "key_of_another_type",
    "UPDATE <table> SET <key> = CAST(<key> AS BLOB) WHERE <key> = <row>",
    words=("<table>", "<key>"),
    kinds=("clean_memory",),
)
sqlite(
    "composite_key",
    "ALTER TABLE <table> ADD COLUMN shard INTEGER DEFAULT 1",
    rebuilt(
        lambda text, names: ending("PRIMARY KEY (<key>, shard)")(
            text.replace("PRIMARY KEY AUTOINCREMENT", "").replace("PRIMARY KEY", ""), names
        )
    ),
    works=True,
    kinds=ALONE,
)
sqlite(
    "composite_key_not_unique",
    "ALTER TABLE <table> ADD COLUMN shard INTEGER DEFAULT 1",
    rebuilt(
        lambda text, names: ending("PRIMARY KEY (<key>, shard)")(
            text.replace("PRIMARY KEY AUTOINCREMENT", "").replace("PRIMARY KEY", ""), names
        )
    ),
    "CREATE TABLE odd_twin AS SELECT * FROM <table> WHERE <key> = <row>",
    "UPDATE odd_twin SET shard = 2, <other> = 'twin'",
    TWIN,
    words=("<table>", "<key>"),
    kinds=ALONE,
)
sqlite(
    "keys_with_odd_text",
    "UPDATE <table> SET <key> = CASE substr(<key>, -1) WHEN '0' THEN 'a%s''\"{},\\' WHEN '1' THEN 'é ' WHEN '2' "
    "THEN '' WHEN '5' THEN '🙂' ELSE <key> END",
    works=True,
    kinds=TEXTUAL,
)
sqlite(
    "key_with_u0000",
    "UPDATE <table> SET <key> = 'a' || char(0) || 'b' WHERE <key> = <row>",
    kinds=TEXTUAL,
    words=("<table>",),
)
sqlite(
    "key_that_is_no_utf8",
    "UPDATE <table> SET <key> = CAST(x'61ff62' AS TEXT) WHERE <key> = <row>",
    kinds=TEXTUAL,
    words=("<table>",),
)
sqlite(
    "text_that_is_no_utf8", "UPDATE <table> SET <other> = CAST(x'61ff62' AS TEXT) WHERE <key> = <row>", words=("UTF-8",)
)
sqlite("text_with_u0000", "UPDATE <table> SET <other> = 'a' || char(0) || 'b' WHERE <key> = <row>", works=True)
sqlite("bytes_in_a_text", "UPDATE <table> SET <other> = x'00ff' WHERE <key> = <row>", works=True)
sqlite(
    "numbers_in_a_text",
    rebuilt(declared("other", "")),
    "UPDATE <table> SET <other> = 1.5 WHERE <key> = <row>",
    "UPDATE <table> SET <other> = 9e999 WHERE <key> = <kept>",
    works=True,
    kinds=("fill_audits", "clean_memory", "fill_ids", "clean_jobs"),
)
sqlite("huge_text", "UPDATE <table> SET <other> = hex(zeroblob(500000)) WHERE <key> = <row>", works=True)
sqlite(
    "odd_names_of_columns",
    f"ALTER TABLE <table> ADD COLUMN {ODD_NAME} TEXT DEFAULT 'x'",
    'ALTER TABLE <table> ADD COLUMN "select" DEFAULT 1',
    works=True,
)
sqlite(
    "column_called_rowid",
    "ALTER TABLE <table> ADD COLUMN rowid TEXT DEFAULT 'x'",
    "ALTER TABLE <table> ADD COLUMN oid TEXT DEFAULT 'y'",
    works=True,
)
sqlite(
    "all_names_of_the_rowid_taken",
    "ALTER TABLE <table> ADD COLUMN rowid TEXT DEFAULT 'x'",
    "ALTER TABLE <table> ADD COLUMN oid TEXT DEFAULT 'y'",
    "ALTER TABLE <table> ADD COLUMN _rowid_ TEXT DEFAULT 'z'",
    works=True,
)
sqlite(
    "odd_name_of_a_referring_table",
    f"CREATE TABLE {ODD_NAME} ({ODD_NAME} REFERENCES <table> (<key>) ON DELETE CASCADE)",
    works=True,
)
sqlite(
    "odd_name_of_a_referring_table_with_a_row",
    f"CREATE TABLE {ODD_NAME} ({ODD_NAME} REFERENCES <table> (<key>) ON DELETE CASCADE)",
    f"INSERT INTO {ODD_NAME} VALUES (<row>)",
    works=True,
    fails=True,
    kinds=(*DELETES, *CHOSEN),
    words=("Näme",),
)
sqlite("odd_name_of_a_trigger", sqlite_trigger("SELECT 1", name=ODD_NAME), works=True)
sqlite(
    "mixed_case_table",
    "ALTER TABLE <table> RENAME TO odd_between",
    'ALTER TABLE odd_between RENAME TO "<Table>"',
    works=True,
)
sqlite("mixed_case_columns", 'ALTER TABLE <table> RENAME COLUMN <column> TO "<Column>"', works=True)
sqlite(
    "gaps_between_rowids",
    rebuilt(lambda text, names: text),
    "DELETE FROM <table> WHERE <key> = <kept>",
    works=True,
    kinds=("clean_memory", "sync"),
)
sqlite(
    "refers_to_a_missing_table",
    "ALTER TABLE <table> ADD COLUMN odd_ref TEXT REFERENCES nowhere (id)",
    works=False,
    words=("nowhere",),
)
sqlite(
    "referred_from_a_mismatch",
    "CREATE TABLE odd_child (id INTEGER PRIMARY KEY, ref TEXT REFERENCES <table> (<other>) ON DELETE CASCADE)",
    kinds=DELETES,
    words=("odd_child",),
)
sqlite(
    "mismatch_elsewhere",
    "CREATE TABLE odd_parent (a TEXT)",
    "CREATE TABLE odd_child (ref TEXT REFERENCES odd_parent (a))",
    works=True,
)
sqlite("utf16", encoding="UTF-16le", works=True)
sqlite("journal_wal", "PRAGMA journal_mode=WAL", works=True)
sqlite("auto_vacuum", "PRAGMA auto_vacuum=FULL", "VACUUM", works=True)
SEARCH = (
    "CREATE VIRTUAL TABLE odd_search USING fts5(content, content=memory_items)",
    "INSERT INTO odd_search(odd_search) VALUES ('rebuild')",
    "CREATE TRIGGER odd_gone AFTER DELETE ON memory_items BEGIN INSERT INTO odd_search(odd_search, rowid, "
    "content) VALUES ('delete', OLD.rowid, OLD.content); END",
    "CREATE TRIGGER odd_come AFTER INSERT ON memory_items BEGIN INSERT INTO odd_search(rowid, content) VALUES "
    "(NEW.rowid, NEW.content); END",
)
sqlite(
    "search_index_by_rowid",
    "DELETE FROM memory_items WHERE id = 'mem3'",
    *SEARCH,
    kinds=("clean_memory",),
    works=True,
    names=("odd_gone",),
    query="SELECT m.id FROM odd_search AS s JOIN memory_items AS m ON m.rowid = s.rowid "
    "WHERE odd_search MATCH 'item' ORDER BY 1",
)
