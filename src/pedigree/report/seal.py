"""The commitment of a sheet: one line of digests, as text and as a QR code, so that paper leads back to the record.

    pedigree-audit 1 sha256:<record> <origin of the ledger> <entries> <root>

The line binds the record, and with it every number on the sheet, to the ledger as it was. Whoever has the record
computes its digest; whoever has the ledger asks `pedigree ledger verify` for size and root. The code holds it in
capitals, which take a third less room. The picture is made from the line alone: the same line gives the same bytes.
"""

from __future__ import annotations

from pedigree.records.audit import Audit, Clearance

VERSION = 1
_BORDER = 4  # modules of white around the code, as ISO/IEC 18004 asks for
_CORRECTION = "m"  # 15 % of it may be lost to a fold or a stamp

STYLE = """
.close { display: flex; gap: 14px; align-items: flex-end; }
.close > div { flex: 1; min-width: 0; }
.close .line { overflow-wrap: anywhere; }
svg.seal { flex: none; width: 104px; height: 104px; }
@media print {
  svg.seal { width: 20mm; height: 20mm; }
  .close { gap: 8pt; break-inside: avoid; }
  .close p.small { font-size: 6.8pt; line-height: 1.25; margin: 0; }
  .close .reply { margin: 2pt 0; }
  .close .reply td { height: 15px; }
}
""".strip()
"""The foot of a sheet: reply box beside the code."""


def audit_line(audit: Audit) -> str:
    """The commitment of an audit."""
    inputs = audit.inputs
    where = f" {inputs['ledger']} {inputs['entries']} {inputs['root']}" if inputs.get("ledger") else ""
    return f"pedigree-audit {VERSION} {audit.content_digest()}{where}"


def clearance_line(clearance: Clearance) -> str:
    """The commitment of a clearance: the record, and the model that it is about."""
    return f"pedigree-clearance {VERSION} {clearance.content_digest()} {clearance.result.artifact}"


def seal_figure(line: str) -> str:
    """A line as a QR code, an SVG element that prints black on white whatever the page looks like."""
    import segno

    code = segno.make(line.upper(), error=_CORRECTION, micro=False, boost_error=False)
    rows = [list(row) for row in code.matrix]
    side = len(rows) + 2 * _BORDER
    strokes = []
    for y, row in enumerate(rows):
        x = 0
        while x < len(row):
            end = x
            while end < len(row) and row[end]:
                end += 1
            if end > x:
                strokes.append(f"M{x + _BORDER} {y + _BORDER}h{end - x}v1h-{end - x}z")
            x = max(end, x + 1)
    return (
        f'<svg class="seal" role="img" aria-label="QR code of the commitment" viewBox="0 0 {side} {side}" '
        f'shape-rendering="crispEdges"><rect width="{side}" height="{side}" fill="#fff"/>'
        f'<path d="{"".join(strokes)}" fill="#000"/></svg>'
    )
