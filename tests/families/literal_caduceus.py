"""Caduceus written down as the sheet states it, with every flip: the oracle for options that no golden file covers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from chargaff.families.caduceus.config import CaduceusConfig


def rc(x: Tensor) -> Tensor:
    """Flip along length and channels."""
    return x.flip(1, 2)


class Literal:
    """Float32 forward pass over a state dict of our backbone and head, sections 2.1 to 2.6."""

    def __init__(self, config: CaduceusConfig, state: dict[str, Tensor]) -> None:
        self.config, self.state = config, state
        self.complement = torch.tensor(config.complement)

    def get(self, name: str) -> Tensor | None:
        return self.state.get(name)

    def mamba(self, x: Tensor, prefix: str) -> Tensor:
        w = {key: self.get(f"{prefix}.{key}") for key in (
            "in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight",
            "dt_proj.bias", "A_log", "D", "out_proj.weight", "out_proj.bias",
        )}  # fmt: skip
        ssm, width = self.config.ssm, x.shape[2]
        h, z = F.linear(x, w["in_proj.weight"], w["in_proj.bias"]).chunk(2, -1)
        padded = F.pad(h.transpose(1, 2), (ssm.d_conv - 1, 0))
        u = F.silu(F.conv1d(padded, w["conv1d.weight"], w["conv1d.bias"], groups=h.shape[2])).transpose(1, 2)
        low, b, c = F.linear(u, w["x_proj.weight"]).split([ssm.rank(width), ssm.d_state, ssm.d_state], -1)
        delta = F.softplus(F.linear(low, w["dt_proj.weight"]) + w["dt_proj.bias"])
        decay, state, out = -torch.exp(w["A_log"]), torch.zeros(*u.shape[::2], ssm.d_state), []
        for t in range(u.shape[1]):
            state = torch.exp(delta[:, t, :, None] * decay) * state + (delta * u)[:, t, :, None] * b[:, t, None]
            out.append((state * c[:, t, None]).sum(-1) + w["D"] * u[:, t])
        return F.linear(torch.stack(out, 1) * F.silu(z), w["out_proj.weight"], w["out_proj.bias"])

    def bimamba(self, x: Tensor, prefix: str) -> Tensor:
        y = self.mamba(x, f"{prefix}.mamba_fwd")
        if not self.config.bidirectional:
            return y
        other = self.mamba(x.flip(1), f"{prefix}.mamba_rev").flip(1)
        return y * other if self.config.bidirectional_strategy == "ew_multiply" else y + other

    def norm(self, x: Tensor, prefix: str) -> Tensor:
        weight, bias, eps = self.get(f"{prefix}.weight"), self.get(f"{prefix}.bias"), self.config.norm_epsilon
        if self.config.rms_norm:
            return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias

    def states(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Final states, and the branch and residual of each block in turn; PS: 2D wide."""
        config, trace = self.config, []
        if not config.rcps:
            branch, residual = self.state["embeddings.word_embeddings.weight"][tokens], None
            for index in range(config.n_layer):
                residual = branch if residual is None else branch + residual
                branch = self.bimamba(self.norm(residual, f"layers.{index}.norm"), f"layers.{index}.mixer")
                trace += [branch, residual]
            return self.norm(branch + residual, "norm_f"), trace
        table = self.state["embeddings.word_embeddings.embedding.weight"]
        branch, residual = torch.cat([table[tokens], rc(table[self.complement[tokens].flip(1)])], -1), None
        suffix = "" if config.fused_add_norm else ".submodule"
        for index in range(config.n_layer):
            residual = branch if residual is None else branch + residual
            first, second = residual.chunk(2, -1)
            if config.fused_add_norm:
                first, second = second, first
            residual = torch.cat([first, second], -1)
            norm, mixer = f"layers.{index}.norm{suffix}", f"layers.{index}.mixer.submodule"
            a, b = self.norm(first, norm), rc(self.norm(rc(second), norm))
            branch = torch.cat([self.bimamba(a, mixer), rc(self.bimamba(rc(b), mixer))], -1)
            trace += [branch, residual]
        first, second = (branch + residual).chunk(2, -1)
        name = f"norm_f{suffix}"
        return torch.cat([self.norm(first, name), rc(self.norm(rc(second), name))], -1), trace

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        if not self.config.rcps:
            return hidden @ weight.T
        first, second = hidden.chunk(2, -1)
        return first @ weight.T + second.flip(-1) @ weight[self.complement].T
