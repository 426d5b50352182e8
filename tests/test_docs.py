"""The documentation runs: ```bash and ```python blocks are executed, page by page, on small data.

A ```toml block with a title is the file of that name. Blocks for eyes only are ```sh (an install, a path of the
reader's), ```py, or ```console (a command with its answer). Published names stand for small local models here, and the
input files that the pages mention are made of random sequence.
"""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chargaff.cli.main import main
from chargaff.hub.load import create
from chargaff.hub.save import save
from examples import demo

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(r'^```(bash|python|toml title="[^"]+")\n(.*?)^```$', flags=re.M | re.S)

TINY = {"d_model": 16, "n_layer": 2, "vocab_size": 12, "residual_in_fp32": False}
HYENA_LAYER = {"l_max": 10_000, "emb_dim": 5, "filter_order": 8, "w": 10}
NT_TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
STANDS_FOR = {
    "50M_multi_species_v2": ("nucleotide_transformer", NT_TINY),
    "caduceus-ps-131k": ("caduceus", {**TINY, "rcps": True}),
    "caduceus-ph-131k": ("caduceus", TINY),
    "dnabert-s": ("dnabert2", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "hyenadna-tiny-1k": ("hyenadna", {"d_model": 16, "n_layer": 2, "pad_vocab_size_multiple": 8, "layer": HYENA_LAYER}),
}
# Runs that take minutes are cut short here; the words are those of the demo's --smoke.
SHORTENED = {
    "examples/runs/pretrain.toml": ["train.max_steps=4", "train.valid_every=2", "train.batch=4", "data.length_bp=128"],
    "examples/runs/splice.toml": ["train.epochs=1"],
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks that are run."""
    return BLOCK.findall(page.read_text())


def random_sequence(rng: random.Random, length: int) -> str:
    return "".join(rng.choices("ACGT", k=length))


def fasta(records: dict[str, str]) -> str:
    return "".join(f">{name}\n" + "\n".join(re.findall(".{1,60}", seq)) + "\n" for name, seq in records.items())


def genes(contigs: dict[str, str]) -> str:
    """GTF lines: a gene of three exons every 1,500 bases, on alternating strands."""
    lines = []
    for contig, sequence in contigs.items():
        for number, start in enumerate(range(200, len(sequence) - 1500, 1500)):
            names = f'gene_id "{contig}.{number}"; transcript_id "{contig}.{number}.1"; gene_biotype "protein_coding";'
            for exon in range(3):
                first = start + 400 * exon
                fields = (contig, "made", "exon", first + 1, first + 120, ".", "+-"[number % 2], ".", names)
                lines.append("\t".join(map(str, fields)))
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the files that the pages use."""
    rng = random.Random(0)
    contigs = {"chr1": random_sequence(rng, 40_000), "chr2": random_sequence(rng, 20_000)}
    (tmp_path / "genome.fa").write_text(fasta(contigs))
    (tmp_path / "genes.gtf").write_text(genes(contigs))
    (tmp_path / "peaks.bed").write_text("chr1\t100\t612\tpeak1\nchr2\t1000\t1512\tpeak2\n")
    (tmp_path / "contigs.fa").write_text(fasta({f"contig{i}": random_sequence(rng, 300 + 50 * i) for i in range(4)}))
    for name, rows in (("train", 40), ("valid", 20), ("test", 20), ("reads", 5)):
        lines = [f"{name}{i},{random_sequence(rng, 64)},{'ab'[i % 2]}" for i in range(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,sequence,label", *lines]) + "\n")
    for name, (family, config) in STANDS_FOR.items():
        save(create(family, config, seed=1), tmp_path / "models" / name)
    shutil.copytree(REPOSITORY / "examples" / "data", tmp_path / "examples" / "data")
    for split in ("train", "valid", "test"):
        demo.few_rows(REPOSITORY / "examples" / "data" / f"splice_{split}.tsv.gz", tmp_path)
        (tmp_path / f"smoke_splice_{split}.tsv.gz").replace(tmp_path / "examples" / "data" / f"splice_{split}.tsv.gz")
    few = demo.few_records(REPOSITORY / "examples" / "data" / "six_bacteria.fa.gz", tmp_path)
    few.replace(tmp_path / "examples" / "data" / "six_bacteria.fa.gz")
    shutil.copytree(REPOSITORY / "examples" / "runs", tmp_path / "examples" / "runs")
    return tmp_path


def with_small_models(text: str) -> str:
    """The block with published names replaced by the models that stand for them."""
    for name in STANDS_FOR:
        text = text.replace(f'"{name}"', f'"models/{name}"').replace(f" {name} ", f" models/{name} ")
    return text


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page, folder, monkeypatch, capsys):
    """In this process, for speed: commands through the command line's entry, Python in one namespace a page."""
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for language, text in blocks(page):
        code = with_small_models(text)
        if language.startswith("toml"):
            Path(language.split('"')[1]).write_text(code)
            continue
        if language == "python":
            exec(compile(code, f"{page.name}: {text[:60]!r}", "exec"), namespace)
            continue
        for command in code.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            words += [extra for word in words for extra in SHORTENED.get(word, ())]
            if words:
                assert words[0] == "chargaff", f"only chargaff's commands can be run here: {command}"
                assert main(words[1:]) == 0, f"{command}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_every_page_is_in_the_navigation():
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    missing = [name for page in PAGES[1:] if (name := str(page.relative_to(REPOSITORY / "docs"))) not in navigation]
    assert not missing


def test_no_page_has_a_placeholder():
    words = re.compile(r"\b(TODO|TBD|FIXME|coming soon|lorem ipsum)\b", flags=re.I)
    assert not [page.name for page in PAGES if words.search(page.read_text())]


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    page = (tmp_path / "site" / "reference" / "command-line.html").read_text()
    assert "chargaff embed" in page
    assert "&lt;!-- " not in page
