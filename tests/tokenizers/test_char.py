"""Character tokenizers: the published cases, the rules behind them, and what the array path promises."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.seq.alphabet import reverse_complement, to_array
from chargaff.tokenizers.char import CharTokenizer
from chargaff.tokenizers.protocol import Tokenizer
from tests.conftest import shared_data

GOLDENS = Path(__file__).parents[1] / "goldens/data/caduceus"
CASES = json.loads((GOLDENS / "tokenizer_cases.json").read_text())
HUB = CharTokenizer.standard(model_max_length=CASES["model_max_length"])
FINETUNE = CharTokenizer.finetune(CASES["model_max_length"])
ALL = [HUB, FINETUNE, CharTokenizer.hyenadna(), CharTokenizer.hyenadna("standalone"), CharTokenizer.plant_caduceus()]

pieces = st.sampled_from([*"ACGTNacgtnRU- \n", "[MASK]", "[PAD]", "[RESERVED]", "[mask]", "ß", "é"])
texts = st.lists(pieces, max_size=30).map("".join)


def name_of(case):
    return f"{case['text']}-{case['kwargs']}"


@pytest.mark.parametrize("case", CASES["hub_tokenizer"], ids=name_of)
def test_published_cases_of_the_hub_tokenizer(case):
    assert HUB.encode_text(case["text"], **case["kwargs"]).input_ids == case["encoding"]["input_ids"]


@pytest.mark.parametrize("case", CASES["finetune_tokenizer"], ids=name_of)
def test_published_cases_of_the_finetuning_tokenizer(case):
    assert FINETUNE.encode_text(case["text"], **case["kwargs"]).input_ids == case["input_ids"]


def test_published_vocabulary_special_ids_and_complements():
    assert {token: i for i, token in enumerate(HUB.vocab)} == CASES["vocab"]
    assert HUB.special_ids == CASES["special_ids"]
    assert FINETUNE.special_ids == CASES["finetune_special_ids"]
    assert {str(i): int(c) for i, c in enumerate(HUB.complement)} == CASES["complement_map"]
    for case in CASES["special_tokens_mask"]:
        assert HUB.encode_text(case["text"]).special_tokens_mask == case["mask"]


@pytest.mark.parametrize("case", CASES["decode"], ids=lambda case: case["text"])
def test_published_decodings(case):
    assert HUB.decode(case["ids"]) == case["text"]
    assert HUB.decode(np.array(case["ids"]), skip_special=True) == case["skip_special"]


def test_hyenadna_cases():
    cases = json.loads(shared_data("goldens/hyenadna/tokenizer.json").read_text())["cases"]
    for case in cases:
        side, limit = case.get("padding_side", "left"), case.get("model_max_length")
        tokenizer = CharTokenizer.hyenadna(case["flavor"], padding_side=side, model_max_length=limit)
        if "decode" in case:
            skip = case.get("skip_special_tokens", False)
            assert tokenizer.decode(case["decode"], skip_special=skip) == case["text"]
            continue
        options = {name: value for name, value in case["options"].items() if name != "pair"}
        texts = case["text"] if case["options"].get("pair") else [case["text"]]
        found = tokenizer.encode_text(*texts, **options)
        assert found.input_ids == case["input_ids"], case
        assert found.attention_mask == case.get("attention_mask", found.attention_mask), case


def test_xlstm_cases():
    golden = json.loads(shared_data("goldens/xlstm/tokenizer.json").read_text())
    tokenizers = {"pretraining (uppercasing)": CharTokenizer.standard(), "downstream (case sensitive)": FINETUNE}
    for name, tokenizer in tokenizers.items():
        for text, case in golden[name].items():
            assert tokenizer.encode_text(text).input_ids == case["special"]
            assert tokenizer.encode_text(text, add_special_tokens=False).input_ids == case["no_special"]
            padded = {"add_special_tokens": False, "padding": "max_length", "max_length": 8, "truncation": True}
            assert tokenizer.encode_text(text, **padded).input_ids == case["padded_to_8"]


@pytest.mark.parametrize(
    ("tokenizer", "text", "pair", "kwargs", "expected"),
    [
        (HUB, "ACG", "TT", {}, [7, 8, 9, 1, 10, 10, 1]),
        (FINETUNE, "ACG", "TT", {}, [0, 7, 8, 9, 1, 10, 10, 1]),
        (HUB, "ac[MASK]gt[SEP]", None, {}, [7, 8, 3, 9, 10, 1, 1]),
        (HUB, "a[mask]c", None, {"add_special_tokens": False}, [7, 6, 6, 7, 6, 6, 6, 8]),
        (HUB, "A[RESERVED]", None, {"add_special_tokens": False}, [7, *[6] * 10]),
        (HUB, "ACGTA", None, {"max_length": 4}, [7, 8, 9, 1]),
        (HUB, "ACGTA", None, {"max_length": 4, "truncation": False}, [7, 8, 9, 10, 7, 1]),
        (HUB, "ACGTA", None, {"max_length": 4, "padding": True}, [7, 8, 9, 10, 7, 1]),
        (HUB, "A" * 40, None, {"truncation": True}, [*[7] * 31, 1]),
        (HUB, "A", None, {"padding": "max_length"}, [*[4] * 30, 7, 1]),
        (HUB, "A", None, {"padding": True, "pad_to_multiple_of": 4}, [4, 4, 7, 1]),
        (HUB, "AAAA", "CC", {"max_length": 6, "truncation": True}, [7, 7, 1, 8, 8, 1]),
        (HUB, "AAAA", "CCCC", {"max_length": 5, "truncation": True}, [7, 7, 1, 8, 1]),
        (HUB, "AAAA", "CCCC", {"max_length": 7, "truncation": "only_first"}, [7, 1, 8, 8, 8, 8, 1]),
        (HUB, "AAAA", "CCCC", {"max_length": 7, "truncation": "only_second"}, [7, 7, 7, 7, 1, 8, 1]),
        # a text that would lose everything is left whole, as the published tokenizers do
        (HUB, "ACGT", None, {"max_length": 1, "truncation": True}, [7, 8, 9, 10, 1]),
        (HUB, "", None, {"add_special_tokens": False, "padding": "max_length", "max_length": 3}, []),
        (HUB, [""], None, {"add_special_tokens": False, "padding": "max_length", "max_length": 3}, [[4, 4, 4]]),
        (HUB, [], None, {"padding": True}, []),
        (
            CharTokenizer.plant_caduceus(),
            "ACGTN[MASK]",
            None,
            {"padding": "max_length", "max_length": 8},
            [3, 4, 5, 6, 2, 1, 0, 0],
        ),
        (HUB.standard(n_as_pad=True), "ACNnG", None, {"add_special_tokens": False}, [7, 8, 4, 4, 9]),
    ],
)
def test_rules_of_text_calls(tokenizer, text, pair, kwargs, expected):
    found = tokenizer.encode_text(text, pair, **kwargs)
    assert found.input_ids == expected


def test_masks_mark_padding_and_added_tokens():
    found = HUB.encode_text(["ACGT", "A[SEP]"], padding=True)
    assert found.input_ids == [[7, 8, 9, 10, 1], [4, 4, 7, 1, 1]]
    assert found.attention_mask == [[1] * 5, [0, 0, 1, 1, 1]]
    assert found.special_tokens_mask == [[0, 0, 0, 0, 1], [1, 1, 0, 0, 1]]


@given(texts)
def test_texts_without_special_tokens_encode_as_their_bytes_do(text):
    plain = text.replace("[", "").replace("ß", "").replace("é", "")
    for tokenizer in ALL:
        for special in (True, False):
            from_text = tokenizer.encode_text(plain, add_special_tokens=special).input_ids
            assert tokenizer.encode(to_array(plain), special=special).tolist() == from_text


@given(texts)
def test_every_character_becomes_one_token(text):
    """After upper-casing, and after special tokens with a role are taken out whole."""
    expected = []
    for piece in re.split(r"(\[(?:CLS|SEP|BOS|MASK|PAD|UNK)\])", text):
        expected += [piece] if piece.startswith("[") and piece in CASES["vocab"] else list(piece.upper())
    if "[RESERVED]" not in text:
        ids = [CASES["vocab"].get(token, 6) for token in expected]
        assert HUB.encode_text(text, add_special_tokens=False).input_ids == ids


@given(st.text("ACGTNacgtn", max_size=50))
def test_complement_of_ids_is_the_id_of_the_reverse_complement(text):
    seq = to_array(text)
    ids = HUB.encode(seq, special=False)
    assert np.array_equal(HUB.complement[ids][::-1], HUB.encode(reverse_complement(seq), special=False))


@given(st.text("ACGTN", max_size=50))
def test_decoding_undoes_encoding(text):
    for tokenizer in ALL[:4]:
        assert tokenizer.decode(tokenizer.encode(to_array(text)), skip_special=True) == text


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: t.published_as and t.published_as[1])
def test_bases_covered_by_tokens_add_up_to_the_sequence(tokenizer):
    seq = to_array("ACGTNXacgtn-")
    assert tokenizer.token_bp[tokenizer.encode(seq)].sum() == seq.size
    assert tokenizer.token_bp[tokenizer.pad_id] == 0


def test_n_as_pad_still_covers_its_base():
    tokenizer = CharTokenizer.standard(n_as_pad=True)
    ids = tokenizer.encode(to_array("ANnC"))
    assert ids.tolist() == [7, 4, 4, 8, 1]
    assert tokenizer.token_bp[ids].tolist() == [1, 1, 1, 1, 0]


def test_arrays_of_windows_encode_row_by_row():
    rows = np.stack([to_array("ACGT"), to_array("NNAA")])
    assert HUB.encode(rows).tolist() == [[7, 8, 9, 10, 1], [11, 11, 7, 7, 1]]
    assert FINETUNE.encode(rows)[:, 0].tolist() == [0, 0]
    assert HUB.encode(rows[:, ::2], special=False).tolist() == [[7, 9], [11, 7]]
    assert HUB.encode(rows, special=False).dtype == np.uint8
    assert HUB.encode(np.zeros((0, 4), np.uint8)).shape == (0, 5)
    assert HUB.encode(to_array("")).tolist() == [1]


def test_it_is_a_tokenizer():
    tokenizer: Tokenizer = CharTokenizer.standard()
    assert (tokenizer.pad_id, tokenizer.mask_id) == (4, 3)
    assert CharTokenizer.plant_caduceus().mask_id == 1
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer


@pytest.mark.parametrize("folder", ["hub_ps_tiny", "hub_ph_tiny"])
def test_published_tokenizer_files_are_read_and_written(folder):
    files = {path.name: path.read_text() for path in (GOLDENS / folder).glob("*.json")}
    tokenizer = CharTokenizer.from_published(files)
    assert tokenizer == CharTokenizer.standard(model_max_length=64)
    written = tokenizer.published_files()
    assert written["special_tokens_map.json"] == files["special_tokens_map.json"]
    assert json.loads(written["tokenizer_config.json"]) == json.loads(files["tokenizer_config.json"])
    assert CharTokenizer.from_published(written) == tokenizer


@pytest.mark.parametrize(("length", "size"), [(131072, 1485), (1024, 1483)])
def test_tokenizer_config_has_the_size_of_the_hub_files(length, size):
    """Sheet 1.1: the published files have 1485 and 1483 bytes."""
    assert len(HUB.published_files(model_max_length=length)["tokenizer_config.json"].encode()) == size


def test_a_real_hyenadna_tokenizer_config_is_read():
    text = shared_data("data/hyenadna_tiny_finetuned/tokenizer_config.json").read_text()
    tokenizer = CharTokenizer.from_published({"tokenizer_config.json": text})
    assert tokenizer == CharTokenizer.hyenadna(model_max_length=1026)


def changed(**values):
    config = json.loads(HUB.published_files()["tokenizer_config.json"]) | values
    return {"tokenizer_config.json": json.dumps(config)}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no tokenizer_config.json"),
        ({"tokenizer_config.json": "ACGT"}, "is no JSON"),
        ({"tokenizer_config.json": "[]"}, "expected a JSON object, found list"),
        (changed(tokenizer_class="BertTokenizer"), "CaduceusTokenizer or HyenaDNATokenizer, got 'BertTokenizer'"),
        (changed(added_tokens_decoder={"3": {"content": "[PAD]"}}), r"token 3 is '\[PAD\]'"),
        (changed(added_tokens_decoder={"99": {"content": "[X]"}}), r"token 99 is '\[X\]'"),
        (changed(eos_token="[PAD]"), r"eos_token is '\[PAD\]', expected '\[SEP\]'"),
        ({**changed(), "special_tokens_map.json": '{"pad_token": "N"}'}, "special_tokens_map.json: pad_token is 'N'"),
    ],
)
def test_tokenizer_files_that_do_not_fit_are_explained(files, words):
    with pytest.raises(CheckpointError, match=words):
        CharTokenizer.from_published(files)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: CharTokenizer(letters="AA"), ConfigError, "different ASCII letters"),
        (
            lambda: CharTokenizer(letters="acgt", complements="tgca"),
            ConfigError,
            "never occur when input is made upper",
        ),
        (lambda: CharTokenizer(complements="TGCAX"), ConfigError, "in some order, got 'TGCAX'"),
        (lambda: CharTokenizer(special_tokens=("[PAD]",)), ConfigError, r"'\[UNK\]' is missing"),
        (lambda: CharTokenizer(letters="ACGT", complements="TGCA", n_as_pad=True), ConfigError, "have no N"),
        (lambda: FINETUNE.published_files(), ConfigError, "without a published class"),
        (lambda: CharTokenizer.standard().published_files(), ConfigError, "without a model_max_length"),
        (lambda: HUB.decode([12]), InputError, "token id 12 is not in the vocabulary of 12"),
        (lambda: HUB.decode([-1]), InputError, "token id -1"),
        (lambda: HUB.encode_text("A", padding="longest_ever"), ConfigError, "got 'longest_ever'"),
        (lambda: HUB.encode_text("A", truncation="left"), ConfigError, "got 'left'"),
        (lambda: HUB.encode_text(["A", "C"], ["G"]), InputError, "1 texts for 2"),
        (lambda: CharTokenizer.standard().encode_text("A", padding="max_length"), ConfigError, "needs a max_length"),
        (
            lambda: HUB.encode_text("A", padding=True, truncation=True, max_length=5, pad_to_multiple_of=4),
            ConfigError,
            "5 is no multiple",
        ),
    ],
)
def test_wrong_use_is_explained(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_other_alphabets():
    rna = CharTokenizer(letters="ACGUN", complements="UGCAN")
    assert rna.encode(to_array("ACGUNt"), special=False).tolist() == [7, 8, 9, 10, 11, 6]
    assert rna.complement[[7, 8, 9, 10, 11]].tolist() == [10, 9, 8, 7, 11]
    protein = CharTokenizer(letters="ACDEFGHIKLMNPQRSTVWY", complements=None)
    assert protein.complement is None
