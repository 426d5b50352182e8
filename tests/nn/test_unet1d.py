"""The U-Net head against the sheet, written out step by step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.errors import InputError
from chargaff.nn.encoded import Encoded
from chargaff.nn.unet1d import SegmentationHead
from chargaff.seq.grid import Grid


def make(*, levels: int = 2, num_layers: int = 2, width: int = 7, token_bp: int = 3, num_special: int = 0):
    torch.manual_seed(0)
    head = SegmentationHead(
        5,
        width,
        4,
        state_grid=lambda length_bp: Grid(6, token_bp, length_bp // token_bp),
        token_bp=token_bp,
        levels=levels,
        num_layers=num_layers,
        num_special=num_special,
    )
    head.reset_parameters()
    return head


def literal(head: SegmentationHead, x: Tensor, levels: int) -> Tensor:
    """[T, Din] -> [T * token_bp, F, 2], one position and one tap at a time."""
    state = {name: tensor.double() for name, tensor in head.state_dict().items()}
    x, skipped = x.double(), []

    def convolve(x: Tensor, name: str) -> Tensor:
        weight, padded = state[f"{name}.weight"], F.pad(x, (0, 0, 1, 1))
        taps = [padded[t : t + len(x)] @ weight[:, :, t].T for t in range(3)]
        return sum(taps) + state[f"{name}.bias"]

    def convolve_transposed(x: Tensor, name: str) -> Tensor:
        weight, out = state[f"{name}.weight"], torch.zeros(len(x) + 2, state[f"{name}.bias"].shape[0]).double()
        for position, row in enumerate(x):  # every input adds to three outputs
            for t in range(3):
                out[position + t] += row @ weight[:, :, t]
        return out[1:-1] + state[f"{name}.bias"]

    layers = [name for name in state if name.endswith("weight")]
    for level in range(levels):
        for j in range(sum(f"_downsample_blocks.{level}." in name for name in layers)):
            x = F.silu(convolve(x, f"unet._downsample_blocks.{level}.conv_layers.{j}"))
        skipped.append(x)
        x = (x[0::2] + x[1::2]) / 2
    for level in range(levels):
        for j in range(sum(f"_upsample_blocks.{level}." in name for name in layers)):
            x = F.silu(convolve_transposed(x, f"unet._upsample_blocks.{level}.conv_layers.{j}"))
        x = x.repeat_interleave(2, 0) + skipped.pop()
    last = sum("final_block" in name for name in layers)
    for j in range(last):
        x = convolve(x, f"unet.final_block.conv_layers.{j}")
        x = F.silu(x)  # between the layers, and after the block
    flat = x @ state["fc.weight"].T + state["fc.bias"]
    out = torch.empty(len(x) * head.token_bp, head.num_features, 2).double()
    for t in range(len(x)):
        for j in range(head.token_bp):
            for f in range(head.num_features):
                for c in range(2):
                    out[t * head.token_bp + j, f, c] = flat[t, (j * head.num_features + f) * 2 + c]
    return out


@pytest.mark.parametrize(("levels", "num_layers"), [(2, 2), (1, 1), (3, 3)])
@torch.no_grad()
def test_it_is_the_network_of_the_sheet(levels, num_layers):
    head = make(levels=levels, num_layers=num_layers)
    x = torch.randn(2, 16, 5)
    logits = head(Encoded(x))
    assert logits.shape == (2, 48, 4, 2)
    for row in range(2):
        torch.testing.assert_close(logits[row].double(), literal(head, x[row], levels), rtol=1e-5, atol=1e-6)


def test_states_of_special_tokens_are_left_out():
    head = make(num_special=1)
    x = torch.randn(1, 9, 5)
    plain = make()
    plain.load_state_dict(head.state_dict())
    assert torch.equal(head(Encoded(x)), plain(Encoded(x[:, 1:])))


def test_a_length_that_cannot_be_halved_is_refused_in_bases():
    with pytest.raises(InputError, match="6 tokens do not divide by 4; give sequences of a multiple of 12 bp"):
        make()(Encoded(torch.randn(1, 6, 5)))


def test_padding_is_refused():
    mask = torch.ones(2, 8, dtype=torch.bool)
    head, states = make(), Encoded(torch.randn(2, 8, 5))
    assert torch.equal(head(states, mask), head(states))
    mask[1, -1] = False
    with pytest.raises(InputError, match="padded"):
        head(states, mask)


def test_two_strands_are_averaged():
    head, x, y = make(), torch.randn(1, 8, 5), torch.randn(1, 8, 5)
    torch.testing.assert_close(head(Encoded(x, y)), (head(Encoded(x)) + head(Encoded(y))) / 2)


def test_labels_lie_one_a_base_on_what_the_states_cover():
    assert make().grid(36) == Grid(6, 1, 36)
