"""Models on the Hugging Face Hub, read in place by ranges.

    hf://org/name[@revision][/path/in/the/repository]

`HF_ENDPOINT` names another hub; the token is the one that `huggingface_hub` finds (`HF_TOKEN`, or the file of
`hf auth login`) and goes to the hub only, never to the storage host that it redirects to. The revision is pinned to the
commit of the first answer, so that all reads of one checkpoint see one state of the repository.
"""

from __future__ import annotations

import json
import os
import re
from urllib.parse import quote

from pedigree.errors import SourceError, UsageError
from pedigree.weights.http_connection import Answer
from pedigree.weights.http_source import PASSING, PLAIN_HEADERS, HttpSource
from pedigree.weights.meter import ByteMeter
from pedigree.weights.weight_files import format_of


class HubSource(HttpSource):
    """A directory of a model repository at one revision.

    Args:
        repository: "org/name".
        revision: branch, tag or commit.
        folder: directory inside the repository, "" for the top.
        meter: counts the reads.
    """

    def __init__(self, repository: str, revision: str, folder: str, meter: ByteMeter) -> None:
        import huggingface_hub

        self._endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        self._repository = repository
        self._revision = revision
        self._folder = folder
        self._pinned = False
        token = huggingface_hub.get_token()
        page = f"{self._endpoint}/{repository}"
        super().__init__(
            f"hf://{repository}@{revision}" + (f"/{folder}" if folder else ""),
            meter,
            private_headers={"Authorization": f"Bearer {token}"} if token else None,
            denied_fix=f"check the name; if the model is gated, ask for access at {page} and set HF_TOKEN",
        )

    def url(self, name: str) -> str:
        """Address of a file, on the hub."""
        import huggingface_hub

        return huggingface_hub.hf_hub_url(
            self._repository,
            f"{self._folder}/{name}" if self._folder else name,
            revision=self._revision,
            endpoint=self._endpoint,
        )

    def stamp(self, name: str) -> str:
        """The commit that is read."""
        return self._revision if self._pinned else super().stamp(name)

    def names(self) -> tuple[str, ...] | None:
        """Files of the directory by the hub's listing; None where the hub does not list (a mirror of files only)."""
        path = f"{quote(self._revision, safe='')}/{quote(self._folder)}".rstrip("/")
        text = self._retry("", lambda: self._listing(f"{self._endpoint}/api/models/{self._repository}/tree/{path}"))
        if text is None:
            return None
        try:
            entries = json.loads(text)
            files = [str(entry["path"]) for entry in entries if entry["type"] == "file"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SourceError("the hub's listing is not readable", where=self.location, got=str(error)) from error
        return tuple(sorted(file.rsplit("/", 1)[-1] for file in files))

    def _listing(self, url: str) -> bytes | None:
        with self._pool.get(url, PLAIN_HEADERS, self._private_headers) as answer:
            if answer.status not in (401, 403, *PASSING, 200):
                return None
            self._check_status("", answer)
            self._seen(answer)
            # A listing in pages is of a directory with thousands of files; the usual names are asked for instead.
            return None if answer.headers.get("Link") else self._read_unsized("", answer)

    def _seen(self, answer: Answer) -> None:
        commit = answer.first_headers.get("X-Repo-Commit", "")
        if not self._pinned and re.fullmatch(r"[0-9a-f]{40}", commit):
            self._revision, self._pinned = commit, True


_LOCATION = re.compile(
    r"^hf://(?P<repository>[\w.-]+/[\w.-]+|[\w.-]+(?=@|$))"
    r"(?:@(?P<revision>refs/pr/\d+|refs/convert/\w+|[^/\s]+))?"
    r"(?:/(?P<path>.*))?$"
)


def open_hub(location: str, meter: ByteMeter) -> tuple[HubSource, str | None]:
    """The source that an hf:// location stands for, and the file that it names, None for a directory.

    Raises:
        UsageError: the location is not hf://org/name[@revision][/path].
    """
    match = _LOCATION.match(location)
    path = (match["path"] or "").strip("/") if match else ""
    if match is None or any(part in ("", ".", "..") for part in path.split("/") if path):
        raise UsageError("the location is not one on the hub", got=location, expected="hf://org/name[@revision][/path]")
    folder, _, name = path.rpartition("/")
    is_file = format_of(name) is not None or name.endswith(".index.json")
    source = HubSource(match["repository"], match["revision"] or "main", folder if is_file else path, meter)
    return source, name if is_file else None
