"""Scores: equal to the definition, independent of windows and batch mates, the same in every format."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from chargaff.cli.main import main
from chargaff.errors import ConfigError, InputError
from chargaff.hub.save import save
from chargaff.io.bigwig import write_bigwig
from chargaff.tasks.likelihood import log_likelihood
from chargaff.workflows.score import ScoreOptions, plan_scoring, score
from chargaff.workflows.score_files import score_to_file
from tests.contract.tiny import tiny_model

RECORDS = {
    "one": "ACGTTGCANACGTTGACCATTGA",
    "two": "GGTTAACCATGACA",
    "three": "ACGTACGTTGCAACGTTGCATGCAATGCCGATGACCATGA",
}


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in RECORDS.items()))
    return str(path)


def ids_of(model, text):
    return torch.tensor([[model.tokenizer.vocab.index(letter) for letter in text]])


@torch.no_grad()
def by_definition(model, text):
    """Next-base log-probabilities, one forward pass a base."""
    ids = ids_of(model, text)
    found = [math.nan]
    for place in range(1, len(text)):
        logits = model(ids[:, :place]).logits[0, -1]
        found.append(float(logits.log_softmax(0)[ids[0, place]]) if text[place] in "ACGT" else math.nan)
    return np.array(found)


@pytest.mark.parametrize(("family", "variant"), [("mamba", "tied"), ("hyenadna", "standalone"), ("llama", "grouped")])
def test_a_causal_score_is_the_log_probability_of_the_next_base(family, variant, fasta):
    model = tiny_model(family, variant)
    found = score(plan_scoring(model, fasta))
    for number, text in enumerate(RECORDS.values()):
        np.testing.assert_allclose(found.record(number), by_definition(model, text), atol=1e-5)
    summary = found.summary()
    values = found.record(0)[~np.isnan(found.record(0))]
    assert summary["scored_bp"].tolist() == [len(text) - 1 - text.count("N") for text in RECORDS.values()]
    assert summary["perplexity"][0] == pytest.approx(math.exp(-values.mean()), rel=1e-6)


@torch.no_grad()
def test_a_masked_score_hides_each_base_once():
    model = tiny_model("caduceus", "ph")
    text = RECORDS["two"]
    ids, mask_id = ids_of(model, text), model.tokenizer.mask_id
    for every in (4, 100):
        found = log_likelihood(model, ids, mask_every=every)[0]
        for place in range(len(text)):
            masked = ids.clone()
            masked[:, place % every :: every] = mask_id
            expected = model(masked).logits[0, place].log_softmax(0)[ids[0, place]]
            assert float(found[place]) == pytest.approx(float(expected), abs=1e-5)


def test_among_bases_the_probabilities_of_the_four_add_up(fasta):
    model = tiny_model("mamba", "tied")
    bases = torch.tensor([model.tokenizer.vocab.index(letter) for letter in "ACGT"])
    prefix = ids_of(model, "ACGTT")
    total = 0.0
    for letter in "ACGT":
        ids = torch.cat([prefix, ids_of(model, letter)], 1)
        with torch.no_grad():
            total += math.exp(float(log_likelihood(model, ids, among=bases)[0, -1]))
    assert total == pytest.approx(1, abs=1e-5)
    vocabulary, among = (score(plan_scoring(model, fasta, ScoreOptions(among=how))) for how in ("vocabulary", "bases"))
    assert (among.summary()["perplexity"] < vocabulary.summary()["perplexity"]).all()


@pytest.mark.parametrize(("family", "variant"), [("mamba", "tied"), ("caduceus", "ph")])
def test_both_strands_average_the_score_of_the_reverse_complement(family, variant, fasta, tmp_path):
    model = tiny_model(family, variant)
    other = tmp_path / "rc.fa"
    table = str.maketrans("ACGTN", "TGCAN")
    other.write_text("".join(f">{name}\n{text.translate(table)[::-1]}\n" for name, text in RECORDS.items()))
    options = ScoreOptions(mask_every=100)
    both = score(plan_scoring(model, fasta, ScoreOptions(strands="both", mask_every=100)))
    forward, backward = score(plan_scoring(model, fasta, options)), score(plan_scoring(model, str(other), options))
    for number in range(len(RECORDS)):
        expected = (forward.record(number) + backward.record(number)[::-1]) / 2
        np.testing.assert_allclose(both.record(number), expected, atol=1e-5)


def test_an_equivariant_model_needs_no_second_pass(fasta):
    model = tiny_model("caduceus", "ps")
    job = plan_scoring(model, fasta, ScoreOptions(strands="both", mask_every=5))
    assert job.passes == 5
    assert score(job).by_strand.shape[0] == 1


def test_windows_give_each_base_at_least_the_overlap_as_context(fasta):
    model = tiny_model("mamba", "tied")
    whole = score(plan_scoring(model, fasta))
    cut = score(plan_scoring(model, fasta, ScoreOptions(window_bp=20, overlap_bp=12)))
    assert np.array_equal(np.isnan(whole.log_likelihood), np.isnan(cut.log_likelihood))
    np.testing.assert_allclose(cut.record(1), whole.record(1), atol=1e-5)  # 14 bp: one window
    third = RECORDS["three"]
    expected = by_definition(model, third[8:28])[12:]  # the second window's bases after those it shares
    np.testing.assert_allclose(cut.record(2)[20:28], expected, atol=1e-5)


def test_a_score_does_not_depend_on_the_batch(fasta):
    model = tiny_model("hyenadna", "training")
    together = score(plan_scoring(model, fasta))
    alone = score(plan_scoring(model, fasta, ScoreOptions(batch_tokens=1)))
    np.testing.assert_allclose(together.log_likelihood, alone.log_likelihood, atol=1e-5)


def test_every_format_holds_the_same_numbers(fasta, tmp_path):
    import pybigtools

    model = tiny_model("llama", "causal")
    job = plan_scoring(model, fasta, ScoreOptions(strands="both"))
    found = score(job)
    for name in ("out.parquet", "out.tsv", "out.bw"):
        assert score_to_file(job, tmp_path / name) is None
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "position", "base", "log_likelihood", "forward", "reverse"]
    np.testing.assert_allclose(table["log_likelihood"].to_numpy(), found.log_likelihood)
    assert "".join(table["base"].to_pylist()) == "".join(RECORDS.values())
    lines = [line for line in (tmp_path / "out.tsv").read_text().splitlines() if not line.startswith("#")]
    assert float(lines[5].split("\t")[3]) == pytest.approx(float(found.log_likelihood[4]), rel=1e-5)
    reader = pybigtools.open(str(tmp_path / "out.bw"))
    assert reader.chroms() == {name: len(text) for name, text in RECORDS.items()}
    values = np.asarray(reader.values("two", fillna=None))
    np.testing.assert_allclose(values, found.record(1), atol=5.1e-4)
    summary = (tmp_path / "out.tsv.records.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in summary if not line.startswith("#")] == ["id", *RECORDS]


def test_a_bigwig_of_intervals_lies_on_the_genome(fasta, tmp_path):
    import pybigtools

    bed = tmp_path / "in.bed"
    bed.write_text("three\t4\t14\ta\t0\t+\nthree\t20\t30\tb\t0\t-\n")
    model = tiny_model("mamba", "tied")
    job = plan_scoring(model, str(bed), genome=fasta)
    score_to_file(job, tmp_path / "out.bw")
    found = score(job)
    values = np.asarray(pybigtools.open(str(tmp_path / "out.bw")).values("three", fillna=None))
    np.testing.assert_allclose(values[4:14], found.record(0), atol=5.1e-4)
    np.testing.assert_allclose(values[20:30], found.record(1)[::-1], atol=5.1e-4)
    assert np.isnan(values[14:20]).all()


def test_bigwig_stores_runs_and_refuses_two_values_for_a_base(tmp_path):
    import pybigtools

    pieces = [("b", 3, np.array([1.0004, 1.0001, 2, np.nan, np.nan, 3])), ("a", 0, np.array([1.0]))]
    write_bigwig(tmp_path / "x.bw", {"b": 20, "a": 5}, pieces)
    reader = pybigtools.open(str(tmp_path / "x.bw"))
    assert list(reader.records("b")) == [(3, 5, 1.0), (5, 6, 2.0), (8, 9, 3.0)]
    with pytest.raises(InputError, match="one value a base"):
        write_bigwig(tmp_path / "y.bw", {"b": 20}, [pieces[0], ("b", 8, np.array([1.0]))])
    with pytest.raises(InputError, match="20 bp"):
        write_bigwig(tmp_path / "y.bw", {"b": 20}, [("b", 18, np.ones(5))])


def test_models_that_cannot_score_say_so(fasta, tmp_path):
    with pytest.raises(ConfigError, match="needs a language-model head"):
        plan_scoring(tiny_model("mamba", "tied", head="none"), fasta)
    long = tmp_path / "long.fa"
    long.write_text(f">x\n{''.join(RECORDS.values()) * 3}\n")
    with pytest.raises(ConfigError, match="200 is more than the 128 tokens"):
        plan_scoring(tiny_model("llama", "causal"), str(long), ScoreOptions(window_bp=200))


def test_the_command_writes_scores_and_follows_settings(fasta, tmp_path):
    save(tiny_model("hyenadna", "standalone"), tmp_path / "model")
    results = []
    for number, words in enumerate(([], ["--set", "modulation_shift=0"])):
        out = tmp_path / f"out{number}.tsv"
        assert main(["score", str(tmp_path / "model"), fasta, "-o", str(out), *words]) == 0
        results.append([line for line in out.read_text().splitlines() if not line.startswith("#")])
    assert results[0] != results[1]
    assert len(results[0]) == 1 + sum(map(len, RECORDS.values()))
    assert main(["score", str(tmp_path / "model"), fasta, "-o", str(tmp_path / "out0.tsv")]) == 2
    assert main(["score", str(tmp_path / "model"), fasta, "-o", str(tmp_path / "x.tsv"), "--dry-run"]) == 0
    assert not (tmp_path / "x.tsv").exists()


@torch.no_grad()
@pytest.mark.parametrize(("family", "variant"), [("hyenadna", "standalone"), ("caduceus", "ps")])
def test_logits_of_all_positions_never_exist_at_once(monkeypatch, family, variant):
    model = tiny_model(family, variant)
    tokens = torch.randint(7, 11, (2, 100))
    whole = log_likelihood(model, tokens)
    monkeypatch.setattr("chargaff.tasks.likelihood.HEAD_TOKENS", 16)
    seen = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output.shape[0] * output.shape[1]))
    pieces = log_likelihood(model, tokens)
    assert max(seen) <= 16
    torch.testing.assert_close(pieces, whole, equal_nan=True)
