"""Tensor names of the hub files and of the JAX archives (nt sheet 3.4, 3.5)."""

import json
import re
from collections.abc import Sequence
from typing import Any

import torch

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families.haiku import SEGMENTATION_HEAD, read_haiku, segmentation_modules
from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename
from chargaff.families.unet_names import UNET_RULES
from chargaff.tokenizers.kmer import KmerTokenizer

# A bare encoder has no "esm." in front.
_READ_HUB = [
    (r"(?:esm\.)?embeddings\.position_ids", None),  # a buffer of old files
    (r"(?:esm\.)?contact_head\.regression\.(?:weight|bias)", None),  # never trained for DNA
    (r"(?:esm\.)?pooler\.dense\.(?:weight|bias)", None),  # of a bare encoder, never trained
    # follows from the config; newer libraries keep one for all blocks
    (r"(?:esm\.)?(?:encoder\.layer\.\d+\.attention\.self\.)?rotary_embeddings\.inv_freq", None),
    (r"(?:esm\.)?(embeddings|encoder)\.(.*)", r"backbone.\1.\2"),
    (r"(?:lm_head|classifier)\.(.*)", r"head.\1"),
    *UNET_RULES,
]
_WRITE_SEGMENT = [(r"backbone\.(.*)", r"esm.\1"), (r"head\.((?:unet|fc)\..*)", r"\1")]
_WRITE_HUB = [(r"backbone\.(.*)", r"esm.\1"), (r"head\.(.*)", r"lm_head.\1")]
_WRITE_CLASSIFIER = [(r"backbone\.(.*)", r"esm.\1"), (r"head\.(.*)", r"classifier.\1")]
_POSITIONS = "backbone.embeddings.position_embeddings.weight"

_EMBED = {"embeddings": "weight"}
_NORM = {"scale": "weight", "offset": "bias"}
_LINEAR = {"w": "weight", "b": "bias"}
_BLOCK, _OUR_BLOCK = "attention_layer_{i}/~/", "backbone.encoder.layer.{i}."
_JAX_MODULES = [
    ("~/embed", "backbone.embeddings.word_embeddings", _EMBED),
    ("~/esm_learned_positional_embeddings/~/embed", "backbone.embeddings.position_embeddings", _EMBED),
    ("~/emb_layer_norm_before", "backbone.embeddings.layer_norm", _NORM),
    (f"{_BLOCK}mha_layer_norm", f"{_OUR_BLOCK}attention.LayerNorm", _NORM),
    (f"{_BLOCK}mha/query", f"{_OUR_BLOCK}attention.self.query", _LINEAR),
    (f"{_BLOCK}mha/key", f"{_OUR_BLOCK}attention.self.key", _LINEAR),
    (f"{_BLOCK}mha/value", f"{_OUR_BLOCK}attention.self.value", _LINEAR),
    (f"{_BLOCK}mha/mha_output", f"{_OUR_BLOCK}attention.output.dense", _LINEAR),
    (f"{_BLOCK}mha", f"{_OUR_BLOCK}attention.self", {"bias_k": "bias_k", "bias_v": "bias_v"}),
    (f"{_BLOCK}final_layer_norm", f"{_OUR_BLOCK}LayerNorm", _NORM),
    (f"{_BLOCK}fc1", f"{_OUR_BLOCK}intermediate.dense", _LINEAR),
    (f"{_BLOCK}fc2", f"{_OUR_BLOCK}output.dense", _LINEAR),
    ("~/esm_roberta_lm_head/~/emb_layer_norm_after", "backbone.encoder.emb_layer_norm_after", _NORM),
    ("~/esm_roberta_lm_head/~/lm_head_fc_1", "head.dense", _LINEAR),
    ("~/esm_roberta_lm_head/~/lm_head_layer_norm", "head.layer_norm", _NORM),
    ("~/esm_roberta_lm_head/~/lm_final_fc", "head.decoder", {"w": "weight"}),
    ("~/esm_roberta_lm_head/~/lm_final_fc", "head", {"b": "bias"}),
]
"""Module path behind the model's name as in the published archives, our module, names of its parameters."""
_FROM_JAX = {
    f"{path}/{theirs}": f"{ours}.{name}" for path, ours, table in _JAX_MODULES for theirs, name in table.items()
}
_TO_JAX = {ours: theirs for theirs, ours in _FROM_JAX.items()}
_ROOT = "esm_transformer"
_MATRIX = "/w"
"""Ending of what the JAX code keeps as [in, out]."""


def read_hub(state: StateDict, config: NucleotideTransformerConfig) -> StateDict:
    """Hub files -> ours. A file with a classifier loses the language-model head it may still carry."""
    if any(name.startswith("classifier.") for name in state):
        state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head.")}
    ours = rename(state, _READ_HUB)
    if not config.is_learned:
        ours.pop(_POSITIONS, None)  # rotary models store the table of their class, untrained
    _require_version(ours, config)
    return ours


def write_hub(state: StateDict, config: NucleotideTransformerConfig) -> StateDict:
    """Ours -> hub files, with what their code wants to find though it never uses it: zeros, and rotary rates."""
    is_lm = "head.decoder.weight" in state or not any(name.startswith("head.") for name in state)
    is_segment = "head.fc.weight" in state
    _require_hub_model(config, is_segment=is_segment)
    written = rename(state, _WRITE_SEGMENT if is_segment else _WRITE_HUB if is_lm else _WRITE_CLASSIFIER)
    depth, heads, width = config.num_hidden_layers, config.num_attention_heads, config.head_width
    written["esm.contact_head.regression.weight"] = torch.zeros(1, depth * heads)
    written["esm.contact_head.regression.bias"] = torch.zeros(1)
    if config.is_rotary:
        rates = 1.0 / (10_000 ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width))
        for index in range(0 if is_segment else depth):  # SegmentNT's code computes them for every call
            written[f"esm.encoder.layer.{index}.attention.self.rotary_embeddings.inv_freq"] = rates.clone()
        if not config.is_learned:
            shape = config.max_position_embeddings, config.hidden_size
            written["esm.embeddings.position_embeddings.weight"] = torch.zeros(shape)
    return written


def read_jax(state: StateDict, config: NucleotideTransformerConfig) -> StateDict:
    """`<module path>/<parameter>` -> ours; the model's name in front and both spellings of the modules are accepted.

    Raises:
        CheckpointError: names of another tree.
    """
    segmentation = segmentation_modules(config.unet_levels, config.num_layers_head)
    unet = {
        name: tensor for name, tensor in state.items() if SEGMENTATION_HEAD in name or re.match(r"[^/]*/~/fc/", name)
    }
    ours = read_haiku(unet, segmentation)
    unknown = []
    for name, tensor in state.items():
        if name in unet:
            continue
        template, index = _jax_template(name)
        if template not in _FROM_JAX:
            unknown.append(name)
            continue
        ours[_FROM_JAX[template].format(i=index)] = tensor.t() if name.endswith(_MATRIX) else tensor
    if unknown:
        raise CheckpointError(f"{len(unknown)} tensor names are not of this layout: {', '.join(sorted(unknown)[:5])}")
    _require_version(ours, config)
    return ours


def write_jax(state: StateDict, config: NucleotideTransformerConfig) -> StateDict:
    """Ours -> the names of the published archives.

    Raises:
        CheckpointError: a tensor that has no place there, such as a classifier's.
    """
    written: StateDict = {}
    for name, tensor in state.items():
        match = re.search(r"\.layer\.(\d+)\.", name)
        template = name if match is None else name.replace(match[0], ".layer.{i}.", 1)
        if template not in _TO_JAX:
            raise CheckpointError(f"the JAX tree has no place for {name!r}")
        path = f"{_ROOT}/" + _TO_JAX[template].format(i="" if match is None else match[1])
        written[path] = tensor.t().contiguous() if path.endswith(_MATRIX) else tensor
    return written


def _jax_template(name: str) -> tuple[str, str]:
    """A published name without the model's in front, in the spelling of the archives, and the number of its block."""
    path = name.partition("/")[2].replace("/self_attention", "/mha").replace("/roberta_lm_head", "/esm_roberta_lm_head")
    match = re.match(r"attention_layer_(\d+)/", path)
    if match is None:
        return path, ""
    return "attention_layer_{i}/" + path[match.end() :], match[1]


def _require_version(state: StateDict, config: NucleotideTransformerConfig) -> None:
    """The tensors are of the version that the config describes; v1 and v2 differ in the feed-forward part."""
    wide = config.intermediate_size
    rows = {
        name: tensor.shape[0]
        for name, tensor in state.items()
        if re.fullmatch(r"backbone\.encoder\.layer\.\d+\.intermediate\.dense\.weight", name) and tensor.dim() == 2
    }
    found = {size: [name for name, number in rows.items() if number == size] for size in set(rows.values())}
    if set(found) == {wide, 2 * wide}:
        raise CheckpointError(
            f"v1 and v2 are mixed: {found[wide][0]} has {wide} rows (v1, plain), {found[2 * wide][0]} {2 * wide} "
            "(v2, gated); get the files of one repository"
        )
    expected = wide * (2 if config.use_glu_in_ffn else 1)
    if found and set(found) <= {wide, 2 * wide} and expected not in found:
        theirs, ours = ("v1 (plain", "v2 (gated") if config.use_glu_in_ffn else ("v2 (gated", "v1 (plain")
        raise CheckpointError(
            f"the config describes {ours} feed-forward part of {expected} rows), but the tensors are of {theirs}, "
            f"{next(iter(found))} rows): config and weights of different repositories; get both from one"
        )
    embedding = state.get("backbone.embeddings.word_embeddings.weight")
    if embedding is not None and embedding.dim() == 2 and embedding.shape[0] != config.vocab_size:
        raise CheckpointError(
            f"the config describes a vocabulary of {config.vocab_size} tokens, but the embedding has "
            f"{embedding.shape[0]} rows (v1 6-mers: 4105, v2: 4107); get config and weights from one repository"
        )


def _require_hub_model(config: NucleotideTransformerConfig, *, is_segment: bool) -> None:
    """The hub's code knows two kinds of models; a file it would read as another one is not written."""
    fixed: dict[str, tuple[Any, Any]] = {
        "embed_scale": (config.embed_scale, 1.0),
        "add_bias_kv": (config.add_bias_kv, False),
        "pre_layer_norm": (config.pre_layer_norm, True),
        "rescaling_factor": (None if is_segment else config.rescaling_factor, None),
        "unet_levels": (config.unet_levels, 2),
        "head width": (config.head_width * config.num_attention_heads, config.hidden_size),
        "position_embedding_type": (config.position_embedding_type in ("absolute", "rotary"), True),
        "ffn_activation": (
            config.ffn_activation in (("swish", "silu") if config.use_glu_in_ffn else ("gelu-no-approx",)),
            True,
        ),
        "mask_ratio_train": (round(config.mask_ratio_train, 9) if config.token_dropout else 0.12, 0.12),
    }
    for name, (found, needed) in fixed.items():
        if found != needed:
            raise ConfigError(f"layout 'hub': its code cannot express {name} of this model ({found!r})")


_ARCHITECTURES = {
    "lm": "EsmForMaskedLM",
    "sequence": "EsmForSequenceClassification",
    "token": "EsmForTokenClassification",
    "segmentation": "SegmentNT",
    "none": "EsmModel",
}


def hub_files(
    config: NucleotideTransformerConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """config.json and the tokenizer files as the hub repositories hold them (sheet 1.3)."""
    if head not in _ARCHITECTURES:
        raise ConfigError(f"head: the published layout has {', '.join(_ARCHITECTURES)}, got {head!r}")
    is_segment = head == "segmentation"
    _require_hub_model(config, is_segment=is_segment)
    values: dict[str, Any] = {
        "add_bias_fnn": config.add_bias_fnn,
        "architectures": [_ARCHITECTURES[head]],
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "emb_layer_norm_before": config.emb_layer_norm_before,
        "esmfold_config": None,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "is_folding_model": False,
        "layer_norm_eps": config.layer_norm_eps,
        "mask_token_id": config.mask_token_id,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "esm",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": config.pad_token_id,
        "position_embedding_type": config.position_embedding_type,
        "tie_word_embeddings": False,
        "token_dropout": config.token_dropout,
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_list": None,
        "vocab_size": config.vocab_size,
    }
    if is_segment:
        code = {"AutoConfig": "segment_nt_config.SegmentNTConfig", "AutoModel": "modeling_segment_nt.SegmentNT"}
        facts = {"rescaling_factor": config.rescaling_factor, "num_layers_head": config.num_layers_head}
        values |= {"auto_map": code, "features": list(labels), **facts}
    elif config.use_glu_in_ffn:  # transformers has no such model; its own code comes with the published repositories
        names = {"MaskedLM": "lm", "TokenClassification": "token", "SequenceClassification": "sequence"}
        classes = {f"AutoModelFor{name}": f"modeling_esm.{_ARCHITECTURES[kind]}" for name, kind in names.items()}
        values["auto_map"] = {"AutoConfig": "esm_config.EsmConfig", **classes}
    else:
        del values["add_bias_fnn"]
    if head in ("sequence", "token"):
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    tokenizer = KmerTokenizer.for_vocabulary(config.vocab_size)
    return {
        "config.json": json.dumps(values, indent=2, sort_keys=True) + "\n",
        **tokenizer.published_files(model_max_length=config.max_tokens),
    }


def jax_files(
    config: NucleotideTransformerConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """hyperparams.json as the JAX archives hold it (sheet 1.5); what follows from their code is left out."""
    if head != "lm":
        raise ConfigError(f"head: the JAX layout holds a language model with its head, this model's head is {head!r}")
    values: dict[str, Any] = {
        "k_for_kmers": KmerTokenizer.for_vocabulary(config.vocab_size).k,
        "max_positions": config.max_tokens,
        "embed_scale": config.embed_scale,
        "emb_layer_norm_before": config.emb_layer_norm_before,
        "attention_heads": config.num_attention_heads,
        "key_dim": config.key_size,
        "embed_dim": config.hidden_size,
        "ffn_embed_dim": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "positional_embedding": "learned" if config.is_learned else None,
        "use_rotary_embedding": config.is_rotary,
        "rescaling_factor": config.rescaling_factor,
        "add_bias_kv": config.add_bias_kv,
        "add_bias_ffn": config.add_bias_fnn,
        "use_glu_in_ffn": config.use_glu_in_ffn,
        "ffn_activation_name": config.ffn_activation,
        "pre_layer_norm": config.pre_layer_norm,
        "token_dropout": config.token_dropout,
        "masking_ratio": round(config.mask_ratio_train / 0.8, 12),
        "masking_prob": 0.8,  # only the product of the two counts
    }
    facts = {"layer_norm_eps": config.layer_norm_eps, "vocab_size": config.vocab_size}
    implied = NucleotideTransformerConfig.from_json(values)
    values |= {key: value for key, value in facts.items() if value != getattr(implied, key)}  # ignored by their code
    return {"hyperparams.json": json.dumps(values, indent=1) + "\n"}


LAYOUTS = {"hub": Layout(read_hub, write_hub), "jax": Layout(read_jax, write_jax, files=jax_files, archive="joblib")}
