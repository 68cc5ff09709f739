"""Classes for transformers, for the types that it has none for: our decoder behind its interfaces.

    import pedigree.model.hf_classes as ours; ours.register()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)

transformers is imported when `register` or `classes` is called, not before. Loading goes through
`pedigree.model.hf_checkpoint`, saving too, so the files are the same as those of an export.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from pedigree.errors import MissingInput
from pedigree.model.context import runs_of
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
from pedigree.model.hf_config import DIALECTS, choose_dialect, config_from_hf, config_to_hf


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingInput(
            "transformers is not installed", where="pedigree.model.hf_classes", fix="pip install 'llm-pedigree[hf]'"
        ) from error
    return transformers


@cache
def classes() -> dict[str, tuple[type[Any], type[Any]]]:
    """Config and model class for each model type that transformers has none for.

    Raises:
        MissingInput: transformers is not installed.
    """
    transformers = _transformers()
    made = {}
    for model_type, dialect in DIALECTS.items():
        if not dialect.native:
            name = dialect.architecture.removesuffix("ForCausalLM")
            config_class = type(f"{name}Config", (transformers.PretrainedConfig,), {"model_type": model_type})
            model_class = type(
                dialect.architecture, (_model_base(),), {"config_class": config_class, "dialect": model_type}
            )
            made[model_type] = (config_class, model_class)
    return made


def register() -> None:
    """Tell AutoConfig and AutoModelForCausalLM our types; a second call changes nothing.

    Raises:
        MissingInput: transformers is not installed.
    """
    transformers = _transformers()
    for model_type, (config_class, model_class) in classes().items():
        transformers.AutoConfig.register(model_type, config_class, exist_ok=True)
        transformers.AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)


def wrapped(model: Decoder) -> Any:
    """A decoder as a model of transformers, in the first of our own types that fits; weights are shared, not copied.

    Raises:
        MissingInput: transformers is not installed.
    """
    own = [name for name in classes() if not [*DIALECTS[name].reasons(model.config)]]
    config_class, model_class = classes()[own[0]]
    keys = config_to_hf(model.config, choose_dialect(model.config, own[0]))
    return model_class(config_class(**keys), decoder=model)


@cache
def _model_base() -> type[Any]:
    """The common base of our model classes."""
    transformers = _transformers()
    from transformers.modeling_outputs import CausalLMOutputWithPast

    pretrained: Any = transformers.PreTrainedModel
    generation: Any = transformers.GenerationMixin

    class PedigreeModel(pretrained, generation):  # type: ignore[misc]
        """A decoder of ours behind the interface of transformers."""

        main_input_name = "input_ids"
        _supports_cache_class = False
        dialect = ""

        def __init__(self, config: Any, decoder: Decoder | None = None) -> None:
            super().__init__(config)
            own, _ = config_from_hf(config.to_dict())
            self.decoder = Decoder(own) if decoder is None else decoder
            config.use_cache = False

        @classmethod
        def from_pretrained(cls, location: str | os.PathLike[str], *_args: Any, **options: Any) -> Any:
            """The model in a directory; of the options only dtype, config and output_loading_info are heard."""
            dtype = options.get("dtype", options.get("torch_dtype"))
            decoder = import_checkpoint(location, dtype=None if dtype in (None, "auto") else dtype)
            config = options.get("config") or cls.config_class.from_pretrained(location)
            model = cls(config, decoder=decoder).eval()
            if not options.get("output_loading_info"):
                return model
            # A checkpoint that lacks a tensor, or has one of another shape or beyond the model, was refused above.
            return model, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}

        def save_pretrained(self, save_directory: str | os.PathLike[str], **_options: Any) -> None:
            """Write the model as an export writes it; an earlier one is replaced, as transformers does."""
            export_checkpoint(self.decoder, save_directory, dialect=self.dialect, force=True)

        def get_input_embeddings(self) -> Any:
            """The embedding table."""
            return self.decoder.embed

        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None, **_ignored: Any) -> Any:
            """Logits; with labels (not shifted, as is usual there) the loss too."""
            documents = None
            if attention_mask is not None and not bool(attention_mask.all()):
                documents = runs_of(attention_mask)
            targets = None
            if labels is not None:
                targets = labels.new_full(labels.shape, -100)
                targets[:, :-1] = labels[:, 1:]
            out = self.decoder(input_ids, targets_BT=targets, document_BT=documents, return_logits=True)
            return CausalLMOutputWithPast(loss=out.loss, logits=out.logits)

        def prepare_inputs_for_generation(
            self, input_ids: Any, attention_mask: Any = None, **_ignored: Any
        ) -> dict[str, Any]:
            """The whole sequence each time: our own `pedigree.model.generation` has the cache."""
            return {"input_ids": input_ids, "attention_mask": attention_mask}

    return PedigreeModel
