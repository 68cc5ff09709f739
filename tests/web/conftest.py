"""One served pico model with a chat template, one without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from speaking_models import write_speaker

from pedigree.web.application import Desk, build_application
from pedigree.web.asked import Limits
from pedigree.web.speaker import Speaker, open_speaker


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaker]:
    """A model with a chat template."""
    opened = open_speaker(write_speaker(tmp_path_factory.mktemp("web") / "pico"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a model without a chat template."""
    return write_speaker(tmp_path_factory.mktemp("web") / "plain", template=None)


@pytest.fixture(scope="session")
def plain(plain_folder: Path) -> Speaker:
    """A model without a chat template."""
    return open_speaker(plain_folder)


@pytest.fixture
def desk(speaker: Speaker) -> Desk:
    """The state of a server that grants little."""
    return Desk(speaker, Limits(max_tokens=64, default_tokens=8, max_body=20_000), max_concurrent=2)


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    """A client of that server."""
    with TestClient(build_application(desk), base_url="http://127.0.0.1:8000") as made:
        yield made
