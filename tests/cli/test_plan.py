"""`pedigree plan`: published sizes through the command line, its table, its options, its limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ran
from tests.family.recipe_examples import GOOD, written

from pedigree.cli.plan import RECOMPUTE_WORDS, SIZE_WORDS
from pedigree.cli.plan_table import MAX_LINES, count_words, operation_words, time_words

Pedigree = Callable[..., Ran]
ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

# Parameters in billions, as published or solved from published totals: all, active, active as the report counts them.
PUBLISHED = [
    ("pangu-alpha", "pangu-alpha-13b", 12.80, None, None),
    ("pangu-sigma", "pangu-sigma", 1085.0, None, None),
    ("pangu-ultra", "general-1", 133.9, None, None),
    ("pangu-pro-moe", "general", 71.99, 16.50, None),
    ("pangu-ultra-moe", "pangu-ultra-moe", 719.1, None, 39.2),
    ("pangu-embedded", "pangu-embedded-7b", 8.03, None, None),
    ("deepseek-v3", "deepseek-v3", 671.0, None, None),
]


def recipe(name: str) -> str:
    return str(ROOT / "recipes" / f"{name}.yaml")


def record(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    result: dict[str, Any] = json.loads(ran.out)
    return result


@pytest.mark.parametrize(("name", "step", "total", "active", "bare"), PUBLISHED, ids=[row[1] for row in PUBLISHED])
def test_published_sizes_come_out_within_a_thousandth(
    pedigree: Pedigree, name: str, step: str, total: float, active: float | None, bare: float | None
) -> None:
    words = ("plan", recipe(name), "--size", "real", "--only", step)
    (found,) = record(pedigree(*words, "--json"))["result"]["steps"]
    count = found["parameters"]
    assert count["total"] / 1e9 == pytest.approx(total, rel=1e-3)
    assert active is None or count["active"] / 1e9 == pytest.approx(active, rel=1e-3)
    assert bare is None or count["active_without_embedding"] / 1e9 == pytest.approx(bare, rel=1e-3)
    table = pedigree(*words).out
    for number in (count["total"], count["active"], count["active_without_embedding"]):
        assert count_words(number) in table


def test_the_parts_sum_to_the_total(pedigree: Pedigree) -> None:
    for name, step, *_ in PUBLISHED:
        words = ("plan", recipe(name), "--size", "real", "--only", step, "--json")
        count = record(pedigree(*words))["result"]["steps"][0]["parameters"]
        parts = {key: number for key, number in count["by_part"].items() if key != "mtp"}
        assert sum(parts.values()) == count["total"]
        assert count["with_mtp"] == count["total"] + count["by_part"].get("mtp", 0)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", SIZE_WORDS)
def test_the_table_fits_a_page(pedigree: Pedigree, path: Path, size: str) -> None:
    result = record(pedigree("plan", str(path), "--size", size, "--json"))["result"]
    for only in ([], *(["--only", step["name"]] for step in result["steps"][:2])):
        lines = pedigree("plan", str(path), "--size", size, *only).out.splitlines()
        assert len(lines) <= MAX_LINES + (0 if only else 2 * len(result["operations"]))
        assert max(map(len, lines)) <= 100
        assert all(ord(letter) < 128 for line in lines for letter in line)


def test_a_family_of_many_steps_is_cut_and_says_so(pedigree: Pedigree, tmp_path: Path) -> None:
    more = "".join(f"  s{i}: {{kind: train, from: base, training: {{tokens: 1000}}}}\n" for i in range(40))
    ran = pedigree("plan", str(written(GOOD + more, tmp_path)))
    assert len(ran.out.splitlines()) == MAX_LINES
    assert "and 21 more (--json has all)" in ran.out


def test_json_is_a_plan_record_that_its_schema_describes(pedigree: Pedigree) -> None:
    import jsonschema

    from pedigree.records.schemas import json_schema

    found = record(pedigree("plan", recipe("pangu-ultra-moe"), "--size", "real", "--device", "h100", "--json"))
    jsonschema.Draft202012Validator(json_schema("plan")).validate(found)
    assert (found["schema"], found["version"]) == ("pedigree/plan", 1)
    assert found["options"]["device"] == "h100"
    assert found["producer"]["version"] != "unknown"


def test_the_record_and_the_tables_are_contracts(
    pedigree: Pedigree, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests and settings are left out: they follow the settings of training, which have tests of their own."""
    monkeypatch.chdir(ROOT)
    found = record(pedigree("plan", "recipes/quickstart.yaml", "--json"))
    (step,) = found["result"]["steps"]
    assert step.pop("config")["d_model"] == 96
    assert step.pop("training")["sequence_length"] == 128
    for place in (step, found["producer"], found["inputs"]["recipe"]):
        place.update({key: "..." for key in ("digest", "version") if key in place})
    golden("plan-quickstart.json", json.dumps(found, indent=2) + "\n")
    golden("plan-pangu-pro-moe.txt", pedigree("plan", "recipes/pangu-pro-moe.yaml", "--size", "real").out)
    one = ("--only", "general", "--device", "h100", "--mesh", "dp=64,tp=8,ep=2,pp=5,noop=2,zero=1,micro=1")
    told = pedigree("plan", "recipes/pangu-pro-moe.yaml", "--size", "real", *one).out
    golden("plan-general.txt", re.sub(r"sha256:\w+", "sha256:...", told))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process its peak")
def test_planning_a_trillion_parameters_takes_no_torch_and_little_memory() -> None:
    code = (
        "import re, sys\n"
        "from pedigree.cli.main import main\n"
        f"code = main(['plan', {recipe('pangu-sigma')!r}, '--size', 'real', '--device', 'h200', '--json'])\n"
        "heavy = [name for name in ('torch', 'numpy', 'scipy', 'transformers') if name in sys.modules]\n"
        "status = open('/proc/self/status').read()\n"  # not getrusage, which counts what the parent held
        "peak = 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', status).group(1))\n"
        "print(code, heavy, peak < 3e8, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "0 [] True", done.stderr


def test_the_examples_of_the_help_work(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    from pedigree.cli import plan

    monkeypatch.chdir(ROOT)
    examples = re.findall(r"^ *pedigree (plan recipes.*)$", plan.plan.__doc__ or "", re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        assert pedigree(*example.split()).code == 0, example


def test_words_are_those_of_the_family() -> None:
    from pedigree.family.plan import RECOMPUTES
    from pedigree.family.sections import SIZES

    assert (SIZE_WORDS, RECOMPUTE_WORDS) == (SIZES, RECOMPUTES)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "path", "expected"),
    [
        ("PEDIGREE_SIZE", "real", ("result", "size"), "real"),
        ("PEDIGREE_ONLY", "annealing", ("options", "only"), ["annealing"]),
        ("PEDIGREE_MESH", "dp=2,tp=1", ("options", "mesh", "dp"), 2),
        ("PEDIGREE_DEVICE", "h200", ("options", "device"), "h200"),
        ("PEDIGREE_PEAK_FLOPS", "1e15", ("options", "device"), "this device"),
        ("PEDIGREE_EFFICIENCY", "0.25", ("options", "efficiency"), 0.25),
        ("PEDIGREE_RECOMPUTE", "full", ("options", "recompute"), "full"),
    ],
)
def test_each_option_can_come_from_its_variable(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: tuple[str, ...], expected: Any
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PEDIGREE_JSON", "1")
    found: Any = record(pedigree("plan", recipe("pangu-pro-moe")))
    for key in path:
        found = found[key]
    assert found == expected


def test_a_rate_and_a_memory_describe_any_device(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDIGREE_MEMORY", "96GB")
    monkeypatch.setenv("PEDIGREE_COLOR", "0")
    words = ("plan", recipe("llama"), "--size", "real", "--only", "llama-3-8b", "--json")
    (step,) = record(pedigree(*words, "--peak-flops", "2e15", "--efficiency", "0.5"))["result"]["steps"]
    assert step["memory"]["available"] == 96_000_000_000
    assert step["time"]["peak"] == 2e15
    assert step["time"]["seconds"] == pytest.approx(step["operations"]["run"] / (1024 * 2e15 * 0.5), rel=1e-5)
    (changed,) = record(pedigree(*words, "--device", "h100"))["result"]["steps"]
    assert (changed["time"]["device"], changed["memory"]["available"]) == ("h100", 96_000_000_000)


def test_the_processor_is_measured_on_request(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    from pedigree.family import devices

    monkeypatch.setattr(devices, "measured_cpu", lambda: devices.Device("cpu", 10**10, {"any": 1e10}, 0.3))
    told = pedigree("plan", recipe("quickstart"), "--device", "cpu").out
    assert "on 1 x cpu at 30 % of 0.01 TFLOP/s" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("absent.yaml",), "error: there is no such recipe - got no file, expected a YAML file\n  in: absent.yaml\n"),
        ((recipe("llama"), "--size", "pica"), "fix: did you mean --size pico?"),
        ((recipe("llama"), "--only", "llama-3-8"), "fix: did you mean 'llama-3-8b'?"),
        ((recipe("llama"), "--device", "h10"), "fix: did you mean 'h100'?"),
        ((recipe("llama"), "--mesh", "dp=3"), "error: sequences of a step cannot be shared out evenly"),
        ((recipe("llama"), "--memory", "80GB"), "error: a memory alone is no device - got 80GB"),
        ((recipe("llama"), "--memory", "lots", "--peak-flops", "1e12"), "in: --memory"),
        ((recipe("llama"), "--peak-flops", "-1"), "error: this is no rate - got -1.0"),
        ((recipe("llama"), "--peak-flops", "nan"), "error: this is no rate - got nan"),
        ((recipe("llama"), "--efficiency", "1.5"), "error: this is no share - got 1.5"),
        ((recipe("llama"), "--recompute", "some"), "in: --recompute"),
    ],
)
def test_what_cannot_be_planned_is_told_with_a_way_out(pedigree: Pedigree, words: tuple[str, ...], told: str) -> None:
    ran = pedigree("plan", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err


def test_every_problem_of_a_recipe_is_printed_and_counted(pedigree: Pedigree, tmp_path: Path) -> None:
    path = written(GOOD.replace("seed", "sede").replace("moe-72b", "moe-72c"), tmp_path)
    ran = pedigree("plan", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "error: unknown key - got 'sede', expected one of recipe, family, about, size, seed, corpora, tokenizers, "
        "models, evaluate, compare",
        "  in: recipe.yaml:4:1 (sede)",
        "  fix: did you mean 'seed'?",
        "error: no member of the family has this name - got 'pangu-pro-moe-72c', expected one of "
        + ", ".join(["pangu-alpha-2.6b", "pangu-alpha-13b", "pangu-alpha-200b", "pangu-sigma", "moe-38b", "dense-71b"])
        + ", dense-135b-v1, dense-135b-v2, dense-38b-v2, dense-38b-v3, dense-230b, moe-224b and 14 more",
        "  in: recipe.yaml:21:21 (models.base.model.member)",
        "  fix: did you mean 'pangu-pro-moe-72b'?",
    ]
    many = written(GOOD + "".join(f"  m{i}: {{kind: x}}\n" for i in range(60)), tmp_path)
    assert pedigree("plan", str(many)).err.endswith("60 problems to mend: recipe.yaml; the last 10 are not shown\n")


def test_names_in_a_recipe_cannot_steer_the_terminal(pedigree: Pedigree, tmp_path: Path) -> None:
    text = GOOD.replace("about: Two steps of one model.", 'about: "\\e]0;title\\a\\e[31mred \\u202e back"')
    ran = pedigree("plan", str(written(text, tmp_path)))
    assert ran.code == 0
    assert not set("\x1b\x07\u202e") & set(ran.out)


def test_numbers_keep_four_digits_and_fitting_units() -> None:
    assert [count_words(n) for n in (12, 999, 1000, 16_501_234_567, 1.0851e12)] == [
        "12",
        "999",
        "1 k",
        "16.5 B",
        "1.085 T",
    ]
    assert [operation_words(n) for n in (5, 3.2e6, 1.003e11, 1.1e25)] == [
        "5 FLOP",
        "3.2 MFLOP",
        "100.3 GFLOP",
        "1.10e25 FLOP",
    ]
    assert [time_words(s) for s in (3, 7200, 86400 * 3, 86400 * 1000)] == ["3.0 s", "2 hours", "3 days", "2.74 years"]
