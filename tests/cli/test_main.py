"""The command line itself: verbs are found, messages are one line, exit codes mean what they say."""

import errno
import logging
import signal
import subprocess
import sys
import warnings

import pytest

import chargaff
from chargaff.cli import main as program
from chargaff.cli.main import ExitCode, build_app, list_verbs, main
from chargaff.errors import ChargaffError, CheckpointError, InputError

HEAVY = ("torch", "numba", "pyarrow", "lightning", "numpy", "pysam", "zarr", "matplotlib")


@pytest.fixture
def verb(monkeypatch):
    """Adds the verb `try` that runs a given function."""

    def add(function):
        app = build_app

        def with_verb():
            built = app()
            built.command(function, name="try")
            return built

        monkeypatch.setattr(program, "build_app", with_verb)

    return add


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")


def test_every_file_of_the_folder_is_a_verb_with_help(capsys):
    assert {"embed", "models", "download", "export", "doctor"} <= set(list_verbs())
    assert main([]) == ExitCode.DONE
    shown = capsys.readouterr().out
    for verb in list_verbs():
        assert verb.replace("_", "-") in shown
        assert main([verb.replace("_", "-"), "--help"]) == ExitCode.DONE
        assert "Usage: chargaff" in capsys.readouterr().out


def test_help_fits_a_terminal_of_eighty_columns(capsys):
    for verb in list_verbs():
        main([verb.replace("_", "-"), "--help"])
        long = [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]
        assert not long, f"{verb}: {long}"


def test_help_of_every_verb_imports_nothing_heavy():
    code = f"""import sys
from chargaff.cli.main import list_verbs, main
for verb in list_verbs():
    main([verb.replace("_", "-"), "--help"])
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.strip()) == (0, "[]")


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out.strip() == f"chargaff {chargaff.__version__}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embd"], 'Unknown command "embd". Did you mean "embed"?'),
        (["embed", "m", "x.fa", "-o", "y.npy", "--batch-token", "5"], "Did you mean --batch-tokens?"),
        (["embed", "m", "x.fa"], "--output requires an argument"),
        (["embed", "m", "x.fa", "-o", "y.npy", "--pool", "meen"], 'Did you mean "mean"?'),
        (["embed", "m", "x.fa", "-o", "y.npy", "--batch-tokens", "many"], 'unable to convert "many" into int'),
        (["embed", "m"], "Command"),
        (["models", "a", "b"], "Unused Tokens"),
    ],
)
def test_a_mistyped_command_is_one_line_with_the_nearest_word(capsys, words, message):
    assert main(words) == ExitCode.USER_ERROR
    line = one_line(capsys)
    assert line.startswith("chargaff: ")
    assert message in line
    assert "--help`)" in line


@pytest.mark.parametrize(
    "error", [InputError("x.fa:3: two\n  lines"), CheckpointError("weights: gone"), ChargaffError("no")]
)
def test_errors_of_ours_are_one_line(capsys, verb, error):
    def run() -> None:
        """Fails."""
        raise error

    verb(run)
    assert main(["try"]) == ExitCode.USER_ERROR
    assert one_line(capsys) == f"chargaff: {' '.join(str(error).split())}"
    assert main(["try", "--debug"]) == ExitCode.USER_ERROR
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.rstrip().endswith(f"chargaff: {' '.join(str(error).split())}")


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied")]
)
def test_the_systems_errors_are_one_line(capsys, verb, number, message):
    def run() -> None:
        """Fails."""
        raise OSError(number, "as the system says", "/some/file")

    verb(run)
    assert main(["try"]) == ExitCode.USER_ERROR
    assert one_line(capsys).startswith(f"chargaff: /some/file: {message}")


def test_anything_else_is_a_bug_with_its_trace(capsys, verb):
    def run() -> None:
        """Fails."""
        raise ZeroDivisionError("of ours")

    verb(run)
    assert main(["try"]) == ExitCode.BUG
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert "ZeroDivisionError: of ours" in captured
    assert captured.rstrip().endswith("please report it with the trace above and the command")


@pytest.mark.parametrize(("text", "shown"), [("", "interrupted"), ("2 of 3 kept", "interrupted: 2 of 3 kept")])
def test_an_interruption_has_its_own_code(capsys, verb, text, shown):
    def run() -> None:
        """Is interrupted."""
        raise KeyboardInterrupt(*([text] if text else []))

    verb(run)
    assert main(["try"]) == ExitCode.INTERRUPTED == 128 + signal.SIGINT
    assert one_line(capsys) == f"chargaff: {shown}"


@pytest.mark.parametrize(("value", "code"), [(None, 0), (ExitCode.PARTIAL, 3), (3, 3), (0, 0)])
def test_what_a_verb_returns_is_the_exit_code(verb, value, code):
    def run() -> object:
        """Returns."""
        return value

    verb(run)
    assert main(["try"]) == code


@pytest.mark.parametrize(("flag", "seen"), [([], "iw"), (["--quiet"], "w"), (["--debug"], "diw")])
def test_messages_and_warnings_go_to_stderr_one_line_each(capsys, verb, flag, seen):
    def run() -> None:
        """Speaks."""
        logger = logging.getLogger("chargaff.something")
        logger.debug("detail")
        logger.info("message of %d", 5)
        logger.warning("beware")
        warnings.warn("old", UserWarning, stacklevel=1)
        print("table")

    verb(run)
    assert main(["try", *flag]) == ExitCode.DONE
    captured = capsys.readouterr()
    assert captured.out == "table\n"
    assert ("debug: detail" in captured.err) == ("d" in seen)
    assert ("message of 5\n" in captured.err) == ("i" in seen)
    assert "warning: beware\n" in captured.err
    assert "old" in captured.err


def test_loggers_are_left_as_they_were(verb, capsys):
    def run() -> None:
        """Fails."""
        raise InputError("no")

    logger = logging.getLogger("chargaff")
    before = (logger.level, logger.propagate, list(logger.handlers), warnings.showwarning)
    verb(run)
    main(["try", "--debug"])
    assert (logger.level, logger.propagate, list(logger.handlers), warnings.showwarning) == before


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from chargaff.cli.main import main; sys.exit(main(['models']))"
    run = subprocess.run(
        f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}',
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (ExitCode.DONE, ExitCode.BROKEN_PIPE)  # done, if it was quicker than `true`
    assert run.stderr == ""


def test_the_package_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "chargaff", "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, f"chargaff {chargaff.__version__}\n")


def test_public_names_are_listed_once_for_python_and_once_for_type_checkers():
    for name in chargaff.__all__:
        assert getattr(chargaff, name).__name__ == name
    homes = [name for names in chargaff._HOMES.values() for name in names]
    assert sorted(homes) == sorted(chargaff.__all__)
    assert set(chargaff.__all__) <= set(dir(chargaff))
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = chargaff.lode
