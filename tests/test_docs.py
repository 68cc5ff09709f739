"""The pages are executed: commands run, links resolve, lists agree with the code.

Every console block of a page carries a directive in an HTML comment on the line above it:

    test: run       each command runs against small stand-in checkpoints and must exit with 0 (or as `# exit N` says)
    test: parse     each command must be understood by the command line, and is not run: it needs a network or a file
    test: make      the target must exist; what `make demo` starts is run
    test: install   the installation that these tests run in must be of that kind
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_family import run_pedigree, write_family
from small_tokenizers import write_tokenizers

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODES = {"run", "parse", "make", "install"}


@dataclass(frozen=True)
class Command:
    """One `$ ...` line of a console block."""

    page: str
    line: int
    mode: str
    words: tuple[str, ...]
    exit_code: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.words)}"


def console_blocks(page: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line number of the fence, directive (empty when there is none) and lines of every console block."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.strip() == "```console":
            directive = re.fullmatch(r"<!-- test: (\w+) -->", lines[number - 1].strip()) if number else None
            end = lines.index("```", number)
            yield number + 1, directive.group(1) if directive else "", lines[number + 1 : end]


def commands() -> list[Command]:
    """Every command of every page."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for number, mode, body in console_blocks(page):
            for offset, text in enumerate(body, start=1):
                if text.startswith("$ "):
                    code = re.search(r"# exit (\d+)", text)
                    words = tuple(shlex.split(text[2:], comments=True))
                    found.append(Command(name, number + offset, mode, words, int(code.group(1)) if code else 0))
    return found


def commands_in(mode: str) -> list[Command]:
    """Commands whose block carries this directive."""
    return [command for command in commands() if command.mode == mode]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: `parent`, `child` (parent with small noise), `stranger`; texts, tokenizers."""
    return write_tokenizers(write_family(tmp_path_factory.mktemp("pages")))


# -- commands ---------------------------------------------------------------------------------------------------------


def test_every_console_block_says_how_it_is_tested() -> None:
    unmarked = [
        f"{page.relative_to(ROOT)}:{number}: directive {mode!r}"
        for page in PAGES
        for number, mode, _ in console_blocks(page)
        if mode not in MODES
    ]
    assert not unmarked, f"put <!-- test: {'|'.join(sorted(MODES))} --> on the line above: {unmarked}"
    assert {command.mode for command in commands()} == MODES


@pytest.mark.parametrize("command", commands_in("run"), ids=str)
def test_command_runs(command: Command, bench: Path, tmp_path: Path) -> None:
    for model in bench.iterdir():
        (tmp_path / model.name).symlink_to(model, target_is_directory=model.is_dir())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes", target_is_directory=True)
    done = run_pedigree(command.words, tmp_path, timeout=120)
    assert done.returncode == command.exit_code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip() or done.returncode == 2, f"{command}: no output, and it should hold the result"
    if command.words[1] == "compare":
        expected = "unrelated" if "stranger" in command.words[2:4] else "related"
        found = json.loads(done.stdout)["result"]["verdict"] if "--json" in command.words else done.stdout.split()[1]
        assert found == expected, f"{command}: {found}\n{done.stdout}"
    if "--json" in command.words or "schema" in command.words:
        json.loads(done.stdout)
    if "--report" in command.words:
        report = tmp_path / command.words[command.words.index("--report") + 1]
        assert "</html>" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", commands_in("parse"), ids=str)
def test_command_is_understood(command: Command) -> None:
    import typer.main

    from pedigree.cli import main as entry

    group = typer.main.get_command(entry.app)
    name, leaf, rest = group.resolve_command(
        group.make_context("pedigree", list(command.words[1:])), [*command.words[1:]]
    )
    assert leaf is not None, f"{command}: there is no command {name}"
    leaf.make_context(name, rest)  # raises a usage error on an unknown option or a missing argument


@pytest.mark.parametrize("command", commands_in("make"), ids=str)
def test_make_target_exists(command: Command) -> None:
    assert make_recipe(command.words), f"{command}: make knows no such target"


def make_recipe(words: tuple[str, ...]) -> list[str]:
    """What make would run, with the recipe of the environment left out."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    stamp = ["-o", ".venv/.installed"]
    done = subprocess.run([*words, "-n", *stamp], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith((".venv/bin/", "OMP_NUM_THREADS="))]


def test_the_demo_runs_as_make_starts_it(tmp_path: Path) -> None:
    recipe = make_recipe(("make", "demo"))
    words = tuple(shlex.split(recipe[-1]))
    assert words[0] == ".venv/bin/pedigree", recipe
    done = run_pedigree(words, tmp_path, timeout=400)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert list(tmp_path.rglob("*.html")), "the demo left no report"


def test_make_test_runs_what_a_developer_runs() -> None:
    recipe = make_recipe(("make", "test"))
    assert re.fullmatch(r'OMP_NUM_THREADS=1 \.venv/bin/python -m pytest -n 2 -m "not slow"', recipe[-1]), recipe


def test_what_runs_before_a_commit_is_what_lint_runs() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    hooks = re.findall(r"entry: (.*)", config.read_text(encoding="utf-8"))
    lint = [line.strip() for line in make_recipe(("make", "lint"))]
    for line in lint:
        # A hook gets the files of the commit where `make lint` names the whole checkout.
        plain = line.removesuffix(" .").replace(" --check", "")
        assert plain in hooks, f"`make lint` runs {line!r}, {config.name} does not"
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named pre_commit" in done.stderr:
        pytest.skip("pre-commit is not installed")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", commands_in("install"), ids=str)
def test_what_is_installed_is_this_package_with_its_program(command: Command) -> None:
    assert command.words == ("pip", "install", "."), command
    try:
        installed = importlib.metadata.distribution("llm-pedigree")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("this environment runs the source without installing it")
    scripts = {script.name: script.value for script in installed.entry_points}
    assert scripts == {"pedigree": "pedigree.cli.start:main"}
    assert installed.version == project()["version"]


# -- pages ------------------------------------------------------------------------------------------------------------


def project() -> dict[str, str]:
    """The project table of pyproject.toml."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_readme_shows_the_real_output_of_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "not filled in yet" not in text, "run the command and paste what it prints"


def test_links_to_files_resolve() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken, broken


def test_every_page_of_the_documentation_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        text = page.read_text(encoding="utf-8")
        todo += [(page.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+)", text)]
    assert not set(PAGES) - reached, f"no page links to {[str(p.relative_to(ROOT)) for p in set(PAGES) - reached]}"


def test_the_index_of_decisions_is_complete() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(folder.glob("[0-9]*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text(encoding="utf-8")
        code, _, title = text.splitlines()[0].removeprefix("# ").partition(" ")
        assert code == f"{number:04d}" == page.name[:4], f"{page.name}: numbers run without gaps"
        assert f"| [{code}]({page.name}) | {title} |" in index, (
            f"{page.name}: its line in the index is missing or differs"
        )
        for part in ("Status: ", "## Context", "## Decision", "## Consequences", "## Considered and left"):
            assert part in text, f"{page.name} lacks {part!r}"


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {project()['version']}\n" in citation


def test_contributing_fits_on_a_page() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", ["README.md", "docs/guide/reading-a-verdict.md", "docs/adr/0001-verdict-words.md"])
def test_verdict_words_in_the_pages_are_those_of_the_record(page: str) -> None:
    from pedigree.records.comparison import VERDICTS

    rows = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert tuple(rows[: len(VERDICTS)]) == VERDICTS


def test_every_field_of_the_record_is_described() -> None:
    from pedigree.records.comparison import Comparison, InputRecord, Result

    text = (ROOT / "docs" / "spec" / "comparison.md").read_text(encoding="utf-8")
    names = {*Result.model_fields, *InputRecord.model_fields, *(Comparison.model_fields.keys() - {"schema_name"})}
    missing = sorted(name for name in names if f"`{name}`" not in text and f"`{name}." not in text)
    assert not missing, f"docs/spec/comparison.md says nothing about {missing}"


def test_every_space_and_part_of_an_axis_is_described() -> None:
    from pedigree.weights.roles import PLACES, SPACES

    text = (ROOT / "docs" / "spec" / "roles.md").read_text(encoding="utf-8")
    missing = sorted(word for word in {*SPACES, *PLACES} if f"`{word}`" not in text)
    assert not missing, f"docs/spec/roles.md says nothing about {missing}"


def test_every_error_leaves_with_a_code_of_the_table() -> None:
    from pedigree import errors

    table = (ROOT / "docs" / "adr" / "0002-exit-codes.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)}
    assert codes == {0, 1, 2, 3, 70, 130}
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PedigreeError)
    ]
    assert {kind.exit_code for kind in kinds} <= codes
