"""OpenSSF model signatures: the vectors of their specification, those of the reference implementation, and attacks."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pedigree.errors import MalformedFile, UsageError
from pedigree.ledger.elliptic_keys import ReleaseKey, SignerKey
from pedigree.ledger.model_signature import read_bundle, read_signed, sign_files, signer_of
from pedigree.ledger.signed_files import SignatureReport, check_signature
from pedigree.weights.artifact import read_artifact


def words(report: SignatureReport) -> set[tuple[str, str]]:
    return {(problem.verdict, problem.word) for problem in report.problems}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    (place / "sub").mkdir(parents=True)
    (place / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (place / "config.json").write_text("{}")
    (place / "sub" / "code.py").write_text("x = 1\n")
    (place / "empty.txt").write_text("")
    (place / "pedigree.json").write_text("{}")
    return place


@pytest.fixture(scope="module", params=[ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def key(request: pytest.FixtureRequest) -> ReleaseKey:
    return ReleaseKey(ec.generate_private_key(request.param))


@pytest.fixture
def own_key() -> ReleaseKey:
    return ReleaseKey(ec.generate_private_key(ec.SECP256R1()))


def signed(model: Path, key: ReleaseKey) -> bytes:
    return sign_files("model", read_artifact(model).manifest.files, key)


def check(model: Path, data: bytes, key: SignerKey | None) -> SignatureReport:
    return check_signature(model, read_artifact(model), data, key)


def resigned(data: bytes, key: ReleaseKey, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The same bundle with another statement, signed again."""
    bundle = json.loads(data)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    pae = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(key.sign(pae)).decode()
    return json.dumps(bundle).encode()


# -- the vectors of the specification --------------------------------------------------------------------------------


def oms(shared_data: Path) -> Path:
    return shared_data / "vectors" / "oms"


def test_valid_vectors_are_read(shared_data: Path) -> None:
    found = {}
    for path in sorted((oms(shared_data) / "test-vectors/v1.0/valid").glob("*.json")):
        bundle = read_bundle(path.read_bytes(), path.name)
        signed_model = read_signed(bundle.payload, path.name)
        signer, good = signer_of(bundle, None)
        found[path.name.partition(".")[0]] = (bundle.material, signer is not None, good)
        assert len(signed_model.resources) >= 2
    # Certificates carry their key, a bare key is known elsewhere; the signatures of both kinds are good.
    assert found == {
        "certificate": ("certificate", True, True), "key": ("key", False, False),
        "sigstore": ("sigstore", True, True),
    }  # fmt: skip


def test_invalid_vectors_are_refused(shared_data: Path) -> None:
    paths = sorted((oms(shared_data) / "test-vectors/v1.0").glob("invalid*/*.json"))
    assert len(paths) == 5
    for path in paths:
        with pytest.raises(MalformedFile, match=r"no model signature|JSON that a verifier"):
            read_signed(read_bundle(path.read_bytes(), path.name).payload, path.name)


def test_what_is_made_keeps_the_schemas(shared_data: Path, model: Path, own_key: ReleaseKey) -> None:
    from referencing import Registry, Resource

    schemas = [json.loads(path.read_text()) for path in (oms(shared_data) / "schemas" / "v1.0").glob("*.json")]
    registry: Registry[Any] = Registry().with_resources([(s["$id"], Resource.from_contents(s)) for s in schemas])
    by_id = {schema["$id"].split("/")[3]: schema for schema in schemas}
    bundle = json.loads(signed(model, own_key))
    jsonschema.Draft202012Validator(by_id["bundle"], registry=registry).validate(bundle)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    jsonschema.Draft202012Validator(by_id["statement"], registry=registry).validate(statement)


# -- our own ---------------------------------------------------------------------------------------------------------


def test_what_is_signed_here_is_verified_here(model: Path, key: ReleaseKey, tmp_path: Path) -> None:
    data = signed(model, key)
    report = check(model, data, key.public)
    assert (report.verdict, report.good, report.covered, report.ignored) == ("VERIFIED", True, 4, ["pedigree.json"])
    (model / "pedigree.json").write_text('{"proof": 1}')  # it is signed by itself
    assert check(model, data, key.public).verdict == "VERIFIED"
    (tmp_path / "public.pem").write_bytes(key.public.pem)
    assert SignerKey.load(tmp_path / "public.pem").id == key.public.id


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: (m / "config.json").write_text("{ }"), {("CONTRADICTED", "file-changed")}),
        (lambda m: (m / "config.json").unlink(), {("CONTRADICTED", "file-gone")}),
        (lambda m: (m / "more.py").write_text(""), {("CONTRADICTED", "file-added")}),
        (lambda m: (m / "empty.txt").rename(m / "other.txt"),
         {("CONTRADICTED", "file-gone"), ("CONTRADICTED", "file-added")}),
    ],
)  # fmt: skip
def test_changed_files_are_told(
    model: Path, own_key: ReleaseKey, change: Callable[[Path], object], expected: set[tuple[str, str]]
) -> None:
    data = signed(model, own_key)
    change(model)
    report = check(model, data, own_key.public)
    assert words(report) == expected
    assert report.verdict == "CONTRADICTED"


def test_two_files_that_change_places_are_told(model: Path, own_key: ReleaseKey) -> None:
    """The root digest alone would be the same: it is over contents in the order of names."""
    for name in ("a.bin", "b.bin"):
        (model / name).write_text("same")
    data = signed(model, own_key)
    (model / "b.bin").rename(model / "c.bin")
    assert words(check(model, data, own_key.public)) == {("CONTRADICTED", "file-gone"), ("CONTRADICTED", "file-added")}


def test_another_key_and_none(model: Path, own_key: ReleaseKey) -> None:
    data, other = signed(model, own_key), ReleaseKey(ec.generate_private_key(ec.SECP256R1()))
    assert words(check(model, data, other.public)) == {("CONTRADICTED", "other-key"), ("CONTRADICTED", "signature")}
    assert words(check(model, data, None)) == {("UNKNOWN", "no-key")}


def test_weights_that_a_signature_passes_over_are_suspect(model: Path, own_key: ReleaseKey) -> None:
    def hide(statement: dict[str, Any]) -> None:
        kept = [item for item in statement["predicate"]["resources"] if "model" not in item["name"]]
        statement["predicate"]["resources"] = [r for r in kept if "sub" not in r["name"]]
        statement["predicate"]["serialization"]["ignore_paths"] = ["model.safetensors", "sub", "pedigree.json"]
        digests = b"".join(bytes.fromhex(r["digest"]) for r in statement["predicate"]["resources"])
        statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()

    report = check(model, resigned(signed(model, own_key), own_key, hide), own_key.public)
    assert {problem.sentence.partition(" ")[0] for problem in report.problems} == {"model.safetensors", "sub/code.py"}
    assert report.verdict == "SUSPECT"


def test_a_statement_that_was_changed_after_it_was_signed(model: Path, own_key: ReleaseKey) -> None:
    bundle = json.loads(signed(model, own_key))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"model"', b'"other"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    report = check(model, json.dumps(bundle).encode(), own_key.public)
    assert words(report) == {("CONTRADICTED", "signature")}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
        lambda s: s["predicate"]["resources"].clear(),
        lambda s: s["subject"].append(s["subject"][0]),
        lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
        lambda s: s["predicate"]["serialization"].update(hash_type="md5"),
        lambda s: s["predicate"]["resources"][0].update(digest="xyz"),
        lambda s: s["predicate"].pop("serialization"),
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    ],
)
def test_statements_that_could_mean_two_things_are_refused(
    model: Path, own_key: ReleaseKey, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(MalformedFile, match="no model signature that can be read"):
        check(model, resigned(signed(model, own_key), own_key, change), own_key.public)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    from pedigree.ledger.keys import PrivateKey

    (tmp_path / "ed.pem").write_bytes(PrivateKey.generate().to_pem())
    with pytest.raises(MalformedFile, match="a key of another kind"):
        ReleaseKey.load(tmp_path / "ed.pem")
    curve = ec.generate_private_key(ec.SECP256K1()).public_key()
    (tmp_path / "k1.pem").write_bytes(
        curve.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(MalformedFile, match="no public key of a model signature"):
        SignerKey.load(tmp_path / "k1.pem")
    with pytest.raises(UsageError, match="no file to sign"):
        sign_files("x", [], ReleaseKey(ec.generate_private_key(ec.SECP256R1())))


def test_the_key_of_a_project_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDIGREE_KEY_PASSPHRASE", "word")
    first = ReleaseKey.of_project(tmp_path)
    assert b"ENCRYPTED" in (tmp_path / "release.pem").read_bytes()
    assert ReleaseKey.of_project(tmp_path).public.id == first.public.id
    monkeypatch.delenv("PEDIGREE_KEY_PASSPHRASE")
    with pytest.raises(MalformedFile, match="can be opened"):
        ReleaseKey.of_project(tmp_path)


# -- the reference implementation, where it is installed -------------------------------------------------------------


@pytest.fixture
def reference() -> Any:
    # 1.1.1 imports pyOpenSSL without asking for it.
    if not all(importlib.util.find_spec(name) for name in ("model_signing", "OpenSSL")):
        pytest.skip("model-signing and pyopenssl are not installed")
    import model_signing

    return model_signing


def test_the_reference_implementation_verifies_ours(
    reference: Any, model: Path, own_key: ReleaseKey, tmp_path: Path
) -> None:
    (tmp_path / "model.sig").write_bytes(signed(model, own_key))
    (tmp_path / "model.pub").write_bytes(own_key.public.pem)
    verifier = reference.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "model.pub")
    verifier.verify(model, tmp_path / "model.sig")
    (model / "config.json").write_text("other")
    again = reference.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "model.pub")
    with pytest.raises(ValueError, match="Hash mismatch"):
        again.verify(model, tmp_path / "model.sig")


@pytest.mark.parametrize("how", ["sha256", "blake2", "blake3", "shards"])
def test_ours_verifies_the_reference_implementation(
    reference: Any, model: Path, own_key: ReleaseKey, tmp_path: Path, how: str
) -> None:
    private = own_key.secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(private)
    config = reference.hashing.Config()
    if how == "shards":
        config.use_shard_serialization(shard_size=4096)
    else:
        config.use_file_serialization(hashing_algorithm=how)
    signer = reference.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    (model / "pedigree.json").unlink()
    signer.set_hashing_config(config).sign(model, tmp_path / "model.sig")
    data = (tmp_path / "model.sig").read_bytes()
    report = check(model, data, own_key.public)
    assert words(report) == ({("UNKNOWN", "file-empty")} if how == "shards" else set())
    content = bytearray((model / "model.safetensors").read_bytes())
    content[5000] ^= 1
    (model / "model.safetensors").write_bytes(content)
    assert ("CONTRADICTED", "file-changed") in words(check(model, data, own_key.public))
