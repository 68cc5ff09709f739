"""Generation: greedy equals the whole sequence again and again, sampling follows its rules, stops stop."""

from __future__ import annotations

import pytest
import torch
from model.pico import KINDS, decoder, domains, logits, tokens

from pedigree.errors import UsageError
from pedigree.model.generation import Sampling, generate, kept_logits, stream


@pytest.mark.parametrize("name", KINDS)
def test_greedy_text_is_what_the_whole_sequence_predicts_each_time(name: str) -> None:
    model = decoder(name)
    prompt = tokens(model, 2, 5)
    domain = None if domains(model, prompt) is None else 1
    text = generate(model, prompt, 6, domain=domain)
    expected = prompt
    for _ in range(6):
        expected = torch.cat([expected, logits(model, expected)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(text, expected)


def test_a_seed_fixes_a_sampled_text() -> None:
    model = decoder("llama-2-7b-pico")
    prompt = tokens(model, 1, 4)
    texts = [generate(model, prompt, 24, sampling=Sampling(temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_a_tiny_nucleus_and_top_one_are_greedy() -> None:
    model = decoder("llama-2-7b-pico")
    prompt = tokens(model, 2, 4)
    greedy = generate(model, prompt, 8)
    for sampling in (Sampling(temperature=1.0, top_k=1), Sampling(temperature=1.0, top_p=1e-6)):
        assert torch.equal(generate(model, prompt, 8, sampling=sampling), greedy)


def test_what_is_kept_is_what_the_rules_say() -> None:
    scores = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    assert kept_logits(scores, Sampling(1.0, top_k=1)).isfinite().tolist() == [[True, False, False, False]]
    assert kept_logits(scores, Sampling(1.0, top_p=0.6)).isfinite().sum() == 2
    assert kept_logits(scores, Sampling(1.0, top_p=0.45)).isfinite().sum() == 1
    assert kept_logits(scores, Sampling(1.0)).isfinite().all()
    assert torch.allclose(kept_logits(scores, Sampling(0.5)).softmax(-1)[0, 0], torch.tensor(0.25 / 0.34))


def test_a_stop_token_ends_its_row_and_all_rows_end_the_text() -> None:
    model = decoder("llama-2-7b-pico")
    prompt = tokens(model, 2, 4)
    free = generate(model, prompt, 12)[:, 4:]
    stop = int(free[0, 2])
    first = {row: free[row].tolist().index(stop) if stop in free[row] else None for row in range(2)}
    text = generate(model, prompt, 12, stop=[stop])[:, 4:]
    assert text[0, : first[0] + 1].tolist() == free[0, : first[0] + 1].tolist()
    assert set(text[0, first[0] :].tolist()) == {stop}
    assert len([*stream(model, prompt[:1], 12, stop=[stop])]) == first[0] + 1


def test_a_stream_gives_each_token_as_it_comes() -> None:
    model = decoder("llama-2-7b-pico")
    prompt = tokens(model, 2, 4)
    steps = stream(model, prompt, 5)
    first = next(steps)
    assert first.shape == (2,)
    assert torch.equal(torch.stack([first, *steps], 1), generate(model, prompt, 5)[:, 4:])


@pytest.mark.parametrize(("setting", "value"), [("temperature", -1.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5)])
def test_impossible_sampling_is_refused(setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=setting):
        Sampling(**{"temperature": 1.0, setting: value})  # type: ignore[arg-type]


def test_an_empty_prompt_and_a_text_beyond_the_table_are_refused_before_the_first_token() -> None:
    model = decoder("pangu-alpha-13b-pico", n_positions=8)
    with pytest.raises(UsageError, match="no tokens"):
        stream(model, torch.empty(1, 0, dtype=torch.long), 3)
    with pytest.raises(UsageError, match="table of positions"):
        stream(model, tokens(model, 1, 6), 4)
    assert generate(model, tokens(model, 1, 6), 3).shape == (1, 9)
