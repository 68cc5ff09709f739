"""Help, version, usage errors, start-up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.cli.conftest import Ran

from pedigree.cli.main import app

Pedigree = Callable[..., Ran]
ROOT = Path(__file__).resolve().parents[2]
VERBS = ("train", "audit", "compare", "extend", "concat")
LEDGER = (
    "log", "verify", "show", "graph", "checkpoint", "anchor", "credits", "erase", "export", "key list",
    "key rotate", "key revoke", "key add", "signature", "approve", "waive", "attach", "replay",
)  # fmt: skip
COMMANDS = (
    "audit",
    "chat",
    "clear",
    "compare",
    "demo",
    "doctor",
    "eval",
    "explain",
    "fingerprint",
    "import",
    "plan",
    "run",
    "scan",
    "schema",
    "serve",
    "train",
    *(f"bench {verb}" for verb in ("make", "run", "score", "report")),
    *(f"surgery {verb}" for verb in ("ops", "plan", "run", "verify")),
    "tree",
    "unmerge",
    "why",
    *(f"tokenizer {verb}" for verb in VERBS),
    *(f"library {verb}" for verb in ("add", "list", "export")),
    *(f"ledger {verb}" for verb in LEDGER),
)
NOUNS = ("bench", "surgery", "tokenizer", "library", "ledger", "ledger key")
FORBIDDEN = "plag" + "iarism|th" + "eft|fr" + "aud|fa" + "ke|sto" + "len|sh" + "ell|copy" + "cat"


def in_a_process(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **changes}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=env, check=False, stdin=subprocess.DEVNULL
    )


def parameters() -> Iterator[tuple[str, Any]]:
    for name, command in _commands():
        for parameter in command.params:
            yield name, parameter


def _commands() -> Iterator[tuple[str, Any]]:
    """All commands, those of a noun as `noun verb`, those of a noun below it as `noun noun verb`."""

    def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        verbs = vars(command).get("commands")
        if not verbs:
            yield name, command
        for verb, leaf in (verbs or {}).items():
            yield from below(leaf, f"{name} {verb}".strip())

    yield from below(typer.main.get_command(app), "")


def test_the_commands_are_these_and_no_others() -> None:
    assert sorted(name for name, _ in _commands()) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("variable", "words", "told"),
    [
        ("PEDIGREE_NUMBER", ("ledger", "log"), "--number"),
        ("PEDIGREE_ALL", ("ledger", "log"), "--all"),
        ("PEDIGREE_LAST_TRUSTED", ("ledger", "key", "revoke", "x"), "--last-trusted"),
    ],
)
def test_a_variable_that_is_no_value_of_its_option_is_refused(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, variable: str, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.setenv(variable, "no-value")
    ran = pedigree(*words)
    assert ran.code == 2
    assert told in ran.err


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_without_a_verb_could_not_run(pedigree: Pedigree, noun: str) -> None:
    ran = pedigree(*noun.split())
    assert ran.code == 2
    assert ran.err == f"error: a verb is missing\n  in: pedigree {noun}\n  fix: pedigree {noun} --help\n"


def test_every_flag_has_an_environment_variable_that_help_shows(pedigree: Pedigree) -> None:
    seen = set()
    for name, parameter in parameters():
        if parameter.param_type_name == "argument" or parameter.name == "help":
            continue
        assert parameter.envvar, f"{name} {parameter.opts}"
        assert str(parameter.envvar).startswith("PEDIGREE_")
        assert parameter.envvar in pedigree(*name.split(), "--help").out
        seen.add(parameter.envvar)
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert not {variable for variable in seen if f'"{variable}"' not in tests}, "each has a test that sets it"


def test_whatever_writes_a_file_takes_all_spellings() -> None:
    spellings = [set(parameter.opts) for _, parameter in parameters() if {"--out", "--output"} & set(parameter.opts)]
    assert len(spellings) > 10
    assert all(words == {"--out", "--output", "-o"} for words in spellings)


@pytest.mark.parametrize("command", ["", *NOUNS, *COMMANDS])
def test_help_shows_examples_groups_and_exit_codes(pedigree: Pedigree, command: str) -> None:
    ran = pedigree(*command.split(), "--help")
    assert ran.code == 0
    assert "Examples" in ran.out
    for code in ("0", "1", "2", "3", "70", "130"):
        assert re.search(rf"^ *{code} +\w", ran.out, re.MULTILINE)
    assert not re.search(rf"\b({FORBIDDEN})\b", ran.out, re.IGNORECASE)
    assert "<bool>" not in ran.out, "a flag takes no word"
    assert max(map(len, ran.out.splitlines())) <= 100


def test_compare_groups_its_options(pedigree: Pedigree) -> None:
    told = pedigree("compare", "-h").out
    places = [told.index(f"─ {group} ─") for group in ("Input", "Output", "Compute", "Dangerous")]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_has_more_than_twelve_options(command: str) -> None:
    options = [p for name, p in parameters() if name == command and p.param_type_name == "option"]
    # Everything that `eval` measures has a setting; lm-evaluation-harness alone brings five.
    assert len(options) <= (16 if command == "eval" else 12)


def test_a_word_missing_or_misspelled_is_told_with_a_way_out(pedigree: Pedigree) -> None:
    assert pedigree("compar") == Ran(
        2, "", "error: no such command 'compar'\n  in: pedigree\n  fix: did you mean 'compare'?\n"
    )
    assert pedigree("compare", "x", "--jsn").err == (
        "error: no such option: --jsn\n  in: pedigree compare\n  fix: did you mean --json?\n"
    )
    assert pedigree("compare", "x").err == (
        "error: missing argument 'B'\n  in: pedigree compare\n  fix: pedigree compare --help\n"
    )
    assert pedigree("compare", "x", "y", "z").code == 2


def test_underscores_are_taken_for_hyphens(pedigree: Pedigree) -> None:
    assert "unknown word" in pedigree("compare", "x", "y", "--fail_on", "nothing-known").err


@pytest.mark.parametrize(
    ("begun", "completed"),
    [
        ("com", {"compare"}),
        ("bench ma", {"make"}),
        ("compare --dep", {"--depth"}),
        ("compare --depth st", {"standard"}),
        ("explain sign", {"sign-flip"}),
        ("schema fingerprint", {"fingerprint-made"}),
    ],
)
def test_a_terminal_completes_commands_options_and_their_words(begun: str, completed: set[str]) -> None:
    asked = {
        "COMP_WORDS": f"pedigree {begun}",
        "COMP_CWORD": str(len(begun.split())),
        "_PEDIGREE_COMPLETE": "complete_bash",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "pedigree"], capture_output=True, text=True, env={**os.environ, **asked}
    )
    assert set(ran.stdout.split()) == completed


@pytest.mark.parametrize("command", ["compare", "bench make", "ledger key add"])
def test_a_command_typed_alone_says_what_is_missing(pedigree: Pedigree, command: str) -> None:
    ran = pedigree(*command.split())
    assert ran.code == 2
    assert re.search(r"error: (the arguments are missing|missing argument)", ran.err)


def test_no_command_at_all_prints_help_and_could_not_run(pedigree: Pedigree) -> None:
    ran = pedigree()
    assert ran.code == 2
    assert "compare" in ran.out


def test_version_names_what_it_runs_on(pedigree: Pedigree) -> None:
    ran = pedigree("--version")
    assert ran.code == 0
    assert re.fullmatch(r"pedigree \S+( \(\w+\))?, torch \S+, python 3\.\S+\n", ran.out)


@pytest.mark.parametrize("arguments", ["--help", "--version", "schema"])
def test_it_starts_without_anything_heavy(arguments: str) -> None:
    heavy = ["torch", "numpy", "matplotlib", "jinja2", *([] if arguments == "schema" else ["pedigree.records"])]
    done = in_a_process(
        "-c",
        f"import sys; from pedigree.cli.main import main; code = main([{arguments!r}])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); sys.exit(code)",
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("library", ["typer", "pedigree.cli.main", "pedigree.forensics.compare"])
def test_an_interruption_while_libraries_are_loaded_ends_like_any_other(library: str, tmp_path: Path) -> None:
    done = in_a_process(
        "-c",
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {library!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from pedigree.cli.start import main\n"
        f"sys.argv = ['pedigree', 'compare', {str(tmp_path)!r}, {str(tmp_path)!r}]\n"
        "sys.exit(main())",
    )
    said = "interrupted: nothing was written; the same command starts again\n"
    assert (done.returncode, done.stderr.strip("\n") + "\n") == (130, said)


def test_the_module_runs_like_the_program() -> None:
    done = in_a_process("-m", "pedigree", "compare", "a", "b", "--depth", "deep")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown word - got 'deep'")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-m", "pedigree", "schema", "comparison"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_a_terminal_without_unicode_gets_ascii() -> None:
    done = in_a_process("-m", "pedigree", "schema", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("schema", ">&-", 0),
        ("schema", ">&- 2>&-", 0),
        ("plan nothing.yaml", "2>&-", 2),
        ("plan nothing.yaml", "2>/dev/full", 2),
        ("schema", ">/dev/full 2>&-", 2),
        ("compare --help", ">/dev/full 2>&-", 2),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_bug(words: str, closed: str, code: int) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    env.pop("PYTHONUNBUFFERED", None)  # what waits in a buffer fails once more at the end
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pedigree {words} {closed}"], capture_output=True, env=env, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, b"")


def test_help_whose_reader_leaves_early_is_done() -> None:
    line = f"{sys.executable} -m pedigree compare --help; echo $? >&2"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"0\n"
