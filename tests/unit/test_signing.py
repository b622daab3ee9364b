"""Signatures: what is covered, by which keys, and what becomes of a message on its way."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker import App
from greenworker.errors import BadSignature, ConfigError
from greenworker.message import Message, decode, encode_tail, next_attempt, with_option
from greenworker.signing import Signer

KEY, OTHER = "a key of the senders", b"another key, once theirs"
MESSAGE = Message(
    "m1", "shop.mail", ["ä", 1], {"to": "x"}, {"trace": 1}, options={"tag": "a b"}, result_ttl=60
)
FRONT = b"1 0 0 5 1700000000000 0 "


def sent(signer: Signer, id: str = "m1", message: Message = MESSAGE) -> bytes:
    """The envelope as the push script writes it."""
    return FRONT + signer.sign(id, encode_tail(message))


def refused(signer: Signer, id: str, envelope: bytes) -> bool:
    try:
        signer.verify(id, envelope)
    except BadSignature:
        return True
    return False


def test_what_is_signed_is_accepted_and_reads_as_before() -> None:
    signer = Signer([KEY], "shop")
    envelope = sent(signer)
    signer.verify("m1", envelope)
    before, after = decode("m1", FRONT + encode_tail(MESSAGE)), decode("m1", envelope)
    signature = after.options["sig"]
    assert len(signature) == 43
    assert after.options == {"tag": "a b", "sig": signature}
    assert (after.task, after.args, after.kwargs, after.headers, after.result_ttl) == (
        before.task, before.args, before.kwargs, before.headers, before.result_ttl,
    )  # fmt: skip


def test_no_byte_of_the_covered_part_can_be_changed() -> None:
    signer = Signer([KEY], "shop")
    envelope = sent(signer)
    for at in range(len(FRONT), len(envelope)):
        for bit in (1, 2, 128):
            changed = bytearray(envelope)
            changed[at] ^= bit
            assert refused(signer, "m1", bytes(changed)), (at, bytes(changed))


def test_no_byte_of_it_can_be_left_out_or_added() -> None:
    signer = Signer([KEY], "shop")
    envelope = sent(signer)
    for at in range(len(FRONT), len(envelope)):
        assert refused(signer, "m1", envelope[:at] + envelope[at + 1 :]), at
        for byte in (b" ", b"\n", b"=", b"x"):
            assert refused(signer, "m1", envelope[:at] + byte + envelope[at:]), (at, byte)
    assert refused(signer, "m1", envelope + b" ")


def test_a_message_runs_under_its_own_id_and_in_its_own_namespace_only() -> None:
    signer = Signer([KEY], "shop")
    one, two = sent(signer, "m1"), sent(signer, "m2")
    assert refused(signer, "m1", two)
    assert refused(signer, "m2", one)
    assert refused(Signer([KEY], "staging"), "m1", one)
    # Nor does a boundary move: the lengths are covered.
    assert refused(Signer([KEY], "shop 1 m"), "m1", one)
    assert refused(signer, "m", one)


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"\n",
        b"garbage",
        b" sig=",
        FRONT + encode_tail(MESSAGE),
        FRONT + b"60000 default shop.mail sig=\n[[],{}]",
        FRONT + b"60000 default shop.mail sig=\xff\xfe\n[[],{}]",
        FRONT + b"60000 default shop.mail sig=" + b"A" * 43 + b"\n[[],{}]",
    ],
)
def test_what_is_not_signed_is_refused(envelope: bytes) -> None:
    assert refused(Signer([KEY], "shop"), "m1", envelope)


def test_keys_are_changed_one_after_the_other() -> None:
    old, both, new = (Signer(keys, "shop") for keys in ([OTHER], [KEY, OTHER], [KEY]))
    both.verify("m1", sent(old))
    both.verify("m1", sent(both))
    new.verify("m1", sent(both))  # the first key signs
    assert refused(new, "m1", sent(old))
    assert refused(old, "m1", sent(both))


def test_a_message_that_goes_on_its_way_stays_signed() -> None:
    signer = Signer([KEY], "shop")
    envelope = sent(signer)
    retried = next_attempt(next_attempt(envelope))
    put_off = with_option(with_option(retried, "unknown", "17.5"), "unknown", "18.5")
    crashed = put_off.replace(b"1 0 ", b"1 2 ", 1)
    for one in (retried, put_off, crashed):
        signer.verify("m1", one)
    assert decode("m1", crashed).attempt == 2


def test_nothing_but_a_workers_note_stands_behind_a_signature() -> None:
    signer = Signer([KEY], "shop")
    envelope = sent(signer)
    for option in ("unique", "sig", "unknown2", ""):
        assert refused(signer, "m1", with_option(envelope, option, "1")), option


def test_bytes_and_text_are_the_same_key() -> None:
    Signer([KEY.encode()], "shop").verify("m1", sent(Signer([KEY], "shop")))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("one long string that is no list", "give a list of keys"),
        (b"one long string that is no list", "give a list of keys"),
        ([], "signing_keys is empty: give at least one key, or None"),
        ([KEY, "fifteen bytes.."], r"signing_keys\[1\] has 15 bytes: give at least 16, as of "),
        ([""], r"signing_keys\[0\] has 0 bytes"),
        ([None], r"signing_keys\[0\] is a NoneType: give str or bytes"),
    ],
)
def test_keys_that_are_none_are_refused_with_the_mend(keys: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        App("redis://127.0.0.1:1", signing_keys=keys)
    assert "fifteen" not in str(caught.value)


def test_the_environment_gives_the_keys_when_the_app_names_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, of_its_own = App(namespace="shop"), App(namespace="shop", signing_keys=[OTHER])
    assert app.signer is None
    monkeypatch.setenv("GREENWORKER_SIGNING_KEYS", "")
    assert app.signer is None
    # A comma inside a key parts it.
    monkeypatch.setenv("GREENWORKER_SIGNING_KEYS", f"{KEY},{OTHER.decode()}")
    with pytest.raises(ConfigError, match=r"GREENWORKER_SIGNING_KEYS\[1\] has 11 bytes"):
        app.signer  # noqa: B018
    monkeypatch.setenv("GREENWORKER_SIGNING_KEYS", f"{KEY}, a second key of them ")
    assert app.signer is not None
    app.signer.verify("m1", sent(Signer(["a second key of them"], "shop")))
    Signer([KEY], "shop").verify("m1", sent(app.signer))
    # What the code says goes first.
    assert of_its_own.signer is not None
    assert refused(of_its_own.signer, "m1", sent(app.signer))


def test_no_key_is_shown() -> None:
    app = App("redis://127.0.0.1:1", signing_keys=[KEY])
    assert repr(app.signer) == "<Signer, keys: 1>"
    for shown in (repr(app), repr(app.signer), str(app.signer), repr(app.client)):
        assert KEY not in shown
