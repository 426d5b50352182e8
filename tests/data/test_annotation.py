"""Labels of bases are those of the file, derived elements those of its transcripts, on both strands."""

import pickle

import numpy as np
import pytest
from conftest import shared_data

from chargaff.data.annotation import Annotation, Element, opposite_elements, read_annotation
from chargaff.errors import ConfigError, InputError
from chargaff.io.fasta import Genome
from chargaff.seq.alphabet import reverse_complement, upper

DONOR, ACCEPTOR = b"GT", b"AG"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">one\n" + "ACGT" * 25 + "\n>two\n" + "GATTACA" * 10 + "\n")
    return Genome(path)


def gff(tmp_path, lines, name="a.gff3"):
    path = tmp_path / name
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    return path


def line(kind, first, last, strand, attributes, contig="one"):
    return contig, "x", kind, str(first), str(last), ".", strand, ".", attributes


@pytest.fixture
def annotation_file(tmp_path):
    """Two exons on the forward strand and three coding parts on the other; GFF counts from 1."""
    lines = [
        line("exon", 11, 20, "+", "Parent=t1"),
        line("exon", 31, 40, "+", "Parent=t1"),
        line("CDS", 51, 52, "-", "Parent=t2"),
        line("exon", 51, 52, "-", "Parent=t2"),
        line("CDS", 61, 70, "-", "Parent=t2"),
        line("exon", 61, 70, "-", "Parent=t2"),
        line("repeat", 1, 3, ".", "ID=r", contig="two"),
    ]
    return gff(tmp_path, lines)


def where(annotation, name, contig=0):
    return np.flatnonzero(annotation.labels(contig, 0, 100 if contig == 0 else 70)[:, annotation.elements.index(name)])


def test_places_of_the_file_are_labels(annotation_file, genome):
    found = read_annotation(annotation_file, ["exon", "exon+", "exon-", "repeat"], genome)
    assert where(found, "exon+").tolist() == [*range(10, 20), *range(30, 40)]
    assert where(found, "exon-").tolist() == [50, 51, *range(60, 70)]
    assert where(found, "exon").tolist() == sorted([*where(found, "exon+"), *where(found, "exon-")])
    assert where(found, "repeat", contig=1).tolist() == [0, 1, 2]
    assert found.covered_bp().tolist() == [32, 20, 12, 3]


def test_introns_sites_and_codons_are_derived_on_both_strands(annotation_file, genome):
    names = ["intron+", "intron-", "splice_donor+", "splice_acceptor+", "splice_donor-", "splice_acceptor-"]
    found = read_annotation(annotation_file, [*names, "start_codon", "stop_codon", "transcript"], genome)
    assert where(found, "intron+").tolist() == list(range(20, 30))
    assert where(found, "splice_donor+").tolist() == [20, 21]
    assert where(found, "splice_acceptor+").tolist() == [28, 29]
    assert where(found, "splice_donor-").tolist() == [58, 59]  # read from the right
    assert where(found, "splice_acceptor-").tolist() == [52, 53]
    assert where(found, "start_codon").tolist() == [67, 68, 69]
    assert where(found, "stop_codon").tolist() == [50, 51, 60]  # the last coding part has two bases only
    assert where(found, "transcript").tolist() == [*range(10, 40), *range(50, 70)]


def test_gtf_leaves_the_stop_codon_out_and_knows_genes(tmp_path, genome):
    lines = [
        line("exon", 11, 30, "+", 'gene_id "g"; transcript_id "a"; gene_biotype "protein_coding";'),
        line("CDS", 11, 22, "+", 'gene_id "g"; transcript_id "a"; gene_biotype "protein_coding";'),
        line("exon", 51, 60, "+", 'gene_id "g"; transcript_id "b"; gene_biotype "protein_coding";'),
        line("exon", 81, 90, "+", 'gene_id "h"; transcript_id "c"; gene_biotype "lncRNA";'),
    ]
    found = read_annotation(
        gff(tmp_path, lines, "a.gtf"), ["stop_codon", "gene", "gene[gene_biotype=lncRNA]", "transcript"], genome
    )
    assert where(found, "stop_codon").tolist() == [22, 23, 24]
    assert where(found, "gene").tolist() == [*range(10, 60), *range(80, 90)]
    assert where(found, "gene[gene_biotype=lncRNA]").tolist() == list(range(80, 90))
    assert where(found, "transcript").tolist() == [*range(10, 30), *range(50, 60), *range(80, 90)]


def test_bed_names_are_types(tmp_path, genome):
    path = tmp_path / "a.bed"
    path.write_text("one\t0\t5\tpeak\t0\t+\none\t3\t9\tpeak\t0\t-\ntwo\t1\t2\tother\t0\t.\n")
    found = read_annotation(path, ["peak", "peak-"], genome)
    assert where(found, "peak").tolist() == list(range(9))
    assert where(found, "peak-").tolist() == list(range(3, 9))


def test_labels_equal_those_of_a_loop_over_random_spans():
    rng = np.random.default_rng(0)
    for _ in range(50):
        contig, start = rng.integers(0, 3, 20), rng.integers(0, 90, 20)
        end = start + rng.integers(1, 15, 20)
        found = Annotation(["x"], [(contig, start, end)])
        for number in range(3):
            expected = np.zeros(120, np.uint8)
            for c, s, e in zip(contig, start, end, strict=True):
                if c == number:
                    expected[s:e] = 1
            assert (found.labels(number, 0, 120)[:, 0] == expected).all()
            first, last = sorted(rng.integers(0, 120, 2))
            assert (found.labels(number, first, last)[:, 0] == expected[first:last]).all()
        assert (pickle.loads(pickle.dumps(found)).labels(0, 0, 99) == found.labels(0, 0, 99)).all()


def test_a_stretch_shares_a_base_with_an_element_where_a_label_says_so():
    rng = np.random.default_rng(2)
    start = np.sort(rng.choice(500, 12, replace=False)).astype(np.int64)
    annotation = Annotation(["CDS"], [(np.zeros(12, np.int64), start, start + rng.integers(1, 15, 12))])
    begin = np.arange(0, 520, 3)
    for size in (1, 4, 30):
        expected = [annotation.labels(0, at, at + size).any() for at in begin.tolist()]
        assert annotation.is_in(0, 0, begin, begin + size).tolist() == expected
    assert not annotation.is_in(0, 1, begin, begin + 30).any()


def test_elements_have_a_counterpart_on_the_other_strand():
    assert opposite_elements(["CDS+", "gene", "CDS-"]) == (2, 1, 0)
    assert Element.parse("gene[gene_biotype=lncRNA]-").opposite == "gene[gene_biotype=lncRNA]+"
    with pytest.raises(ConfigError, match="CDS\\+ has no counterpart CDS-"):
        opposite_elements(["CDS+"])
    with pytest.raises(ConfigError, match="must differ"):
        opposite_elements(["gene", "gene"])
    with pytest.raises(ConfigError, match="expected type"):
        Element.parse("gene[x")


def test_what_cannot_be_found_is_named(annotation_file, genome, tmp_path):
    with pytest.raises(InputError, match=r"no CTCF .* the file holds CDS, exon, repeat"):
        read_annotation(annotation_file, ["CTCF"], genome)
    past = gff(tmp_path, [line("exon", 95, 101, "+", "Parent=t")], "past.gff3")
    with pytest.raises(InputError, match=r"past.gff3:1: end 101 is past the end of one \(100 bp\)"):
        read_annotation(past, ["exon"], genome)
    elsewhere = gff(tmp_path, [line("exon", 1, 5, "+", "Parent=t", contig="chrX")], "else.gff3")
    with pytest.raises(InputError, match="chrX"):
        read_annotation(elsewhere, ["exon"], genome)


def test_splice_sites_of_a_real_genome_are_the_known_dinucleotides():
    folder = shared_data("data/fungus_umaydis")
    genome = Genome(folder / "umaydis.fa.gz")
    names = ["splice_donor+", "splice_donor-", "splice_acceptor+", "splice_acceptor-", "start_codon+", "start_codon-"]
    found = read_annotation(folder / "umaydis.gff3.gz", names, genome)
    for name, expected in zip(names, (b"GT", b"GT", b"AG", b"AG", b"ATG", b"ATG"), strict=True):
        seen = total = 0
        for contig in range(len(genome.contigs)):
            for start, end in zip(*found.spans(names.index(name), contig), strict=True):
                bases = genome.fetch(genome.contigs[contig], int(start), int(end))
                bases = reverse_complement(upper(bases)) if name.endswith("-") else upper(bases)
                seen += bases.tobytes() == expected
                total += 1
        assert total > 500
        assert seen / total > 0.95
