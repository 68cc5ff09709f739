"""The chat page: one HTML file that needs nothing else, and a policy that lets it fetch nothing but this server."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

_FILE = Path(__file__).parent / "pages" / "chat.html"
# On every answer of the server; the page adds its own policy.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Page:
    """A page and the headers it goes with."""

    html: str
    headers: dict[str, str]


def chat_page(model: str) -> Page:
    """The page for a model; only the script and the style that stand in it may act."""
    html = _FILE.read_text(encoding="utf-8").replace("{{ model }}", escape(model))
    policy = (
        f"default-src 'none'; script-src {_digests(html, 'script')}; style-src {_digests(html, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})


def _digests(html: str, tag: str) -> str:
    """What stands in the tags of one name, as a source of a content security policy."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
