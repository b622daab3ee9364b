"""Commands as they are on the wire (greenworker/packing.py)."""

from __future__ import annotations

import pytest

from greenworker import packing
from greenworker.packing import Packed, pack, pack_word


@pytest.mark.parametrize("times", [1, 2])
def test_each_word_stands_with_its_length_in_bytes(times: int) -> None:
    for _ in range(times):  # (short ones are remembered)
        assert pack("SET", "clé", b"\r\n", 12, "") == (
            b"*5\r\n$3\r\nSET\r\n$4\r\ncl\xc3\xa9\r\n$2\r\n\r\n\r\n$2\r\n12\r\n$0\r\n\r\n"
        )


def test_what_is_packed_already_goes_in_as_it_is() -> None:
    two = Packed(b"$1\r\na\r\n$1\r\nb\r\n", 2)
    assert pack("RPUSH", "list", two, "c") == pack("RPUSH", "list", "a", "b", "c")


def test_of_more_different_words_than_are_remembered_each_is_right() -> None:
    words = [f"word-{n}" for n in range(3000)]
    expected = b"".join(map(pack_word, words))
    for _ in range(2):
        assert pack(*words) == b"*3000\r\n" + expected


def test_a_number_and_its_text_are_the_same_word() -> None:
    assert pack(5) == pack("5") == pack(b"5")


def test_what_only_equals_a_number_is_not_taken_for_it_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "_short", {})
    assert pack(987.0) == b"*1\r\n$5\r\n987.0\r\n"  # type: ignore[arg-type]
    assert pack(987) == b"*1\r\n$3\r\n987\r\n"


def test_bytes_of_another_kind_are_bytes() -> None:
    class Kind(bytes):
        pass

    assert pack(Kind(b"a")) == pack(b"a")
