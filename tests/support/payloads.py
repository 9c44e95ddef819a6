"""Payloads of every kind that occurs in production, with a builder for each kind.

A builder returns a template in which each row replaces `SOURCE` and `PROCESSED` by its two times.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

PayloadType = Literal["text", "json", "jsonb"]

SOURCE, PROCESSED = "@1@", "@2@"
SOURCE_KEYS = ("source_event_ts", "source_ts", "event_timestamp", "task_created_at")
PROCESSED_KEYS = ("supervisor_processed_at", "processed_at", "timestamp")
#: JSON texts that are not a time.
ABSENT = (
    "null",
    '""',
    '"  "',
    r'"\t\n"',
    "true",
    "false",
    "[]",
    f'["{SOURCE}"]',
    "{}",
    f'{{"at": "{SOURCE}"}}',
)
#: JSON numbers whose digits change if they are parsed as floats.
NUMBERS = (
    "1769000000",
    "1769000000.50",
    "1.50",
    "1e3",
    "1E+2",
    "-0",
    "0.10",
    "12345678901234567890",
    "98765432109876543210.000",
    "1e400",
    "0",
    "-1.0e-7",
)
# fmt: off
WORDS = (
    "approved", "retry", "policy", "任务已暂停", "worker", "überprüft", "риск", "budget", "風險", "queue",
    "timeout", "détail", "guardian", "决策", "🚦", "lease", "rollback", "naïve", "tool-call", "步骤",
)
# fmt: on


def _noise(rng: Random, size: int) -> list[str]:
    """Return members that the backfill ignores, with about `size` characters."""
    ascii_only = rng.random() < 0.3
    members: list[str] = []
    while size > 0:
        words = " ".join(rng.choices(WORDS, k=rng.randint(3, 9)))
        value = rng.choice(
            (
                words,
                rng.randint(-(10**6), 10**12),
                rng.random(),
                rng.random() < 0.5,
                [words, None, {"score": rng.random(), "source_tsx": words}],
                {
                    "step": rng.randint(0, 99),
                    "why": words,
                    "parents": [rng.randint(1, 10**6) for _ in range(4)],
                },
            )
        )
        name = rng.choice(("reason", "context", "actor", "说明", "policy", "evidence", "ts", "notes", "scores"))
        members.append(
            f"{json.dumps(f'{name}_{len(members)}', ensure_ascii=ascii_only)}: "
            f"{json.dumps(value, ensure_ascii=ascii_only)}"
        )
        size -= len(members[-1])
    return members


def noisy_object(rng: Random, *members: str) -> str:
    """Return a JSON object of about 200 to 800 bytes with these members, in this order, among ignored ones."""
    texts = _noise(rng, rng.randint(180, 640) - sum(map(len, members)))
    for place, member in zip(sorted(rng.choices(range(len(texts) + 1), k=len(members))), members, strict=True):
        texts.insert(place + members.index(member), member)
    return "{" + ", ".join(texts) + "}"


def _source(key: str = "source_event_ts", value: str = f'"{SOURCE}"') -> str:
    return f'"{key}": {value}'


def _processed(key: str = "supervisor_processed_at", value: str = f'"{PROCESSED}"') -> str:
    return f'"{key}": {value}'


def plain(rng: Random) -> str:
    return noisy_object(rng, _source(), _processed())


def variants(rng: Random) -> str:
    """Return a payload with any mix of the known keys, in any order."""
    zone = rng.choice(("", "", "Z", "+08:00"))
    members = [_source(key, f'"{SOURCE}{zone}"') for key in rng.sample(SOURCE_KEYS, rng.randint(0, 4))]
    members += [_processed(key, f'"{PROCESSED}{zone}"') for key in rng.sample(PROCESSED_KEYS, rng.randint(0, 3))]
    rng.shuffle(members)
    return noisy_object(rng, *members)


def _absent(rng: Random) -> str:
    """Return a payload whose first keys contain no time, so that a later key or the fallback counts."""
    cut, other = rng.randint(1, 4), rng.randint(1, 3)
    members = [_source(key, rng.choice(ABSENT)) for key in SOURCE_KEYS[:cut]]
    members += [_source(key) for key in SOURCE_KEYS[cut:]]
    members += [_processed(key, rng.choice(ABSENT)) for key in PROCESSED_KEYS[:other]]
    members += [_processed(key) for key in PROCESSED_KEYS[other:]]
    rng.shuffle(members)
    return noisy_object(rng, *members)


def _numbers(rng: Random) -> str:
    return noisy_object(
        rng,
        _source(rng.choice(SOURCE_KEYS), rng.choice(NUMBERS)),
        _processed(rng.choice(PROCESSED_KEYS), rng.choice((*NUMBERS, f'"{PROCESSED}"'))),
    )


def _duplicates(rng: Random) -> str:
    """Return a payload with duplicate keys, also in another spelling. The last value may not be a time."""
    key = rng.choice(SOURCE_KEYS)
    last = rng.choice((f'"{SOURCE}"', f'"{SOURCE}"', "null", '" "', "1.50"))
    again = rng.choice((key, key, key.replace("_", r"\u005f")))
    return noisy_object(
        rng,
        _source(key, '"first"'),
        _source(again, last),
        _processed("timestamp", "7"),
        _processed("timestamp"),
    )


def _escaped_keys(rng: Random) -> str:
    return noisy_object(
        rng,
        _source(r"source\u005fevent\u005fts"),
        _processed(rng.choice((r"processed\u005fat", r"\u0074imestamp", r"supervisor\u005Fprocessed_at"))),
    )


def _odd_values(rng: Random) -> str:
    """Return a payload with strings that must be copied byte for byte."""
    values = (
        r"2026-01-20T10:00:00\u002e000000",
        r"2026\/01\/20 10:00",
        "二〇二六年一月二十日",
        r"\ud83d\udea6 soon",
        f" {SOURCE} ",
        r"tab\tand \"quotes\"",
        "2026-01-20T10:00:00.000000",
        "0",
        "null",
        r"\u00e9t\u00e9",
        "’ or '1'='1",
    )
    return noisy_object(
        rng,
        _source(rng.choice(SOURCE_KEYS), f'"{rng.choice(values)}"'),
        _processed(rng.choice(PROCESSED_KEYS), f'"{rng.choice(values)}"'),
    )


def nested_only(rng: Random) -> str:
    """Return a payload with the keys in inner objects, where they do not count."""
    inner = f'{{"source_event_ts": "inner", "items": [{{{_source("source_ts")}, {_processed("timestamp")}}}]}}'
    members = [f'"event": {inner}']
    if rng.random() < 0.5:
        members.append(_processed("processed_at"))
    return noisy_object(rng, *members)


def _pretty(rng: Random) -> str:
    """Return a payload with several lines and white space around it."""
    text = json.dumps(json.loads(plain(rng)), indent=rng.choice((1, 2, "\t")), ensure_ascii=False)
    return f"\r\n {text}\n\t"


def _compact(rng: Random) -> str:
    return json.dumps(json.loads(variants(rng)), separators=(",", ":"), ensure_ascii=rng.random() < 0.5)


def _levels(levels: int) -> Callable[[Random], str]:
    def build(rng: Random) -> str:
        one, end = rng.choice((("[", "]"), ('{"a":', "}")))
        return f'{{"deep": {one * levels}1{end * levels}, {_source()}, {_processed("timestamp")}}}'

    return build


def _noise_with(text: str) -> Callable[[Random], str]:
    """Return a builder of valid payloads with `text` in an ignored member."""
    return lambda rng: noisy_object(rng, _source("source_ts"), f'"x": "{text}"', _processed("processed_at"))


def _value_with(text: str) -> Callable[[Random], str]:
    """Return a builder with `text` in the value of one of the two columns."""

    def build(rng: Random) -> str:
        if rng.random() < 0.5:
            return noisy_object(rng, _source("source_ts", f'"{SOURCE}{text}"'), _processed())
        return noisy_object(rng, _source(), _processed("timestamp", f'"{text}{PROCESSED}"'))

    return build


def _either(*texts: str) -> Callable[[Random], str]:
    return lambda rng: rng.choice(texts)


def _truncated(rng: Random) -> str:
    text = plain(rng)
    return text[: rng.randint(1, len(text) - 1)]


def _replaced(old: str, *new: str) -> Callable[[Random], str]:
    """Return a builder of payloads with one fault: the last `old` is replaced."""
    return lambda rng: rng.choice(new).join(plain(rng).rsplit(old, 1))


def _broken_value(*values: str) -> Callable[[Random], str]:
    return lambda rng: noisy_object(rng, _source(), f'"x": {rng.choice(values)}', _processed())


@dataclass(frozen=True)
class Kind:
    """One kind of payload: its share of the audits in scope, and the strictest type that can hold it."""

    weight: float
    build: Callable[[Random], str | None]
    holds: PayloadType = "jsonb"
    created_at: bool = True


#: Every kind of audit in scope. `tests.support.reference_backfill` computes the outcomes.
KINDS: dict[str, Kind] = {
    "plain": Kind(40, plain),
    "variants": Kind(25, variants),
    "compact": Kind(5, _compact),
    "pretty": Kind(1, _pretty),
    "absent": Kind(5, _absent),
    "no_keys": Kind(4, noisy_object),
    "empty_object": Kind(0.3, _either("{}", "{ }")),
    "nested_only": Kind(2, nested_only),
    "numbers": Kind(1.5, _numbers),
    "huge_number": Kind(0.1, lambda rng: noisy_object(rng, _source("source_ts", "1e200000"), _processed()), "json"),
    "duplicates": Kind(1, _duplicates),
    "escaped_keys": Kind(0.5, _escaped_keys),
    "odd_values": Kind(1, _odd_values),
    "deep_500": Kind(0.05, _levels(500)),
    "nul_noise": Kind(0.1, _noise_with(r"a\u0000b"), "json"),
    "nul_value": Kind(0.1, _value_with(r"\u0000"), "json"),
    "surrogate_noise": Kind(0.1, _noise_with(r"\ud800 \udc00\ud800"), "json"),
    "surrogate_value": Kind(0.1, _value_with(r"\udfff"), "json"),
    "null": Kind(3, lambda _: None),
    "empty": Kind(1, _either(""), "text"),
    "blank": Kind(0.5, _either(" ", "\n", "  \t\r\n "), "text"),
    "truncated": Kind(1.5, _truncated, "text"),
    "single_quotes": Kind(0.5, lambda rng: plain(rng).replace('"', "'"), "text"),
    "nan": Kind(0.4, _broken_value("NaN", "Infinity", "-Infinity", "[1, NaN]"), "text"),
    "trailing_comma": Kind(0.4, _replaced("}", ",}"), "text"),
    "comment": Kind(0.3, _replaced("}", "/* by hand */}", "} // done", "# eof\n}"), "text"),
    "bad_literal": Kind(0.3, _broken_value("True", "None", "undefined", "nul", "'a'", "1 2"), "text"),
    "bad_number": Kind(0.3, _broken_value("007", "+1", ".5", "1.", "1e", "0x1F", "1_000", "--1"), "text"),
    "bad_string": Kind(0.3, _broken_value('"a\nb"', '"\x01"', r'"\x41"', r'"\u12"', '"\t"', '"open'), "text"),
    "bad_key": Kind(0.2, _replaced('"source_event_ts"', "source_event_ts", "1", "null"), "text"),
    "two_documents": Kind(0.2, _replaced("}", "} {}", "}}", "}\n[]"), "text"),
    "bad_space": Kind(0.1, _replaced("}", "\x0b}", "\xa0}", "}\xa0", "\u3000}"), "text"),
    "garbage": Kind(0.5, _either("ERROR: worker lost", "<event/>", "source_ts=2026-01-20", "（无）", "{", "]"), "text"),
    "list": Kind(0.6, lambda rng: f"[{plain(rng)}, 1]"),
    "string": Kind(0.4, _either('"2026-01-20T10:00:00"', '""', r'"{\"source_ts\": 1}"')),
    "number": Kind(0.3, _either("0", "1769000000", "1.50", "-1e3")),
    "literal": Kind(0.3, _either("null", "true", " false ")),
    "deep_20000": Kind(0.02, _levels(20_000), "text"),
    "no_created_at_no_keys": Kind(0.2, noisy_object, created_at=False),
    "no_created_at_null": Kind(0.1, lambda _: None, created_at=False),
    "no_created_at_one_key": Kind(0.2, lambda rng: noisy_object(rng, _source("task_created_at")), created_at=False),
    "no_created_at_both_keys": Kind(0.2, plain, created_at=False),
}
#: From the strictest type to the most tolerant one.
PAYLOAD_TYPES: tuple[PayloadType, ...] = ("jsonb", "json", "text")
