"""`pedigree ledger export | signature | approve | waive | attach | key add`, `verify --policy`, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

from pedigree.weights.artifact import artifact_id

Pedigree = Callable[..., Ran]
POLICY = """\
policy: 1
release: {by: [alice, bob], signatures: 2}
evaluations: [{of: english, at_most: 1.5}]
licenses: {exclude: ["cc-by-nc-*"], unknown: refuse}
waivers: {by: [alice], rules: [licenses]}
"""


@pytest.fixture
def model(tmp_path: Path, pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that came from elsewhere, registered."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "base"
    place.mkdir()
    (place / "model.safetensors").write_text("weights")
    (place / "config.json").write_text('{"model_type": "llama"}')
    ran = pedigree("import", "base", "--from", "hf://owner/base@1", "--license", "apache-2.0", "--quiet")
    assert ran.code == 0, ran.err
    return place


def test_a_model_is_signed_and_checked(pedigree: Pedigree, model: Path) -> None:
    ran = pedigree("ledger", "export", "base", "--format", "oms", "--out", "base.sig")
    assert ran.code == 0, ran.err
    assert "--public_key base.sig.pub" in ran.err
    good = pedigree("ledger", "signature", "base", "--public-key", "base.sig.pub")
    assert (good.code, good.out.partition(" ")[0]) == (0, "VERIFIED")
    assert pedigree("ledger", "signature", "base").code == 3  # found beside the model; nobody's key
    (model / "config.json").write_text("{}")
    bad = json.loads(pedigree("ledger", "signature", "base", "--public-key", "base.sig.pub", "--json").out)["result"]
    assert [problem["sentence"] for problem in bad["problems"]] == ["config.json is not as it was signed"]
    assert pedigree("ledger", "signature", "base", "--public-key", "base.sig.pub", "-q").code == 1
    assert pedigree("ledger", "export", "base", "--format", "oms", "--out", "base.sig", "--force").code == 2
    entry = json.loads(pedigree("ledger", "log", "--json").out)["result"][-1]
    assert (entry["kind"], entry["facts"]["key"]["algorithm"]) == ("export", "secp256r1")


def test_a_signature_that_comes_with_a_model_is_recorded(pedigree: Pedigree, model: Path) -> None:
    assert pedigree("ledger", "export", "base", "--format", "oms", "--out", "base.sig").code == 0
    ran = pedigree("import", "base")
    assert "base.sig: 2 files are as they were signed, by a key that is not given" in ran.out
    (model / "more.py").write_text("x = 1")
    told = json.loads(pedigree("import", "base", "--json").out)["result"]["signature"]
    assert (told["verdict"], told["told"].partition(",")[0]) == ("CONTRADICTED", "more.py was not signed")
    (model.parent / "base.sig").write_text("{}")
    told = json.loads(pedigree("import", "base", "--json").out)["result"]["signature"]
    assert told["told"].startswith("a signature that cannot be read")
    entry = json.loads(pedigree("ledger", "log", "--json").out)["result"][-1]
    assert entry["facts"]["signature"]["file"] == "base.sig"


def test_what_a_signature_needs(pedigree: Pedigree, model: Path) -> None:
    for words, told in (
        (("base", "--format", "oms"), "a file of its own"), (("--format", "oms"), "about one model"),
        (("base", "--format", "omz", "--out", "x"), "did you mean"), (("nowhere", "--format", "card"), "no such"),
        (("base", "--format", "oms", "--out", "base/model.sig"), "inside the model"),
    ):  # fmt: skip
        ran = pedigree("ledger", "export", *words)
        assert (ran.code, told in ran.err) == (2, True), ran.err
    (model.parent / "other").mkdir()
    (model.parent / "other" / "x.bin").write_text("x")
    assert "no signature lies" in pedigree("ledger", "signature", "other").err
    assert "does not know" in pedigree("ledger", "export", "other", "--format", "card").err


def test_bills_and_statements(pedigree: Pedigree, model: Path) -> None:
    for version in ("1.6", "1.7"):
        bill = json.loads(pedigree("ledger", "export", "base", "--format", f"cyclonedx-{version}").out)
        assert (bill["specVersion"], bill["metadata"]["component"]["licenses"]) == (
            version, [{"license": {"id": "Apache-2.0"}}],
        )  # fmt: skip
    assert pedigree("ledger", "export", "base", "--format", "cyclonedx-1.7", "--out", "b.json").code == 0
    assert pedigree("ledger", "export", "base", "--format", "cyclonedx-1.7", "--out", "b.json").code == 2
    lines = pedigree("ledger", "export", "base").out.splitlines()
    assert len(lines) == 1
    assert len(pedigree("ledger", "export").out.splitlines()) == 2


def test_a_card_is_written_into_the_model_and_entered(pedigree: Pedigree, model: Path) -> None:
    assert "license: apache-2.0" in pedigree("ledger", "export", "base", "--format", "card").out
    (model / "README.md").write_text("# Mine\n\nwords\n")
    assert "does not know" in pedigree("ledger", "export", "base", "--format", "card").err
    (model / "README.md").unlink()
    for _ in range(2):
        ran = pedigree("ledger", "export", "base", "--format", "card", "--out", "base/README.md")
        assert ran.code == 0, ran.err
        assert json.loads((model / "pedigree.json").read_text())["artifact"] == artifact_id(model)
    kinds = [entry["kind"] for entry in json.loads(pedigree("ledger", "log", "--json").out)["result"]]
    assert kinds == ["genesis", "artifact.import", "derive"]
    assert pedigree("ledger", "verify", "base", "--quiet").code == 0
    assert "document" in pedigree("ledger", "graph").out


def test_a_policy_names_the_missing_piece_until_nothing_is_missing(
    pedigree: Pedigree, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model.parent / "policy.yaml").write_text(POLICY)
    for name in ("alice", "bob"):
        ran = pedigree("ledger", "key", "add", f"{name}.pem", "--make", "--name", name)
        assert ran.code == 0, ran.err
    assert "alice" in pedigree("ledger", "key", "list").out

    def verdict() -> tuple[int, list[str]]:
        ran = pedigree("ledger", "verify", "base", "--policy", "policy.yaml", "--json")
        rules = json.loads(ran.out)["result"]["policy"]["rules"]
        return ran.code, [rule["rule"] for rule in rules if not rule["passes"]]

    assert verdict() == (1, ["release", "signatures", "evaluations"])
    ran = pedigree("ledger", "verify", "base", "--policy", "policy.yaml")
    assert "not kept     evaluations: no evaluation of english is attached" in ran.out
    ran = pedigree("ledger", "export", "--release", "base", "--policy", "policy.yaml")
    assert (ran.code, "does not allow this release" in ran.err) == (2, True)
    # An evaluation of this model, not of another one.
    measured = {"id": "sha256:" + "0" * 64, "location": "", "bytes": 1}
    scores = [{"domain": "english", "bits_per_byte": 1.25, "n_bytes": 10, "n_tokens": 5, "nats_per_token": 1.0}]
    record = {"schema": "pedigree/evaluation", "inputs": {"artifact": measured}, "result": {"scores": scores}}
    (model.parent / "eval.json").write_text(json.dumps(record))
    assert "about another model" in pedigree("ledger", "attach", "base", "eval.json").err
    measured["id"] = artifact_id(model)
    (model.parent / "eval.json").write_text(json.dumps(record))
    (model.parent / "broken.json").write_text(json.dumps({**record, "result": {"scores": [{}]}}))
    assert "no record of an evaluation" in pedigree("ledger", "attach", "base", "broken.json").err
    ran = pedigree("ledger", "attach", "base", "eval.json")
    assert ran.code == 0, ran.err
    assert verdict() == (1, ["release", "signatures"])
    assert pedigree("ledger", "export", "--release", "base", "--policy", "policy.yaml").code == 0
    assert verdict() == (1, ["signers", "signatures"])  # the project's own key is none of those who may
    for name in ("alice", "bob"):
        assert pedigree("ledger", "approve", "base", "--key", f"{name}.pem", "--note", "read it").code == 0
    assert pedigree("ledger", "export", "--release", "base", "--policy", "policy.yaml").code == 0
    assert verdict() == (1, ["signers"])
    policy = POLICY.replace("[alice, bob]", "[alice, bob, project]").replace("apache", "x")
    actor = next(
        k for k in json.loads(pedigree("ledger", "key", "list", "--json").out)["result"] if k["role"] == "actor"
    )
    (model.parent / "policy.yaml").write_text(policy.replace("project", actor["id"][:16]))
    assert verdict() == (0, [])
    # A rule is set aside in sight of everybody, or not at all.
    strict = (model.parent / "policy.yaml").read_text().replace("cc-by-nc-*", "apache*")
    (model.parent / "policy.yaml").write_text(strict)
    assert verdict() == (1, ["licenses"])
    words = ("ledger", "waive", "base", "--rule", "licenses", "--reason", "asked counsel")
    assert pedigree(*words).code == 0  # by nobody who may
    assert verdict() == (1, ["licenses"])
    assert pedigree(*words, "--key", "alice.pem").code == 0
    assert verdict() == (0, [])
    ran = pedigree("ledger", "verify", "base", "--policy", "policy.yaml")
    assert "set aside    licenses: excluded: base: apache-2.0; entry" in ran.out
    assert "alice: asked counsel" in ran.out
    # A checkpoint from outside counts as far as the ledger is here; the proof alone shows no way to an older one.
    (model.parent / "kept.txt").write_text(pedigree("ledger", "checkpoint").out)
    (model.parent / "policy.yaml").write_text(strict + "freshness: {anchored: true}\n")
    assert verdict() == (1, ["anchored"])
    assert pedigree("ledger", "attach", "base", "eval.json").code == 0
    assert pedigree("ledger", "export", "--release", "base", "--policy", "policy.yaml").code == 0
    ran = pedigree("ledger", "verify", "base", "--policy", "policy.yaml", "--checkpoint", "kept.txt")
    assert ran.code == 0, ran.out
    (model.parent / "policy.yaml").write_text(strict)
    monkeypatch.setenv("PEDIGREE_POLICY", "policy.yaml")
    assert pedigree("ledger", "verify", "base", "-q").code == 0
    assert "about one model" in pedigree("ledger", "verify").err


def test_every_option_can_be_set_by_the_environment(
    pedigree: Pedigree, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def under(variables: dict[str, str], *words: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return pedigree(*words)

    added = under(
        {"PEDIGREE_MAKE_KEY": "1", "PEDIGREE_KEY_NAME": "carol", "PEDIGREE_ROLE": "actor"},
        "ledger",
        "key",
        "add",
        "c.pem",
    )
    assert "carol" in added.out, added.err
    assert under({"PEDIGREE_KEY": "c.pem"}, "ledger", "approve", "base").code == 0
    assert under({"PEDIGREE_RULE": "scratch", "PEDIGREE_REASON": "a test"}, "ledger", "waive", "base").code == 0
    assert json.loads(under({"PEDIGREE_FORMAT": "cyclonedx-1.6"}, "ledger", "export", "base").out)["version"] == 1
    assert (
        under({"PEDIGREE_RELEASE_KEY": "c.pem"}, "ledger", "export", "base", "--format", "oms", "--out", "s").code == 2
    )
    assert under({"PEDIGREE_FORMAT": "oms"}, "ledger", "export", "base", "--out", "s.sig").code == 0
    ran = under(
        {"PEDIGREE_SIGNATURE": "s.sig", "PEDIGREE_PUBLIC_KEY": "s.sig.pub"}, "ledger", "signature", "base", "-q"
    )
    assert ran.out == "VERIFIED\n"
    ran = under({"PEDIGREE_LICENSE": "mit"}, "import", "base", "--json")
    assert json.loads(ran.out)["result"]["license"] == "mit"
    assert "not admit" in pedigree("ledger", "approve", "base", "--key", str(project_key(model))).err


def project_key(model: Path) -> Path:
    """The key of the log: it signs checkpoints, and no statements."""
    return next(model.parent.rglob("log.pem"))
