"""k-mer tokenizers: the published cases, the rules behind them, and what the array path promises."""

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.seq.alphabet import to_array
from chargaff.tokenizers.kmer import KmerTokenizer
from chargaff.tokenizers.protocol import Tokenizer

CASES = json.loads((Path(__file__).parents[1] / "goldens/data/nt/tokenizer_cases.json").read_text())
TOKENIZERS = {f"{version}_{k}mer": KmerTokenizer(k, version) for version in ("v1", "v2") for k in (3, 6)}
ALL = [*TOKENIZERS.values(), KmerTokenizer(1), KmerTokenizer(2, "v1")]

sequences = st.lists(st.sampled_from("ACGTN"), max_size=80).map("".join)


def literal(tokenizer: KmerTokenizer, text: str) -> list[int]:
    """The published rule, letter by letter."""
    ids = [tokenizer.cls_id]
    for index, piece in enumerate(text.split("N")):
        if index:
            ids.append(tokenizer.ids["N"])
        whole = len(piece) // tokenizer.k * tokenizer.k
        ids += [tokenizer.ids[piece[i : i + tokenizer.k]] for i in range(0, whole, tokenizer.k)]
        ids += [tokenizer.ids[letter] for letter in piece[whole:]]
    return ids


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: repr(case["sequence"]))
@pytest.mark.parametrize("rules", ["hub", "jax"])
@pytest.mark.parametrize("name", ["v1_6mer", "v2_6mer", "v2_3mer"])
def test_published_cases(case, rules, name):
    expected, tokenizer = case[f"{rules}_{name}"], TOKENIZERS[name]
    if "error" in expected:
        with pytest.raises(InputError, match="is not in the vocabulary"):
            tokenizer.tokenize(case["sequence"], rules=rules)
        return
    assert tokenizer.tokenize(case["sequence"], rules=rules) == expected["tokens"]
    assert tokenizer.encode_text(case["sequence"], rules=rules) == expected["ids"]


def test_published_vocabularies():
    for name, expected in CASES["vocab"].items():
        version, source, k = name.split("_")
        tokenizer = KmerTokenizer(int(k[0]), version, has_trailing_ends=(version, source) == ("v1", "jax"))
        assert len(tokenizer.vocab) == expected["size"]
        digest = hashlib.sha256("\n".join(tokenizer.vocab).encode()).hexdigest()
        assert digest == expected.get("sha256_newline_joined_no_trailing_newline", digest)
        assert list(tokenizer.vocab) == expected.get("list", list(tokenizer.vocab))


@pytest.mark.parametrize(("version", "first", "single", "n"), [("v1", 4, 4100, 4104), ("v2", 6, 4102, 4106)])
def test_published_ids_of_six_mers(version, first, single, n):
    ids = KmerTokenizer(6, version).ids
    assert [ids[token] for token in ("<unk>", "<pad>", "<mask>", "<cls>")] == [0, 1, 2, 3]
    assert [ids["AAAAAA"], ids["AAAAAT"], ids["AAAAAC"], ids["AAAAAG"], ids["GGGGGG"]] == [
        *range(first, first + 4),
        first + 4095,
    ]
    assert [ids[letter] for letter in "ATCGN"] == [*range(single, single + 4), n]


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: f"{t.version}_{t.k}")
@given(text=sequences)
def test_arrays_follow_the_literal_rule(tokenizer, text):
    ids = tokenizer.encode(to_array(text))
    assert ids.dtype == (np.int16 if len(tokenizer.vocab) > 256 else np.uint8)
    assert ids.tolist() == literal(tokenizer, text)
    assert tokenizer.encode(to_array(text), special=False).tolist() == literal(tokenizer, text)[1:]


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: f"{t.version}_{t.k}")
@given(text=st.text(st.sampled_from("ACGTNacgtnRYU-. "), max_size=60))
def test_every_byte_is_covered_by_one_token(tokenizer, text):
    ids = tokenizer.encode(to_array(text))
    assert int(tokenizer.token_bp[ids].sum()) == len(text)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.03, 1.0])
@pytest.mark.parametrize("k", [3, 6])
def test_long_sequences_take_other_paths_to_the_same_ids(share, k):
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 30_011)].copy()
    letters[rng.random(len(letters)) < share] = ord("N")
    letters[:2000] = ord("N")
    tokenizer = KmerTokenizer(k)
    assert tokenizer.encode(letters).tolist() == literal(tokenizer, letters.tobytes().decode())


def test_decoding_gives_the_letters_back():
    tokenizer = KmerTokenizer(6)
    ids = tokenizer.encode(to_array("ACGTGTACNTGC"))
    assert tokenizer.decode(ids) == "<cls>ACGTGTACNTGC"
    assert tokenizer.decode(ids, skip_special=True) == "ACGTGTACNTGC"
    with pytest.raises(InputError, match="4107"):
        tokenizer.decode([4107])


def test_case_and_iupac_policies():
    text = to_array("acgtgtRACG")
    folded = KmerTokenizer(6)
    assert folded.decode(folded.encode(text), skip_special=True) == "ACGTGTNACG"
    unknown = replace(folded, ambiguous="unk")
    assert unknown.decode(unknown.encode(text, special=False)) == "ACGTGT<unk>ACG"
    exact = replace(folded, case="exact", ambiguous="unk")
    assert exact.decode(exact.encode(text, special=False)) == "<unk>" * 7 + "ACG"
    with pytest.raises(InputError, match="'R' at offset 6"):
        replace(folded, ambiguous="error").encode(text)
    assert folded.decode(folded.encode(to_array("AC-U"), special=False)) == "AC<unk><unk>"


@pytest.mark.parametrize("case", CASES["batches"], ids=lambda case: f"{case['fixed_length']}")
def test_published_batches(case):
    tokenizers = [TOKENIZERS["v1_6mer"], TOKENIZERS["v2_6mer"]]
    if "error" in case:
        with pytest.raises(InputError, match=r"48 bp has 9 tokens; 8 tokens hold at most 42 bp"):
            tokenizers[0].batch_tokenize(case["sequences"], fixed_tokens=case["fixed_length"])
        return
    found = [
        [ids for _, ids in t.batch_tokenize(case["sequences"], fixed_tokens=case["fixed_length"])] for t in tokenizers
    ]
    assert case["ids"] in found


def test_a_batch_is_padded_to_its_longest_and_is_no_string():
    rows = KmerTokenizer(6).batch_tokenize(["ACGTGT", "A"], rules="hub")
    assert [row[0] for row in rows] == [["<cls>", "ACGTGT"], ["<cls>", "A"]]
    rows = KmerTokenizer(6).batch_tokenize(["ACGTGTA", "A"])
    assert rows[1] == (["<cls>", "A", "<pad>"], [3, 4102, 1])
    with pytest.raises(ConfigError, match=r"write \[text\]"):
        KmerTokenizer(6).batch_tokenize("ACGT")


def test_single_base_tokens_are_the_later_ones():
    tokenizer = KmerTokenizer(1, adds_cls=False)
    for case in CASES["single_base_1mer"]:
        if "error" not in case:
            assert tokenizer.encode(to_array(case["sequence"])).tolist() == case["ids"]


def test_published_files_come_back_and_a_wrong_vocabulary_is_refused():
    tokenizer = KmerTokenizer.for_vocabulary(4107, model_max_length=2048)
    files = tokenizer.published_files(model_max_length=2048)
    assert len(files["vocab.txt"].encode()) == 28_718
    assert json.loads(files["tokenizer_config.json"])["eos_token"] is None
    assert set(json.loads(files["special_tokens_map.json"])) == {f"{r}_token" for r in ("cls", "mask", "pad", "unk")}
    assert KmerTokenizer.from_published(files) == tokenizer
    swapped = files["vocab.txt"].replace("AAAAAT\nAAAAAC", "AAAAAC\nAAAAAT")
    with pytest.raises(CheckpointError, match=r"vocab\.txt:8: 'AAAAAC', expected 'AAAAAT'"):
        KmerTokenizer.from_published({**files, "vocab.txt": swapped})
    with pytest.raises(CheckpointError, match="that of no k-mers"):
        KmerTokenizer.from_published({**files, "vocab.txt": files["vocab.txt"] + "\nX"})
    with pytest.raises(CheckpointError, match=r"no vocab\.txt"):
        KmerTokenizer.from_published({"tokenizer_config.json": files["tokenizer_config.json"]})
    config = files["tokenizer_config.json"].replace("EsmTokenizer", "BertTokenizer")
    with pytest.raises(CheckpointError, match="BertTokenizer"):
        KmerTokenizer.from_published({**files, "tokenizer_config.json": config})


def test_it_is_a_tokenizer_that_can_be_pickled():
    tokenizer: Tokenizer = KmerTokenizer(6)
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert tokenizer.complement is None
    with pytest.raises(ConfigError, match=r"tokenizer\.k"):
        KmerTokenizer(8)
