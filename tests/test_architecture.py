"""The house rules as tests. Every failure names file and line and says how to mend it.

What import-linter can say stands in pyproject.toml; here are the rules about sizes, names, words and effects, and the
import loops that hide inside functions. Tests at the end break the guards on purpose: a guard that cannot fail guards
nothing.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from source_tree import (
    PACKAGE,
    ROOT,
    SOURCE,
    Function,
    dotted,
    find_loop,
    import_graph,
    imported_names,
    module_name,
    place,
    public_definitions,
    python_files,
    reachable,
    report,
    room_of,
    run_python,
    tracked_files,
    tree_of,
)

FILE_CAP, FILE_MEDIAN, FUNCTION_CAP = 600, 200, 80
FORBIDDEN_STEMS = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"}
ROOMS_OF_THE_CONFESSION = {"ledger", "training", "surgery", "cli"}
FORBIDDEN_WORDS = ("plagiarism", "theft", "fraud", "fake", "stolen", "shell", "copycat")
# Where a blind `except` is right, and why.
BLIND_EXCEPT_ALLOWED = {"src/pedigree/cli/": "the one place where any error becomes a sentence and exit code 70"}
# Rooms that must import without torch; forensics and benchmark compute with it.
WITHOUT_TORCH = ("errors", "records", "weights", "tokenizers", "report", "family", "audit", "ledger", "cli")
# Import name -> the declared distribution that brings it, where the two differ.
DISTRIBUTIONS = {
    "faiss": "faiss-cpu", "yaml": "pyyaml", "lm_eval": "lm-eval", "huggingface_hub": "huggingface-hub",
    "markupsafe": "jinja2",
}  # fmt: skip


# -- sizes and names --------------------------------------------------------------------------------------------------


def test_no_file_is_longer_than_the_cap_and_the_median_stays_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    report(
        (f"{place(path)}: {n} lines, at most {FILE_CAP}" for path, n in lengths.items() if n > FILE_CAP),
        "split the file along its ideas, one noun each",
    )
    median = statistics.median(n for n in lengths.values() if n)
    assert median < FILE_MEDIAN, f"median file has {median} lines, wanted under {FILE_MEDIAN}: split the largest files"


def test_no_function_is_longer_than_the_cap() -> None:
    report(
        (
            f"{place(path, node)}: {node.name} has {node.end_lineno - node.lineno + 1} lines, at most {FUNCTION_CAP}"
            for path in python_files()
            for node in ast.walk(tree_of(path))
            if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno >= FUNCTION_CAP
        ),
        "give the parts names: one function for each step",
    )


def test_files_are_nouns_not_drawers() -> None:
    report(
        (
            place(path)
            for path in python_files()
            for part in path.relative_to(PACKAGE).with_suffix("").parts
            if FORBIDDEN_STEMS & set(part.split("_"))
        ),
        f"name the file after what it holds; none of {', '.join(sorted(FORBIDDEN_STEMS))}",
    )


def test_no_room_stands_empty() -> None:
    rooms = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    report(
        (place(room / "__init__.py") for room in rooms if [*room.rglob("*.py")] == [room / "__init__.py"]),
        "remove the folder until it holds something, and mark it optional in the floors contract",
    )


# -- documentation and annotations ------------------------------------------------------------------------------------


def test_every_public_name_has_a_docstring() -> None:
    modules = (f"{place(path)}: module" for path in python_files() if missing_module_docstring(path))
    names = (
        f"{place(path, node)}: {name}"
        for path in python_files()
        for name, node in public_definitions(tree_of(path))
        if not ast.get_docstring(node) and not inherits_its_docstring(node)
    )
    report([*modules, *names], "say in one sentence what it does; then shapes, units, errors, source where they matter")


def missing_module_docstring(path: Path) -> bool:
    """Whether a file with code in it says nothing about itself."""
    tree = tree_of(path)
    return bool(tree.body) and not ast.get_docstring(tree)


def inherits_its_docstring(node: Function | ast.ClassDef) -> bool:
    """Overloads and overrides are documented where the name is first defined."""
    marks = {dotted(mark).rpartition(".")[2] for mark in node.decorator_list}
    return bool(marks & {"overload", "override", "setter"})


def test_every_public_function_is_annotated() -> None:
    report(
        (
            f"{place(path, node)}: {name} lacks {', '.join(missing)}"
            for path in python_files()
            for name, node in public_definitions(tree_of(path))
            if isinstance(node, Function) and (missing := missing_annotations(node))
        ),
        "annotate every parameter and the result",
    )


def missing_annotations(node: Function) -> list[str]:
    """Parameters without a type, and `return` where the result has none."""
    spec = node.args
    parameters = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, [spec.vararg, spec.kwarg])]
    missing = [p.arg for p in parameters if p.annotation is None and p.arg not in {"self", "cls"}]
    return missing + (["return"] if node.returns is None else [])


# -- effects ----------------------------------------------------------------------------------------------------------


def forbidden_calls(tree: ast.Module, forbidden: Callable[[str, ast.Call], bool]) -> Iterator[ast.Call]:
    """Calls whose dotted name the predicate forbids."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and forbidden(dotted(node.func), node):
            yield node


def speaks_or_exits(name: str, _call: ast.Call) -> bool:
    """Printing, leaving the process, configuring logging."""
    return name in {"print", "exit", "quit", "sys.exit", "os._exit", "logging.basicConfig", "logging.disable"} or bool(
        re.fullmatch(r"sys\.(stdout|stderr)\.\w+|logging\.config\.\w+", name)
    )


def test_only_the_command_line_prints_exits_and_configures_logging() -> None:
    outside = [path for path in python_files() if room_of(path) != "cli"]
    calls = (place(path, node) for path in outside for node in forbidden_calls(tree_of(path), speaks_or_exits))
    libraries = (
        f"{place(path, node)}: imports {name.partition('.')[0]}"
        for path in outside
        for name, node in imported_names(tree_of(path))
        if name.partition(".")[0] in {"rich", "typer", "click"}
    )
    report([*calls, *libraries], "return the value or raise a PedigreeError; words are made in pedigree.cli")


def executes_what_it_reads(name: str, call: ast.Call) -> bool:
    """Calls by which a file, an answer or a configuration could run code."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in {"eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"}:
        return True
    if name.startswith(("pickle.", "marshal.", "subprocess.")):
        return True
    if name == "torch.load":
        return not is_constant(keywords.get("weights_only"), True)
    if name in {"np.load", "numpy.load"}:
        return "allow_pickle" in keywords and not is_constant(keywords["allow_pickle"], False)
    return "trust_remote_code" in keywords and not is_constant(keywords["trust_remote_code"], False)


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Whether an argument is written as this very constant."""
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_that_is_read_can_run() -> None:
    report(
        (
            place(path, node)
            for path in python_files()
            for node in forbidden_calls(tree_of(path), executes_what_it_reads)
        ),
        "torch.load(..., weights_only=True), yaml.safe_load, no pickle, no eval, no remote code",
    )


def test_imports_are_absolute() -> None:
    report(
        (
            place(path, node)
            for path in python_files()
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ImportFrom) and node.level
        ),
        "write the full name: from pedigree.room.file import name",
    )


def test_no_check_disappears_under_python_o() -> None:
    report(
        (
            place(path, node)
            for path in python_files()
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Assert)
        ),
        "raise a pedigree.errors class; for what cannot happen, InternalError",
    )


def test_no_error_is_swallowed_unseen() -> None:
    report(
        (
            place(path, node)
            for path in python_files()
            if not str(path.relative_to(ROOT)).startswith(tuple(BLIND_EXCEPT_ALLOWED))
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ExceptHandler) and is_blind(node)
        ),
        "catch the errors that can happen here and raise ours `from` them",
    )


def is_blind(handler: ast.ExceptHandler) -> bool:
    """A bare except, or one for Exception or BaseException, that does not raise again."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    blind = any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in caught)
    cleans_up = bool(handler.body) and isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return blind and not cleans_up


# -- imports ----------------------------------------------------------------------------------------------------------


def test_there_is_no_import_loop_lazy_ones_included() -> None:
    graph = import_graph()
    loop = find_loop(graph)
    if loop:
        steps = "\n  ".join(f"{graph[a][b]}: {a} -> {b}" for a, b in pairwise(loop))
        pytest.fail(f"import loop:\n  {steps}\nfix: move what both need one floor down", pytrace=False)


def test_the_witness_never_reads_the_confession() -> None:
    graph = import_graph()
    report(
        (
            " -> ".join(path)
            for module in graph
            if module.split(".")[1:2] in (["forensics"], ["report"])
            for target, path in reachable(graph, module).items()
            if ROOMS_OF_THE_CONFESSION & set(target.split(".")[1:2])
        ),
        "forensics sees weights and tokenizers, report sees records; only audit and benchmark see both sides",
    )


def test_rooms_that_exist_are_named_in_the_contracts() -> None:
    contracts = {c["id"]: c for c in configuration()["tool"]["importlinter"]["contracts"]}
    rooms = {room_of(path) for path in python_files()} - {"__init__", "__main__"}
    optional = set(re.findall(r"\((\w+)\)", " ".join(contracts["floors"]["layers"])))
    confession = {name.rpartition(".")[2] for name in contracts["witness"]["forbidden_modules"]}
    assert not rooms & optional, f"{rooms & optional} exist: take their parentheses off in the floors contract"
    missing = (rooms & ROOMS_OF_THE_CONFESSION) - confession
    assert not missing, f"add {missing} to the witness contract of pyproject.toml"


def test_import_linter_keeps_every_contract() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def configuration() -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = configuration()["project"]
    core = {requirement_name(text) for text in project["dependencies"]}
    extras = {
        requirement_name(text)
        for extra, texts in project["optional-dependencies"].items()
        if extra != "dev"
        for text in texts
    }
    places: dict[str, str] = {}
    for path in python_files():
        for name, node in imported_names(tree_of(path)):
            top = name.partition(".")[0]
            if top != "pedigree" and top not in sys.stdlib_module_names:
                places.setdefault(DISTRIBUTIONS.get(top, top).lower(), place(path, node))
    report(
        [f"{where}: {name} is imported and not declared" for name, where in places.items() if name not in core | extras]
        + [f"pyproject.toml:1: {name} is declared and imported nowhere" for name in (core | extras) - set(places)],
        "edit dependencies in pyproject.toml and the pins in constraints.txt; a new library needs an ADR",
    )


def requirement_name(text: str) -> str:
    """Distribution name of a requirement line, in lower case with hyphens."""
    return re.split(r"[\s\[<>=!~;]", text, maxsplit=1)[0].lower().replace("_", "-")


def test_the_doctor_examines_what_is_declared() -> None:
    from pedigree.cli.doctor import LIBRARIES

    project = configuration()["project"]
    core = {requirement_name(text) for text in project["dependencies"]}
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "dev"}
    optional = {requirement_name(text) for texts in extras.values() for text in texts}
    examined = {name.replace("_", "-") for name in LIBRARIES}
    # Without typer and rich no command starts, the doctor included.
    assert examined == (core | optional) - {"typer", "rich"}


def test_what_is_declared_is_pinned() -> None:
    project = configuration()["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0] for line in lines if "==" in line}
    missing = {requirement_name(text) for text in texts} - pins
    assert not missing, f"constraints.txt pins no version of {missing}"


def test_importing_pedigree_loads_no_torch() -> None:
    done = run_python("import sys, pedigree; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stdout + done.stderr


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_that_do_not_compute_import_without_torch_and_without_a_word(room: str) -> None:
    modules = [module_name(path) for path in python_files() if room_of(path) == room]
    if not modules:
        pytest.skip(f"there is no {room} yet")
    done = run_python(
        "import importlib, logging, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} imports torch: import it inside the functions that use it')\n"
        "if logging.getLogger().handlers: sys.exit('an import configures logging')\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == "", f"importing {room} prints: {done.stdout}{done.stderr}"


def test_help_starts_without_torch() -> None:
    if not (PACKAGE / "cli" / "main.py").exists():
        pytest.skip("there is no command line yet")
    done = run_python(
        "import sys\nfrom pedigree.cli.main import main\nsys.argv = ['pedigree', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "sys.exit('torch is loaded' if 'torch' in sys.modules else 0)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout


# -- words ------------------------------------------------------------------------------------------------------------


def texts_a_user_sees() -> Iterator[Path]:
    """Everything in the package, templates and data included, and the pages at the top of the repository."""
    kinds = {".py", ".html", ".j2", ".jinja", ".css", ".json", ".svg", ".txt"}
    yield from (path for path in sorted(PACKAGE.rglob("*")) if path.suffix in kinds)
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md", "CITATION.cff"))


def accusing_words(text: str) -> Iterator[tuple[int, str]]:
    """Line number and word, for every forbidden word that stands as a whole word."""
    for match in re.finditer(rf"\b({'|'.join(FORBIDDEN_WORDS)})\b", text, flags=re.IGNORECASE):
        yield text.count("\n", 0, match.start()) + 1, match.group()


def is_the_list_itself(text: str, line: int) -> bool:
    """The one place where the words may stand: a literal that holds all of them within four lines."""
    nearby = "\n".join(text.splitlines()[max(0, line - 4) : line + 3]).lower()
    return all(word in nearby for word in FORBIDDEN_WORDS)


def test_the_product_speaks_about_files_never_about_people() -> None:
    problems, lists = [], set()
    for path in texts_a_user_sees():
        text = path.read_text(encoding="utf-8")
        for line, word in accusing_words(text):
            if is_the_list_itself(text, line):
                lists.add(str(path.relative_to(ROOT)))
            else:
                problems.append(f"{place(path, line)}: {word}")
    report(problems, "say what the files show: consistent with, descends, related, no relation found")
    assert len(lists) <= 1, f"the list of forbidden words stands in more than one place: {sorted(lists)}"


def any_of(literals: Iterable[str]) -> str:
    """A pattern that matches any of these strings."""
    return "|".join(map(re.escape, literals))


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    own = [f"/{name}/" for name in ("work", "farm", "opt")] + ["/tmp/" + "dev", "/root/" + "."]
    registry = ["extra-" + "index-url", "--index" + "-url", "find-" + "links", "file:///" + "opt"]
    pattern = re.compile(rf"(?<![\w.])({any_of(own)})|{any_of(registry)}", re.IGNORECASE)
    problems = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for match in pattern.finditer(text):
            problems.append(f"{place(path, text.count(chr(10), 0, match.start()) + 1)}: {match.group()}")
    report(problems, "use a relative path, a temporary folder, or an example address such as https://example.org")


def cited_pages(line: str) -> Iterator[str]:
    """Pages that a line cites as pages of this repository: `NAME.md`, or a path that begins in one of our folders."""
    for name in re.findall(r"(?<![\w/*.])[\w./-]+\.md\b", line):
        if "/" not in name or (ROOT / name.partition("/")[0]).is_dir():
            yield name
    yield from re.findall(r"\b(?:DESIGN|MISSION) section\b", line)


def test_what_the_code_cites_can_be_read_here() -> None:
    report(
        (
            f"{place(path, number)}: {name}"
            for path in python_files()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
            for name in cited_pages(line)
            if not (ROOT / name).exists()
        ),
        "cite a page of this repository by its path from the top, or a paper; or state the rule itself",
    )


def test_every_pytest_raises_says_what_it_expects() -> None:
    problems = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for call in forbidden_calls(tree_of(path), lambda name, _: name == "pytest.raises"):
            if "match" not in {keyword.arg for keyword in call.keywords}:
                problems.append(place(path, call))
    report(problems, "pytest.raises(Error, match=...) with the words that name the cause")


# -- the guards can fail ----------------------------------------------------------------------------------------------


def test_a_lazy_import_closes_a_loop() -> None:
    assert find_loop({"a": {"b": "a.py:1"}, "b": {"c": "b.py:9"}, "c": {"a": "c.py:3"}}) == ["a", "b", "c", "a"]
    assert find_loop({"a": {"b": "a.py:1", "c": "a.py:2"}, "b": {"c": "b.py:1"}, "c": {}}) == []


def test_an_import_inside_a_function_is_seen() -> None:
    tree = ast.parse("def f():\n    from pedigree.weights import checkpoint\n")
    assert [name for name, _ in imported_names(tree)] == ["pedigree.weights.checkpoint"]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "pickle.loads(b)",
        "yaml.load(t)",
        "M.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_a_call_that_runs_what_it_reads_is_seen(line: str) -> None:
    assert list(forbidden_calls(ast.parse(line), executes_what_it_reads))


def test_a_safe_read_passes() -> None:
    safe = "torch.load(f, weights_only=True, mmap=True)\nyaml.safe_load(t)\njson.loads(t)\n"
    assert not list(forbidden_calls(ast.parse(safe), executes_what_it_reads))


@pytest.mark.parametrize(
    ("body", "blind"),
    [
        ("try:\n    f()\nexcept:\n    pass\n", True),
        ("try:\n    f()\nexcept (OSError, Exception):\n    g()\n", True),
        ("try:\n    f()\nexcept BaseException:\n    clean()\n    raise\n", False),
        ("try:\n    f()\nexcept OSError:\n    g()\n", False),
    ],
)
def test_a_blind_except_is_told_from_a_seeing_one(body: str, blind: bool) -> None:
    handler = next(node for node in ast.walk(ast.parse(body)) if isinstance(node, ast.ExceptHandler))
    assert is_blind(handler) is blind


def test_a_forbidden_word_is_found_as_a_word_only() -> None:
    assert list(accusing_words("one\nThe file is Fake.")) == [(2, "Fake")]
    assert list(accusing_words("a nutshell, seashells, shelled")) == []
