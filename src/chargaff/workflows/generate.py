"""Sequences sampled from a causal language model, into a FASTA file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from chargaff.errors import ConfigError, InputError
from chargaff.hub.load import load
from chargaff.io.atomic import publish, write_atomically
from chargaff.model import Model
from chargaff.workflows.provenance import provenance

FASTA_ENDINGS = (".fa", ".fasta", ".fna")
LINE_BP = 80


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What is sampled, see `Model.generate`."""

    prompt: str
    length: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    num: int = 1
    include_prompt: bool = False
    """Put the prompt in front of each sequence."""


def generate(
    model: Model | str | Path,
    options: GenerateOptions,
    *,
    device: str = "auto",
    on_token: Callable[[], None] = lambda: None,
) -> tuple[list[str], Model]:
    """The sequences, and the model they come from."""
    loaded = model if isinstance(model, Model) else load(model, device=device)
    sequences = loaded.generate(
        options.prompt,
        length=options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        num=options.num,
        on_token=on_token,
    )
    front = options.prompt.upper() if options.include_prompt else ""
    return [front + sequence for sequence in sequences], loaded


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises what can be known to go wrong with the output before anything is computed."""
    if output.suffix.lower() not in FASTA_ENDINGS:
        raise ConfigError(f"output {output}: sequences are written as FASTA; expected {', '.join(FASTA_ENDINGS)}")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: exists already; choose another path or allow overwriting (--overwrite)")


def generate_to_file(
    model: str,
    options: GenerateOptions,
    output: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    on_token: Callable[[], None] = lambda: None,
) -> None:
    """Writes one FASTA record a sequence, and beside it `<output>.json`, where they come from.

    Raises:
        ConfigError: not a FASTA ending, or see `Model.generate`.
        InputError: the output exists or cannot be written.
    """
    check_output(output, overwrite=overwrite)
    sequences, loaded = generate(model, options, device=device, on_token=on_token)
    text = as_fasta(sequences, options)
    with publish(output, overwrite=overwrite) as part:
        write_atomically(part, text)
        record = provenance(loaded, options=asdict(options))
        write_atomically(Path(f"{output}.json"), json.dumps(record, indent=2) + "\n")


def as_fasta(sequences: list[str], options: GenerateOptions) -> str:
    """Records named generated_0, generated_1, ...; lines of LINE_BP letters."""
    lines = []
    for number, sequence in enumerate(sequences):
        lines.append(f">generated_{number} seed={options.seed} prompt_bp={len(options.prompt)}")
        lines += [sequence[start : start + LINE_BP] for start in range(0, len(sequence), LINE_BP)]
    return "\n".join(lines) + "\n"
