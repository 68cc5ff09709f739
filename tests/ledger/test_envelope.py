"""Envelopes, notes and strict JSON against their specifications and against what a stranger may hand in."""

from __future__ import annotations

import base64
import json
import struct

import pytest
import rfc8785
from tests.ledger.second_verifier import envelope_holds, note_holds

from pedigree.errors import MalformedFile
from pedigree.ledger.envelope import Envelope, pre_authentication_encoding
from pedigree.ledger.keys import KeyFolder, PrivateKey, PublicKey
from pedigree.ledger.note import Checkpoint, read_notes, verifier_key
from pedigree.ledger.strict_json import strict_object
from pedigree.ledger.tree import EMPTY_ROOT, leaf_hash

STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'


def test_the_vector_of_the_dsse_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == expected
    unicode = "\u00e9"  # lengths count bytes
    assert pre_authentication_encoding(unicode, unicode.encode()) == b"DSSEv1 2 \xc3\xa9 2 \xc3\xa9"


# RFC 8785, appendix B: the bits of a double, and how canonical JSON writes it.
JCS_NUMBERS = [
    ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"), ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"), ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"), ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"), ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"), ("43143ff3c1cb0959", "1424953923781206.2"),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "text"), JCS_NUMBERS)
def test_numbers_of_rfc_8785(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert rfc8785.dumps(number) == text.encode()


def test_strings_and_order_of_rfc_8785() -> None:
    value = json.loads(
        r'{"string":"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/","literals":[null,true,false],'
        r'"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew","1":"One","\u0080":"Control",'
        r'"\ud83d\ude00":"Smiley","\u00f6":"Latin"}'
    )
    assert rfc8785.dumps(value).decode() == (
        '{"\\r":"Carriage Return","1":"One","literals":[null,true,false],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/","\x80":"Control","\u00f6":"Latin","\u20ac":"Euro Sign",'
        '"\U0001f600":"Smiley","\ufb33":"Hebrew"}'
    )


def test_an_envelope_convinces_a_second_implementation_and_survives_writing() -> None:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    envelope = Envelope.sign(STATEMENT, [key, other])
    again = Envelope.from_bytes(envelope.to_bytes())
    assert again == envelope
    assert envelope_holds(json.loads(envelope.to_bytes()), key.public.raw) == json.loads(STATEMENT)
    assert again.signers([key.public, other.public, PrivateKey.generate().public]) == [key.public, other.public]
    assert again.statement("x")["_type"].endswith("Statement/v1")


def test_one_key_counts_once_and_a_changed_payload_not_at_all() -> None:
    key = PrivateKey.generate()
    envelope = Envelope.sign(STATEMENT, [key, key])
    assert envelope.signers([key.public, key.public]) == [key.public]
    assert Envelope(STATEMENT + b" ", envelope.signatures).signers([key.public]) == []
    assert Envelope(STATEMENT, envelope.signatures, "text/plain").signers([key.public]) == []


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b'{"payload":"","payloadType":"x","signatures":[]}',
        b'{"payload":"!","payloadType":"x","signatures":[{"sig":""}]}',
        b'{"payload":"","payload":"","payloadType":"x","signatures":[{"sig":""}]}',
        b'{"payload":"","payloadType":"x","signatures":[1]}',
        b'{"payload":"","payloadType":[],"signatures":[{"sig":""}]}',
        b"\xff", b'{"a":NaN}', b'{"a":1.0}', b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"a":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFile, match=r"envelope|verifier does not take"):
        Envelope.from_bytes(data)


def test_brackets_in_texts_are_no_levels() -> None:
    value = {"a": "[" * 500, "b": '\\"[[[', "c": "\\"}
    assert strict_object(json.dumps(value).encode(), "x") == value


def test_a_checkpoint_convinces_a_second_implementation() -> None:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    note = Checkpoint("example.org/log", 7, leaf_hash(b"x")).signed([key, other]).to_note()
    assert note_holds(note, "example.org/log", key.public.raw) == (7, leaf_hash(b"x"))
    read = Checkpoint.from_note(note)
    assert read.to_note() == note
    assert read.signers([key.public, PrivateKey.generate().public]) == [key.public]
    assert read_notes(note + "\n" + note, "x") == [read, read]
    name, mark, blob = verifier_key("example.org/log", key.public).split("+", 2)
    assert (name, len(mark), base64.b64decode(blob)) == ("example.org/log", 8, b"\x01" + key.public.raw)


@pytest.mark.parametrize(
    ("old", "new"),
    [("\n7\n", "\n07\n"), ("\n7\n", "\n-7\n"), ("\n7\n", "\n7\nextension\n"), ("\n\n", "\n"), ("\u2014", "-"),
     ("=\n", "\n"), ("\n7\n", "\n99999999999999999999\n"), ("\n7\n", "\n\u0667\n")],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(old: str, new: str) -> None:
    note = Checkpoint("o", 7, leaf_hash(b"x")).signed([PrivateKey.generate()]).to_note()
    with pytest.raises(MalformedFile, match="no signed checkpoint"):
        Checkpoint.from_note(note.replace(old, new))


def test_a_checkpoint_of_other_numbers_is_not_signed() -> None:
    key = PrivateKey.generate()
    signed = Checkpoint("o", 7, leaf_hash(b"x")).signed([key])
    assert not Checkpoint("o", 8, signed.root, signed.signatures).signers([key.public])
    assert not Checkpoint("p", 7, signed.root, signed.signatures).signers([key.public])
    assert not Checkpoint("o", 7, EMPTY_ROOT, signed.signatures).signers([key.public])


def test_keys_are_made_once_and_for_their_owner_alone(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    folder = KeyFolder(tmp_path / "keys")
    folder.make()
    first = folder.load("actor").public
    folder.make()
    assert folder.load("actor").public == first
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    monkeypatch.setenv("PEDIGREE_KEY_PASSPHRASE", "long words")
    folder.replace("actor", PrivateKey.generate())
    assert folder.load("actor").public != first
    assert PrivateKey.load(tmp_path / "keys" / f"actor-{first.id[:16]}.pem").public == first
    monkeypatch.setenv("PEDIGREE_KEY_PASSPHRASE", "other words")
    with pytest.raises(MalformedFile, match="no key that can be opened"):
        folder.load("actor")
    assert PublicKey.from_dict(first.to_dict(), "x") == first
    with pytest.raises(MalformedFile, match="no public key"):
        PublicKey.from_dict({**first.to_dict(), "id": "0" * 64}, "x")
