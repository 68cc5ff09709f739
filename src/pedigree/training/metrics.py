"""The numbers of a run, one line of JSON for each logged step; TensorBoard events beside it where they are asked for.

Law  after going on from step s the file holds each logged step once, whatever happened in between: lines of steps that
are taken again are removed first. TensorBoard is told to pass over what it read of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pedigree.errors import MissingInput

BOARD = "tensorboard"  # folder of the events in that of the run
INSTALL = "pip install 'llm-pedigree[log]'"


class Metrics:
    """The file of numbers of one run.

    Args:
        directory: of the run; `metrics.jsonl` and `tensorboard/` lie there.
        first_step: lines of this step and later ones are removed.
        tensorboard: write TensorBoard events too.

    Raises:
        MissingInput: TensorBoard is asked for and not installed.
    """

    def __init__(self, directory: Path, first_step: int, *, tensorboard: bool = False) -> None:
        if tensorboard:
            check_tensorboard()
        self.path = directory / "metrics.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row["step"] < first_step]
        self._replace(kept)
        self._stream = self.path.open("a", encoding="utf-8")
        self._board = _board(directory / BOARD, first_step) if tensorboard else None

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Add the numbers of a step."""
        self._stream.write(json.dumps({"step": step, **numbers}) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def rewind(self, step: int) -> None:
        """Forget the lines of `step` and later ones: they will be taken again."""
        self._stream.close()
        if self._board is not None:
            self._board.close()
            self._board = _board(self.path.parent / BOARD, step)
        # The lines of the abandoned steps stay readable beside the file.
        rows = read_metrics(self.path)
        with self.path.with_name("metrics.rolled-back.jsonl").open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows if row["step"] >= step)
        self._replace([row for row in rows if row["step"] < step])
        self._stream = self.path.open("a", encoding="utf-8")

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(self.path)

    def close(self) -> None:
        """Write what is left."""
        self._stream.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of numbers; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def check_tensorboard() -> str:
    """Make sure, before any work, that TensorBoard is installed; its version.

    Raises:
        MissingInput: it is not.
    """
    try:
        import tensorboard
    except ImportError as error:
        raise MissingInput(
            "TensorBoard events need the library tensorboard", where="training.tensorboard", got="no such library",
            expected="tensorboard, or false", fix=INSTALL,
        ) from error  # fmt: skip
    return str(tensorboard.__version__)


def _board(directory: Path, first_step: int) -> Any:
    """A writer of events that makes TensorBoard pass over those of `first_step` and later ones."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory), purge_step=first_step)
