"""The command line: finds the verbs, runs one, and turns what happened into an exit code.

Convention for a verb. `cli/<verb>.py` is one verb; nothing else is edited to add it (`_` in the file name is `-` on the
command line). The module defines either

* `run`: a typed function. Its docstring is the help page: a summary line, maybe paragraphs (shown with their line
  breaks: at most 76 columns), then an "Args:" section with a line for every parameter. Positional arguments come first
  and end with `/` (or `*words`), flags are keyword-only; a short alias is
  `output: Annotated[Path, Parameter(alias="-o")]`. It returns None when all is done, or an exit code:
  `ExitCode.PARTIAL` when some records were rejected and listed;
* or `app`: a `cyclopts.App(name=..., help=...)` whose commands are such functions, for verbs like `data list`.

At module level a verb imports the standard library, cyclopts, `chargaff.errors` and this module only: `chargaff --help`
imports every verb and must not load torch, numba, pyarrow or lightning. All else is imported inside the function.
Results go to files, tables to stdout (`print`; `--json` for machines), messages to stderr through `logging`. A problem
the user can fix is a `ChargaffError`; anything else that escapes is reported as a bug, with its trace. A lone `-` on
the command line reaches the verb as /dev/stdin.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from importlib import import_module
from importlib.resources import files
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from chargaff import __version__
from chargaff.errors import ChargaffError

STANDARD_INPUT = "/dev/stdin"

_SYSTEM_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space, or write elsewhere",
    errno.EFBIG: "the file would be larger than this system allows (see `ulimit -f`)",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "is a folder, a file is needed",
    errno.ENOTDIR: "is not a folder",
    errno.EMFILE: "too many open files (see `ulimit -n`)",
}
"""Errors of the operating system that the user can act on; others are bugs."""


class ExitCode(IntEnum):
    """What the process tells its caller."""

    DONE = 0
    BUG = 1
    USER_ERROR = 2
    PARTIAL = 3
    """Done, except for rejected records, which were listed."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; never raises.

    Args:
        argv: words after the program's name; None takes those of the process.
    """
    if argv is None:
        # torch and the kernels have an OpenMP pool each; idle threads of one must not keep the other off the cores
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in words
    try:
        return _dispatch(words)
    except CycloptsError as error:
        return _report(error, f"{_one_line(str(error))} (see `{_help_command(error)}`)", is_debug)
    except ChargaffError as error:
        return _report(error, _one_line(str(error)), is_debug)
    except KeyboardInterrupt as error:
        _report(error, f"interrupted{_one_line(f': {error}') if str(error) else ''}", is_debug)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # the reader of our output has gone; without this the interpreter complains again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except OSError as error:
        if error.errno not in _SYSTEM_REMEDIES:
            return _report_bug()
        place = f"{error.filename}: " if error.filename else ""
        return _report(error, f"{place}{_SYSTEM_REMEDIES[error.errno]}", is_debug)
    except Exception:
        return _report_bug()


def model_and_input(first: str, second: str | None) -> tuple[str, str]:
    """MODEL and INPUT of a verb whose MODEL may be left out: then it is the one that comes with the package."""
    if second is not None:
        return first, second
    return model_or_default(None), first


def model_or_default(model: str | None) -> str:
    """The model that was named, or the one that comes with the package; the latter is said in a line."""
    from chargaff.hub.catalog import DEFAULT_MODEL

    if model is None:
        logging.getLogger("chargaff").info("model: %s, which comes with chargaff", DEFAULT_MODEL)
    return model or DEFAULT_MODEL


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that moves a progress bar on stderr forward; nothing is shown where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    is_hidden = not console.is_terminal or not logging.getLogger("chargaff").isEnabledFor(logging.INFO)
    with Progress(*columns, console=console, disable=is_hidden, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda amount: bar.advance(task, amount)


def build_app() -> App:
    """The application with every verb of this folder."""
    app = App(
        name="chargaff",
        help="DNA foundation models: pre-train, fine-tune, embed, predict, annotate, score, generate.",
        version=f"chargaff {__version__}",
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )
    for verb in list_verbs():
        module = import_module(f"chargaff.cli.{verb}")
        app.command(getattr(module, "app", None) or module.run, name=verb.replace("_", "-"))
    _add_global_flags(app)
    return app


def list_verbs() -> tuple[str, ...]:
    """Module names of the verbs, sorted; imports none of them."""
    names = (entry.name for entry in files("chargaff.cli").iterdir())
    modules = (name.removesuffix(".py") for name in names if name.endswith(".py"))
    return tuple(sorted(name for name in modules if name not in ("__init__", "main")))


def _add_global_flags(app: App) -> None:
    app.meta.suppress_keyboard_interrupt = False
    app.meta.group_parameters = Group("Flags of every command", sort_key=100)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        debug: Annotated[bool, Parameter(negative="", show_default=False)] = False,
        quiet: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    ) -> object:
        """Sets up logging around the verb.

        Args:
            debug: Log more; on an error print the whole trace.
            quiet: Log warnings only.
        """
        with _logging_to_stderr(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO):
            # the parser takes a lone hyphen for an option without a name
            words = [STANDARD_INPUT if token == "-" else token for token in tokens]
            return app(words, exit_on_error=False, print_error=False, result_action="return_value")


def _dispatch(words: list[str]) -> int:
    code = build_app().meta(words or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
    sys.stdout.flush()
    return ExitCode.DONE if code is None else ExitCode(code)


class _StderrHandler(logging.Handler):
    """Prints to whatever stderr is at the moment, so that messages appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        print(f"{level}{record.getMessage()}", file=sys.stderr)


@contextmanager
def _logging_to_stderr(level: int) -> Iterator[None]:
    """Messages and warnings go to stderr, one line each; the loggers are as before on exit."""
    handler = _StderrHandler()
    loggers = [logging.getLogger("chargaff"), logging.getLogger("py.warnings")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (old_level, old_propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = old_propagate


def _report(error: BaseException, message: str, is_debug: bool) -> ExitCode:
    """One line on stderr."""
    if is_debug:
        traceback.print_exception(error)
    print(f"chargaff: {message}", file=sys.stderr)
    return ExitCode.USER_ERROR


def _report_bug() -> ExitCode:
    traceback.print_exc()
    print("chargaff: this is a bug; please report it with the trace above and the command", file=sys.stderr)
    return ExitCode.BUG


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _help_command(error: CycloptsError) -> str:
    return " ".join(("chargaff", *(error.command_chain or ()), "--help"))
