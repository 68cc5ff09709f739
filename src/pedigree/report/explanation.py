"""What each test asks, in one paragraph, on one page, and with its mathematics.

The texts are Markdown files beside this one (`explanations/`), the only source: `pedigree explain` prints them, and the
methods guide repeats their paragraphs under a test that holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# Names under which results print tests that are explained together.
ALIASES = {
    "body-fixed-points": "fixed-points",
    "embed-fixed-points": "fixed-points",
    "head-fixed-points": "fixed-points",
    "body-signs": "sign-flip",
    "units-in-place": "gram-agreement",
    "units-read": "gram-agreement",
    "kept-units": "gram-agreement",
    "carried-planes": "plane-agreement",
    "carried-heads": "head-agreement",
    "carried-units": "row-agreement",
    "survival-of-learned-directions": "survival",
    "start-or-descent": "survival",
    "direction": "difference-share",
    "share": "difference-share",
    "ties": "masked-merge",
    "dare": "masked-merge",
    "unmerge": "branch-ratio",
}


@dataclass(frozen=True)
class Explanation:
    """The text of one test.

    Attributes:
        name: as `pedigree explain` takes it.
        title: as people say it.
        paragraph, page, mathematics: Markdown, each without its heading.
    """

    name: str
    title: str
    paragraph: str
    page: str
    mathematics: str


@cache
def explanations() -> dict[str, Explanation]:
    """All texts by name, in alphabetical order."""
    folder = files("pedigree.report").joinpath("explanations")
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".md")), key=lambda f: f.name)
    return {f.name[:-3]: _parse(f.name[:-3], f.read_text(encoding="utf-8")) for f in found}


def _parse(name: str, text: str) -> Explanation:
    head, _, rest = text.partition("## One page\n")
    page, _, mathematics = rest.partition("## Mathematics\n")
    title, _, paragraph = head.partition("\n")
    return Explanation(name, title.removeprefix("# ").strip(), paragraph.strip(), page.strip(), mathematics.strip())


def resolve(name: str) -> str:
    """The name of the text behind a test as a result prints it, such as `fixed-points, body-fixed-points`."""
    plain = name.split(",", maxsplit=1)[0].strip().lower().replace("_", "-").replace(" ", "-")
    if plain.startswith("matched-") and plain not in explanations():
        return "matched-heads" if plain.startswith("matched-heads") else "matched-units"
    return ALIASES.get(plain, plain)


def guide_section() -> str:
    """Every paragraph as the methods guide prints it."""
    parts = [
        f"**{e.title}** (`pedigree explain {e.name}`). {' '.join(e.paragraph.split())}" for e in explanations().values()
    ]
    return "\n\n".join(parts)
