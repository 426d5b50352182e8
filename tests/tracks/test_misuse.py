"""What is wrong with a call of `chargaff tracks` is said in a line, before any work."""

import pytest

from chargaff.cli.main import ExitCode, main
from chargaff.errors import ConfigError, InputError
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.hub.save import save
from chargaff.workflows.tracks import TrackOptions, plan_tracks
from chargaff.workflows.tracks_files import tracks_to_folder
from chargaff.workflows.tracks_targets import choose_targets, read_targets

BORZOI = {**get_family("borzoi").tiny["relative"], "bins_to_return": 6}
HEADER = "index\tidentifier\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription\n"


@pytest.fixture
def model():
    return create("borzoi", BORZOI, head="tracks", seed=1).eval()


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(f">one\n{'ACGTTGCA' * 20}\n>none\n{'N' * 500}\n")
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--regions", "other.bed"], "other.bed:1"),
        (["--regions", "past.bed"], "is past the end of one"),
        (["--regions", "empty.bed"], "holds no intervals"),
        (["--regions", "missing.bed"], "missing.bed"),
        (["--regions", "gap.bed"], "nothing but unknown bases"),
        (["--head", "rat"], "head: expected human or mouse, got 'rat'"),
        (["--targets", "5"], "5: the set human has tracks 0 to 4"),
        (["--targets", "3-2"], "3-2: the set human has tracks 0 to 4"),
        (["--targets", "liver"], "'liver' is no number; words are looked up in a table"),
        (["--targets", "liver", "--targets-file", "t.tsv"], "'liver' is no identifier in the table"),
        (["--targets-file", "few.tsv"], "2 rows for 5 tracks"),
        (["--targets-file", "twice.tsv"], "twice.tsv:3: track 1 is there twice"),
        (["--targets-file", "far.tsv"], "far.tsv:2: index: expected the number of a track, 0 to 4, got 5"),
        (["--targets-file", "pair.tsv"], "pair.tsv:2: strand_pair: expected the number of a track"),
        (["--targets-file", "unequal.tsv"], "unequal.tsv:2: strand_pair: 1, whose own is 2"),
        (["--targets-file", "scale.tsv"], "scale.tsv:2: scale: expected more than 0"),
        (["--strands", "both"], "which track is the other strand of track 0 is not known"),
        (["--strands", "both", "--targets", "0", "2", "--targets-file", "t.tsv"], "of track 2 is not known"),
        (["--units", "coverage"], "how track 0 was scaled is not known"),
        (["--window-bp", "16"], "too few to return the central 6"),
        (["--window-bp", "0"], "window-bp: expected at least 1"),
        (["--min-unknown-bp", "0"], "min-unknown-bp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_before_any_work(model, fasta, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    save(model, tmp_path / "model")
    files = {
        "other.bed": "chr7\t1\t5\n",
        "past.bed": "one\t1\t5000\n",
        "empty.bed": "# nothing\n",
        "gap.bed": "none\t0\t500\n",
        "t.tsv": HEADER + "0\ta\t1\t1\tsum\t1\tbrain\n1\tb\t1\t1\tsum\t0\tbrain\n",
        "few.tsv": "identifier\na\nb\n",
        "twice.tsv": "index\tidentifier\n1\ta\n1\tb\n",
        "far.tsv": "index\tidentifier\n5\ta\n",
        "pair.tsv": "index\tstrand_pair\n1\t-1\n",
        "unequal.tsv": "index\tstrand_pair\n0\t1\n1\t2\n2\t1\n",
        "scale.tsv": HEADER + "0\ta\t1\t0\tsum\t1\tbrain\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    words = ["tracks", "model", "g.fa", "-o", "out", "--window-bp", "64", *words]
    if words.count("--window-bp") == 2:
        del words[5:7]
    assert main(words) == ExitCode.USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_tracks_is_refused(fasta):
    model = create("caduceus", {"d_model": 16, "n_layer": 1, "vocab_size": 12}, head="lm", seed=1)
    with pytest.raises(ConfigError, match="head of caduceus is 'lm'"):
        plan_tracks(model, fasta)


def test_thousands_of_files_need_a_choice():
    with pytest.raises(ConfigError, match="5,313 tracks, each a file; choose some"):
        choose_targets((), None, 5313, "human")
    assert len(choose_targets(("all",), None, 5313, "human")) == 5313
    assert len(choose_targets((), None, 100, "human")) == 100
    assert [target.number for target in choose_targets(("7", "3-5", "4"), None, 5313, "human")] == [3, 4, 5, 7]


def test_rows_of_a_table_are_a_choice(tmp_path):
    path = tmp_path / "some.tsv"
    path.write_text(HEADER + "900\tx\t1\t2\tsum_sqrt\t901\tCAGE:liver\n17\t5\t\t\t\t\tATAC:Liver tumour\n")
    known = read_targets(path, 1000)
    chosen = choose_targets((), known, 1000, "human")
    assert [(target.number, target.identifier, target.pair) for target in chosen] == [(17, "5", None), (900, "x", 901)]
    assert [target.squash for target in chosen] == [None, (2.0, 1.0, 0.75)]
    assert choose_targets(("liver",), known, 1000, "human") == chosen
    assert choose_targets(("x",), known, 1000, "human") == chosen[1:]
    assert [target.number for target in choose_targets(("5", "x"), known, 1000, "human")] == [5, 900]


def test_a_folder_of_something_else_is_left_alone(model, fasta, tmp_path):
    job = plan_tracks(model, fasta, TrackOptions(window_bp=64))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.tex").write_text("years of work")
    with pytest.raises(InputError, match="not of tracks"):
        tracks_to_folder(job, tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="tracks writes a folder"):
        tracks_to_folder(job, tmp_path / "file")


def test_parts_of_another_choice_of_tracks_are_not_mixed_in(model, fasta, tmp_path, monkeypatch):
    from chargaff.workflows import tracks

    def stop(job, part):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracks, "compute_part", stop)
    with pytest.raises(KeyboardInterrupt):
        tracks_to_folder(plan_tracks(model, fasta, TrackOptions(window_bp=64)), tmp_path / "out")
    other = plan_tracks(model, fasta, TrackOptions(window_bp=64, targets=("1", "2")))
    with pytest.raises(InputError, match="beginning of another run"):
        tracks_to_folder(other, tmp_path / "out")


def test_many_small_contigs_are_planned_in_one_pass(model, tmp_path):
    path = tmp_path / "many.fa"
    path.write_text("".join(f">c{number}\n{'ACGTN' * 4}\n" for number in range(30_000)))
    job = plan_tracks(model, path, TrackOptions(window_bp=64))
    assert job.answered_bp == 600_000
    assert job.num_windows == 30_000
    assert len(job.parts) == 1
