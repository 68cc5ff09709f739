"""The endpoints, as OpenAI's clients use them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from speaking_models import CONTEXT

from pedigree.tokenizers.chat_template import ChatTemplate
from pedigree.web.application import Desk, build_application
from pedigree.web.asked import NEUTRAL
from pedigree.web.speaker import Manner, Speaker

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
HELLO = {"model": "pico", "messages": [{"role": "user", "content": "the moon"}], "seed": 1}
TEXT = {"model": "pico", "prompt": "the moon", "seed": 1}


def error(response: Response, status: int) -> dict[str, Any]:
    """The error of a response, whose shape and status are checked."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def events(response: Response) -> list[dict[str, Any]]:
    """The events of a streamed answer, whose end is checked."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_conversation_is_answered(client: TestClient) -> None:
    body = client.post(CHAT, json={**HELLO, "max_tokens": 5}).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "pico"
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 5


def test_a_text_is_continued(client: TestClient, speaker: Speaker) -> None:
    body = client.post(COMPLETE, json={**TEXT, "temperature": 0}).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "".join(speaker.answer(speaker.continued("the moon"), Manner(max_tokens=8))), (
        "8 tokens where nothing is said"
    )
    assert (
        client.post(COMPLETE, json={**TEXT, "prompt": ["the moon"], "temperature": 0}).json()["choices"]
        == (body["choices"])
    )


@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO), (COMPLETE, TEXT)])
def test_streamed_and_whole_answers_are_the_same(client: TestClient, path: str, body: dict[str, Any]) -> None:
    body = {**body, "max_tokens": 12}
    whole = client.post(path, json=body).json()
    told = events(client.post(path, json={**body, "stream": True, "stream_options": {"include_usage": True}}))
    pieces = [choice for event in told for choice in event["choices"]]
    said = [piece["delta"].get("content", "") if path == CHAT else piece["text"] for piece in pieces]
    first = whole["choices"][0]
    assert "".join(said) == (first["message"]["content"] if path == CHAT else first["text"])
    assert len([text for text in said if text]) > 1
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert told[-1]["choices"] == []
    assert told[-1]["usage"] == whole["usage"]
    assert len({event["id"] for event in told}) == 1
    assert {event["object"] for event in told} == {"chat.completion.chunk" if path == CHAT else "text_completion"}


def test_counts_come_only_when_asked_for(client: TestClient) -> None:
    assert not any("usage" in event for event in events(client.post(CHAT, json={**HELLO, "stream": True})))


def test_a_stop_string_ends_an_answer_and_is_not_said(client: TestClient) -> None:
    body = {**TEXT, "max_tokens": 40}
    text = client.post(COMPLETE, json=body).json()["choices"][0]["text"]
    word = text[6:9]
    for stop in (word, ["never said", word]):
        choice = client.post(COMPLETE, json={**body, "stop": stop}).json()["choices"][0]
        assert choice["text"] == text[: text.index(word)]
        assert choice["finish_reason"] == "stop"


def test_a_seed_repeats_an_answer_and_no_seed_does_not(client: TestClient) -> None:
    def said(**more: Any) -> str:
        body = {"model": "pico", "prompt": "the", "max_tokens": 20, **more}
        return str(client.post(COMPLETE, json=body).json()["choices"][0]["text"])

    assert said(seed=5) == said(seed=5)
    assert len({said() for _ in range(3)}) > 1
    assert said(temperature=0) == said(top_k=1) == said(top_p=1e-6), "the likeliest token, three ways"


def test_content_may_come_in_parts_and_developer_means_system(client: TestClient) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "moon"}]
    answers = [
        client.post(CHAT, json={**HELLO, "messages": [{"role": role, "content": content}, *HELLO["messages"]]}).json()
        for role, content in (("system", "the moon"), ("developer", parts))
    ]
    assert answers[0]["choices"] == answers[1]["choices"]


def test_max_completion_tokens_is_the_newer_name(client: TestClient) -> None:
    assert client.post(CHAT, json={**HELLO, "max_completion_tokens": 3}).json()["usage"]["completion_tokens"] == 3


def test_a_model_without_a_template_converses_by_continuing(plain: Speaker) -> None:
    client = TestClient(build_application(Desk(plain)), base_url="http://localhost")
    body = {"model": "plain", "temperature": 0, "max_tokens": 6}
    whole = client.post(COMPLETE, json={**body, "prompt": "the moon"}).json()["choices"][0]["text"]
    told = client.post(CHAT, json={**body, "messages": HELLO["messages"]}).json()
    assert told["choices"][0]["message"]["content"] == whole
    assert client.get("/v1/models").json()["data"][0]["chat_template"] is False


# -- what is here -----------------------------------------------------------------------------------------------------


def test_the_model_is_listed_and_the_server_is_well(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    card = listed["data"][0]
    assert (card["id"], card["object"], card["context_tokens"], card["chat_template"]) == (
        "pico",
        "model",
        CONTEXT,
        True,
    )
    assert client.get("/v1/models/pico").json() == card
    assert error(client.get("/v1/models/other"), 404)["code"] == "model_not_found"
    assert client.get("/health").json() == {"status": "ok", "model": "pico", "running": 0, "max_concurrent": 2}


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_another_model_is_not_taken_for_this_one(client: TestClient) -> None:
    told = error(client.post(CHAT, json={**HELLO, "model": "gpt"}), 404)
    assert (told["code"], told["param"]) == ("model_not_found", "model")
    assert "'pico' is served here" in told["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\xff"])
def test_a_body_that_is_not_a_json_object_is_refused(client: TestClient, desk: Desk, body: str) -> None:
    desk.limits = replace(desk.limits, max_body=200_000)
    content = body.encode("latin-1")
    told = error(client.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)
    assert told["code"] == "invalid_json"


def test_a_field_that_stands_twice_is_refused_by_name(client: TestClient) -> None:
    body = '{"max_tokens": 1, ' + json.dumps(HELLO)[1:-1] + ', "max_tokens": 2}'
    told = error(client.post(CHAT, content=body, headers={"Content-Type": "application/json"}), 400)
    assert (told["code"], told["param"]) == ("invalid_json", "max_tokens")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_another_site_could_send_is_refused(client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert error(client.post(CHAT, content=json.dumps(HELLO), headers=headers), 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_completion_tokens": 65}, "max_completion_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"other": 1}}, "stream_options.other"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0.name"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, change: dict[str, Any], param: str) -> None:
    told = error(client.post(CHAT, json={**HELLO, **change}), 400)
    assert told["type"] == "invalid_request_error"
    assert told["param"] == param
    assert param in told["message"]


def test_a_number_that_is_none_is_refused(client: TestClient) -> None:
    body = json.dumps(HELLO)[:-1] + ', "temperature": NaN}'
    told = error(client.post(CHAT, content=body, headers={"Content-Type": "application/json"}), 400)
    assert told["param"] == "temperature"


def test_a_missing_field_is_named(client: TestClient) -> None:
    told = error(client.post(COMPLETE, json={"model": "pico"}), 400)
    assert (told["param"], told["code"]) == ("prompt", "missing_required_parameter")


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_is_not_implemented_is_refused_by_name(client: TestClient, name: str) -> None:
    told = error(client.post(CHAT, json={**HELLO, name: [{"other": 1}]}), 400)
    assert (told["param"], told["code"]) == (name, "unsupported_parameter")
    for neutral in (None, *NEUTRAL[name]):
        assert client.post(CHAT, json={**HELLO, name: neutral, "max_tokens": 1}).status_code == 200


def test_a_yes_is_not_taken_for_a_one(client: TestClient) -> None:
    assert error(client.post(CHAT, json={**HELLO, "n": True}), 400)["param"] == "n"
    assert error(client.post(CHAT, json={**HELLO, "logprobs": 0}), 400)["param"] == "logprobs"


def test_a_prompt_longer_than_the_context_is_refused(client: TestClient) -> None:
    told = error(client.post(COMPLETE, json={**TEXT, "prompt": "xq" * CONTEXT}), 400)
    assert (told["param"], told["code"]) == ("prompt", "context_length_exceeded")
    content = "xq" * (CONTEXT // 2 - 40)
    told = error(
        client.post(CHAT, json={**HELLO, "messages": [{"role": "user", "content": content}], "max_tokens": 64}), 400
    )
    assert (told["param"], told["code"]) == ("messages", "context_length_exceeded")


def test_a_request_that_is_too_large_is_not_read(client: TestClient) -> None:
    told = error(client.post(COMPLETE, json={**TEXT, "prompt": "x" * 30_000}), 413)
    assert told["code"] == "request_too_large"

    def parts() -> Any:
        yield from (b"x" * 1_000 for _ in range(30))

    headers = {"Content-Type": "application/json"}
    assert error(client.post(COMPLETE, content=parts(), headers=headers), 413)["code"] == "request_too_large"


def test_more_answers_than_may_be_made_at_a_time_are_refused(client: TestClient, desk: Desk) -> None:
    desk.running = 2
    response = client.post(CHAT, json=HELLO)
    told = error(response, 429)
    assert (told["type"], told["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert response.headers["retry-after"] == "1"
    assert desk.running == 2
    desk.running = 1
    assert client.post(CHAT, json=HELLO).status_code == 200


def test_a_server_that_ends_says_so(client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.closing = True
    assert error(client.post(CHAT, json=HELLO), 503)["code"] == "shutting_down"
    monkeypatch.setattr(Desk, "take", lambda self: None)  # the answer was begun before
    monkeypatch.setattr(Desk, "release", lambda self: None)
    assert error(client.post(CHAT, json=HELLO), 503)["code"] == "shutting_down"
    streamed = client.post(CHAT, json={**HELLO, "stream": True, "max_tokens": 60})
    last = json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "shutting_down"


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"max_tokens": 10_000}, {"model": "other"}, {"tools": [1]}])
def test_every_place_is_given_back(client: TestClient, desk: Desk, more: dict[str, Any]) -> None:
    for _ in range(3):
        client.post(CHAT, json={**HELLO, **more})
    assert desk.running == 0


def test_unknown_places_and_methods_have_the_shape_of_an_error(client: TestClient) -> None:
    assert error(client.get("/v1/embeddings"), 404)["code"] == "not_found"
    assert error(client.get(CHAT), 405)["code"] == "method_not_allowed"
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_no_other_site_may_use_it(client: TestClient) -> None:
    told = error(client.get("/health", headers={"Host": "attacker.example"}), 403)
    assert told["code"] == "host_not_allowed"
    response = client.options(CHAT, headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"})
    assert response.status_code == 405
    answered = client.post(CHAT, json=HELLO, headers={"Origin": "https://a.example"})
    assert not [name for name in answered.headers if name.startswith("access-control")]
    assert client.get("/health", headers={"Host": "LocalHost:8000"}).status_code == 200


# -- templates of strangers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        ("{{ ''.__class__.__mro__ }}", 500, "reaches for what it must not"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", 500, "does not end"),
        ("{{ 'x' * 10 ** 10 }}", 500, "too much"),
        ("{% if %}", 500, "does not work"),
        ("{{ raise_exception('only in rhyme') }}", 400, "only in rhyme"),
    ],
)
def test_a_hostile_template_is_refused_and_the_server_lives(
    speaker: Speaker, source: str, status: int, words: str
) -> None:
    template = ChatTemplate(source, speaker.encoder, {}, where="tokenizer_config.json", seconds=2)
    desk = Desk(replace(speaker, template=template))
    client = TestClient(build_application(desk), base_url="http://localhost")
    try:
        told = error(client.post(CHAT, json=HELLO), status)
        assert words in told["message"]
        assert client.post(COMPLETE, json=TEXT).status_code == 200
        assert desk.running == 0
    finally:
        template.close()


def test_nothing_that_is_said_is_logged(
    client: TestClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("WARNING"):
        for body in (HELLO, {**HELLO, "temperature": "secret"}, {**HELLO, "secret": 1}):
            client.post(CHAT, json={**body, "messages": [{"role": "user", "content": "secret"}]})
    assert "secret" not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_a_bug_is_told_in_the_same_shape_without_what_was_said(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Speaker, "continued", broken)
    client = TestClient(build_application(Desk(speaker)), base_url="http://localhost", raise_server_exceptions=False)
    told = error(client.post(COMPLETE, json=TEXT), 500)
    assert (told["type"], told["code"]) == ("server_error", "internal_error")
    assert "secret" not in told["message"]
