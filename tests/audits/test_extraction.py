"""Tests with generated payloads: the operation agrees with `tests.support.reference_backfill`."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from audits.extraction import read_times
from audits.operations.backfill_decision_fields import BackfillDecisionFields
from opsconsole.engine.models import Status
from opsconsole.engine.outcomes import Changes, Invalid
from opsconsole.jsontext import Unreadable
from opsconsole.stores.catalog import Column
from opsconsole.stores.store import Store
from tests.audits.test_backfill_decision_fields import NAME, REASONS, expected, outcomes
from tests.conftest import ENGINES
from tests.support import reference_backfill
from tests.support.contract import execute_run, operation_called, plan_whole, undo
from tests.support.plain_client import dump, execute, neighbour

# --- JSON texts, good and bad -------------------------------------------------------------------------------

WANTED = tuple(key for keys in reference_backfill.KEYS.values() for key in keys)
spaces = st.sampled_from(("", "", "", " ", "\n", "\t \r\n", "\x0b", "\xa0", "\u3000", "\ufeff", "\x00", "\x1f"))
characters = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from((r"\"", r"\\", r"\/", r"\b", r"\n", r"\u0000", r"\ud83d\udea6", r"\ud800", r"\udfff")),
    st.sampled_from((r"\u0020", r"\u005f", r"\u3000", r"\u00e9", r"\x41", r"\u12", "\t", "\x00", '"', "\\", "'")),
)
texts = st.lists(characters, max_size=6).map(lambda parts: f'"{"".join(parts)}"')
times = st.sampled_from(('"2026-01-20T10:00:00.000000"', '"2026-01-20 10:00:00Z"', '" 1 "', '"  "', '""'))
digits = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,6})?", fullmatch=True)
odd_numbers = st.sampled_from(
    (
        "1e400",
        "1e200000",
        "-0",
        "0.10",
        "<5000 digits>",
        "007",
        "+1",
        ".5",
        "1.",
        "0x1F",
        "1_000",
        "NaN",
        "-Infinity",
        "١",
    )
)
words = st.sampled_from(("null", "true", "false", "null", "True", "nul", "undefined", ""))
deep = st.sampled_from(("<300 lists>", "<300 objects>", "<20000 lists>"))
escaped = st.sampled_from(WANTED).map(lambda key: key.replace("_", r"\u005f"))
keys = st.one_of(st.sampled_from(WANTED), st.sampled_from(WANTED), escaped).map(lambda key: f'"{key}"')


# Abbreviations keep the output of a failing test short.
LONG = {
    "<300 lists>": "[" * 300 + "]" * 300,
    "<300 objects>": '{"a":' * 300 + "1" + "}" * 300,
    "<20000 lists>": "[" * 20_000 + "]" * 20_000,
    "<5000 digits>": "1" * 5_000,
}


def whole(payload: str | None) -> str | None:
    """Return the payload with its abbreviated parts expanded."""
    for name, text in LONG.items():
        payload = payload and payload.replace(name, text)
    return payload


def _list(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=3).map(lambda items: f"[{','.join(items)}]")


def _object(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(st.one_of(keys, keys, keys, texts), spaces, values).map(lambda parts: "{}:{}{}".format(*parts))
    return st.lists(member, max_size=6).map(lambda members: f"{{{','.join(members)}}}")


leaves = st.one_of(times, times, times, texts, digits, digits, odd_numbers, words)
values = st.recursive(leaves, lambda inner: st.one_of(_list(inner), _object(inner)), max_leaves=6)
documents = st.one_of(_object(st.one_of(leaves, leaves, values)), _object(times), _object(deep), values)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Return a document with one character deleted, inserted or replaced."""
    text: str = draw(documents)
    place = draw(st.integers(0, len(text)))
    cut = draw(st.integers(0, 1))
    return (
        text[:place]
        + draw(st.sampled_from(("", "", ",", '"', "}", "]", "\\", "\n", "/*a*/", "#", "'", "\x00")))
        + text[place + cut :]
    )


payloads = st.one_of(
    st.tuples(spaces, documents, spaces).map("".join),
    documents,
    documents,
    mutated(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.none(),
)
stored = st.sampled_from((None, None, None, "", "2026-01-20T09:00:00"))
moments = st.sampled_from(("2026-01-20 10:00:00", "2026-01-20T10:00:00.5", "2026-02-30 1", "1769000000", None))
never_slow = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


# --- the operation alone ------------------------------------------------------------------------------------


class Audit(NamedTuple):
    pk: int
    payload: str | None
    created_at: str | None
    source_event_ts: str | None
    supervisor_processed_at: str | None


def operation_on(vendor: str) -> BackfillDecisionFields:
    """Return the operation with a store that does not connect to a database."""
    store = Store("agentos", "agentos")
    types = {"sqlite": "TIMESTAMP", "postgresql": "timestamp without time zone"}
    vars(store).update(
        vendor=vendor, tables={"task_audits": {"created_at": Column(types[vendor], False, base=types[vendor])}}
    )
    return BackfillDecisionFields(store)


@pytest.mark.parametrize("vendor", ["sqlite", "postgresql"])
@settings(never_slow, max_examples=1_000)
@given(payload=payloads, created_at=moments, source=stored, processed=stored)
@example('{"source_ts": 1.50, "timestamp": 1e3}', None, None, None)
@example('{"source_ts": "a", "source\\u005fts": "b", "timestamp": "\\ud83d\\udea6"}', None, None, None)
@example('{"source_ts": "\\ud800", "timestamp": "x"}', "2026-01-20 10:00:00", None, None)
@example('{"source_ts": "\\ud800", "timestamp": "x"}', "2026-01-20 10:00:00", "stands", None)
@example('{"source_ts": "a\\u0000", "timestamp": "x"}', "2026-01-20 10:00:00", None, None)
@example('{"source_ts": 98765432109876543210.000, "timestamp": -0}', None, None, None)
@example("\ufeff{}", "2026-01-20 10:00:00", None, None)
@example("\u3000", "2026-01-20 10:00:00", None, None)
def test_change(
    vendor: Any, payload: str | None, created_at: str | None, source: str | None, processed: str | None
) -> None:
    if source is not None and processed is not None:
        processed = None
    if vendor == "postgresql":  # it stores timestamps as times and formats them itself
        created_at = created_at and "2026-01-20 10:00:00.5"
    payload = whole(payload)
    outcome = operation_on(vendor).process(Audit(1, payload, created_at, source, processed))
    wanted = reference_backfill.expected(payload, created_at, source, processed, vendor)
    if isinstance(wanted, reference_backfill.Invalid):
        assert isinstance(outcome, Invalid)
        # A payload that is too deep and broken has the reason that is found first.
        either = (
            wanted.reason in {reference_backfill.TOO_DEEP, reference_backfill.BROKEN}
            and payload
            and "[" * 2_000 in payload
        )
        assert REASONS[outcome.reason] == wanted.reason or (either and outcome.reason in {"too_deep", "broken_json"})
        return
    assert isinstance(outcome, Changes)
    (row,) = outcome.rows
    before = {"source_event_ts": source, "supervisor_processed_at": processed}
    assert row.new is not None
    assert before | dict(row.new) == dict(zip(reference_backfill.KEYS, wanted, strict=True))
    assert row.old == {name: None for name in before if before[name] is None}
    assert all(type(value) in (str,) or isinstance(value, str) for value in row.new.values())


def nested(payload: str, frames: int) -> Any:
    """Return the times of a payload, read below a number of further calls."""
    return read_times(payload) if frames == 0 else nested(payload, frames - 1)


@pytest.mark.parametrize("depth", [700, 1_000, 1_020])
def test_a_deep_payload_is_read_the_same_in_every_thread(depth: int) -> None:
    payload = f'{{"timestamp": "now", "x": {"[" * depth}{"]" * depth}}}'
    assert {nested(payload, frames).timestamp for frames in (0, 400)} == {"now"}


def test_bytes_are_checked_as_a_whole() -> None:
    assert read_times(b'{"timestamp": "now", "x": "y"}').timestamp == "now"
    with pytest.raises(Unreadable, match="not_text"):
        read_times(b'{"timestamp": "now", "x": "\xff"}')


# --- through real databases ---------------------------------------------------------------------------------

INSERT = (
    "INSERT INTO task_audits (audit_id, task_id, event_type, payload, created_at, source_event_ts, "
    "supervisor_processed_at) VALUES (?, ?, 'SUPERVISOR_DECISION', ?, ?, ?, ?)"
)


@pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
@pytest.mark.parametrize("engine", ENGINES)
def test_batches(make_attached: Any, engine: str) -> None:
    """The rows agree with the reference in every combination, and undo restores them."""
    store = make_attached(engine, 50).store
    postgresql = store.vendor == "postgresql"
    row = st.tuples(payloads, moments, stored, st.booleans())

    @settings(never_slow, max_examples=8, phases=[Phase.generate])  # shrinking such a failure takes minutes
    @given(rows=st.lists(row, min_size=20, max_size=60), size=st.sampled_from((3, 50)))
    def check(rows: list[Any], size: int) -> None:
        execute(store, "DELETE FROM task_audits")
        with neighbour(store) as connection:
            for key, (payload, created_at, source, blob) in enumerate(rows, 1):
                payload = whole(payload)
                created_at = created_at and "2026-01-20 10:00:00.5" if postgresql else created_at
                held = payload.encode() if blob and payload is not None and not postgresql else payload
                with suppress(psycopg.Error):  # the column's type refuses this payload
                    connection.execute(INSERT, [key, f"01TASK{0:020d}", held, created_at, source, None])
        before = dump(store)
        wanted = outcomes(before, store.vendor)
        invalid = sum(isinstance(outcome, reference_backfill.Invalid) for outcome in wanted.values())
        planned = plan_whole(operation_called(NAME, store))
        run = execute_run(operation_called(NAME, store), batch_size=size, fast=True)
        filled = dump(store)
        assert filled == expected(deepcopy(before), store.vendor)
        assert (run.status, run.invalid, run.failed) == (Status.SUCCEEDED, invalid, 0)
        assert planned.reasons == run.reasons
        if run.changed:
            undo(run, fast=True)
        assert dump(store) == before

    check()
