"""Publishing files and folders: built under a private name next to the destination, then renamed into place."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chargaff.errors import InputError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def publish(destination: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A private path beside `destination` to build a file or folder at; renamed when the block ends without error.

    Missing parent folders are created. When the block fails or is interrupted, nothing is left behind. While the
    block runs, no other process (or thread) can publish the same destination; what a killed process left is removed.

    Args:
        destination: file or folder that shall appear.
        overwrite: replace what is there; otherwise an existing destination is an error.

    Raises:
        InputError: the destination exists, another process is writing it, or it cannot be written (full disk).
    """
    destination = Path(destination)
    with output_errors(destination), claim(destination):
        if os.path.lexists(destination) and not overwrite:
            raise InputError(f"{destination}: exists already; choose another path or allow overwriting")
        part = destination.parent / f".{destination.name}.part"
        _remove(part)
        try:
            yield part
            _replace(part, destination)
        finally:
            _remove(part)


def write_atomically(destination: str | os.PathLike[str], content: bytes | memoryview | str) -> None:
    """Write a small file so that readers see the old or the new content, never a mixture; the last writer wins."""
    destination = Path(destination)
    with output_errors(destination):
        handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, destination)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def publish_lines(destination: str | os.PathLike[str], lines: Iterable[str], *, overwrite: bool = False) -> None:
    """Write a text file as its lines arrive; see `publish`.

    Args:
        lines: each with its line end.
    """
    with publish(destination, overwrite=overwrite) as path, path.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def write_manifest(folder: str | os.PathLike[str], name: str, content: Mapping[str, Any]) -> None:
    """Declare a folder complete: call it last, after everything the manifest speaks of is written."""
    write_atomically(Path(folder) / name, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_manifest(folder: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """What `write_manifest` wrote, or None where the folder was never completed."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: the manifest cannot be read ({error}); delete the folder and make it again"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: the manifest is no JSON object; delete the folder and make it again")
    return content


def remove_stale_parts(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete what killed processes left of unpublished outputs in `folder`; parts still being written stay.

    Returns:
        The removed paths.
    """
    removed = []
    for part in sorted(Path(folder).glob(".*.part")):
        destination = part.parent / part.name.removeprefix(".").removesuffix(".part")
        with contextlib.suppress(InputError), claim(destination):
            _remove(part)
            removed.append(part)
    return removed


@contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Operating-system errors of the block become one-line InputErrors that name the output and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            reason = error.strerror or "no space left on device"
            remedy = "free some space or choose a path on another disk; the incomplete output was removed"
            raise InputError(f"{os.fspath(path)}: cannot be written ({reason}); {remedy}") from error
        reason = error.strerror or str(error)
        raise InputError(f"{os.fspath(path)}: cannot be written ({reason})") from error


@contextmanager
def claim(destination: Path) -> Iterator[None]:
    """Hold the lock of a destination; an InputError if another process (or thread) holds it.

    The kernel drops the lock when its process dies: a file left over is no lock.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    path = destination.parent / f".{destination.name}.lock"
    handle = _lock(path, destination)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path, destination: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            message = f"is being written by another process (number {holder}); wait for it or choose another path"
            raise InputError(f"{destination}: {message}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            warnings.warn(
                f"{destination}: this file system has no locks; let no other process write here", stacklevel=4
            )
            return handle
        if _is_same_file(handle, path):
            return handle
        os.close(handle)  # the holder before us removed the file after we opened it


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _replace(part: Path, destination: Path) -> None:
    if part.is_file():
        with part.open("rb") as file:
            os.fsync(file.fileno())
    if part.is_dir() and os.path.lexists(destination):
        old = destination.parent / f".{destination.name}.old"
        _remove(old)
        os.replace(destination, old)
        os.replace(part, destination)
        _remove(old)
        return
    if destination.is_dir() and not destination.is_symlink():
        raise InputError(f"{destination}: is a folder, and the output is a file; choose another path")
    os.replace(part, destination)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
