"""`chargaff pretrain`: a model from windows of a genome."""

from typing import Annotated

from cyclopts import Parameter


def run(
    run_file: str,
    /,
    *words: str,
    resume: bool = True,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Pre-train a model as a run file says.

    RUN-FILE is a TOML file with the tables [model] [task] [data] [train]
    [out], or the name of a recipe that ships with the package. Words
    key=value replace single settings: train.max_steps=100 data.fasta=my.fa.

    A run that was stopped, even killed, goes on when the same command is given
    again, and ends with the same weights as one that was not.

    Args:
        run_file: run file or recipe.
        words: settings that replace those of the file.
        resume: go on where the folder's last state was saved; --no-resume refuses a folder that holds a run.
        dry_run: print the resolved run, and the time and memory it would take.
    """
    from chargaff.config import to_toml
    from chargaff.workflows.pretrain import PretrainRun, is_first_process, load_run, open_pretraining, pretrain

    settings = load_run(PretrainRun, run_file, words)
    if dry_run:
        ready = open_pretraining(settings)
        print(f"{to_toml(settings)}\n{ready.describe()}", *ready.cost(), sep="\n")
        return
    result = pretrain(settings, resume=resume)
    if not is_first_process():
        return
    print(f"steps  {result.steps}{f' ({result.stop_reason})' if result.stop_reason else ''}")
    for name, value in result.metrics.items():
        print(f"{name}  {value:.5g}")
    print(f"model  {result.model}")
    if result.best is not None:
        print(f"best   {result.best} (step {result.best_step}, {settings.train.monitor} {result.best_value:.5g})")
