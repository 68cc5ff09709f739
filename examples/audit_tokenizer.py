"""Audit a vocabulary that knows Python and little else: what other languages cost, what is of no use.

python examples/audit_tokenizer.py
"""

from __future__ import annotations

from pedigree.tokenizers.audit import audit
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train
from pedigree.training.config import SourceConfig
from pedigree.training.sources import documents

LINES = {
    "eng": ("The moon is bright tonight.", "The river flows to the sea.", "Nobody was at home."),
    "rus": ("Сегодня луна светла.", "Река течёт к морю.", "Дома никого не было."),
    "zho": ("今晚月色很亮。", "河水流向大海。", "家里没有人。"),
}


def main() -> None:
    """Train on code, audit on three languages."""
    code = Text("code", tuple(documents(SourceConfig(kind="python-stdlib", max_documents=20))), "document", "stdlib")
    encoder = train([code], TrainingOptions("byte-level", 1024), name="python")
    texts = [Text(name, lines, "line", "this file") for name, lines in LINES.items()]
    record = audit(encoder, [code, *texts])
    for row in record.result.compression:
        print(f"{row.text:<5} {row.bytes_per_token:.2f} bytes a token")
    for sentence in record.result.verdict:
        print(f"- {sentence}")


if __name__ == "__main__":
    main()
