"""What the process does in which lm-evaluation-harness runs; nothing is imported before it is called.

Reads the request that `pedigree.training.harness` wrote, writes the metrics of each task as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path


def work(asked: Path, answer: Path) -> None:
    """Run the tasks of a request and write what came out."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pedigree.model.hf_classes import register

    request = json.loads(asked.read_text(encoding="utf-8"))
    register()
    safe = {"trust_remote_code": False, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(request["model"], use_safetensors=True, **safe)
    tokenizer = AutoTokenizer.from_pretrained(request["model"], **safe)
    found = simple_evaluate(
        model=HFLM(pretrained=model.to(request["device"]).eval(), tokenizer=tokenizer, batch_size=8),
        tasks=request["tasks"],
        task_manager=TaskManager(include_path=request["task_folder"]),
        limit=request["limit"],
        bootstrap_iters=0,
        log_samples=False,
    )
    metrics = {
        task: {name: value for name, value in values.items() if isinstance(value, int | float | str)}
        for task, values in found["results"].items()
    }
    answer.write_text(json.dumps(metrics), encoding="utf-8")
