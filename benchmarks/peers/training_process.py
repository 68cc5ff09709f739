"""One training loop in a process of its own, a few steps at a time when told to: its speed and memory are its own.

    python benchmarks/peers/training_process.py LOOP SHAPE.json

SHAPE.json holds the shape, the precision, the threads and the file of token ids. Reads a number of steps from a line of
stdin, takes them, answers with one line of JSON: wall and processor seconds of each step, the last loss, the most
memory held so far. The end of stdin ends it. Imports what its loop needs and no more: litgpt lives in its own
environment, without pedigree.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_ANSWERS = sys.stdout
Shape = dict[str, Any]


class Orders:
    """Steps that are asked for, and their costs."""

    def __init__(self) -> None:
        self.left = 0
        self.costs: list[tuple[float, float]] = []
        self._begin = (0.0, 0.0)

    def wait(self) -> None:
        """Wait for the next order, where none is left; ends the process with stdin."""
        if not self.left:
            line = sys.stdin.readline()
            if not line.strip():
                sys.exit(0)
            self.left = int(line)
            self.costs = []
        self._begin = (time.perf_counter(), time.process_time())

    def done(self, loss: float) -> None:
        """Note the end of a step; after the last one, answer."""
        wall, processor = self._begin
        self.costs.append((time.perf_counter() - wall, time.process_time() - processor))
        self.left -= 1
        if not self.left:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"costs": self.costs, "loss": loss, "peak_bytes": peak}), file=_ANSWERS, flush=True)


def windows(shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """Random windows of the corpus, tokens and targets."""
    ids, length, generator = np.load(shape["ids"], mmap_mode="r"), shape["length"], np.random.default_rng(0)
    while True:
        starts = generator.integers(0, len(ids) - length - 1, size=shape["batch"])
        window = torch.from_numpy(np.stack([ids[s : s + length + 1] for s in starts]).astype(np.int64))
        yield window[:, :-1].contiguous(), window[:, 1:].contiguous()


def plain(shape: Shape, orders: Orders) -> None:
    """A dozen lines, as nanoGPT has them: whole logits, fused AdamW, clipping."""
    from plain_decoder import PlainDecoder

    _loop(PlainDecoder(shape), shape, orders)


def _loop(model: nn.Module, shape: Shape, orders: Orders) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for tokens, targets in windows(shape):
        orders.wait()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=shape["precision"] == "bf16"):
            logits = model(tokens)
            loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        orders.done(loss.item())


def trainer(shape: Shape, orders: Orders) -> None:
    """transformers' Trainer with its defaults, and its Llama or Mixtral."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    sizes: dict[str, Any] = {
        "vocab_size": shape["vocabulary"], "hidden_size": shape["width"], "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"], "num_key_value_heads": shape["heads"],
        "max_position_embeddings": shape["length"], "bos_token_id": None, "eos_token_id": None, "use_cache": False,
    }  # fmt: skip
    model: nn.Module
    if shape["experts"]:
        config = MixtralConfig(
            **sizes, intermediate_size=shape["inner"], num_local_experts=shape["experts"],
            num_experts_per_tok=shape["chosen"], output_router_logits=True,
        )  # fmt: skip
        model = MixtralForCausalLM._from_config(config, experts_implementation=shape["implementation"])
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=shape["inner"]))

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        """Windows by number; the model itself shifts the labels."""

        def __init__(self) -> None:
            self.ids = np.load(shape["ids"], mmap_mode="r")

        def __len__(self) -> int:
            return (len(self.ids) - 1) // int(shape["length"])

        def __getitem__(self, n: int) -> dict[str, Tensor]:
            start = n * shape["length"]
            row = torch.from_numpy(self.ids[start : start + shape["length"]].astype(np.int64))
            return {"input_ids": row, "labels": row}

    class Turns(TrainerCallback):  # type: ignore[misc]
        """Holds the Trainer until steps are asked for; everything between two steps counts."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not orders.left:
                orders.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            orders.done(0.0)
            if orders.left:
                orders.wait()

    arguments = TrainingArguments(
        output_dir=str(Path(shape["ids"]).parent / "trainer"), use_cpu=True, bf16=shape["precision"] == "bf16",
        per_device_train_batch_size=shape["batch"], max_steps=10**6, learning_rate=1e-3, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Turns()]).train()


def litgpt(shape: Shape, orders: Orders) -> None:
    """The inner loop of `litgpt pretrain`: its GPT, its chunked cross entropy, Fabric; compiled by default."""
    import lightning
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    heads = shape["heads"]
    config = Config(
        block_size=shape["length"], vocab_size=shape["vocabulary"], padded_vocab_size=shape["vocabulary"],
        n_layer=shape["layers"], n_head=heads, n_embd=shape["width"], n_query_groups=heads, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=shape["inner"],
    )  # fmt: skip
    precision = "bf16-mixed" if shape["precision"] == "bf16" else "32-true"
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    model: Any = torch.compile(GPT(config)) if shape["compiled"] else GPT(config)
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=False)
    optimizer = fabric.setup_optimizers(optimizer)
    for tokens, targets in windows(shape):
        orders.wait()
        loss = chunked_cross_entropy(model(tokens), targets)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        orders.done(loss.item())


def pedigree(shape: Shape, orders: Orders) -> None:
    """Whole steps of `pedigree train`, the guard with all its rules included."""
    from pedigree.model.config import ModelConfig
    from pedigree.model.decoder import Decoder
    from pedigree.records.recorder import NullRecorder
    from pedigree.training.config import TrainingConfig
    from pedigree.training.fit import ModelFacts
    from pedigree.training.run import Run
    from pedigree.training.shards import Vocabulary

    place = Path(shape["ids"]).parent
    settings = TrainingConfig.model_validate(shape["settings"])
    run = Run(
        Decoder(ModelConfig.model_validate(shape["config"])), ModelFacts({}, shape["vocabulary"]), settings,
        Vocabulary.load(place / "tokenizer.json"), output=place / f"run-{shape['name']}", cache=place / "tokens",
        recorder=NullRecorder(), device=torch.device("cpu"),
    )  # fmt: skip
    while True:
        orders.wait()
        run.step()
        orders.done(0.0)


LOOPS = {"pedigree": pedigree, "plain": plain, "trainer": trainer, "litgpt": litgpt}


def main() -> int:
    """Run the loop that the command line names."""
    shape: Shape = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    sys.stdout = sys.stderr  # what a loop says is no answer
    torch.set_num_threads(shape["threads"])
    torch.manual_seed(0)
    LOOPS[sys.argv[1]](shape, Orders())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
