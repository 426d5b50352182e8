"""Batches are a function of (data, seed, step): not of workers, ranks or who asks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from chargaff.data.augment import HostAugment
from chargaff.data.batch import Example
from chargaff.data.loader import IGNORED_LABEL, Collate, EvalSteps, TokenRule, TrainSteps, make_loader
from chargaff.data.order import EpochOrder, StepPlan
from chargaff.data.sources import GenomeWindows, tile_contigs
from chargaff.errors import InputError
from chargaff.io.fasta import Genome
from chargaff.ops.selective_scan import selective_scan
from chargaff.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer.standard()


class Rows:
    """Sequences and targets in memory."""

    def __init__(self, sequences: list[str], targets: list[object] | None = None) -> None:
        self.sequences = sequences
        self.targets = targets or [None] * len(sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Example:
        text = self.sequences[index]
        return Example((np.frombuffer(text.encode(), np.uint8),), self.targets[index], id=f"row-{index}")


def numbered(count: int, length_bp: int = 12) -> Rows:
    """Row i spells i in base 4."""
    return Rows(
        ["".join("ACGT"[(i >> 2 * digit) & 3] for digit in range(length_bp)) for i in range(count)], list(range(count))
    )


def collate(source: Rows, rule: TokenRule):
    return Collate(TOKENIZER, rule)([source[i] for i in range(len(source))], np.arange(len(source)))


def text_of(row: torch.Tensor) -> str:
    return "".join({"[PAD]": "."}.get(token, token) for token in (TOKENIZER.vocab[i] for i in row.tolist()))


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        (TokenRule(padding="left"), ["..ACG", "ACGTN"]),
        (TokenRule(padding="right"), ["ACG..", "ACGTN"]),
        (TokenRule(padding="left", max_tokens=4), [".ACG", "ACGT"]),
        (TokenRule(padding="left", max_tokens=7, fixed=True), ["....ACG", "..ACGTN"]),
        (TokenRule(padding="right", max_tokens=2, fixed=True), ["AC", "AC"]),
        (TokenRule(padding="right", multiple_of=4), ["ACG.....", "ACGTN..."]),
        (TokenRule(padding="right", special=True), ["ACG[SEP]..", "ACGTN[SEP]"]),
        (TokenRule(padding="right", special=True, max_tokens=4, fixed=True), ["ACG[SEP].", "ACGT[SEP]"]),
        (TokenRule(max_tokens=3), ["ACG", "ACG"]),
    ],
)
def test_rows_are_cut_at_the_end_and_padded_on_the_asked_side(rule, rows):
    batch = collate(Rows(["acg", "ACGTN"]), rule)
    assert [text_of(row) for row in batch.tokens] == rows
    assert batch.tokens.dtype == torch.uint8
    if all("." not in row for row in rows):
        assert batch.mask is None
    else:
        assert torch.equal(batch.mask, batch.tokens != TOKENIZER.pad_id)


def test_unequal_rows_without_padding_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r'row-0: 3 tokens beside a row of 5.*data\.padding = "left"'):
        collate(Rows(["ACG", "ACGTN"]), TokenRule())
    with pytest.raises(InputError, match="row-1: the sequence is empty"):
        collate(Rows(["ACG", ""]), TokenRule(padding="left"))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([1, 0], torch.tensor([1, 0])),
        ([np.int64(1), np.int64(0)], torch.tensor([1, 0])),
        ([0.5, 2.0], torch.tensor([0.5, 2.0])),
        ([np.array([1.0, 0.0]), np.array([0.0, 1.0])], torch.tensor([[1.0, 0.0], [0.0, 1.0]])),
        (
            [np.array([1, 2, 3]), np.array([1, 2, 3, 4, 5])],
            torch.tensor([[IGNORED_LABEL, IGNORED_LABEL, 1, 2, 3], [1, 2, 3, 4, 5]]),
        ),
        ([None, None], None),
    ],
)
def test_targets_keep_their_meaning(targets, expected):
    target = collate(Rows(["ACG", "ACGTN"], targets), TokenRule(padding="left")).target
    if expected is None:
        assert target is None
    else:
        assert target.dtype == expected.dtype
        assert torch.equal(target, expected)


def test_several_views_are_stacked_view_by_view():
    examples = [Example((np.frombuffer(b"AC", np.uint8), np.frombuffer(b"GT", np.uint8))) for _ in range(2)]
    batch = Collate(TOKENIZER, TokenRule())(examples, np.array([4, 9]))
    assert [text_of(row) for row in batch.tokens] == ["AC", "AC", "GT", "GT"]
    assert batch.index.tolist() == [4, 9]


def steps(source: object, *, batch: int = 6, rank: int = 0, num_ranks: int = 1, augment: HostAugment | None = None):
    plan = StepPlan((len(source),), (batch,), (1,), seed=7)
    return TrainSteps(
        [source], plan, [Collate(TOKENIZER, TokenRule())], rank=rank, num_ranks=num_ranks, augment=augment
    )


def test_batch_of_a_step_is_the_slice_of_the_epochs_order():
    data = steps(numbered(40))
    for step in (0, 5, 6, 13, 3):  # 6 steps an epoch; any order of asking
        epoch, within = divmod(step, 6)
        expected = EpochOrder(40, 7, epoch)[within * 6 : within * 6 + 6]
        assert data[step].index.tolist() == expected.tolist() == data[step].target.tolist()


def test_ranks_together_read_what_one_process_reads():
    source = numbered(40)
    for step in range(14):
        parts = [steps(source, rank=rank, num_ranks=3)[step] for rank in range(3)]
        assert torch.equal(torch.cat([part.tokens for part in parts]), steps(source)[step].tokens)


def test_resuming_is_starting_at_a_later_step():
    data = steps(numbered(40))
    whole = [batch.tokens for batch in make_loader(data, stop=20)]
    resumed = [batch.tokens for batch in make_loader(data, first=13, stop=20)]
    assert all(torch.equal(a, b) for a, b in zip(whole[13:], resumed, strict=True))


def same(left, right) -> bool:
    return torch.equal(left.tokens, right.tokens) and torch.equal(left.index, right.index)


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    rng = np.random.default_rng(0)
    path = tmp_path / "toy.fa"
    with path.open("w") as file:
        for contig in ("one", "two"):
            sequence = "".join("ACGTN"[i] for i in rng.choice(5, 5000, p=[0.24, 0.24, 0.24, 0.24, 0.04]))
            lines = "\n".join(sequence[i : i + 60] for i in range(0, 5000, 60))
            file.write(f">{contig}\n{lines}\n")
    return Genome(path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_nothing(genome, workers):
    source = GenomeWindows(genome, *tile_contigs(genome, 64), window_bp=64)
    data = steps(source, batch=16, augment=HostAugment(rc_probability=0.5))
    alone = list(make_loader(data, first=2, stop=14))
    shared = list(make_loader(data, first=2, stop=14, workers=workers))
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    held_out = EvalSteps(source, Collate(TOKENIZER, TokenRule()), 7)
    assert all(same(a, b) for a, b in zip(make_loader(held_out), make_loader(held_out, workers=workers), strict=True))


@pytest.mark.slow
def test_workers_start_after_a_parallel_kernel_has_run_here(genome):
    """A forked copy of a process that has used a parallel kernel is killed; workers are no such copies."""
    u = torch.rand(2, 64, 32)
    selective_scan(u, u, -torch.rand(32, 16), torch.rand(2, 64, 16), torch.rand(2, 64, 16), backend="cpu")
    source = GenomeWindows(genome, *tile_contigs(genome, 64), window_bp=64)
    data = steps(source, batch=16)
    read = list(make_loader(data, stop=24, workers=8))
    assert all(same(a, b) for a, b in zip(read, make_loader(data, stop=24), strict=True))


def test_loader_reads_the_right_windows(genome):
    contig, start = tile_contigs(genome, 64)
    data = steps(GenomeWindows(genome, contig, start, window_bp=64), batch=16)
    for step in range(9):
        batch = data[step]
        for tokens, row in zip(batch.tokens, batch.index.tolist(), strict=True):
            name = genome.contigs[int(contig[row])]
            expected = genome.fetch(name)[int(start[row]) : int(start[row]) + 64]
            assert torch.equal(tokens, torch.from_numpy(TOKENIZER.encode(expected, special=False)))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("size", "batch", "limit"), [(1, 4, None), (10, 4, None), (12, 4, None), (30, 4, 10), (3, 4, 10)]
)
def test_evaluation_reads_every_row_once(size, batch, limit, num_ranks):
    source = numbered(size)
    seen = []
    for rank in range(num_ranks):
        items = EvalSteps(source, Collate(TOKENIZER, TokenRule()), batch, limit=limit, rank=rank, num_ranks=num_ranks)
        batches = list(make_loader(items))
        assert len(batches) == len(items)
        seen += [row for item in batches for row in item.index.tolist()]
    assert sorted(seen) == list(range(min(size, limit or size)))
