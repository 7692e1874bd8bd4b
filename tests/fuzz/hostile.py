"""Hostile values, and mutations of valid data and of valid bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "x" * 300,
    "x" * 20_000,
    "~nobody/x",
    "~",
    "..",
    "../../etc/passwd",
    "/",
    "/dev/null/x",
    "s3://",
    "s3://bucket/../x",
    "s3://user:secret@bucket/x",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "<script>alert(1)</script>",
    "</svg><script>alert(1)</script>",
    "$\\frac{",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "\x1b[2J\x1b]0;x\x07",
    "\u202egnp.exe",
    "a\nb",
    "a,b\r\n",
    "[bold red]x[/]",
    "{stem}",
    "{0.__class__}",
    "{{ 7 * 7 }}",
    "%s%n",
    "1e-4",
    "1:30",
    "0x10",
    "2024-01-01",
    "2024-99-99",
    "null",
    "NaN",
    "auto",
    "all",
    "last_0",
    "last_99999999999999999999",
    "é" * 100,
    "٣",
    "²",
)
"""Texts that break paths, keys, terminals, pages, spreadsheets and numbers."""

NUMBERS = (
    0,
    -0.0,
    -1,
    1,
    2,
    3,
    0.5,
    1.5,
    5e-324,
    1e-300,
    1e308,
    -1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    -(2**63),
    10**17,
    10**18,
    10**30,
)

NESTED: tuple[Any, ...] = (
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    {"kind": "choice"},
    {"kind": "uniform", "low": 0, "high": 1, "choices": [], "when": {}},
    {"choice": []},
    {"choice": [[1], {"a": 1}]},
    {"choice": list(range(2000))},
    {"uniform": [1, 0]},
    {"int": [0, 10**9]},
    {"loguniform": [0, 1]},
    {"constant": [1, 2]},
    {"when": {"a": [[1]]}},
    [1, "a", None, True],
    {"name": "folder"},
    [[[[[[[[[[1]]]]]]]]]],
)

VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False]),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(NESTED),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
"""Any plain value."""


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value below ``data``."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(items):
        yield data, key
        yield from places(value)


@st.composite
def mutated(draw: Callable[..., Any], originals: Sequence[Any], most: int = 3) -> Any:
    """Return a copy of one of ``originals`` (plain data) with one to ``most`` values changed."""
    data = copy.deepcopy(draw(st.sampled_from(range(len(originals))).map(lambda i: originals[i])))
    for _ in range(draw(st.integers(1, most))):
        found = list(places(data))
        if not found:
            return draw(VALUES)
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.integers(0, 7)):
            case 0 | 1 | 2 | 3:
                holder[key] = copy.deepcopy(draw(VALUES))
            case 4:
                del holder[key]
            case 5:
                holder[key] = draw(st.sampled_from([[holder[key]], {"x": holder[key]}, [holder[key]] * 2]))
            case 6:
                other, where = found[draw(st.integers(0, len(found) - 1))]
                if where in other if isinstance(other, dict) else where < len(other):
                    holder[key] = copy.deepcopy(other[where])
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(TEXTS) | st.text(max_size=10))] = holder.pop(key)
            case _:
                holder.insert(key, copy.deepcopy(holder[key]))
    return data


@st.composite
def damaged(draw: Callable[..., Any], originals: Sequence[bytes], most: int = 6) -> bytes:
    """Return one of ``originals`` with bytes changed, removed, repeated or inserted, or cut short."""
    data = bytearray(draw(st.sampled_from(range(len(originals))).map(lambda i: originals[i])))
    for _ in range(draw(st.integers(1, most))):
        # Headers decide more than bodies: half of the changes are within the first 200 bytes.
        end = max(0, len(data) - 1)
        at = draw(st.integers(0, min(200, end)) | st.integers(0, end))
        match draw(st.integers(0, 5)):
            case 0 | 1:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 2:
                new = draw(st.sampled_from([b"\xff" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x80"]))
                data[at : at + len(new)] = new
            case 3:
                del data[at : at + draw(st.integers(1, 64))]
            case 4:
                data[at:at] = draw(st.binary(max_size=16)) or data[at : at + 32]
            case _:
                del data[at:]
    return bytes(data)
