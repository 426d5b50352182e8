"""`chargaff tracks`: a bin's value is the model's own, wherever the bin lies; files agree; a stopped run goes on."""

import importlib.util
import json
import random
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pybigtools
import pytest
import torch

from chargaff.cli.main import ExitCode, main
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.hub.save import save
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import reverse_complement, upper
from chargaff.workflows import tracks
from chargaff.workflows.genome_job import PARTS
from chargaff.workflows.tracks import TrackOptions, plan_tracks
from chargaff.workflows.tracks_files import tracks_to_folder

ENFORMER = {**get_family("enformer").tiny["all-bins"], "target_length": 4}
"""Windows of 64 bases here, whose 4 middle bins of 8 bases have values: bases 16 to 47."""
BORZOI = {**get_family("borzoi").tiny["relative"], "bins_to_return": 6}
"""Windows of 64 bases here, whose 6 middle bins of 4 bases have values: bases 20 to 43."""
FLASHZOI = {**get_family("borzoi").tiny["flash"], "bins_to_return": 6}
FAMILIES = {"enformer": ENFORMER, "borzoi": BORZOI, "flashzoi": FLASHZOI}
TOLERANCE = 1e-5
"""Relative; rows of a batch, and rows of a matrix, change the order of sums."""
PAIRS = {0: 1, 1: 0, 2: 2, 3: 4, 4: 3}


def make_model(kind="enformer", seed=1):
    model = create("enformer" if kind == "enformer" else "borzoi", FAMILIES[kind], head="tracks", seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing is zero by accident: bases far away count
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
            else:
                parameter += torch.randn_like(parameter) / 5
    model.spec = replace(model.spec, context_bp=64, name=f"tiny-{kind}")
    return model.eval()


@pytest.fixture
def fasta(tmp_path):
    rng = random.Random(0)
    one = "".join(rng.choices("ACGTacgt", k=500))
    two = "".join(rng.choices("ACGT", k=100)) + "N" * 300 + "".join(rng.choices("ACGTN", k=90))
    path = tmp_path / "g.fa"
    path.write_text(f">one\n{one}\n>tiny\nGATTACAGATTACAGATTAC\n>two\n{two}\n")
    return path


@pytest.fixture
def table(tmp_path):
    """All human tracks, as published: the first column has no name."""
    lines = ["\tidentifier\tfile\tclip\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription"]
    for number, pair in PAIRS.items():
        kind = "RNA:liver" if number > 2 else "CAGE:Brain, adult"
        stat = "sum_sqrt" if number > 2 else "sum"
        lines.append(
            f"{number}\tID{number}+\t/x/{number}.w5\t768\t0.8\t{0.1 * (number + 1):.1f}\t{stat}\t{pair}\t{kind}"
        )
    path = tmp_path / "targets.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def bed(tmp_path, text):
    path = tmp_path / "r.bed"
    path.write_text(text)
    return path


def window(fasta, contig, start, letter):
    """64 bases of a contig from `start` on, which may lie before it."""
    bases = upper(Genome(fasta).fetch(contig))
    padded = np.concatenate([np.full(100, ord(letter), np.uint8), bases, np.full(600, ord(letter), np.uint8)])
    return padded[100 + start : 164 + start]


@torch.inference_mode()
def predict(model, bases, head="human"):
    """[tracks, bins] by the model's own forward pass."""
    tokens = torch.from_numpy(model.tokenizer.encode(bases))[None]
    return model(tokens).logits[0, :, model.head.slices[head]].T.numpy()


def predicted(job):
    """contig -> {base: [targets]}"""
    found = {}
    for part in job.parts:
        for piece, values in zip(part, tracks.compute_part(job, part), strict=True):
            rows = found.setdefault(piece.place.contig, {})
            for base in range(piece.start, piece.end):
                assert base not in rows
                rows[base] = values[:, (base - piece.start) // job.frame.step_bp]
    return found


def close(one, two):
    return np.allclose(one, two, rtol=TOLERANCE, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("place", [(200, 216), (0, 9), (3, 4), (480, 500), (499, 500)], ids=str)
def test_a_region_in_one_window_has_the_models_own_values(kind, place, fasta, tmp_path):
    model = make_model(kind)
    start, end = place
    job = plan_tracks(model, fasta, regions=bed(tmp_path, f"one\t{start}\t{end}\n"))
    frame = job.frame
    step, bins = frame.step_bp, frame.answered_bp // frame.step_bp
    needed = -(-(end - start) // step)
    before = (bins * step - (end - start)) // 2 // step  # bins of the window before the region
    first = start - before * step - frame.output_offset_bp
    expected = predict(model, window(fasta, "one", first, model.head.outside))
    found = predicted(job)["one"]
    assert sorted(found) == list(range(start, min(start + needed * step, 500)))
    for base, values in found.items():
        assert close(values, expected[:, before + (base - start) // step])


def test_what_lies_beyond_a_chromosome_is_shown_as_the_sheets_say():
    assert make_model("enformer").head.outside == "."
    assert make_model("borzoi").head.outside == "N"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_long_region_is_tiled_and_each_bin_comes_from_the_middle_of_one_window(kind, fasta):
    model = make_model(kind)
    job = plan_tracks(model, fasta)
    frame = job.frame
    found = predicted(job)
    assert sorted(found["one"]) == list(range(500))
    windows = sorted({int(start) for part in job.parts for piece in part for start in piece.windows
                      if piece.place.contig == "one"})  # fmt: skip
    assert np.diff(windows).tolist() == [frame.answered_bp] * (len(windows) - 1)
    assert len(windows) == -(-500 // frame.answered_bp)
    for start in windows:
        expected = predict(model, window(fasta, "one", start - frame.output_offset_bp, model.head.outside))
        for base in range(max(start, 0), min(start + frame.answered_bp, 500)):
            assert close(found["one"][base], expected[:, (base - start) // frame.step_bp])


def test_a_contig_shorter_than_a_bin_or_a_window_is_answered(fasta, tmp_path):
    found = predicted(plan_tracks(make_model(), fasta))
    assert sorted(found["tiny"]) == list(range(20))
    assert len({values.tobytes() for values in found["tiny"].values()}) == 3  # bins of 8, 8 and 4 bases


@pytest.mark.parametrize("kind", ["enformer", "borzoi"])
def test_both_strands_are_averaged_with_partners_swapped(kind, fasta, table, tmp_path):
    model = make_model(kind)
    region = bed(tmp_path, "one\t200\t216\n")
    options = TrackOptions(strands="both", targets=("0", "3"))
    job = plan_tracks(model, fasta, options, regions=region, targets_file=table)
    found = predicted(job)["one"]
    first = int(job.parts[0][0].windows[0])
    bases = window(fasta, "one", first - job.frame.output_offset_bp, "N")
    forward, other = predict(model, bases), predict(model, reverse_complement(bases))[:, ::-1]
    for base, values in found.items():
        bin_ = (base - first) // job.frame.step_bp
        assert close(values, [(forward[n, bin_] + other[PAIRS[n], bin_]) / 2 for n in (0, 3)])
    assert not close(forward[0], other[0])
    assert not close(other[0], other[1])


def test_without_a_table_tracks_of_enformer_are_their_own_partners(fasta, tmp_path):
    model = make_model()
    job = plan_tracks(model, fasta, TrackOptions(strands="both"), regions=bed(tmp_path, "one\t200\t216\n"))
    first = int(job.parts[0][0].windows[0])
    bases = window(fasta, "one", first - job.frame.output_offset_bp, "N")
    expected = (predict(model, bases) + predict(model, reverse_complement(bases))[:, ::-1]) / 2
    assert close(predicted(job)["one"][200], expected[:, (200 - first) // 8])


def test_units_of_coverage_undo_the_scaling(fasta, table, tmp_path):
    model, region = make_model("borzoi"), bed(tmp_path, "one\t200\t216\n")
    plain = predicted(plan_tracks(model, fasta, regions=region, targets_file=table))["one"]
    scaled = predicted(plan_tracks(model, fasta, TrackOptions(units="coverage"), regions=region, targets_file=table))
    for base, values in plain.items():
        x = values.astype(np.float64) / (0.1 * np.arange(1, 6))
        x = np.where(x > 0.8, (np.maximum(x, 0.8) - 0.8) ** 2 + 0.8, x)
        x[3:] **= 4 / 3
        assert close(scaled["one"][base], x)


def test_the_other_set_of_tracks_is_a_head_of_its_own(fasta, tmp_path):
    model = make_model("borzoi")
    job = plan_tracks(
        model, fasta, TrackOptions(head="mouse", targets=("2",)), regions=bed(tmp_path, "one\t200\t204\n")
    )
    first = int(job.parts[0][0].windows[0])
    expected = predict(model, window(fasta, "one", first - job.frame.output_offset_bp, "N"), "mouse")
    assert close(predicted(job)["one"][200], expected[2:3, (200 - first) // 4])


def test_values_do_not_depend_on_batches_and_parts(fasta):
    model = make_model()
    whole = predicted(plan_tracks(model, fasta))
    cut = predicted(plan_tracks(model, fasta, TrackOptions(part_windows=1, batch_tokens=64)))
    for name, rows in whole.items():
        for base, values in rows.items():
            assert close(values, cut[name][base])


def test_regions_that_share_a_bin_are_read_as_one(fasta, tmp_path):
    regions = bed(tmp_path, "one\t100\t110\tb\none\t104\t130\ta\none\t131\t132\tc\ntwo\t0\t1\td\n")
    job = plan_tracks(make_model(), fasta, regions=regions)
    assert [(item.contig, item.start, item.end) for item in job.intervals] == [("one", 100, 132), ("two", 0, 8)]
    record = tracks_to_folder(job, tmp_path / "out")
    found = predicted(job)
    rows = pq.read_table(tmp_path / "out" / "summary.parquet").to_pylist()
    assert [row["region"] for row in rows[::5]] == ["b", "a", "c", "d"]
    for row in rows:
        first = 100 if row["contig"] == "one" else 0
        bases = range(first + (row["start"] - first) // 8 * 8, row["end"], 8)
        values = [found[row["contig"]][base][row["target"]] for base in bases]
        assert row["bins"] == len(values)
        assert close([row["mean"], row["max"], row["sum"]], [np.mean(values), max(values), sum(values)])
        assert row["units"] == "model output per 8 bp"
    assert record["answered_bp"] == 40


def test_windows_of_unknown_bases_alone_get_no_value(fasta, tmp_path):
    job = plan_tracks(make_model(), fasta)
    found = predicted(job)["two"]
    missing = sorted(set(range(490)) - set(found))
    assert missing == list(range(missing[0], missing[-1] + 1))
    assert 100 <= missing[0] < missing[-1] < 400
    assert len(missing) > 300 - 2 * job.frame.answered_bp
    record = tracks_to_folder(job, tmp_path / "out")
    assert record["unknown"] == {"two": [[100, 400]]}
    assert record["asked_bp"] - record["answered_bp"] == len(missing)


def test_files_hold_the_values(fasta, table, tmp_path):
    job = plan_tracks(make_model("borzoi"), fasta, targets_file=table)
    record = tracks_to_folder(job, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bigwig", "summary.parquet", "tracks.json"]
    files = sorted(path.name for path in (tmp_path / "out" / "bigwig").iterdir())
    assert files == [f"human_{number}_ID{number}-.bw" for number in range(5)]
    found = predicted(job)
    for number, name in enumerate(files):
        track = pybigtools.open(str(tmp_path / "out" / "bigwig" / name))
        for contig, size in (("one", 500), ("tiny", 20), ("two", 490)):
            expected = [found[contig][base][number] if base in found[contig] else np.nan for base in range(size)]
            assert np.allclose(track.values(contig, 0, size, fillna=None), expected, rtol=1e-6, equal_nan=True)
    assert [target["description"] for target in record["targets"]] == ["CAGE:Brain, adult"] * 3 + ["RNA:liver"] * 2
    assert json.loads((tmp_path / "out" / "tracks.json").read_text()) == json.loads(json.dumps(record))
    table = pq.read_table(tmp_path / "out" / "summary.parquet")
    assert json.loads(table.schema.metadata[b"options"])["head"] == "human"
    assert table.num_rows == 15


def test_a_stopped_run_goes_on_and_gives_the_same_files(fasta, tmp_path, monkeypatch):
    job = plan_tracks(make_model(), fasta, TrackOptions(part_windows=3))
    compute, done = tracks.compute_part, []

    def stop_after_two(job, part):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part)
        return compute(job, part)

    monkeypatch.setattr(tracks, "compute_part", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        tracks_to_folder(job, tmp_path / "out")
    assert len(list((tmp_path / "out" / PARTS).glob("*.npy"))) == 2
    monkeypatch.setattr(tracks, "compute_part", lambda job, part: done.append(part) or compute(job, part))
    tracks_to_folder(job, tmp_path / "out")
    assert len(done) == len(job.parts) > 4
    tracks_to_folder(job, tmp_path / "whole")
    names = sorted(
        str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").rglob("*") if path.is_file()
    )
    assert len(names) == 7
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.skipif(
    importlib.util.find_spec("igv_notebook") is None, reason="igv-notebook, which brings igv.js, is not installed"
)
def test_the_command_ends_with_a_page_and_figures(fasta, table, tmp_path, capsys):
    save(make_model("borzoi"), tmp_path / "model")
    out = tmp_path / "out"
    words = ["tracks", str(tmp_path / "model"), str(fasta), "-o", str(out), "--targets-file", str(table)]
    words += ["--targets", "brain", "--strands", "both"]
    assert main([*words, "--dry-run"]) == ExitCode.DONE
    assert not out.exists()
    assert main(words) == ExitCode.DONE
    assert "human_1_ID1-.bw\tCAGE:Brain, adult" in capsys.readouterr().out
    page = (out / "index.html").read_text()
    for text in ("1 CAGE:Brain, adult", "3 of human", "model output per 4 bp", "tiny"):
        assert text in page
    pictures = {path.suffix for path in (out / "figures").iterdir()}
    assert pictures == {".png", ".pdf"}
    assert main(words) == ExitCode.USER_ERROR
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--no-page"]) == ExitCode.DONE
