"""Operations of every kind on databases of every kind are exact and can be undone exactly, or are refused.

Plain drivers read the results. There is no list of exceptions: an inexact operation is refused before it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st

from opsconsole.engine import batch_writer, planner
from opsconsole.engine.operation import Operation
from tests.conftest import SESSION, forget_attached
from tests.matrix.exchanging import COPY, IMPORT, examine_copy, examine_import, is_about
from tests.matrix.judging import Unmakeable, Wrong, examine, examine_together
from tests.matrix.kinds import CHOSEN, RUNS, STATEMENTS, Kind
from tests.matrix.oddities import ODDITIES, Oddity
from tests.matrix.stores import Stores, opened
from tests.support import roadmaps


@pytest.fixture(autouse=True)
def _console(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Empty the console's own database. Its file stays, because a thread of an earlier test may have it open."""
    with django_db_blocker.unblock():
        yield
        forget_attached()
        call_command("flush", database="default")


@pytest.fixture(scope="module")
def stores(postgres: Any, django_db_setup: None) -> Iterator[Stores]:
    # A worker may leave this module for tests of another one, and come back.
    with TemporaryDirectory(prefix="matrix-", dir=SESSION) as folder:
        Path(folder).chmod(0o711)  # PgBouncer runs as another user
        with opened(Path(folder), postgres) as stores:
            yield stores


@pytest.fixture(autouse=True)
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every plan at the same time, so that a model knows the written values."""
    real = Operation.__init__

    def made(self: Operation, *args: Any) -> None:
        real(self, *args)
        self.as_of = roadmaps.AS_OF

    monkeypatch.setattr(Operation, "__init__", made)
    monkeypatch.setattr(planner, "SHOWN_CHARACTERS", 1_000)
    monkeypatch.setattr(batch_writer, "MAX_PAUSE_SECONDS", 0)  # no other client waits for these stores


def cases() -> Iterator[Any]:
    for oddity in ODDITIES:
        for name in oddity.kinds or RUNS:
            for kind in ((RUNS | CHOSEN)[name], *([STATEMENTS[name]] if name in STATEMENTS else [])):
                yield pytest.param(kind, oddity, id=f"{kind.name}-{oddity.engine}-{oddity.name}")


@pytest.mark.parametrize(("kind", "oddity"), list(cases()))
def test_exact_or_refused(stores: Stores, kind: Kind, oddity: Oddity) -> None:
    examine(stores, kind, oddity)


@pytest.mark.parametrize(
    "oddity", [pytest.param(one, id=f"copy-{one.engine}-{one.name}") for one in ODDITIES if is_about(COPY, one)]
)
def test_copied_or_refused(stores: Stores, oddity: Oddity) -> None:
    examine_copy(stores, oddity)


@pytest.mark.parametrize(
    "oddity", [pytest.param(one, id=f"import-{one.engine}-{one.name}") for one in ODDITIES if is_about(IMPORT, one)]
)
def test_imported_or_refused(stores: Stores, oddity: Oddity) -> None:
    examine_import(stores, oddity)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_oddities_together(stores: Stores, engine: str) -> None:
    @settings(
        max_examples=30,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.data())
    def examine_some(data: st.DataObject) -> None:
        name, kind = data.draw(st.sampled_from([*RUNS.items(), *STATEMENTS.items()]))
        known = [one for one in ODDITIES if one.engine == engine and (not one.kinds or name in one.kinds)]
        oddities = data.draw(st.lists(st.sampled_from(known), min_size=2, max_size=3, unique=True))
        assume(len({one.encoding for one in oddities} - {"UTF8"}) < 2)
        try:
            examine_together(stores, kind, oddities)
        except Unmakeable:
            reject()
        except Wrong as wrong:
            names = ", ".join(one.name for one in oddities)
            raise AssertionError(f"{kind.name} on {names}: {wrong}") from None

    examine_some()
