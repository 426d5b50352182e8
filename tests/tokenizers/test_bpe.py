"""Byte-pair encoding: the library's ids for whole records of any length, cut only where that changes nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.tokenizers import bpe, merges
from chargaff.tokenizers.bpe import SPECIAL_TOKENS, BpeTokenizer, letters_definition
from tests.conftest import shared_data

README_TEXT = "ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATCTACGAGCATCTCGTTAGC"
README_IDS = [1, 5, 194, 32, 757, 1239, 2092, 294, 24, 359, 88, 93, 32, 75, 77, 19, 2]


def array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def dna(length: int, seed: int = 0, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


@cache
def trained(vocab_size: int = 300) -> BpeTokenizer:
    """Merges learnt from noise and repeats, as the published vocabulary was learnt from genomes."""
    library = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=False))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [dna(4000, seed) + "A" * 60 + "CA" * 40 + "GATTACA" * 20 for seed in range(5)]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    library.train_from_iterator(texts, trainer)
    definition = json.loads(library.to_str())
    definition["post_processor"] = json.loads(letters_definition())["post_processor"]
    return BpeTokenizer.from_published({"tokenizer.json": json.dumps(definition)})


def published() -> BpeTokenizer:
    text = shared_data("goldens/dnabert/tokenizer.json").read_text(encoding="utf-8")
    return BpeTokenizer.from_published({"tokenizer.json": text})


def whole_ids(tokenizer: BpeTokenizer, text: str) -> list[int]:
    """The library's own answer, in one piece."""
    return Tokenizer.from_str(tokenizer.definition).encode(text, add_special_tokens=False).ids


HARD = {
    "noise": dna(5000),
    "one letter": "A" * 3000,
    "two letters": "CA" * 1500,
    "seven letters": "GATTACA" * 500,
    "repeat within noise": dna(700) + "TG" * 700 + dna(900, 1) + "T" * 800 + dna(300, 2),
    "near repeats": "".join("GATTACA" if i % 13 else "GATTGCA" for i in range(500)),
    "few letters": dna(4000, 3, "AC"),
    "unknown letters": dna(3000, 4, "ACGTN") + "N" * 500 + dna(400, 5),
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
@pytest.mark.parametrize(("piece", "stretch"), [(50, 16), (200, 64), (700, 256)])
def test_pieces_give_the_ids_of_the_whole(monkeypatch, text, piece, stretch):
    monkeypatch.setattr(bpe, "PIECE_BP", piece)
    monkeypatch.setattr(bpe, "PIECES_AT_ONCE", 3)
    monkeypatch.setattr(merges, "STRETCH_BP", stretch)
    tokenizer = trained()
    assert tokenizer.encode(array(text), special=False).tolist() == whole_ids(tokenizer, text)


def test_noise_is_cut_into_many_pieces(monkeypatch):
    monkeypatch.setattr(bpe, "PIECE_BP", 500)
    pieces = list(trained()._pieces(array(HARD["noise"])))
    assert len(pieces) >= 8
    assert max(map(len, pieces)) <= 1500
    assert b"".join(piece.tobytes() for piece in pieces).decode() == HARD["noise"]


@settings(max_examples=150, deadline=None)
@given(
    st.text("ACGT", min_size=20, max_size=120),
    st.lists(st.tuples(st.text("ACGT", max_size=60), st.text("ACGT", max_size=60)), min_size=8, max_size=8),
)
def test_a_cut_holds_whatever_stands_around_the_stretch(stretch, contexts):
    """The claim that makes cutting safe: it follows from the stretch alone."""
    tokenizer = trained()
    cut = tokenizer._merges._cut_in(stretch)
    if cut is None:
        return
    for before, after in [*contexts, ("A" * 50, "A" * 50), ("CA" * 30, "CA" * 30), (stretch, stretch)]:
        text, place = before + stretch + after, len(before) + cut
        assert whole_ids(tokenizer, text) == whole_ids(tokenizer, text[:place]) + whole_ids(tokenizer, text[place:])


def test_most_stretches_of_noise_have_a_cut():
    found = [trained()._merges._cut_in(dna(256, seed)) for seed in range(50)]
    assert sum(cut is not None for cut in found) >= 45


def test_a_run_of_one_letter_has_no_cut():
    assert trained()._merges.find_cut(array("A" * 2000), 100) is None
    assert trained()._merges.find_cut(array("A" * 500 + "N" + "A" * 500), 100) >= 500


@pytest.mark.parametrize("length", [0, 1, 2, 63, 100])
def test_spans_of_tokens_cover_the_sequence(length):
    tokenizer, text = trained(), dna(length, 9, "ACGTNacgtnRY-. ")
    ids = tokenizer.encode(array(text))
    assert ids.dtype == np.int16
    assert ids[0] == 1
    assert ids[-1] == 2
    covered = tokenizer.token_bp[ids]
    assert covered.sum() == length
    expected = "".join(c.upper() if c.upper() in "ACGT" else "?" for c in text)
    assert tokenizer.decode(ids).replace("[UNK]", "?") == f"[CLS]{expected}[SEP]"


def test_case_and_unknown_letters_are_a_choice():
    tokenizer = trained()
    upper, mixed = array("GATTACAGATTACA"), array("GATTacaGATTACA")
    assert tokenizer.encode(mixed).tolist() == tokenizer.encode(upper).tolist()
    exact = replace(tokenizer, case="exact").encode(mixed, special=False)
    assert exact.tolist() == whole_ids(tokenizer, "GATTacaGATTACA")
    assert (exact == 0).sum() == 3
    strict = replace(tokenizer, unknown="refuse")
    assert strict.encode(mixed).tolist() == tokenizer.encode(upper).tolist()
    with pytest.raises(InputError, match=r"position 3: 'n' has no token \(and 1 more letters\); expected A, C, G, T"):
        strict.encode(array("ACGnT-"))
    for wrong in ({"case": "lower"}, {"unknown": "drop"}):
        with pytest.raises(ConfigError, match="expected"):
            replace(tokenizer, **wrong)


def test_no_text_is_read_as_a_special_token_in_arrays():
    tokenizer = trained()
    assert 4 not in tokenizer.encode(array("AC[MASK]GT"), special=False)
    assert 4 in tokenizer.encode_text("AC[MASK]GT").input_ids


def test_texts_are_padded_cut_and_paired_as_the_library_does():
    tokenizer = trained()
    texts, others = [dna(90, 1), "ACGT", dna(50, 2)], ["GG", dna(40, 3), dna(60, 4)]
    library = Tokenizer.from_str(tokenizer.definition)
    library.enable_truncation(12)
    library.enable_padding(pad_id=3, pad_token="[PAD]")
    found = tokenizer.encode_text(texts, others, padding=True, truncation=True, max_length=12)
    rows = library.encode_batch(list(zip(texts, others, strict=True)))
    assert found.input_ids == [row.ids for row in rows]
    assert found.attention_mask == [row.attention_mask for row in rows]
    assert found.token_type_ids == [row.type_ids for row in rows]
    assert found.special_tokens_mask == [row.special_tokens_mask for row in rows]
    assert [row[-1] for row in found.input_ids] == [2, 2, 2]
    one = tokenizer.encode_text(texts[0], max_length=5)
    assert one.input_ids == [1, *whole_ids(tokenizer, texts[0])[:3], 2]
    left = replace(tokenizer, padding_side="left", truncation_side="left")
    padded = left.encode_text(["ACGT", texts[0]], padding="max_length", truncation=True, max_length=40)
    assert padded.input_ids[0][0] == 3
    assert padded.input_ids[0][-1] == 2
    assert len(padded.input_ids[0]) == len(padded.input_ids[1]) == 40
    assert tokenizer.encode_text("ACGT").input_ids == [1, *whole_ids(tokenizer, "ACGT"), 2]  # no option stays behind


def test_settings_of_the_call_that_saved_the_file_are_ignored():
    """Published files carry the truncation and padding of the run that wrote them."""
    content = json.loads(trained().definition)
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 3,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    tokenizer = BpeTokenizer.from_published({"tokenizer.json": json.dumps(content)})
    text = dna(100)
    assert tokenizer.encode(array(text)).tolist() == trained().encode(array(text)).tolist()
    assert tokenizer.encode_text(text).input_ids == trained().encode_text(text).input_ids


def test_published_files_give_the_tokenizer_back():
    tokenizer = replace(trained(), model_max_length=512)
    assert BpeTokenizer.from_published(tokenizer.published_files()) == tokenizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "tokenizer.json is missing: the vocabulary is not part of the weights"),
        ("{", "is no JSON"),
        ("[]", "expected a JSON object, found list"),
        (lambda c: c["model"].update(type="WordPiece"), "expected a model of type 'BPE', got 'WordPiece'"),
        (lambda c: c["model"]["vocab"].pop("A"), r"the vocabulary has no A; is it that of a DNA model\?"),
        (lambda c: c["model"]["vocab"].update(A=999), "are not 0 to"),
        (lambda c: c["model"].update(fuse_unk=True), "not supported: fuse_unk"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "not supported: normalizer"),
        (lambda c: c.update(pre_tokenizer={"type": "ByteLevel"}), "not supported: pre_tokenizer ByteLevel"),
        (lambda c: c["model"]["merges"].reverse(), "before it is made"),
    ],
)
def test_files_of_other_tokenizers_are_refused(change, message):
    files = {}
    if isinstance(change, str):
        files["tokenizer.json"] = change
    elif change is not None:
        content = json.loads(trained().definition)
        change(content)
        files["tokenizer.json"] = json.dumps(content)
    with pytest.raises(CheckpointError, match=message):
        BpeTokenizer.from_published(files)


def test_without_a_file_letters_are_tokens():
    tokenizer = BpeTokenizer()
    assert tokenizer.vocab == (*SPECIAL_TOKENS, *"ACGT")
    assert tokenizer.encode(array("ACGTN")).tolist() == [1, 5, 6, 7, 8, 0, 2]
    assert tokenizer.complement is None


def test_the_published_vocabulary():
    tokenizer = published()
    assert len(tokenizer.vocab) == 4096
    assert tokenizer.vocab[:15] == (*SPECIAL_TOKENS, *"ACGT", "AA", "TT", "TG", "CA", "CC", "TA")
    assert tokenizer.vocab[4095] == "CGGCAA"
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (3, 0, 4)
    assert tokenizer.token_bp.max() == 32
    assert tokenizer.encode(array(README_TEXT)).tolist() == README_IDS
    assert tokenizer.encode_text("acgt").input_ids == [1, 0, 0, 0, 0, 2]
    assert tokenizer.encode(array("ACGTN")).tolist() == [1, 5, 6, 1049, 0, 2]
    assert tokenizer.encode(array("")).tolist() == [1, 2]


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_pieces_by_the_published_vocabulary(monkeypatch, text):
    monkeypatch.setattr(bpe, "PIECE_BP", 300)
    tokenizer = published()
    assert tokenizer.encode(array(text), special=False).tolist() == whole_ids(tokenizer, text)


@pytest.mark.slow
def test_long_records_need_little_memory():
    """The ids of 40 Mbp take 17 MB; encoded in one piece the library alone would need more than 6 GB."""
    code = (
        "import sys, resource, numpy as np\n"
        "from tests.tokenizers.test_bpe import published\n"
        "tokenizer = published()\n"
        "seq = np.frombuffer(b'ACGT', np.uint8)[np.random.default_rng(0).integers(0, 4, 40_000_000)]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ids = tokenizer.encode(seq)\n"
        "assert tokenizer.token_bp[ids].sum() == len(seq)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    shared_data("goldens/dnabert/tokenizer.json")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400 * 1024  # KiB
