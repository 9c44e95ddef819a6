"""What the columns of a table hold: the names of their types without modifiers, and what a domain stands on."""

from __future__ import annotations

from opsconsole.stores.store import Store


def base_types(store: Store, table: str) -> dict[str, str]:
    """Return the type of each column: `timestamp without time zone` for `timestamp(3)` and for a domain over it.

    On SQLite a type is what the table declares, in capitals.
    """
    with store.connection.cursor() as cursor:
        cursor.execute(_BASE_TYPES[store.vendor], [table])
        return dict(cursor.fetchall())


_BASE_TYPES = {
    "sqlite": """
        SELECT name, upper(trim(CASE instr(type, '(') WHEN 0 THEN type ELSE substr(type, 1, instr(type, '(') - 1) END))
        FROM pragma_table_xinfo(%s)
    """,
    "postgresql": """
        SELECT a.attname, format_type(base.oid, NULL) FROM pg_attribute AS a, LATERAL (
            WITH RECURSIVE below(oid, next) AS (
                SELECT t.oid, t.typbasetype FROM pg_type AS t WHERE t.oid = a.atttypid
                UNION ALL SELECT t.oid, t.typbasetype FROM below JOIN pg_type AS t ON t.oid = below.next
            )
            SELECT oid FROM below WHERE next = 0
        ) AS base
        WHERE a.attrelid = to_regclass(quote_ident(%s)) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    """,
}
