"""json.tokenizer.caduceus."""

from typing import Any

from case import MismatchError

from chargaff.tokenizers.char import CharTokenizer


def tokenizer(values: dict[str, Any]) -> None:
    limit = values.get("model_max_length")
    hub, finetune = CharTokenizer.standard(model_max_length=limit), CharTokenizer.finetune(limit)
    for case in values.get("hub_tokenizer", []):
        _encoding(hub, case, case["encoding"]["input_ids"])
    for case in values.get("finetune_tokenizer", []):
        _encoding(finetune, case, case["input_ids"])
    for case in values.get("decode", []):
        _same(hub.decode(case["ids"]), case["text"], f"decoding {case['ids']}")
        if "skip_special" in case:
            _same(hub.decode(case["ids"], skip_special=True), case["skip_special"], f"decoding {case['ids']}")
    for case in values.get("special_tokens_mask", []):
        _same(hub.encode_text(case["text"]).special_tokens_mask, case["mask"], f"special tokens of {case['text']!r}")
    facts = {
        "vocab": {token: token_id for token_id, token in enumerate(hub.vocab)},
        "len": len(hub.vocab),
        "special_ids": dict(hub.special_ids),
        "finetune_special_ids": dict(finetune.special_ids),
    }
    for name, found in facts.items():
        _same(found, values.get(name, found), name)
    if "complement_map" in values:
        assert hub.complement is not None
        expected = {int(source): target for source, target in values["complement_map"].items()}
        _same(dict(enumerate(hub.complement.tolist())), expected, "complement map")


def _encoding(tokenizer: CharTokenizer, case: dict[str, Any], expected: object) -> None:
    found = tokenizer.encode_text(case["text"], **case.get("kwargs", {}))
    _same(found.input_ids, expected, f"ids of {case['text']!r} with {case.get('kwargs')}")


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise MismatchError(f"{what}: {found!r}, expected {expected!r}")


KINDS = {"json.tokenizer.caduceus": tokenizer}
