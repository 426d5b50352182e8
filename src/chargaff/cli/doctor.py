"""`chargaff doctor`: is all well?"""

import json
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from chargaff.cli.main import ExitCode, model_or_default
from chargaff.errors import ConfigError


def run(
    model: str | None = None,
    /,
    *,
    strands: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> ExitCode:
    """Report versions, devices and kernels; or test the strand contract of a model.

    With --strands, a random sequence and its reverse complement are read,
    and the differences are printed. A broken promise gives exit code 2.

    Args:
        model: checkpoint name, hub id, folder or weight file. [default: the model that comes with the package]
        strands: test what MODEL promises about the two strands.
        device: of the test: auto, cpu, cuda or cuda:N.
        as_json: print JSON.
    """
    if model is not None and not strands:
        raise ConfigError("doctor: a model is tested with --strands")
    if strands:
        return _report_strands(model_or_default(model), device, as_json)
    from chargaff.workflows.doctor import describe_backends, describe_machine

    machine, backends = describe_machine(), describe_backends()
    if as_json:
        print(json.dumps({**machine, "backends": backends}, indent=2))
        return ExitCode.DONE
    for key, value in machine.items():
        lines = [f"{name} {text}" for name, text in value.items()] if isinstance(value, dict) else [str(value)]
        print(f"{key}: " + f"\n{' ' * (len(key) + 2)}".join(lines))
    _print_backends(backends)
    return ExitCode.DONE


def _print_backends(backends: list[dict[str, str]]) -> None:
    used: set[tuple[str, str]] = set()
    for row in backends:
        place = (row["device"], row["op"])
        is_used = not row["refusal"] and place not in used
        if is_used:
            used.add(place)
        state = "used" if is_used else row["refusal"] or "available"
        print(f"{row['op']} on {row['device']}: {row['backend']}: {state}")


def _report_strands(model: str, device: str, as_json: bool) -> ExitCode:
    from chargaff.workflows.doctor import check_strands

    checks = check_strands(model, device=device)
    if as_json:
        entries: list[dict[str, Any]] = [{**asdict(check), "is_broken": check.is_broken} for check in checks]
        print(json.dumps(entries, indent=2))
    else:
        for check in checks:
            verdict = "BROKEN" if check.is_broken else "kept" if check.is_promised else "not promised"
            print(f"{check.what}: relative difference {check.error:.1e}: {verdict}")
    return ExitCode.USER_ERROR if any(check.is_broken for check in checks) else ExitCode.DONE
