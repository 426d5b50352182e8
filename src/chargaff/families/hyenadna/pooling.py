"""How the published decoders turn states into the vectors their last layer reads (hyenadna sheet 2.6)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chargaff.errors import ConfigError

Mode = Literal["pool", "last", "first", "sum", "ragged"]
MODES: tuple[str, ...] = ("pool", "last", "first", "sum", "ragged")


@dataclass(frozen=True, slots=True)
class Decoder:
    """Restricts a sequence, then applies a layer; for results that must equal the published ones.

    `nn.heads.SequenceHead` is the head of models trained here: its mean counts the positions of the mask alone, which
    is the same for right padding.
    """

    mode: str = "pool"
    """pool and sum: running mean and sum over ALL positions, padding included; last, first: positions; ragged: the
    first max(lengths) positions."""
    num_positions: int | None = 0
    """n: the last (first) n entries; 0: one, without its axis; None: all."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"decoder.mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode == "ragged" and self.num_positions is not None:
            raise ConfigError("decoder.l_output: ragged takes the longest sequence; give None")

    def __call__(
        self,
        layer: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """layer of [B, L, D] restricted to [B, D], or [B, n, D].

        Args:
            mask: [B, L]; "pool" reads the running mean at index (number of true entries - 1), the mean of the FIRST
                so many positions wherever the true ones are; the other modes ignore it.
            lengths: [B]; each sequence is first cut to its own.
        """
        if self.mode == "ragged":
            if lengths is None:
                raise ConfigError("decoder.mode: ragged needs the lengths")
            return layer(x[:, : int(lengths.max())])
        if lengths is not None:
            cut = [self._restrict(row[: int(length)].unsqueeze(0)) for row, length in zip(x, lengths, strict=True)]
            return layer(torch.cat(cut))
        if mask is not None and self.mode == "pool":
            last = mask.sum(1).long() - 1
            return layer(_running_mean(x)[torch.arange(len(x), device=x.device), last])
        return layer(self._restrict(x))

    def _restrict(self, x: Tensor) -> Tensor:
        if self.mode in ("pool", "sum"):
            x = _running_mean(x) if self.mode == "pool" else x.cumsum(1)
        count = x.shape[1] if self.num_positions is None else max(self.num_positions, 1)
        kept = x[:, :count] if self.mode == "first" else x[:, x.shape[1] - count :]
        return kept.squeeze(1) if self.num_positions == 0 else kept

    @staticmethod
    def hub_mask(tokens: Tensor, pad_id: int) -> Tensor:
        """[B, L] True up to the one position whose state the hub classifier reads: the "last" of a SequenceHead.

        It is the position before the first pad, or the last one where there is no pad or a pad comes first.
        """
        first = (tokens == pad_id).int().argmax(1)
        last = torch.where(first == 0, tokens.shape[1], first)
        return torch.arange(tokens.shape[1], device=tokens.device) < last.unsqueeze(1)


def _running_mean(x: Tensor) -> Tensor:
    """[B, L, D], row t the mean of rows 0 to t."""
    count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
    return x.cumsum(1) / count.unsqueeze(1)
