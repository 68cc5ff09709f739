"""Does an audit find what is not true, and leave alone what is, on families that its rules were not set beside?

    python experiments/audits.py [--seeds 3] [--tokens 150000] [--draw]

Of each seed a family of other designs (`audited.py`) is made by `pedigree run` and audited by `pedigree audit`: every
edge in doubt or contradicted is a false finding. Then every lie of `lies.py` is told of it, one by one: once with the
states that the runs saved at hand, once by weights alone. Last, files are exchanged and changed on disk.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from audited import ADAPTED, adapter_steps, recipe
from families import made, settings
from lies import Lie, lies
from pages import origin, put, table

from pedigree.audit.claims import Claim
from pedigree.audit.examination import Request, examine, gather
from pedigree.audit.judgment import judge_claim
from pedigree.audit.relatives import Scene
from pedigree.ledger.database import Database
from pedigree.ledger.store import Store
from pedigree.records.audit import AuditEdge

TOKENS = 150_000
MENDED_BY = (0, 2)  # seeds by which errors of the rules were found
FOUND = ("SUSPECT", "CONTRADICTED")
Told = dict[str, Any]


def pedigree(words: Sequence[object], folder: Path, *, good: Sequence[int] = (0,)) -> str:
    """What a command prints, with the ledger of the family."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PEDIGREE_LEDGER": str(folder / ".pedigree" / "ledger.db")}
    line = [sys.executable, "-m", "pedigree", *(str(word) for word in words)]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in good:
        raise SystemExit(f"{' '.join(line[2:])}: exit code {done.returncode}")
    return done.stdout


def make(place: Path, folder: Path, seed: int, tokens: int) -> None:
    """The family of one seed with its ledger; what is there is kept."""
    (folder / ".pedigree").mkdir(parents=True, exist_ok=True)
    made(recipe(place, seed, tokens), folder, draw=False, ledger=folder / ".pedigree" / "ledger.db")
    if not (folder / "family" / ADAPTED / "model").is_dir():
        (folder / "family" / ADAPTED).mkdir(exist_ok=True)
        for name, words in adapter_steps(folder / "family", folder / "adapter"):
            (folder / f"{name}.yaml").write_text(json.dumps(words), encoding="utf-8")
            pedigree(["surgery", "run", folder / f"{name}.yaml", "--quiet", "--force"], folder)


def audited(folder: Path, done: int) -> Iterator[Told]:
    """The edges of the family as it truly is, by `pedigree audit`."""
    told = json.loads(pedigree(["audit", folder / "family", "--json"], folder, good=(0, 1, 3)))
    keys = ("child_name", "parent_name", "operation", "source", "role", "verdict", "lies", "why")
    yield from [{key: edge[key] for key in keys} for edge in told["result"]["edges"]][done:]


def request(folder: Path, place: Path | None = None, others: Sequence[Path] = ()) -> Request:
    """The audit of the family, or of one place against others."""
    store = Store(Database(str(folder / ".pedigree" / "ledger.db"), read_only=True))
    return Request(place or folder / "family", others, store=store, kept=folder / ".pedigree" / "comparisons")


def told_of(lie: Lie, scene: Scene) -> list[AuditEdge]:
    """What the audit says of a claim that is told instead of the truth."""
    return judge_claim(lie.claim, lie.scene(scene))


def planted(folder: Path, done: int) -> Iterator[Told]:
    """Every lie but the first `done`, each with and without the states that runs saved; what the audit made of it."""
    gathered = gather(request(folder))
    claims = [claim for claim in gathered.claims if claim.source == "ledger"]
    scene = replace(gathered.scene, claims=claims)
    for lie in list(lies(claims, scene))[done:]:
        kept = told_of(lie, scene)
        bare = told_of(replace(lie, claim=replace(lie.claim, states={})), scene) if lie.claim.states else kept
        yield _answer(lie.what, lie.name, lie.claim, kept, bare, scene)


def _answer(
    what: str, name: str, claim: Claim, kept: Sequence[AuditEdge], bare: Sequence[AuditEdge], scene: Scene
) -> Told:  # fmt: skip
    parents = [scene.name(digest) for digest in claim.parents]
    return {
        "what": what, "name": name, "child": scene.name(claim.child), "parents": parents,
        "operation": ", ".join(claim.operators) or claim.operation, "kept": _words(kept), "bare": _words(bare),
        "names": sorted({lie for edge in bare for lie in edge.lies}), "why": next((e.why for e in bare), ""),
    }  # fmt: skip


def _words(edges: Iterable[AuditEdge]) -> str:
    """The gravest word of the edges of one claim."""
    words = {edge.verdict for edge in edges}
    return next((word for word in reversed(FOUND) if word in words), "not found")


def exchanged(folder: Path, done: int) -> Iterator[Told]:
    """Files of another model in the folder of each one, and each with one bit changed; audited from disk."""
    gathered = gather(request(folder))
    models = {model.digest: model.folder for model in gathered.models}
    ways = []
    for claim in gathered.claims:
        if claim.source == "ledger" and claim.parents:
            strangers = [one for one in models if one not in (claim.child, *claim.parents)]
            ways += [
                (claim, "wrong-upload", "the files of the parent lie there", models[claim.parents[0]]),
                (claim, "wrong-upload", "the files of another model lie there", models[strangers[-1]]),
                (claim, "changed-files", "one bit of the weights is another", None),
            ]
    for claim, name, what, source in ways[done:]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            copy = Path(place) / gathered.scene.name(claim.child)
            _put_there(copy, models[claim.child], source)
            audit = examine(request(folder, copy, [models[parent] for parent in claim.parents]))
            edges = [e for e in audit.result.edges if e.source == "ledger" and e.child == f"sha256:{claim.child}"]
            yield _answer(what, name, claim, edges, edges, gathered.scene)


def _put_there(copy: Path, model: Path, source: Path | None) -> None:
    """A folder with the sidecar of a model and the files of another; without one, the model with one bit changed."""
    shutil.copytree(source or model, copy)
    if source is not None:
        shutil.copyfile(model / "pedigree.json", copy / "pedigree.json")
        return
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4] ^= 1
    weights.write_bytes(data)


def kept(folder: Path, name: str, measure: Callable[[Path, int], Iterator[Told]], *, draw: bool) -> list[Told]:
    """What was measured before, or is measured now; one that was stopped goes on where it was."""
    path, lines = folder / f"{name}.json", folder / f"{name}.jsonl"
    if not path.is_file():
        if draw:
            return []
        done = len(lines.read_text(encoding="utf-8").splitlines()) if lines.is_file() else 0
        with lines.open("a", encoding="utf-8") as stream:
            for told in measure(folder, done):
                stream.write(json.dumps(told) + "\n")
                stream.flush()
        whole = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        path.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    return list(json.loads(path.read_text(encoding="utf-8")))


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a rate by Wilson (1927)."""
    if of == 0:
        return 0.0, 1.0
    rate, square = hits / of, z * z
    middle = (rate + square / (2 * of)) / (1 + square / of)
    half = z * math.sqrt(rate * (1 - rate) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def report(seeds: dict[int, dict[str, list[Told]]], out: Path) -> None:
    """The page: what the seeds gave by which errors of the rules were mended, and what the others gave after that."""
    parts = (
        (
            "Seeds that were made and looked at after that",
            [one for seed, one in seeds.items() if seed not in MENDED_BY],
        ),
        (
            "Seeds by which errors were mended, as they are now",
            [one for seed, one in seeds.items() if seed in MENDED_BY],
        ),
    )
    told = [_part(title, some) for title, some in parts if some]
    measured = "\n\n".join([*told, f"{len(seeds)} seeds. {origin('python experiments/audits.py')}"])
    put(out / "audits.md", "Audits of families that nobody looked at", measured)


def _part(title: str, seeds: list[dict[str, list[Told]]]) -> str:
    """False findings of some seeds, and what was found of each lie."""
    honest = [edge for seed in seeds for edge in seed["honest"]]
    wrong = [edge for edge in honest if edge["verdict"] in FOUND]
    asked = [edge for edge in honest if edge["verdict"] in (*FOUND, "CORROBORATED", "REPLAYED")]
    counts = Counter((edge["source"], edge["verdict"]) for edge in honest)
    told = [lie for seed in seeds for lie in (*seed["planted"], *seed["exchanged"])]
    bound = (
        f"{3 / max(1, len(asked)):.1%} (3 / n)" if not wrong else f"{wilson(len(wrong), len(asked))[1]:.1%} (Wilson)"
    )
    names = list(dict.fromkeys(lie["name"] for lie in told))
    kinds = sorted({(lie["name"], lie["what"]): None for lie in told}, key=lambda kind: names.index(kind[0]))
    lines = [_line(*kind, [one for one in told if (one["name"], one["what"]) == kind]) for kind in kinds]
    lines.append(_line("all but backwards", "", [one for one in told if one["name"] != "backwards"]))
    lines.append(_line("all", "", told))
    head = ["name", "what is told", "told", "found, by weights alone", "95 %", "CONTRADICTED", "by its name",
            "found, states kept"]  # fmt: skip
    missed: dict[str, Counter[str]] = {}
    for lie in told:
        if lie["bare"] == "not found":
            words = f"{lie['child']} from {' and '.join(lie['parents']) or 'nothing'}"
            missed.setdefault(lie["what"], Counter())[words] += 1
    listed = "\n".join(
        f"- {what}: " + ", ".join(f"{words} ({count} of {len(seeds)})" for words, count in sorted(found.items()))
        for what, found in missed.items()
    )
    false = "\n".join(
        f"- {edge['child_name']} from {edge['parent_name']} ({edge['source']}): {edge['verdict']}, {edge['why']}"
        for edge in wrong
    )
    return (
        f"## {title}\n\n**What is true:** {len(wrong)} false findings on {len(asked)} claims that the weights could be "
        f"asked about, at most {bound} with 95 % confidence if claims were independent, which those of one family are "
        f"not; {len(honest)} claims in all.\n\n"
        f"{table(['said by', 'verdict', 'claims'], [[*key, n] for key, n in sorted(counts.items())])}\n\n{false}\n\n"
        f"**What is not:**\n\n{table(head, lines)}\n\nNot found by weights alone:\n\n{listed or 'nothing.'}"
    )


def _line(name: str, what: str, told: list[Told]) -> list[object]:
    n, found = len(told), sum(lie["bare"] != "not found" for lie in told)
    low, high = wilson(found, n)
    named = sum(lie["name"] in lie["names"] for lie in told if lie["bare"] != "not found")
    return [
        name, what, n, f"{found} ({found / max(1, n):.0%})", f"{low:.0%} to {high:.0%}",
        sum(lie["bare"] == "CONTRADICTED" for lie in told), named, sum(lie["kept"] != "not found" for lie in told),
    ]  # fmt: skip


if __name__ == "__main__":
    words = settings(__doc__ or "")
    torch.set_num_threads(1)
    results: dict[int, dict[str, list[Told]]] = {}
    for number in range(words.seeds):
        at = words.place / "audits" / f"seed-{number}"
        if not words.draw:
            make(words.place, at, number, words.tokens or TOKENS)
        parts = {"honest": audited, "planted": planted, "exchanged": exchanged}
        result = {name: kept(at, name, measure, draw=words.draw) for name, measure in parts.items()}
        if all(result.values()):
            results[number] = result
    report(results, words.out)
