"""A family as one HTML file: its tree, its members, and what the weights say of every edge. Renders records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pedigree.records.comparison import ComponentVerdict, Transformation
from pedigree.records.family_run import EdgeResult, FamilyRun, Finding, MemberEvaluation, MemberResult
from pedigree.report import words
from pedigree.report.lineage_figure import ArcStyle, LineageArc, LineageNode, lineage_figure
from pedigree.report.numbers import count_text, p_text, seconds_text
from pedigree.report.plain_text import printable
from pedigree.report.transformations import transformation_sentence

_STYLE = Path(__file__).parent / "templates" / "style.css"

FINDING_SENTENCES: Mapping[Finding, str] = {
    "corroborated": "the weights agree",
    "contradicted": "the weights disagree",
    "cannot-say": "the weights cannot say",
}
_STANDINGS = {"made": "made so", "claimed": "said so", "checked": "compared"}


def render_family(run: FamilyRun) -> str:
    """The page of a family."""
    result = run.result
    name = escape(printable(result.family))
    style = _STYLE.read_text(encoding="utf-8")
    about = f"<p>{_text(result.about)}</p>" if result.about else ""
    claims = [member for member in result.members if member.claims is not None]
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<style>{style}\nbody{{max-width:1080px}}</style></head><body>",
        f'<div class="top"><span>Pedigree, a family and its weights</span><span>{escape(result.size)} size, '
        f"{len(result.members)} models, {seconds_text(result.seconds)}</span></div>",
        f"<h1>{name}</h1>{about}",
        f'<div class="block">{tree(run)}<p class="small soft">Solid: the weights agree. Dashed: only said, or the '
        "weights cannot say. Hatched: the weights disagree.</p></div>",
        f"<h2>Members</h2>{_members(result.members)}",
        _evaluations(result.evaluations),
        f"<h2>What the weights say of each edge</h2>{_edges(result.edges)}" if result.edges else "",
        f"<h2>What is said, and what the weights say</h2>{_claims(claims)}" if claims else "",
        f"<footer>{escape(words.WHAT_IT_IS_NOT)} Recipe {escape(printable(run.inputs.recipe.path))}, "
        f"{escape(words.short_digest(run.inputs.recipe.digest))}.</footer></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def tree(run: FamilyRun) -> str:
    """The family tree: what was made, and what is said where it is something else."""
    members = run.result.members
    found = {(edge.a, edge.b): edge for edge in run.result.edges}
    arcs = []
    for member in members:
        made = set(member.parents.values())
        for parent in [*made, *(p for p in member.claims or () if p not in made)]:
            edge = found.get((parent, member.name))
            arcs.append(LineageArc(parent, member.name, _style(edge), _label(edge)))
    nodes = [LineageNode(member.name, _below(member)) for member in members]
    return lineage_figure(nodes, sorted(arcs, key=lambda arc: (arc.style, arc.parent, arc.child)))


def _style(edge: EdgeResult | None) -> ArcStyle:
    if edge is None or edge.finding == "cannot-say":
        return "dashed"
    return "solid" if edge.finding == "corroborated" else "hatched"


def _label(edge: EdgeResult | None) -> str:
    return "not compared" if edge is None else f"{edge.verdict}, {FINDING_SENTENCES[edge.finding]}"


def _below(member: MemberResult) -> str:
    how = "trained" if not member.parents else "+".join(member.operators) or "trained on"
    return f"{count_text(member.parameters)} weights, {how}"


def _members(members: Sequence[MemberResult]) -> str:
    head = (
        '<tr><th>model</th><th>how it was made</th><th class="number">weights</th><th class="number">tokens</th>'
        "<th>bits per byte</th></tr>"
    )
    return f"<table><thead>{head}</thead><tbody>{''.join(map(_member, members))}</tbody></table>"


def _member(member: MemberResult) -> str:
    # A domain and its number stay on one line.
    scores = ", ".join(f"{score.domain}\N{NO-BREAK SPACE}{score.bits_per_byte:.3f}" for score in member.scores) or "-"
    about = f'<br><span class="soft">{_text(member.about)}</span>' if member.about else ""
    notes = f'<br><span class="soft">{_text(member.sentence)}</span>' if member.sentence else ""
    return (
        f"<tr><td><b>{_text(member.name)}</b>{about}</td><td>{_text(_how(member))}{notes}</td>"
        f'<td class="number">{count_text(member.parameters)}</td><td class="number">{count_text(member.tokens)}</td>'
        f"<td>{_text(scores)}</td></tr>"
    )


def _how(member: MemberResult) -> str:
    parents = " and ".join(dict.fromkeys(member.parents.values()))
    if not parents:
        return "trained from random weights"
    if member.operators:
        return f"from {parents}: {', '.join(member.operators)}"
    return f"trained on from {parents}"


def _evaluations(evaluations: Sequence[MemberEvaluation]) -> str:
    """One table for each evaluation: a line for each model, a column for each domain and for the sums."""
    parts = []
    for name in dict.fromkeys(one.evaluation for one in evaluations):
        group = [one for one in evaluations if one.evaluation == name]
        domains = sorted({score.domain for one in group for score in one.scores})
        sums = any(one.arithmetic for one in group)
        head = "".join(f'<th class="number">{_text(domain)}</th>' for domain in domains)
        head += '<th class="number">sums that are right</th>' if sums else ""
        rows = "".join(_evaluation(one, domains, sums=sums) for one in group)
        parts.append(
            f"<h3>{_text(name)}</h3><table><thead><tr><th>model</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )
    explained = '<p class="small soft">Bits per byte; less is better.</p>'
    return f"<h2>What the models can do</h2>{''.join(parts)}{explained}" if parts else ""


def _evaluation(one: MemberEvaluation, domains: Sequence[str], *, sums: bool) -> str:
    by_domain = {score.domain: score.bits_per_byte for score in one.scores}
    cells = [f"{by_domain[domain]:.3f}" if domain in by_domain else "-" for domain in domains]
    if sums:
        cells.append(f"{100 * one.arithmetic['all']:.0f} %" if "all" in one.arithmetic else "-")
    name = _text(one.model)
    if one.file:
        name = f'<a href="{escape(one.file, quote=True)}">{name}</a>'
    return f"<tr><td>{name}</td>" + "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"


def _edges(edges: Sequence[EdgeResult]) -> str:
    head = "<tr><th>pair</th><th>why</th><th>answer</th><th>what was done</th><th>against the recipe</th></tr>"
    rows = []
    for edge in edges:
        standing = ", ".join(_STANDINGS[word] for word in edge.standing)
        strength = f'<br><span class="soft">{_text(p_text(edge.log10_p))}</span>' if edge.log10_p is not None else ""
        mark = words.VERDICT_MARKS[edge.verdict][0]
        report = f' <a href="{escape(edge.report, quote=True)}">report</a>' if edge.report else ""
        rows.append(
            f"<tr><td>{_text(edge.a)}<br>{_text(edge.b)}</td><td>{standing}</td>"
            f"<td>{mark} <b>{edge.verdict}</b>{strength}{report}</td>"
            f"<td>{_done(edge.transformations)}{_components(edge.components)}</td>"
            f"<td>{escape(FINDING_SENTENCES[edge.finding])}</td></tr>"
        )
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _done(transformations: Sequence[Transformation]) -> str:
    sentences = [transformation_sentence(one) for one in transformations[:4]]
    return "<br>".join(_text(sentence) for sentence in sentences if sentence)


def _components(components: Mapping[str, ComponentVerdict]) -> str:
    fresh = [words.component_name(key) for key, verdict in components.items() if verdict == "unrelated"]
    alike = any(verdict in ("related", "identical") for verdict in components.values())
    return f'<br><span class="soft">no relation found in {_text(", ".join(fresh))}</span>' if fresh and alike else ""


def _claims(members: Sequence[MemberResult]) -> str:
    head = "<tr><th>model</th><th>is said to be</th><th>finding</th><th>because</th></tr>"
    rows = [
        f"<tr><td>{_text(member.name)}</td><td>{_text(_said(member))}</td>"
        f"<td>{escape(FINDING_SENTENCES[member.claim]) if member.claim else '-'}</td>"
        f"<td>{_text(member.claim_because)}</td></tr>"
        for member in members
    ]
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _said(member: MemberResult) -> str:
    return f"from {', '.join(member.claims)}" if member.claims else "trained from scratch"


def _text(text: str) -> str:
    return escape(printable(text))
