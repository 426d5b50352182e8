"""Files of a hub repository -> a local snapshot folder, through huggingface_hub and its cache.

Environment, as for huggingface_hub: `HF_ENDPOINT` (another hub or a mirror), `HF_HUB_CACHE` (where files are kept),
`HF_HUB_OFFLINE=1` (never use the network).
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chargaff.errors import CheckpointError
from chargaff.hub.readers import shards_of

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Usual names, the preferred one first."""
SIDE_FILES = (
    "model.json",
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.txt",
)
"""Small files beside the weights that may be needed."""

_LISTING_TIMEOUT_SECONDS = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of one commit of a repository."""

    folder: Path
    commit: str


class _UnreachableError(CheckpointError):
    """The hub does not answer, or must not be asked."""


def is_offline(offline: bool = False) -> bool:
    """Whether the network is ruled out, by the caller or by the environment."""
    return offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def fetch(repo: str, revision: str = "", sums: Mapping[str, str] | None = None, *, offline: bool = False) -> Snapshot:
    """A folder with the needed files of a repository, downloaded where they are not in the cache yet.

    Args:
        repo: "owner/repository".
        revision: commit, branch or tag; "" is the newest commit.
        sums: needed files -> sha256 ("": the hub's own sum is used). None: weights, config and tokenizer files as far
            as the repository has them.
        offline: use the cache alone.

    Raises:
        CheckpointError: no such repository, revision or file, hub out of reach and files not cached, or a wrong sum.
    """
    revision = revision or "main"
    snapshot = _cached_snapshot(repo, revision, sums)
    if is_offline(offline) or _COMMIT.fullmatch(revision):
        if snapshot is None and is_offline(offline):
            raise _UnreachableError(
                f"{repo}: not in the cache, and the network is ruled out (offline); download it once with "
                f"`chargaff download {repo}` where there is a network, or {_by_hand(repo, sums)}"
            )
        if snapshot is not None:
            return _verified(snapshot, sums)
    try:
        return _verified(_download(repo, revision, sums), sums)
    except _UnreachableError as error:
        if snapshot is None:
            raise
        _LOG.warning("%s; using the cached commit %s", str(error).partition(";")[0], snapshot.commit)
        return _verified(snapshot, sums)


def cached_files(repo: str, revision: str, names: Mapping[str, str]) -> dict[str, Path | None]:
    """Where each file lies in the cache; None for those that would be downloaded. Uses no network."""
    return {name: _cached_file(repo, revision or "main", name) for name in names}


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached_file(repo: str, revision: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision, cache_dir=_cache_folder())
    return Path(found) if isinstance(found, str) else None


def _cached_snapshot(repo: str, revision: str, sums: Mapping[str, str] | None) -> Snapshot | None:
    """The snapshot folder, if it holds all that is needed."""
    names = tuple(sums or ()) or next(((name,) for name in WEIGHT_FILES if _cached_file(repo, revision, name)), ())
    found = [_cached_file(repo, revision, name) for name in names]
    paths = [path for path in found if path is not None]
    if not paths or len(paths) < len(found):
        return None
    if any(not shard.is_file() for path in paths if path.name.endswith(".index.json") for shard in shards_of(path)):
        return None
    return _snapshot_of(paths[0], names[0])


def _snapshot_of(path: Path, name: str) -> Snapshot:
    folder = path.parents[name.count("/")]
    return Snapshot(folder, folder.name)


def _download(repo: str, revision: str, sums: Mapping[str, str] | None) -> Snapshot:
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"

    def get(name: str) -> Path:
        return Path(hf_hub_download(repo, name, revision=revision, cache_dir=_cache_folder(), endpoint=endpoint))

    with _hub_errors(repo, revision, endpoint, sums):
        # asked first, because this fails at once where the hub is out of reach, and knows which files there are
        info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=_LISTING_TIMEOUT_SECONDS)
        present = {entry.rfilename for entry in info.siblings or ()}
        wanted = tuple(sums or ()) or _needed(present)
        absent = [name for name in wanted if name not in present]
        if absent or not any(name in WEIGHT_FILES for name in wanted):
            what = ", ".join(absent) or f"weights (any of {', '.join(WEIGHT_FILES)})"
            raise CheckpointError(f"{repo} at {revision}: the repository does not hold {what}")
        paths = {name: get(name) for name in wanted}
        for name in [name for name in wanted if name.endswith(".index.json")]:
            paths.update({shard.name: get(shard.name) for shard in shards_of(paths[name])})
    snapshots = {_snapshot_of(path, name) for name, path in paths.items()}
    if len(snapshots) > 1:
        raise CheckpointError(f"{repo}: {revision} moved to another commit during the download; run it again")
    return snapshots.pop()


def _needed(present: set[str]) -> tuple[str, ...]:
    weights = [name for name in WEIGHT_FILES if name in present][:1]
    return (*weights, *(name for name in SIDE_FILES if name in present))


def _verified(snapshot: Snapshot, sums: Mapping[str, str] | None) -> Snapshot:
    """The snapshot after comparing every needed file with its recorded sum, or else with the one the hub announced."""
    for path in _files_of(snapshot, sums):
        recorded = (sums or {}).get(path.relative_to(snapshot.folder).as_posix(), "")
        announced = path.readlink().name if path.is_symlink() else ""  # the cache names large files by their sha256
        expected, who = (recorded, "the catalogue") if recorded else (announced, "the hub")
        if not _SHA256.fullmatch(expected):
            continue
        found = sha256_of(path)
        if found != expected:
            raise CheckpointError(
                f"{path.name} of {snapshot.folder}: sha256 is {found}, but {who} says {expected}: damaged or replaced; "
                f"delete {path.resolve()} and try again"
            )
    return snapshot


def _files_of(snapshot: Snapshot, sums: Mapping[str, str] | None) -> tuple[Path, ...]:
    names = sums or _needed({path.name for path in snapshot.folder.iterdir()})
    files = [snapshot.folder / name for name in names]
    shards = [shard for path in files if path.name.endswith(".index.json") for shard in shards_of(path)]
    return (*files, *shards)


def _cache_folder() -> str | None:
    """None: huggingface_hub's own default."""
    return os.environ.get("HF_HUB_CACHE") or None


def _by_hand(repo: str, sums: Mapping[str, str] | None) -> str:
    files = ", ".join(sums or ("model.safetensors", "config.json"))
    return f"copy {files} of https://huggingface.co/{repo} into a folder and pass its path"


@contextmanager
def _hub_errors(repo: str, revision: str, endpoint: str, sums: Mapping[str, str] | None) -> Iterator[None]:
    """Errors of huggingface_hub become CheckpointErrors that say what to do."""
    from huggingface_hub import errors

    def unreachable(error: Exception) -> _UnreachableError:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        return _UnreachableError(
            f"{repo}: the hub at {endpoint} cannot be reached ({reason}); connect and try again, or "
            f"{_by_hand(repo, sums)}"
        )

    try:
        yield
    except CheckpointError:
        raise
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo}: its owners ask for consent first; give it at {endpoint}/{repo}, log in with `hf auth login`, "
            "and try again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"{repo}: no such repository at {endpoint} (or it is private)") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo}: has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise unreachable(error) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{repo} at {revision}: a needed file is not there ({error})") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repo!r} is no hub id 'owner/repository' ({error})") from error
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise unreachable(error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise unreachable(ValueError(f"its answer is not a hub's: {error}")) from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk, not the hub
        raise _UnreachableError(f"{repo}: the download broke off ({error}); run it again") from error
