"""Text that cannot steer what shows it: names in hostile files reach terminals and pages through here.

Control characters move the cursor, set colors and titles; direction marks and zero-width characters make one name look
like another. In prose they become a replacement character; in JSON, where no character may be lost, an escape.
"""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """`text` on one line, with U+FFFD in place of what is not printable."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\n\t\r\u2028\u2029":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character)[0] == "C" else character


def printable_lines(text: str) -> str:
    """`text` with its line breaks, each line as `printable` gives it."""
    return "\n".join(printable(line) for line in text.split("\n"))


def escaped_json(text: str) -> str:
    """JSON text with escapes for what is not printable inside its strings; it reads back as the same value."""
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n"))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or character in "\t\r":
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
