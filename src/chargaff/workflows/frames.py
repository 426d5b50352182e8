"""What a model reads at once, and where on it its answers or states lie."""

from __future__ import annotations

from typing import Any, cast

from chargaff.data.tiling import Frame
from chargaff.errors import ConfigError
from chargaff.families.protocol import Backbone
from chargaff.model import Model


def find_frame(model: Model, window_bp: int | None) -> Frame:
    """What the model reads at once and where its answers lie.

    Raises:
        ConfigError: the model does not take windows of that length.
        InputError: the window is too short to have an answer.
    """
    rule, head = cast(Backbone, model.backbone).rule, cast(Any, model.head)
    token_bp = 1 if model.tokenizer.complement is not None else int(model.tokenizer.token_bp.max())
    multiple_bp = token_bp * rule.multiple_of * getattr(head, "multiple_of", 1)
    window_bp = window_bp or rule.fixed_bp or model.spec.context_bp or 1024 * token_bp
    if rule.fixed_bp is not None and window_bp != rule.fixed_bp:
        raise ConfigError(f"window-bp: {model.spec.family} reads windows of {rule.fixed_bp:,} bp only")
    window_bp = max(window_bp // multiple_bp, 1) * multiple_bp
    if rule.max_tokens is not None and window_bp // token_bp + getattr(head, "num_special", 0) > rule.max_tokens:
        raise ConfigError(
            f"window-bp: {window_bp:,} bp are more than the {rule.max_tokens:,} tokens that {model.spec.family} takes"
        )
    if not hasattr(head, "grid"):
        return Frame(window_bp, multiple_bp=multiple_bp, is_fixed=rule.fixed_bp is not None)
    grid = head.grid(window_bp)
    # where N is a row of zeros, what lies beyond a contig is shown as N; all windows are as long as in training
    is_fixed = rule.fixed_bp is not None or rule.n_bases == "zero"
    return Frame(window_bp, grid.offset_bp, grid.size * grid.step_bp, multiple_bp, is_fixed, grid.step_bp)


def find_state_frame(model: Model, window_bp: int) -> Frame | None:
    """For a backbone whose states are bins of many bases: windows of one length; None for others.

    Raises:
        InputError: the window is too short to have a state.
    """
    backbone = cast(Any, model.backbone)
    if not hasattr(backbone, "grid"):
        return None
    multiple_bp = backbone.rule.multiple_of
    size = max(-(-window_bp // multiple_bp) * multiple_bp, backbone.rule.min_tokens)
    grid = backbone.grid(size)
    return Frame(size, grid.offset_bp, grid.size * grid.step_bp, multiple_bp, True, grid.step_bp)
