"""Files that commands write: whole or not at all, never over another one unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pedigree.cli import files
from pedigree.cli.errors import guarded, interrupted_text
from pedigree.cli.files import GO_ON, check_free, write_file
from pedigree.errors import InputError, MissingInput, OutputExists


def test_a_file_is_written_whole_with_ordinary_rights(tmp_path: Path) -> None:
    told = write_file(tmp_path / "a.html", "h\u00e9", force=False)
    assert told == f"wrote {tmp_path / 'a.html'} (3 bytes)"
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "h\u00e9"
    assert (tmp_path / "a.html").stat().st_mode & 0o777 == 0o644
    assert f"complete files on disk are {tmp_path / 'a.html'}" in interrupted_text()


def test_how_to_go_on_is_said_of_one_command_only(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(error: BaseException) -> int:
        GO_ON.append("half of it is kept")
        raise error

    assert guarded(lambda: stopped(KeyboardInterrupt()), []) == 130
    assert "interrupted: half of it is kept" in capsys.readouterr().err
    assert guarded(lambda: stopped(InputError("refused")), []) == 2
    assert "half of it" not in interrupted_text()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("mine")
    with pytest.raises(OutputExists, match="is there already"):
        write_file(path, "yours", force=False)
    assert path.read_text() == "mine"
    write_file(path, "yours", force=True)
    assert path.read_text() == "yours"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.html"
    monkeypatch.setattr(files, "check_free", lambda path, force: path.write_text("meanwhile"))
    with pytest.raises(OutputExists, match="appeared meanwhile"):
        write_file(path, "mine", force=False)
    assert path.read_text() == "meanwhile"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "a.html", "x", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_or_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="is a directory"):
        check_free(tmp_path, force=True)
    with pytest.raises(MissingInput, match="folder of the output does not exist") as caught:
        check_free(tmp_path / "no folder" / "a.html", force=False)
    assert caught.value.fix == f"mkdir -p '{tmp_path / 'no folder'}'"
    (tmp_path / "file").touch()
    with pytest.raises(MissingInput, match="folder of the output does not exist") as caught:
        check_free(tmp_path / "file" / "a.html", force=False)
    assert caught.value.fix == "name a file in a folder"


def test_a_folder_that_may_not_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MissingInput, match="nothing may be written"):
        check_free(tmp_path / "a.html", force=False)


def test_without_hard_links_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_file(tmp_path / "a.html", "ours", force=False)
    assert (tmp_path / "a.html").read_text() == "ours"
    with pytest.raises(OutputExists, match="there already"):
        files._rename_to_free_name(tmp_path / "b.html", tmp_path / "a.html")
