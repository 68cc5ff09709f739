"""Builds the museum: every recipe of this folder is run, the pairs that matter are compared, and one page leads to all.

    python recipes/museum/museum.py [FOLDER] [EXHIBIT...]        # build/museum; all exhibits

Exit code 1: an exhibit does not show what it is there to show. Each takes less than a minute of one quiet core.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEW_NAMES = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}


@dataclass(frozen=True)
class Exhibit:
    """A recipe, the question it answers, the kind of public dispute it stands for, what its page shows.

    `pairs` holds the verdict that each pair must get; the first one is the pair of the dispute. `extra` does what a
    recipe cannot say, and returns further lines for the page and whether they are as they should be.
    """

    name: str
    title: str
    question: str
    dispute: str
    shows: str
    pairs: Mapping[tuple[str, str], str]
    extra: Callable[[Path], tuple[list[str], bool]] | None = None
    before: Callable[[Path], None] | None = None


@dataclass
class Shown:
    """What came out of one exhibit."""

    exhibit: Exhibit
    seconds: float = 0.0
    verdicts: dict[tuple[str, str], str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    right: bool = True


def pedigree(*words: str) -> tuple[int, str]:
    """A command line, run in this process: exit code and stdout."""
    from pedigree.cli.main import main

    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = main(words)
    return code, told.getvalue()


def model(folder: Path, name: str) -> str:
    """Where the weights of a member lie."""
    return str(folder / name / "model")


def gains(folder: str, *, centered: bool) -> Any:
    """All norm gains of a model, one norm after the other, float64 [n]; `centered` takes off the mean of each norm."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(Path(folder) / "model.safetensors")
    norms = [tensors[name].double() for name in sorted(tensors) if "norm" in name]
    return torch.cat([norm - norm.mean() if centered else norm for norm in norms])


def norm_cosines(folder: Path) -> tuple[float, float]:
    """Cosine of the norm gains of `first` and `second`: as they are, and with the mean of each norm taken off."""
    import torch

    cosines = []
    for centered in (False, True):
        a, b = (gains(model(folder, name), centered=centered) for name in ("first", "second"))
        cosines.append(float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
    return cosines[0], cosines[1]


def show_norms(folder: Path) -> tuple[list[str], bool]:
    """The number that misled, beside the one that would not have."""
    raw, centered = norm_cosines(folder)
    add_illustrations(folder / "compare" / "first--second.html", folder, raw, centered)
    lines = [
        f"Illustration, no weight: cosine of the norm gains {raw:.3f}.",
        f"With the mean of each norm taken off: {centered:.3f}. Gains begin at one and stay near it; that is most of "
        "what the first number says.",
    ]
    return lines, raw > 0.95


def add_illustrations(report: Path, folder: Path, raw: float, centered: float) -> None:
    """The report of the pair once more, with both cosines where numbers without weight stand."""
    from pedigree.records.comparison import Comparison, Illustration
    from pedigree.report.page import render_comparison

    _, told = pedigree("compare", model(folder, "first"), model(folder, "second"), "--annex", "--json")
    comparison = Comparison.from_json(told)
    shown = [
        Illustration(name="cosine of all norm gains", value=raw, note="gains begin at one: strangers reach this"),
        Illustration(name="the same with the mean of each norm taken off", value=centered),
    ]
    result = comparison.result.model_copy(update={"illustrations": [*comparison.result.illustrations, *shown]})
    report.write_text(render_comparison(comparison.model_copy(update={"result": result})), encoding="utf-8")


def take_apart(folder: Path) -> tuple[list[str], bool]:
    """Which parents, at which weights; the bystander must come out at zero."""
    parents = [model(folder, name) for name in ("base", "tuned", "bystander")]
    recipe = str(folder / "merge.yaml")
    words = ("unmerge", model(folder, "published"), "--parents", *parents)
    _, told = pedigree(*words, "--json", "--force", "-o", recipe)
    (folder / "unmerge.json").write_text(told, encoding="utf-8")
    found = json.loads(told)["result"]
    weights = {Path(s["location"]).parent.name: s["weight"] for s in found["sources"]}
    lines = [f"pedigree unmerge: {found['verdict']} by {found['method']}."]
    lines += [f"{name}: weight {weight:.4f}" for name, weight in weights.items()]
    wanted = {"base": 0.4, "tuned": 0.6, "bystander": 0.0}
    right = all(abs(weights.get(name, 0.0) - weight) <= 0.01 for name, weight in wanted.items())
    return lines, right and found["verdict"] == "merge"


def rename(folder: Path) -> None:
    """The weights of `original` under other names of two tensors in each layer, and another name in the config."""
    from safetensors.torch import load_file, save_file

    source, target = Path(model(folder, "original")), Path(model(folder, "renamed"))
    target.mkdir(parents=True, exist_ok=True)
    renamed = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        for old, new in NEW_NAMES.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    save_file(renamed, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "another", "architectures": ["AnotherForCausalLM"]}
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shutil.copy(source / "tokenizer.json", target)


EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "norm-cosine", "Norms that look alike",
        "Do two models share ancestry because the cosine of their norm gains is 0.99?",
        "A model was publicly accused on the cosine of its norm weights, and cleared within days.",
        "The cosine is as high as it was then, and the verdict is unrelated.",
        {("first", "second"): "unrelated"}, extra=show_norms,
    ),
    Exhibit(
        "two-parent-merge", "Two parents",
        "Was a model trained further, or is it a weighted mean of two public ones?",
        "A published model turned out to be a mean of its base and of somebody else's tuning of that base.",
        "The weights of the mean, four digits of them; the bystander comes out at zero.",
        {("base", "published"): "related", ("bystander", "published"): "related"}, extra=take_apart,
    ),
    Exhibit(
        "renamed-tensors", "Other names, same numbers - and the reverse",
        "What do the names of tensors and classes say about where weights come from?",
        "A model used the blueprint of another with two tensors renamed, and was taken for a copy of its weights.",
        "The same numbers under other names are identical; other numbers under the same names are unrelated.",
        {("original", "renamed"): "identical", ("original", "same-blueprint"): "unrelated"}, before=rename,
    ),
    Exhibit(
        "noise-added-copy", "A copy with noise",
        "Does noise on every matrix make a model new?",
        "A model's weights differed from an older one's by what looked like noise.",
        "Related, at a strength that needs no threshold; a stranger put to the same test shows nothing.",
        {("original", "published"): "related", ("stranger", "published"): "unrelated"},
    ),
    Exhibit(
        "reused-component", "One part from elsewhere",
        "Is a model from scratch when one of its parts was taken over and kept frozen?",
        "A frozen component of another model was reused and openly said; the dispute was what counts as the core.",
        "Partly related, with the list: which layers come from elsewhere, and which are found nowhere.",
        {("donor", "published"): "partly-related"},
    ),
    Exhibit(
        "upcycled-new-tokenizer", "Experts made of a dense model",
        "Does another architecture with another tokenizer, trained on, hide where a model began?",
        "A mixture of experts was said to be from scratch, and a dense model of another house to be inside it.",
        "Related: the experts still hold the units of the dense model; a stranger of its shape shows nothing.",
        {("dense", "published"): "related", ("stranger", "published"): "unrelated"},
    ),
    Exhibit(
        "honest-twin", "The honest twin",
        "How alike are two models that share everything but their start?",
        "Every accused lab that did its own work: same architecture, same kind of data, same recipe.",
        "Unrelated: same text in the same order gives no ancestry.",
        {("first", "second"): "unrelated"},
    ),
)  # fmt: skip


def build(exhibit: Exhibit, folder: Path) -> Shown:
    """Run one recipe, compare its pairs, do what a recipe cannot say."""
    begun = time.monotonic()
    shown = Shown(exhibit)
    recipe = HERE / f"{exhibit.name}.yaml"
    code, told = pedigree("run", str(recipe), "--out", str(folder), "--unrecorded", "--quiet")
    if code != 0:
        return Shown(exhibit, time.monotonic() - begun, lines=[f"pedigree run ended with {code}", told], right=False)
    if exhibit.before is not None:
        exhibit.before(folder)
    for a, b in exhibit.pairs:
        shown.verdicts[a, b] = compare(folder, a, b)
    if exhibit.extra is not None:
        shown.lines, shown.right = exhibit.extra(folder)
    shown.right = shown.right and shown.verdicts == dict(exhibit.pairs)
    shown.seconds = time.monotonic() - begun
    return shown


def keep(shown: Shown, folder: Path) -> None:
    """What came out of an exhibit, for the page of a later run that builds others."""
    verdicts = [[a, b, verdict] for (a, b), verdict in shown.verdicts.items()]
    plain = {"seconds": shown.seconds, "verdicts": verdicts, "lines": shown.lines, "right": shown.right}
    (folder / "exhibit.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")


def kept(exhibit: Exhibit, folder: Path) -> Shown | None:
    """What an earlier run kept of an exhibit, None where it was not built."""
    file = folder / "exhibit.json"
    if not file.is_file():
        return None
    plain = json.loads(file.read_text(encoding="utf-8"))
    verdicts = {(a, b): verdict for a, b, verdict in plain["verdicts"]}
    return Shown(exhibit, plain["seconds"], verdicts, plain["lines"], plain["right"])


def compare(folder: Path, a: str, b: str) -> str:
    """The verdict of a pair; its report, with the annex, stands beside those that `pedigree run` wrote."""
    report = folder / "compare" / f"{a}--{b}.html"
    report.parent.mkdir(exist_ok=True)
    _, told = pedigree(
        "compare", model(folder, a), model(folder, b), "--annex", "--quiet", "--report", str(report), "--force"
    )
    return told.strip()


def index(shown: Sequence[Shown]) -> str:
    """The page that leads to all exhibits."""
    import pedigree.report

    style = (Path(pedigree.report.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>The museum</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<style>{style}</style></head><body>\n"
        '<div class="top"><span>Pedigree, the museum</span><span>small models made here, on this machine</span></div>\n'
        "<h1>Disputes about ancestry, made again in small</h1>\n"
        "<p>Each exhibit makes models whose ancestry is known, because they were made a minute ago, and asks the "
        "question of a kind of public dispute. Nothing here is evidence about any published model.</p>\n"
        + "\n".join(_section(one) for one in shown)
        + "\n</body></html>\n"
    )


def _section(shown: Shown) -> str:
    exhibit, text = shown.exhibit, html.escape
    rows = ""
    for (a, b), verdict in shown.verdicts.items():
        wanted = exhibit.pairs[a, b]
        note = "" if verdict == wanted else f" (expected: {wanted})"
        report = f"{exhibit.name}/compare/{a}--{b}.html"
        rows += f'<tr><td><a href="{report}">{text(a)} / {text(b)}</a></td><td>{text(verdict + note)}</td></tr>'
    lines = "".join(f"<p>{text(line)}</p>" for line in shown.lines)
    return (
        f"<h2>{text(exhibit.title)}</h2>\n<p><strong>{text(exhibit.question)}</strong></p>\n"
        f'<p class="soft">{text(exhibit.dispute)}</p>\n<p>{text(exhibit.shows)}</p>\n'
        f"<table><thead><tr><th>pair, with its report</th><th>answer of the weights</th></tr></thead><tbody>{rows}"
        f"</tbody></table>\n{lines}\n"
        f'<p class="small"><a href="{exhibit.name}/family.html">The family and how it was made</a>, '
        f"<code>recipes/museum/{exhibit.name}.yaml</code>, {shown.seconds:.0f} s.</p>"
    )


def main(arguments: Sequence[str]) -> int:
    """Build the exhibits that are named, or all, and the page."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = Path(arguments[0] if arguments else "build/museum")
    wanted = arguments[1:] or [exhibit.name for exhibit in EXHIBITS]
    unknown = set(wanted) - {exhibit.name for exhibit in EXHIBITS}
    if unknown:
        print(f"no such exhibit: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for exhibit in EXHIBITS:
        if exhibit.name in wanted:
            one = build(exhibit, folder / exhibit.name)
            keep(one, folder / exhibit.name)
            shown.append(one)
            word = "as it should be" if one.right else "NOT AS EXPECTED"
            print(f"{exhibit.name:<24}{word}  {one.seconds:.0f} s")
            for (a, b), verdict in one.verdicts.items():
                print(f"    {a} / {b}: {verdict}")
            for line in one.lines:
                print(f"    {line}")
    there = [one for exhibit in EXHIBITS if (one := kept(exhibit, folder / exhibit.name)) is not None]
    (folder / "index.html").write_text(index(there), encoding="utf-8")
    print(f"open {folder / 'index.html'}")
    return 0 if all(one.right for one in shown) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
