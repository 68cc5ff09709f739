"""Real files by other people: the readers against the libraries that wrote them. Skips where the data are absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from weight_examples import same

from pedigree.errors import MalformedFile, PedigreeError, UnsafeFile
from pedigree.weights.checkpoint import open_checkpoint


def test_a_real_llama_directory_is_read_as_the_library_reads_it(shared_data: Path) -> None:
    folder = shared_data / "weights/llama2c-hf/stories260K"
    expected = load_file(folder / "model.safetensors")
    with open_checkpoint(folder) as ck:
        assert ck.config is not None
        assert ck.config["model_type"] == "llama"
        assert set(ck.tensors) == set(expected)
        assert all(same(ck.read(name), tensor) for name, tensor in expected.items())
        assert ck.notes == ()


@pytest.mark.parametrize(
    "name",
    [
        "char-gpt-finetune/gpt_pretrained.pt",
        "char-gpt-finetune/gpt_finetuned.pt",
        "clock-and-pizza/model_2fsoiei4o2.pt",
        "clock-and-pizza/model_18c9ev5v5p.pt",
    ],
)
def test_real_torch_files_are_read_as_torch_reads_them(shared_data: Path, name: str) -> None:
    path = shared_data / "weights" / name
    content = torch.load(path, weights_only=True, map_location="cpu")
    expected = content.get("model_state_dict", content)
    with open_checkpoint(path, allow_pickle=True) as ck:
        assert set(ck.tensors) == set(expected)
        for key, tensor in expected.items():
            assert same(ck.read(key), tensor.contiguous())
            if tensor.dim() and len(tensor) > 1:
                assert same(ck.read_rows(key, 1, 2), tensor[1:2].contiguous())


class StandIn:
    """In the place of a class that torch would otherwise refuse to name."""

    def __setstate__(self, state: object) -> None:
        """Takes anything and keeps nothing."""


@pytest.mark.parametrize(
    ("name", "owner"),
    [("gpt", "__main__"), ("gpt_rope", "gpt"), ("gpt_rope_gqa", "__main__"), ("gpt_rope_mqa", "transformer.gpt")],
)
def test_real_files_with_a_tokenizer_object_beside_the_weights_are_read_without_it(
    shared_data: Path, name: str, owner: str
) -> None:
    path = shared_data / f"weights/char-gpt-variants/{name}.pt"
    with torch.serialization.safe_globals([(StandIn, f"{owner}.CharTokenizer")]):
        expected = torch.load(path, weights_only=True, map_location="cpu")["model"]
    with open_checkpoint(path, allow_pickle=True) as ck:
        assert f"{owner}.CharTokenizer stand beside the tensors and were left unread" in ck.notes[-1]
        assert set(ck.tensors) == set(expected)
        for key, tensor in expected.items():
            assert same(ck.read(key), tensor.contiguous())


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("malformed/corrupt-ufffd.bert-bge.gguf", MalformedFile, "key 5"),
        ("malformed/dsp-dr.nanogpt.gguf", MalformedFile, "tensor 1"),
        ("malformed/dsp-dr.nanogpt.pth", UnsafeFile, "GPTConfig"),
        ("weights/llama2c-hf/plctlab.stories260K.bin", MalformedFile, "not a torch archive"),
    ],
)
def test_files_damaged_in_the_wild_are_refused_with_a_reason(
    shared_data: Path, name: str, kind: type[PedigreeError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        open_checkpoint(shared_data / name, allow_pickle=True)


@pytest.mark.parametrize(("name", "n_tokens"), [("ggml-vocab-llama-spm", 32_000), ("ggml-vocab-deepseek-llm", 102_400)])
def test_real_gguf_vocabularies_are_read(shared_data: Path, name: str, n_tokens: int) -> None:
    with open_checkpoint(shared_data / "tokenizers" / name / f"{name}.gguf") as ck:
        assert len(ck.metadata["tokenizer.ggml.tokens"]) == n_tokens
        assert ck.config is not None
        assert ck.config["vocab_size"] == n_tokens
        assert ck.config["model_type"] == "llama"
        assert not ck.tensors
