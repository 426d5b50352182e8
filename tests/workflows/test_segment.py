"""`chargaff segment`: every base answered the same however the work is cut; files agree; bad input is named."""

import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pybigtools
import pytest
import torch

from chargaff.cli.main import ExitCode, main
from chargaff.errors import ConfigError, InputError
from chargaff.families import get_family
from chargaff.hub.load import create, load
from chargaff.hub.save import save
from chargaff.io.fasta import Genome
from chargaff.io.regions import read_bed, read_gff
from chargaff.model import Model
from chargaff.seq.interval import Strand
from chargaff.tasks.segmentation import SegmentationTask
from chargaff.train.heads import attach_head
from chargaff.workflows.segment import PARTS, SegmentOptions, compute_part, plan_segmenting
from chargaff.workflows.segment_files import CallOptions, call_element, segment_to_folder

ELEMENTS, OPPOSITE = ("CDS+", "CDS-", "gene[gene_biotype=lncRNA]"), (1, 0, 2)


def make_model(rcps=True, seed=1):
    model = create("caduceus", {"d_model": 16, "n_layer": 2, "vocab_size": 12, "rcps": rcps}, seed=seed)
    torch.manual_seed(seed)
    attach_head(model, SegmentationTask(model.tokenizer, ELEMENTS, OPPOSITE), ELEMENTS)
    torch.nn.init.normal_(model.head.linear.weight, std=1.5)  # probabilities on both sides of a half
    model.spec = replace(model.spec, context_bp=200, name="tiny")
    return model.eval()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def fasta(tmp_path):
    rng = random.Random(0)
    one = "".join(rng.choices("ACGT", k=1500))
    two = "".join(rng.choices("acgt", k=300)) + "N" * 250 + "".join(rng.choices("ACGTN", k=300))
    path = tmp_path / "g.fa"
    path.write_text(f">one\n{one}\n>two\n{two}\n>tiny\nGATTACAGATTACAGATTAC\n>none\n{'N' * 500}\n")
    return path


def probabilities(job):
    """contig -> element -> {base: probability}"""
    found = {}
    for part in job.parts:
        for piece, values in zip(part, compute_part(job, part), strict=True):
            rows = found.setdefault(piece.place.contig, {})
            rows |= dict(zip(range(piece.start, piece.end), values.T, strict=True))
    return found


def test_a_window_that_holds_the_contig_is_the_model_itself(model, fasta):
    job = plan_segmenting(model, fasta, SegmentOptions(window_bp=2000))
    found = probabilities(job)
    bases = Genome(fasta).fetch("one")
    with torch.inference_mode():
        tokens = torch.from_numpy(model.tokenizer.encode(bases, special=False))[None]
        expected = model(tokens).logits.sigmoid()[0].numpy()
    assert np.allclose(np.stack([found["one"][place] for place in range(1500)]), expected, atol=1e-6)
    assert sorted(found["tiny"]) == list(range(20))
    assert "none" not in found
    assert sorted(found["two"]) == [*range(300), *range(550, 850)]


@pytest.mark.parametrize("piece_bp", [1, 70, 1000])
def test_answers_do_not_depend_on_how_the_work_is_cut(model, fasta, piece_bp, tmp_path):
    (tmp_path / "r.bed").write_text("one\t100\t900\none\t850\t1000\ntwo\t5\t6\n")
    whole = plan_segmenting(model, fasta, SegmentOptions(), regions=tmp_path / "r.bed")
    cut = plan_segmenting(model, fasta, SegmentOptions(piece_bp=piece_bp), regions=tmp_path / "r.bed")
    one, two = probabilities(whole), probabilities(cut)
    assert {name: sorted(rows) for name, rows in one.items()} == {"one": list(range(100, 1000)), "two": [5]}
    for name, rows in one.items():
        for place, values in rows.items():
            assert np.allclose(values, two[name][place], atol=1e-6)


def test_both_strands_are_averaged_with_strands_of_elements_swapped(fasta):
    model = make_model(rcps=False)
    forward, both = (
        probabilities(plan_segmenting(model, fasta, SegmentOptions(strands=strands, window_bp=2000)))["one"]
        for strands in ("forward", "both")
    )
    bases = Genome(fasta).fetch("one")
    with torch.inference_mode():
        tokens = torch.from_numpy(model.tokenizer.encode(bases, special=False))[None]
        other = model(model.reverse_complement(tokens)).logits.sigmoid().flip(1)[0][:, list(OPPOSITE)].numpy()
    for place in (0, 700, 1499):
        assert np.allclose(both[place], (forward[place] + other[place]) / 2, atol=1e-6)


NT = {
    "vocab_size": 75,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "position_embedding_type": "rotary",
    "features": ["a", "b"],
}
ENFORMER = {**get_family("enformer").tiny["all-bins"], "features": ["a", "b"]}


def labelled(family, config):
    made = create(family, config, head="segmentation", num_outputs=2, seed=3)
    made.spec = replace(made.spec, labels=("a", "b"))
    return made.eval()


def test_longer_tokens_neither_see_n_nor_lose_a_base(fasta):
    model = labelled("nucleotide_transformer", NT)
    job = plan_segmenting(model, fasta, SegmentOptions(window_bp=500, strands="both", overlap_bp=20))
    assert job.frame.input_bp == 492  # a multiple of 3 bases times 4 tokens
    found = probabilities(job)
    assert sorted(found["tiny"]) == list(range(20))
    assert sorted(found["two"]) == [*range(300), *range(550, 850)]
    assert all(np.isfinite(values).all() for rows in found.values() for values in rows.values())
    # single unknown bases between others were shown as A
    bases = Genome(fasta).fetch("two", 550, 850)
    assert (bases == ord("N")).any()


def test_a_model_of_bins_reads_beyond_the_contig(fasta):
    model = labelled("enformer", ENFORMER)
    unit = model.backbone.rule.multiple_of * model.head.multiple_of
    job = plan_segmenting(model, fasta, SegmentOptions(window_bp=2 * unit, overlap_bp=8))
    assert job.frame.is_fixed
    found = probabilities(job)
    assert sorted(found["tiny"]) == list(range(20))
    assert sorted(found["one"]) == list(range(1500))


def test_files_agree_with_each_other(model, fasta, tmp_path):
    job = plan_segmenting(model, fasta)
    folder = tmp_path / "out"
    record = segment_to_folder(job, folder, CallOptions(min_length_bp=3, merge_gap_bp=2))
    assert sorted(path.name for path in folder.iterdir()) == [
        "bigwig", "calls.bed", "calls.gff3", "segment.json", "summary.parquet",
    ]  # fmt: skip
    found = probabilities(job)
    track = pybigtools.open(str(folder / "bigwig" / "CDS_reverse.bw"))
    values = track.values("two", 0, 850, fillna=None)
    assert np.isnan(values[300:550]).all()
    assert np.allclose(values[:300], [found["two"][place][1] for place in range(300)], atol=0.006)
    bed, gff = read_bed(folder / "calls.bed"), read_gff(folder / "calls.gff3")
    assert list(bed) == list(gff)
    assert set(bed.strands) <= set(Strand)
    assert (bed.ends - bed.starts >= 3).all()
    for row in range(len(bed)):
        number = ELEMENTS.index(bed.columns["name"][row])
        inside = [found[bed.contigs[row]][place][number] for place in range(bed.starts[row], bed.ends[row])]
        assert inside[0] >= 0.499
        assert inside[-1] >= 0.499
        assert sum(value < 0.4999 for value in inside) <= len(inside) * 2 / 3
    table = pq.read_table(folder / "summary.parquet").to_pylist()
    assert sum(row["calls"] for row in table) == len(bed) == sum(record["calls"].values())
    assert {row["contig"]: row["answered_bp"] for row in table} == {"one": 1500, "two": 600, "tiny": 20}
    assert record["unknown"] == {"two": [[300, 550]], "none": [[0, 500]]}
    assert json.loads((folder / "segment.json").read_text()) == json.loads(json.dumps(record))


def called_by_hand(values, threshold, gap, least):
    """(start, end, mean above the threshold) of one stretch of answers."""
    calls = []
    for place in np.flatnonzero(values >= threshold).tolist():
        if calls and place - calls[-1][1] <= gap:
            calls[-1][1:] = [place + 1, [*calls[-1][2], values[place]]]
        else:
            calls.append([place, place + 1, [values[place]]])
    return [(start, end, np.mean(inside)) for start, end, inside in calls if end - start >= least]


@pytest.mark.parametrize(("gap", "least", "cut"), [(0, 1, 1), (3, 1, 7), (2, 5, 64), (50, 1, 10), (0, 4, 1000)])
def test_calls_are_those_of_whole_stretches_however_they_arrive(model, fasta, gap, least, cut):
    job = plan_segmenting(model, fasta)
    rng = np.random.default_rng(cut)
    stretches = [("one", 0, 400), ("one", 400 + 3, 200), ("two", 5, 300), ("tiny", 0, 1)]  # three bases without answer
    values = {place: rng.random(place[2], np.float32) ** 2 for place in stretches}

    class Found:
        def output(self, number):
            for (contig, start, size), answers in values.items():
                for first in range(0, size, cut):
                    yield contig, start + first, answers[first : first + cut]

    options = CallOptions(0.6, min_length_bp=least, merge_gap_bp=gap)
    numbers = {name: number for number, name in enumerate(job.genome.contigs)}
    calls = call_element(job, Found(), 1, options, numbers)
    expected = [
        (contig, start + first, start + end, "CDS-", "-", mean)
        for (contig, start, _), answers in values.items()
        for first, end, mean in called_by_hand(answers, np.float32(0.6), gap, least)
    ]
    assert [call[:5] for call in calls] == [call[:5] for call in expected]
    assert expected
    np.testing.assert_allclose(calls.probability, [call[5] for call in expected], rtol=1e-6)


def test_thresholds_come_with_the_model_unless_others_are_asked_for(model, fasta, tmp_path):
    own = replace(model.spec, thresholds={"CDS+": 0.375, "CDS-": 0.625})
    job = plan_segmenting(Model(own, model.backbone, model.head, model.tokenizer), fasta)
    found = np.stack([values for places in probabilities(job).values() for values in places.values()])
    asked = {
        "plain": (CallOptions(), [0.375, 0.625]),
        "common": (CallOptions(0.5), [0.5, 0.5]),
        "single": (CallOptions(thresholds={"CDS+": 0.25}), [0.25, 0.625]),
        "both": (CallOptions(0.5, {"CDS+": 0.25}), [0.25, 0.5]),
    }
    for name, (options, expected) in asked.items():
        said = segment_to_folder(job, tmp_path / name, options)["calling"]["thresholds"]
        assert said == dict(zip(ELEMENTS, [*expected, 0.5], strict=True))
        rows = pq.read_table(tmp_path / name / "summary.parquet").to_pylist()
        above = [sum(row["above_bp"] for row in rows if row["element"] == element) for element in ELEMENTS]
        np.testing.assert_allclose(above, (found >= list(said.values())).sum(0), atol=3)  # as float16 they are rounded


def test_a_model_that_calls_nothing_writes_empty_files(model, fasta, tmp_path):
    record = segment_to_folder(plan_segmenting(model, fasta), tmp_path / "out", CallOptions(min_length_bp=5000))
    assert set(record["calls"].values()) == {0}
    assert (tmp_path / "out" / "calls.bed").read_text() == ""
    assert "\tchargaff\t" not in (tmp_path / "out" / "calls.gff3").read_text()


def test_an_interrupted_run_goes_on(model, fasta, tmp_path, monkeypatch):
    from chargaff.workflows import segment

    job = plan_segmenting(model, fasta, SegmentOptions(piece_bp=300))
    done = []

    def stop_after_two(job, part):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part)
        return compute_part(job, part)

    monkeypatch.setattr(segment, "compute_part", stop_after_two)
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        segment_to_folder(job, folder)
    assert len(list((folder / PARTS).glob("*.npy"))) == 2
    assert not (folder / "segment.json").exists()
    monkeypatch.setattr(segment, "compute_part", lambda job, part: done.append(part) or compute_part(job, part))
    segment_to_folder(job, folder)
    assert len(done) == len(job.parts)
    whole = tmp_path / "whole"
    segment_to_folder(job, whole)
    for name in ("calls.bed", "calls.gff3", "bigwig/CDS_forward.bw", "segment.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_pieces_of_another_run_are_not_mixed_in(model, fasta, tmp_path):
    folder = tmp_path / "out"
    (folder / PARTS).mkdir(parents=True)
    (folder / PARTS / "plan.json").write_text(json.dumps({"model": "other"}))
    with pytest.raises(InputError, match="beginning of another run"):
        segment_to_folder(plan_segmenting(model, fasta), folder)


@pytest.fixture
def saved(model, tmp_path):
    save(model, tmp_path / "model")
    return tmp_path / "model"


def test_the_command_writes_a_folder_and_refuses_to_replace_it(saved, fasta, tmp_path, capsys):
    words = ["segment", str(saved), str(fasta), "-o", str(tmp_path / "out"), "--threshold", "0.4", "CDS+=0.6"]
    assert main([*words, "--dry-run"]) == ExitCode.DONE
    assert not (tmp_path / "out").exists()
    assert main(words) == ExitCode.DONE
    assert "CDS+\t" in capsys.readouterr().out
    assert main(words) == ExitCode.USER_ERROR
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == ExitCode.DONE
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["calling"]["thresholds"] == {
        "CDS+": 0.6, "CDS-": 0.4, ELEMENTS[2]: 0.4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "1.5"], "at most 1, got 1.5"),
        (["--threshold", "0"], "threshold: expected more than 0"),
        (["--threshold", "CDS+=2"], "threshold of CDS+: expected more than 0"),
        (["--threshold", "x"], "expected a number or ELEMENT=NUMBER"),
        (["--threshold", "exon=0.3"], "threshold of exon: the model knows CDS+"),
        (["--overlap-bp", "200"], "overlap-bp"),
        (["--window-bp", "0"], "window-bp"),
        (["--regions", "other.bed"], "other.bed:1"),
        (["--regions", "past.bed"], "is past the end of one"),
        (["--regions", "missing.bed"], "missing.bed"),
        (["--regions", "gap.bed"], "nothing but unknown bases"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(saved, fasta, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.bed").write_text("chr7\t1\t5\n")
    (tmp_path / "past.bed").write_text("one\t1\t5000\n")
    (tmp_path / "gap.bed").write_text("none\t0\t500\n")
    assert main(["segment", str(saved), "g.fa", "-o", "out", *words]) == ExitCode.USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_labels_of_bases_is_refused(fasta):
    model = create("caduceus", {"d_model": 16, "n_layer": 1, "vocab_size": 12}, head="lm", seed=1)
    with pytest.raises(ConfigError, match="head of caduceus is 'lm'"):
        plan_segmenting(model, fasta)


def test_a_folder_with_other_files_is_left_alone(model, fasta, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years of work")
    with pytest.raises(InputError, match="not of segment"):
        segment_to_folder(plan_segmenting(model, fasta), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "text.tex").exists()


def test_many_small_contigs_become_few_files(model, tmp_path):
    path = tmp_path / "many.fa"
    path.write_text("".join(f">c{number}\n{'ACGT' * 5}\n" for number in range(3000)))
    job = plan_segmenting(model, path, SegmentOptions(piece_bp=10_000))
    assert len(job.parts) == 6
    assert job.answered_bp == 60_000
    record = segment_to_folder(job, tmp_path / "out")
    assert record["answered_bp"] == 60_000


@pytest.mark.slow
def test_a_killed_run_goes_on(saved, tmp_path):
    rng = random.Random(1)
    (tmp_path / "big.fa").write_text(f">one\n{''.join(rng.choices('ACGT', k=4_000_000))}\n")
    words = [
        sys.executable,
        "-m",
        "chargaff",
        "segment",
        str(saved),
        str(tmp_path / "big.fa"),
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(words)
    while not list((tmp_path / "out" / PARTS).glob("*.npy")):
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(words, check=False).returncode == 0
    assert (tmp_path / "out" / "segment.json").exists()
    assert load(saved).spec.labels == ELEMENTS
    shutil.rmtree(tmp_path / "out")


needs_igv = pytest.mark.skipif(
    importlib.util.find_spec("igv_notebook") is None, reason="igv-notebook, which brings igv.js, is not installed"
)


@needs_igv
def test_the_command_ends_with_a_page_and_figures(saved, fasta, tmp_path):
    exons = [(100, 200), (300, 450)]
    lines = [f"one\tx\texon\t{a + 1}\t{b}\t.\t+\t.\tParent=t1" for a, b in exons]
    (tmp_path / "a.gff3").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    words = ["segment", str(saved), str(fasta), "-o", str(out), "--annotation", str(tmp_path / "a.gff3")]
    assert main(words) == ExitCode.DONE
    page = (out / "index.html").read_text()
    for text in ("CDS+", "a.gff3", '"exons": [{"start": 100, "end": 200}, {"start": 300, "end": 450}]', "tiny"):
        assert text in page
    figures = sorted(path.name for path in (out / "figures").iterdir())
    assert figures == [
        f"{name}.{ending}" for name in ("one_1-1500", "tiny_1-20", "two_1-850") for ending in ("pdf", "png")
    ]
    assert (out / "figures" / "one_1-1500.png").read_bytes()[:4] == b"\x89PNG"


def test_an_annotation_of_another_assembly_is_refused_before_any_work(saved, fasta, tmp_path, capsys):
    (tmp_path / "a.gff3").write_text("chrX\tx\texon\t1\t5\t.\t+\t.\tParent=t\n")
    words = ["segment", str(saved), str(fasta), "-o", str(tmp_path / "out"), "--annotation", str(tmp_path / "a.gff3")]
    assert main(words) == ExitCode.USER_ERROR
    assert "chrX" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_planning_many_contigs_takes_time_in_proportion(model, tmp_path):
    path = tmp_path / "many.fa"
    path.write_text("".join(f">c{number}\n{'ACGTN' * 4}\n" for number in range(30_000)))
    job = plan_segmenting(model, path)  # minutes, if each contig looked at every place
    assert job.answered_bp == 600_000
    read = [piece.place.contig for part in job.parts for piece in part]
    assert len(read) == len(set(read)) == 30_000
