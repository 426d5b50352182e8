"""`chargaff generate`: sequences sampled from a causal language model."""

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chargaff.cli.main import progress

_LOG = logging.getLogger(__name__)


def run(
    model: str,
    /,
    *,
    prompt: str,
    length: int,
    output: Annotated[Path, Parameter(alias="-o")],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    num: int = 1,
    include_prompt: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Sample DNA from a causal language model.

    The model reads PROMPT once and then adds one letter at a time. A letter
    costs the same however many came before it with Mamba and xLSTM; with
    attention and with HyenaDNA the cost grows with the letters so far.

    Equal seeds give equal sequences; sequence i does not depend on --num.

    Args:
        model: checkpoint name (see `chargaff models`), hub id, folder or weight file.
        prompt: DNA to continue, at least one letter.
        length: letters to add.
        output: FASTA (.fa, .fasta, .fna); where it comes from is written beside it (.json).
        temperature: above 1 flattens the probabilities, below 1 sharpens them; 0 takes the likeliest letter.
        top_k: choose among the k likeliest letters.
        top_p: choose among the likeliest letters that together have this probability.
        seed: of the random choices.
        num: how many sequences.
        include_prompt: put the prompt in front of each sequence.
        device: auto, cpu, cuda or cuda:N.
        overwrite: replace OUTPUT.
    """
    from chargaff.workflows.generate import GenerateOptions, generate_to_file

    options = GenerateOptions(prompt, length, temperature, top_k, top_p, seed, num, include_prompt)
    with progress("generating", total=length) as advance:
        generate_to_file(model, options, output, device=device, overwrite=overwrite, on_token=lambda: advance(1))
    _LOG.info("wrote %s: %d sequences of %s letters", output, num, f"{length:,}")
