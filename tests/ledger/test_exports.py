"""The bill of materials and the model card: from the record alone, keeping what people wrote."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.attacks.ledger_attacker import Project
from tests.ledger.second_verifier import proof_holds

from pedigree.errors import MalformedFile
from pedigree.ledger.bill_of_materials import VERSIONS, bill_of_materials
from pedigree.ledger.card import BEGIN, card_claims, card_license, write_card
from pedigree.ledger.passport import Passport, hub_name, passport_of
from pedigree.ledger.proof import make_proof
from pedigree.ledger.registration import register, register_documented
from pedigree.ledger.statement import MANIFEST, Draft, Parent, Subject, hex_digest
from pedigree.weights.artifact import read_artifact


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A base from the Hub, a fine-tuned model on a data set of the Hub, its quantized copy."""
    made = Project.start(tmp_path)
    place = made.weights("base", "weights of base")
    artifact = read_artifact(place)
    made.ids["base"] = hex_digest(artifact.id)
    register(made.ledger, artifact, origin="hf://owner/base@0a1b2c3", more={"license": "llama3"},
             actors=[{"id": "person:two", "role": "importer"}])  # fmt: skip
    run = f"{5:036x}"
    corpora = [{"source": {"kind": "hf", "path": "team/texts"}, "digest": "sha256:" + "d" * 64}]
    data = (Parent("d" * 64, "dataset", "team/texts"), Parent("e" * 64, "dataset", "notes.txt"))
    made.ledger.append(Draft("run.start", {"step": 0, "corpora": corpora}, run, parents=data))
    made.make("tuned", "base", operation="finetune", run=run, tokens=1000, floating_point_operations=2.5e9)
    place = made.weights("small", "weights of small")
    artifact = read_artifact(place)
    made.ids["small"] = hex_digest(artifact.id)
    actors = [{"id": "person:one", "role": "operator"}]
    facts = {"name": "small", "operators": [{"operator": "quantize"}], "actors": actors}
    made.ledger.append(
        Draft("derive", facts, None, (Subject(MANIFEST, made.ids["small"]),),
              (Parent(made.ids["tuned"], "init", "tuned"),), "surgery").with_attachment(artifact.manifest.to_bytes())
    )  # fmt: skip
    return made


def passport(project: Project, name: str, **more: Any) -> Passport:
    files = read_artifact(project.folder / name).manifest.files
    return passport_of(
        project.verify(), project.ids[name], files=files, names={"person:one": "Ada", "person:two": "Bo"},
        config={"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, **more,
    )  # fmt: skip


def test_a_passport_gathers_the_life(project: Project) -> None:
    small = passport(project, "small")
    assert [(item.name, item.direct, item.imported) for item in small.ancestors] == [
        ("tuned", True, False), ("base", False, True),
    ]  # fmt: skip
    assert (small.base_models, small.relation, small.from_scratch) == (["owner/base"], "quantized", False)
    assert [(item.name, item.hub) for item in small.datasets] == [("team/texts", "team/texts"), ("notes.txt", "")]
    assert {credit.person: credit.roles for credit in small.credits} == {
        "person:one": ("operator",), "person:two": ("importer",),
    }  # fmt: skip
    assert passport(project, "tuned").relation == "finetune"
    project.make("own")
    assert passport(project, "own").from_scratch
    assert "| from scratch |" in write_card("", passport(project, "own"))[0]
    assert not passport(project, "base").from_scratch
    assert passport_of(project.verify(), "f" * 64).entry is None


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("hf://owner/name@abc", "owner/name"), ("https://huggingface.co/owner/name", "owner/name"),
        ("https://huggingface.co/owner/name/tree/main", "owner/name"), ("hf://owner", ""), ("/disk/owner/name", ""),
        ("https://example.com/owner/name", ""),
    ],
)  # fmt: skip
def test_names_on_the_hub(origin: str, name: str) -> None:
    assert hub_name(origin) == name


def test_statements_keep_the_definitions_of_in_toto(project: Project) -> None:
    """Read by the protocol buffers that in-toto publishes, which refuse a field they do not know."""
    if importlib.util.find_spec("in_toto_attestation") is None:
        pytest.skip("in-toto-attestation, which model-signing brings, is not installed")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    provenances = 0
    for entry in project.verify().entries:
        if entry.envelope is None:
            continue
        told = json.loads(entry.envelope.payload)
        Statement.copy_from_pb(json_format.ParseDict(told, statement_pb2.Statement())).validate()
        if told["predicateType"] == "https://slsa.dev/provenance/v1":
            assert told["predicate"].pop("pedigree_seen")["size"] == str(entry.index)
            json_format.ParseDict(told["predicate"], provenance_pb2.Provenance())
            provenances += 1
    assert provenances == 3


# -- CycloneDX -------------------------------------------------------------------------------------------------------


def strict_schema(version: str) -> tuple[dict[str, Any], Any]:
    """The schema as the package of CycloneDX carries it, with those it refers to."""
    from referencing import Registry, Resource

    found = importlib.util.find_spec("cyclonedx")
    if found is None or not found.submodule_search_locations:
        pytest.skip("cyclonedx-python-lib, which carries the schemas, is not installed")
    folder = Path(found.submodule_search_locations[0]) / "schema" / "_res"
    schemas = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.schema.json")}
    wanted = schemas[f"bom-{version}.SNAPSHOT.schema.json"]
    resources = [(schema["$id"], Resource.from_contents(schema)) for schema in schemas.values() if "$id" in schema]
    base = wanted["$id"].rpartition("/")[0]
    resources += [(f"{base}/{name}", Resource.from_contents(schema)) for name, schema in schemas.items()]
    return wanted, Registry().with_resources(resources)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["base", "tuned", "small"])
def test_bills_keep_the_strict_schema(project: Project, version: str, name: str) -> None:
    schema, registry = strict_schema(version)
    validator = jsonschema.Draft7Validator(schema, registry=registry, format_checker=jsonschema.FormatChecker())
    bill = bill_of_materials(passport(project, name, license_="apache-2.0"), version, "1.0")
    assert [error.message for error in validator.iter_errors(bill)] == []
    assert [*validator.iter_errors({**bill, "unknown": 1})] != []  # it is the strict one


def test_a_bill_says_what_is_recorded(project: Project) -> None:
    made = passport(project, "small")
    bill = bill_of_materials(made, "1.7", "1.0")
    assert json.dumps(bill) == json.dumps(bill_of_materials(passport(project, "small"), "1.7", "1.0"))
    model = bill["metadata"]["component"]
    assert [item["name"] for item in model["pedigree"]["ancestors"]] == ["tuned", "owner/base"]
    assert model["pedigree"]["ancestors"][1]["licenses"] == [{"license": {"name": "llama3"}}]
    assert [item["name"] for item in model["authors"]] == ["Ada", "Bo"]
    assert {item["name"] for item in model["components"]} == {"model.safetensors", "config.json"}
    assert [item["name"] for item in bill["components"]] == ["team/texts", "notes.txt"]
    assert [item["name"].partition(":")[0] for item in bill["formulation"][0]["workflows"]] == [
        "import", "finetune", "surgery",
    ]  # fmt: skip
    references = [item["bom-ref"] for item in every_component(bill)]
    assert len(references) == len(set(references))
    assert {item["ref"] for item in model["modelCard"]["modelParameters"]["datasets"]} <= set(references)


def every_component(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        own = [value] if "bom-ref" in value else []
        return own + [found for item in value.values() for found in every_component(item)]
    return [found for item in value for found in every_component(item)] if isinstance(value, list) else []


# -- the card --------------------------------------------------------------------------------------------------------


def front(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_a_card_from_nothing(project: Project) -> None:
    text, differing = write_card("", passport(project, "small", license_="mit"))
    fields = front(text)
    assert (fields["base_model"], fields["base_model_relation"]) == (["owner/base"], "quantized")
    assert (fields["datasets"], fields["license"]) == (["team/texts"], "mit")
    assert fields["provenance"]["artifact"] == "sha256:" + project.ids["small"]
    assert "| people | Ada (operator), Bo (importer) |" in text
    assert differing == []
    assert write_card(text, passport(project, "small", license_="mit")) == (text, [])


def test_what_somebody_wrote_stays(project: Project) -> None:
    before = (
        "---\nlicense: mit   # ours\nbase_model: some/other\ntags:\n- tiny\nwidget:\n  - text: 'a: b'\n---\n\n"
        "# My model\n\nIt is *good*.\n\n---\n\nmore\n"
    )
    text, differing = write_card(before, passport(project, "small", license_="mit"))
    assert differing == ["base_model"]
    assert text.startswith(before.partition("\n---\n\n#")[0])
    assert "# My model\n\nIt is *good*.\n\n---\n\nmore\n" in text
    fields = front(text)
    assert (fields["base_model"], fields["tags"], fields["license"]) == ("some/other", ["tiny"], "mit")
    assert fields["widget"] == [{"text": "a: b"}]
    again, _ = write_card(text.replace("It is *good*.", "It is better."), passport(project, "small", license_="mit"))
    assert again == text.replace("It is *good*.", "It is better.")


def test_a_card_that_cannot_be_read_is_not_written_over(project: Project) -> None:
    with pytest.raises(MalformedFile, match="no mapping in YAML"):
        write_card("---\na: [b\n---\ntext\n", passport(project, "small"))


def test_hostile_cards_and_configs(project: Project, tmp_path: Path) -> None:
    place = tmp_path / "hostile"
    place.mkdir()
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(12))
    (place / "README.md").write_text(f"---\n{levels}\nbase_model: [*a11, real/one, 7]\nlicense: *a11\n---\n")
    assert card_claims(place) == [{"name": "real/one", "relation": "unsaid relation"}]
    assert card_license(place) == ""
    with pytest.raises(MalformedFile, match="the card is too large"):
        write_card("x" * (3 << 20), passport(project, "small"))
    odd = passport_of(project.verify(), project.ids["small"], config={"model_type": "\ud800", "architectures": [["x"]]})
    assert json.dumps(bill_of_materials(odd, "1.7", "1"), ensure_ascii=False).encode()
    assert (odd.family, odd.architecture) == ("?", "")


def test_names_of_others_cannot_leave_their_cell(project: Project) -> None:
    evil = "x | y\n<!-- pedigree: end -->\n# gotcha"
    project.ids["evil"] = "a" * 64
    project.ledger.append(
        Draft(
            "derive", {"name": evil}, None, (Subject(MANIFEST, "b" * 64),), (Parent("a" * 64, "init", evil),), "train"
        )
    )
    text, _ = write_card("", passport_of(project.verify(), "b" * 64))
    assert text.count("<!-- pedigree: end -->") == 1
    assert "\n# gotcha" not in text.partition("<!--")[2]


def test_the_card_is_read_back_as_claims(project: Project, tmp_path: Path) -> None:
    place = tmp_path / "carded"
    place.mkdir()
    (place / "README.md").write_text(write_card("", passport(project, "small", license_="mit"))[0])
    assert card_claims(place) == [{"name": "owner/base", "relation": "quantized"}]
    assert card_license(place) == "mit"


def test_writing_a_card_makes_the_same_model_with_another_id(project: Project) -> None:
    place = project.folder / "small"
    for _ in range(2):
        before = hex_digest(read_artifact(place).id)
        card = place / "README.md"
        old = card.read_text() if card.exists() else "hello\n"
        card.write_text(old + "more\n")
        after = read_artifact(place)
        register_documented(project.ledger, before, "small", after, "README.md")
        project.ids["small"] = hex_digest(after.id)
    made = passport(project, "small")
    assert (made.relation, [item.name for item in made.ancestors]) == ("quantized", ["tuned", "base"])
    assert made.described != made.digest
    assert project.verify().problems == []
    assert BEGIN in write_card("", made)[0]


def test_the_hub_keeps_the_card(project: Project) -> None:
    from huggingface_hub import ModelCard

    text, _ = write_card("", passport(project, "small", license_="mit"))
    data = ModelCard(text, ignore_metadata_errors=False).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (["owner/base"], "quantized")
    assert data["provenance"]["entry"] == passport(project, "small").entry


# -- the proof that travels with a model, read by somebody else --------------------------------------------------------


def test_a_second_implementation_verifies_a_released_proof(project: Project) -> None:
    """It shares no line with ours, knows the specification alone, and needs neither database nor network."""
    proof = json.loads(json.dumps(make_proof(project.ledger.store, project.ids["small"])))
    made = proof_holds(proof)
    assert made is not None
    assert project.ids["tuned"] in made[project.ids["small"]]
    assert project.ids["base"] in made[project.ids["tuned"]]
    entry = next(entry for entry in proof["entries"] if project.ids["small"] in entry["leaf"])
    other = base64.b64encode(b"\0" * 32).decode()
    signed = json.loads(entry["envelope"])
    signed["payload"] = base64.b64encode(base64.b64decode(signed["payload"]).replace(b"small", b"large")).decode()
    changes: list[dict[str, Any]] = [
        {"leaf": entry["leaf"].replace(project.ids["tuned"], "f" * 64)},
        {"inclusion": [other, *entry["inclusion"][1:]]},
        {"envelope": json.dumps(signed)}, {"index": str(int(entry["index"]) - 1)},
    ]  # fmt: skip
    for change in changes:
        entries = [{**one, **change} if one is entry else one for one in proof["entries"]]
        assert proof_holds({**proof, "entries": entries}) is None, change
    assert proof_holds({**proof, "origin": "another"}) is None


@pytest.mark.parametrize(
    "front",
    [
        "a: &a {x: 1}\nb: {<<: [*a, *a]}", "x: !!bool foo", "x: !!timestamp foo",
        'x: !!int ""',
        "x: " + "[" * 30 + "]" * 30, "x: " + "a" * (1 << 19), "x: !!python/name:os.system",
    ],
)  # fmt: skip
def test_a_card_that_means_more_than_it_shows_is_not_read(tmp_path: Path, front: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nbase_model: owner/base\nlicense: mit\n{front}\n---\n# hi\n")
    assert card_claims(tmp_path) == []
    assert card_license(tmp_path) == ""


def test_a_card_with_a_long_table_of_results_is_read(tmp_path: Path) -> None:
    rows = "".join(f"- {{task: t{n}, value: 0.{n}}}\n" for n in range(5000))
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\nresults:\n{rows}---\n# hi\n")
    assert card_license(tmp_path) == "mit"
