"""The chat page: it needs nothing else, and may fetch nothing else."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from fastapi.testclient import TestClient

from pedigree.web.page import chat_page


def test_the_page_is_one_file_without_addresses(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.findall(
        r"https?://|//[a-z]|<link(?! rel=\"icon\" href=\"data:,\")|\bsrc=|@import|url\(", response.text
    )
    assert "{{" not in response.text


def test_only_its_own_script_and_style_may_act(client: TestClient) -> None:
    response = client.get("/")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in str(policy)
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.findall(r"\son\w+=|\sstyle=|javascript:", response.text), "inline handlers would not run"


def test_what_a_model_says_is_never_markup(client: TestClient) -> None:
    text = client.get("/").text
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert "body.textContent = said" in text


@pytest.mark.parametrize("path", ["/", "/health", "/nowhere"])
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_name_of_a_model_is_text() -> None:
    page = chat_page("</title><script>alert(1)</script>")
    assert page.html.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page.html


def test_it_can_be_used_by_keyboard_and_read_in_the_dark(client: TestClient) -> None:
    text = client.get("/").text
    for needed in (
        "prefers-color-scheme: dark",
        ":focus-visible",
        'aria-label="Your message"',
        'event.key === "Enter"',
        'event.key === "Escape"',
        'aria-live="polite"',
        '<html lang="en">',
    ):
        assert needed in text
