"""`chargaff finetune`: a model for labelled sequences."""

from typing import Annotated

from cyclopts import Parameter


def run(
    run_file: str,
    /,
    *words: str,
    seeds: int | None = None,
    resume: bool = True,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fine-tune a model on labelled sequences, or on an annotation, as a run file says.

    RUN-FILE is a TOML file with the tables [model] [task] [data] [train]
    [out], or the name of a recipe that ships with the package. Words
    key=value replace single settings: train.epochs=3 data.root=my/folder.

    Each seed is a repetition in its own folder; the best weights by the
    monitored validation metric are judged once on the test rows. A run that
    was stopped goes on when the same command is given again.

    Args:
        run_file: run file or recipe.
        words: settings that replace those of the file.
        seeds: repetitions, with seeds 1 to this. [default: train.seeds of the run file]
        resume: go on where the folder's last state was saved; --no-resume refuses a folder that holds a run.
        dry_run: print the resolved run, and the time and memory it would take.
    """
    from chargaff.config import to_toml
    from chargaff.workflows.finetune import finetune, open_finetuning
    from chargaff.workflows.finetune_segmentation import (
        SegmentationRun,
        load_finetune_run,
        open_segmenting,
        train_segmentation,
    )

    repeats = () if seeds is None else (f"train.seeds={seeds}",)
    settings = load_finetune_run(run_file, (*words, *repeats))
    if dry_run:
        ready = open_segmenting(settings) if isinstance(settings, SegmentationRun) else open_finetuning(settings)
        print(f"{to_toml(ready.run)}\n{ready.describe()}", ready.cost(), sep="\n")
        return
    if isinstance(settings, SegmentationRun):
        result = train_segmentation(settings, resume=resume)
    else:
        result = finetune(settings, resume=resume)
    if not result.rows:
        return  # a helping process of a run on several devices
    names = [name for name in result.rows[0] if name.startswith(next(iter(result.summary)).partition("_")[0])]
    print("seed", *names, sep="\t")
    for row in result.rows:
        print(row["seed"], *(f"{row[name]:.4f}" for name in names), sep="\t")
    if len(result.rows) > 1:
        print("mean", *(f"{result.summary[name]:.4f}" for name in names), sep="\t")
    print(f"model\t{result.model}")
