"""Run files: typed, strict, overridable, and written back so that they can be repeated."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt

from chargaff.config import Table, apply_overrides, check_table, json_schema, load_table, parse_override, to_toml
from chargaff.errors import ConfigError


class Optim(Table):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of both moments."""


class Masked(Table):
    kind: Literal["masked-lm"] = "masked-lm"
    probability: Annotated[float, Field(gt=0, le=1)] = 0.15


class Sequence(Table):
    kind: Literal["sequence"] = "sequence"
    problem: Literal["single-label", "regression"] = "single-label"


class Stage(Table):
    steps: PositiveInt


class Run(Table):
    name: str = ""
    optim: Optim = Optim()
    task: Annotated[Masked | Sequence, Field(discriminator="kind")] = Masked()
    stages: tuple[Stage, ...] = ()
    limit: PositiveInt | None = None
    extra: dict[str, object] = Field(default_factory=dict)
    out: Path = Path("out")


def run_file(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nbeta = [0.9, 0.9]", "optim.beta: unknown key, did you mean 'betas'?"),
        ("nme = 'x'", "nme: unknown key, did you mean 'name'?"),
        ("[task]\nkind = 'masked-lm'\nprobabilty = 0.2", "task.probabilty: unknown key, did you mean 'probability'?"),
        (
            "[task]\nkind = 'sequence'\nproblem = 'labels'",
            "task.problem: expected 'single-label' or 'regression', got 'labels'",
        ),
        ("[task]\nkind = 'masked'", "task.kind: expected one of 'masked-lm', 'sequence', got 'masked'"),
        ("[task]\nprobability = 0.2", "task.kind: expected one of 'masked-lm', 'sequence', but it is missing"),
        ("[task]\nkind = 'masked-lm'\nprobability = 2", "task.probability: expected less than or equal to 1, got 2"),
        ("[[stages]]\nsteps = 5\n[[stages]]\nstep = 5", "stages.1.step: unknown key, did you mean 'steps'?"),
        ("[[stages]]\nsteps = 0", "stages.0.steps: expected greater than 0, got 0"),
        ("limit = 'many'", "limit: expected a valid integer"),
        ("zzzz = 1", "zzzz: unknown key; known are extra, limit, name, optim, out, stages, task"),
        ("[optim]\nlr = 'fast'", "optim.lr: expected a valid number"),
    ],
)
def test_wrong_key_or_value_is_named_with_its_place_and_remedy(tmp_path, text, message):
    path = run_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_table(Run, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_file_are_listed():
    with pytest.raises(ConfigError, match=r"optim\.lr: .*; limit: "):
        check_table(Run, {"optim": {"lr": "x"}, "limit": 0})


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("a=1", ("a",), 1),
        ("a.b=1e-3", ("a", "b"), 1e-3),
        ("a.b=caduceus-ps", ("a", "b"), "caduceus-ps"),
        ("a='1'", ("a",), "1"),
        ("a=[1, 2]", ("a",), [1, 2]),
        ("a=true", ("a",), True),
        ("a=x=y", ("a",), "x=y"),
        ("a=", ("a",), ""),
        ("a={b = 1}", ("a",), {"b": 1}),
    ],
)
def test_override_values_are_toml_or_else_text(word, path, value):
    assert parse_override(word) == (path, value)


@pytest.mark.parametrize("word", ["a", "=1", "a..b=1", ""])
def test_word_that_is_no_override_is_refused(word):
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_override(word)


def test_overrides_win_over_the_file_and_are_checked_like_it(tmp_path):
    path = run_file(tmp_path, "limit = 3\n[[stages]]\nsteps = 1\n[[stages]]\nsteps = 2\n")
    run = load_table(Run, path, ["limit=7", "optim.lr=2e-3", "stages.1.steps=9", "task.kind=sequence", "extra.a.b=1"])
    assert (run.limit, run.optim.lr, run.stages[1].steps, run.task.kind) == (7, 2e-3, 9, "sequence")
    assert run.extra == {"a": {"b": 1}}
    with pytest.raises(ConfigError, match="did you mean 'betas'"):
        load_table(Run, path, ["optim.beta=1"])
    with pytest.raises(ConfigError, match="limit: is a value, not a table"):
        load_table(Run, path, ["limit.x=1"])
    with pytest.raises(ConfigError, match=r"stages\.5: expected a number from 0 to 1, got '5'"):
        load_table(Run, path, ["stages.5.steps=1"])


def test_overrides_leave_the_mapping_alone():
    before = {"optim": {"lr": 1.0}, "stages": [{"steps": 1}]}
    assert apply_overrides(before, ["optim.lr=2", "stages.0.steps=3"])["stages"] == [{"steps": 3}]
    assert before == {"optim": {"lr": 1.0}, "stages": [{"steps": 1}]}


def test_written_run_reads_back_equal(tmp_path):
    values = {
        "name": 'quote " and \\ and \u00e9',
        "task": {"kind": "sequence"},
        "stages": [{"steps": 4}],
        "out": "/x/y",
        "optim": {"lr": 1e-300},
        "extra": {"k": [1, 2.5, "s", True]},
    }
    run = check_table(Run, values)
    again = load_table(Run, run_file(tmp_path, to_toml(run)))
    assert again == run
    assert to_toml(again) == to_toml(run)


def test_tables_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Run().limit = 3  # type: ignore[misc]


def test_schema_carries_the_descriptions():
    schema = json_schema(Run)
    assert schema["$defs"]["Optim"]["properties"]["betas"]["description"] == "Decay of both moments."
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = 1\nb = = 2\n", "not valid TOML: .*line 2"),
        (b"\xff\xfe", "not a text file in UTF-8"),
        (None, "no such file"),
    ],
)
def test_file_that_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_table(Run, path)
    with pytest.raises(ConfigError, match="is a folder"):
        load_table(Run, tmp_path)
