"""Kernels as torch operators, opaque to the compiler."""

from collections.abc import Callable
from typing import Any

import torch

from chargaff.errors import BackendError


def operator(
    name: str,
    device: str,
    run: Callable[..., Any],
    shapes: Callable[..., Any],
    remember: Callable[..., None] | None = None,
    gradient: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The torch operator chargaff::`name` for one type of device.

    This is `torch.library.custom_op` without its first-call import of the compiler, which takes over a second.

    Args:
        run: the kernel; its annotations become the operator's schema, and it must give fresh tensors.
        shapes: the same signature, results of the right shapes and types; the compiler calls it.
        remember, gradient: the autograd rule, as for `torch.library.register_autograd`. Without one, asking for a
            derivative is a BackendError, not a silent zero.
    """

    def refuse(*args: object) -> None:
        raise BackendError(f"{name}: no derivative of this kernel; use backend='reference' for second derivatives")

    full_name = f"chargaff::{name}"
    torch.library.define(full_name, torch.library.infer_schema(run, mutates_args=()), tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full_name, device, run)
    torch.library.register_fake(full_name, shapes)
    torch.library.register_autograd(full_name, gradient or refuse, setup_context=remember)
    packet: Callable[..., Any] = getattr(torch.ops.chargaff, name)
    return packet
