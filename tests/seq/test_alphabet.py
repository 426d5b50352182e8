"""Byte-array sequences: complements, case, and finding letters that do not belong."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargaff.errors import InputError
from chargaff.seq.alphabet import (
    IUPAC_DNA,
    count_letters,
    find_invalid,
    require_letters,
    reverse_complement,
    to_array,
    to_string,
    upper,
)

TRAINING = json.loads((Path(__file__).parents[1] / "goldens/data/caduceus/training_cases.json").read_text())
PAIRS = dict(zip("ACGTacgt", "TGCAtgca", strict=True))
# IUPAC nomenclature (NC-IUB 1984): the set of bases behind each letter
BASES = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip

any_bytes = st.binary(max_size=200)


@pytest.mark.parametrize("case", TRAINING["reverse_complement"])
def test_reverse_complement_is_the_one_training_uses(case):
    assert to_string(reverse_complement(to_array(case["in"]))) == case["out"]


@given(any_bytes)
def test_reverse_complement_agrees_with_a_letter_by_letter_one(text):
    expected = bytes(PAIRS.get(chr(code), chr(code)).encode("latin-1")[0] for code in reversed(text))
    assert reverse_complement(to_array(text)).tobytes() == expected


@given(any_bytes)
def test_reverse_complement_twice_changes_nothing(text):
    assert reverse_complement(reverse_complement(to_array(text))).tobytes() == text


def test_reverse_complement_works_along_the_last_axis_of_any_array():
    rows = np.stack([to_array("AACG"), to_array("TTTT")])
    assert [to_string(row) for row in reverse_complement(rows)] == ["CGTT", "AAAA"]
    assert to_string(reverse_complement(to_array("AxCxGx")[::2])) == "CGT"  # not contiguous
    assert reverse_complement(np.zeros((0, 5), np.uint8)).shape == (0, 5)


@pytest.mark.parametrize("letter", IUPAC_DNA.decode())
def test_ambiguity_codes_complement_to_the_code_of_the_complementary_bases(letter):
    found = to_string(reverse_complement(to_array(letter + letter.lower()), iupac=True))
    assert set(BASES[found[1]]) == {PAIRS[base] for base in BASES[letter]}
    assert found == found[1].lower() + found[1]


@given(any_bytes)
def test_upper_changes_letters_only(text):
    assert upper(to_array(text)).tobytes() == text.upper()


def test_arrays_are_writable_copies_of_the_text():
    text = bytearray(b"ACGT")
    seq = to_array(text)
    seq[0] = ord("T")
    assert text == b"ACGT"
    assert to_string(seq) == "TCGT"
    assert to_array("").shape == (0,)


def test_text_beyond_ascii_is_refused_with_its_place():
    with pytest.raises(InputError, match=r"'é' at offset 2"):
        to_array("ACéT")


@given(any_bytes, st.binary(max_size=20))
def test_invalid_letters_are_counted_and_the_first_is_named(text, allowed):
    wrong = [code for code in text if code not in allowed]
    found = find_invalid(to_array(text), allowed)
    if not wrong:
        assert found is None
        return
    assert found is not None
    assert found.counts == {chr(code): wrong.count(code) for code in wrong}
    assert list(found.counts.values()) == sorted(found.counts.values(), reverse=True)
    assert (found.offset, found.letter) == (text.index(wrong[0]), chr(wrong[0]))


def test_a_protein_is_recognised_in_the_message():
    protein = to_array("MFVFLVLLPLVSSQCVNLTTRTQLPPAYTNSF")
    with pytest.raises(
        InputError, match=r"^x\.fa: record 'p': 24 unexpected letters .* the first 'M' at offset 0.*protein"
    ):
        require_letters(protein, "ACGTN", where="x.fa: record 'p'")


def test_a_few_ambiguity_codes_are_no_protein():
    with pytest.raises(InputError) as raised:
        require_letters(to_array("ACGT" * 50 + "RY"), "ACGTN", where="r")
    assert "2 unexpected letters ('R' 1x, 'Y' 1x), the first 'R' at offset 200; allowed are ACGTN" in str(raised.value)
    assert "protein" not in str(raised.value)


def test_letters_are_counted():
    assert count_letters(to_array("ACCNa")) == {"A": 1, "C": 2, "N": 1, "a": 1}
