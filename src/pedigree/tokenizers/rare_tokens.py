"""Tokens that a model will hardly have learned: never met in a corpus, or met only on the way to longer tokens.

Without weights nothing is proved: these are candidates, and the norms of their embeddings decide.

Source: Rumbelow and Watkins, "SolidGoldMagikarp" (2023), for the names; Land and Bartolo (arXiv 2405.05417).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pedigree.tokenizers.compression import Counts, Measured
from pedigree.tokenizers.encoder import Encoder

# Surfaces for which published studies saw models fail, GPT-2's vocabulary and its successors.
GLITCH_SURFACES = (
    " SolidGoldMagikarp", " petertodd", " attRot", " TheNitromeFan", " TheNitrome", " davidjl", " externalToEVA",
    "externalToEVAOnly", " RandomRedditor", " RandomRedditorWithNo", "StreamerBot", "TPPStreamerBot", " Adinida",
    " guiActive", " guiActiveUn", " guiActiveUnfocused", " guiIcon", " unfocusedRange", " sqor", " istg",
    "rawdownload", "rawdownloadcloneembedreportprint", "cloneembedreportprint", "embedreportprint", "reportprint",
    "rawdownloadcloneembed", " InstoreAndOnline", "InstoreAndOnline", "BuyableInstoreAndOnline", "oreAndOnline",
    "quickShip", "quickShipAvailable", "isSpecialOrderable", "channelAvailability", "inventoryQuantity",
    "externalActionCode", "ItemThumbnailImage", "DragonMagazine", "GoldMagikarp", "ForgeModLoader", "PsyNetMessage",
    "EStreamFrame", " Skydragon", " Mechdragon", " Leilan", " srfN", " srfAttach", " strutConnector",
    "natureconservancy", "assetsadobe", "soDeliveryDate", " largeDownload",
    "_ForCanBeConverted", "_ForCanBeConvertedToF", "_ForCanBeConvertedToForeach", "useRalativeImagePath",
    "$PostalCodesNL", " PostalCodesNL",
)  # fmt: skip


@dataclass(frozen=True)
class RareTokens:
    """Token numbers, most suspicious first.

    Attributes:
        seen: tokens that occur in the texts.
        never_seen: tokens that can be made and do not occur.
        scaffold: never seen, but made on the way to longer tokens at least `often` times: (number, times).
        glitch: tokens whose surface is on the published list.
        often: the threshold of `scaffold`.
    """

    seen: int
    never_seen: list[int] = field(default_factory=list)
    scaffold: list[tuple[int, int]] = field(default_factory=list)
    glitch: list[int] = field(default_factory=list)
    often: int = 0


def glitch_tokens(encoder: Encoder) -> list[int]:
    """Tokens whose surface is on the published list, by number."""
    known = encoder.vocabulary()
    return sorted({known[surface.encode()] for surface in GLITCH_SURFACES if surface.encode() in known})


def rare_tokens(encoder: Encoder, measured: Sequence[Measured], unreachable: set[int]) -> RareTokens:
    """Tokens that the texts never use, and those that they only pass through."""
    uses = np.zeros(encoder.size, np.int64)
    for text in measured:
        uses += text.uses
    outside = unreachable | set(encoder.specials)
    never = [
        number
        for number, surface in enumerate(encoder.surfaces)
        if surface is not None and number not in outside and not uses[number]
    ]
    passed = _passed_through(encoder, uses)
    often = max(10, int(uses.sum()) // 100_000)
    scaffold = sorted(((n, int(passed[n])) for n in never if passed[n] >= often), key=lambda pair: (-pair[1], pair[0]))
    return RareTokens(int((uses > 0).sum()), never, scaffold, glitch_tokens(encoder), often)


def _passed_through(encoder: Encoder, uses: Counts) -> Counts:
    """How often each token is made on the way, through the merges of the tokens that occur."""
    numbers = {spelling: number for number, spelling in enumerate(encoder.spellings) if spelling is not None}
    first: dict[str, tuple[str, str]] = {}
    for left, right in encoder.merges:
        first.setdefault(left + right, (left, right))
    passed = uses.copy()
    for product in reversed(list(first)):
        number = numbers.get(product)
        if number is not None and passed[number]:
            for part in first[product]:
                if part in numbers:
                    passed[numbers[part]] += passed[number]
    return passed - uses
