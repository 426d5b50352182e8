"""`chargaff export`: a model as others read it."""

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chargaff.cli.main import model_or_default

_LOG = logging.getLogger(__name__)


def run(
    model: str | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    layout: str = "hub",
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a model in the layout its authors publish, or in our own.

    Args:
        model: checkpoint name, hub id, folder or weight file. [default: the model that comes with the package]
        output: folder to make.
        layout: "hub", another layout the family can write, or "chargaff" for model.safetensors + model.json.
        overwrite: replace OUTPUT.
    """
    from chargaff.workflows.checkpoints import export_checkpoint

    export_checkpoint(model_or_default(model), output, layout=layout, overwrite=overwrite)
    _LOG.info("wrote %s", output)
