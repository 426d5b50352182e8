"""Downloads against a hub on this machine: what is fetched, what is cached, and what every failure says."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from chargaff.errors import CheckpointError, ConfigError
from chargaff.hub import files as files_module
from chargaff.hub.catalog import get_checkpoint, parse_rows
from chargaff.hub.download import fetch, sha256_of
from chargaff.hub.files import find_cached, resolve
from chargaff.hub.load import load
from tests.hub.hub_stub import NEW, OLD, Hub, etag, running

GOLDEN = Path(__file__).parent.parent / "goldens" / "data" / "caduceus" / "hub_ps_tiny"
REPO = "some-lab/tiny-ps"
NEEDED = ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer_config.json"]


def golden_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(GOLDEN.iterdir())}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    other = {"README.md": b"about", "pytorch_model.bin": b"the same again", "modeling.py": b"raise SystemExit"}
    repos = {REPO: {NEW: {**golden_files(), **other}, OLD: golden_files()}}
    with running(Hub(repos)) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield found


@pytest.fixture
def nowhere(hub, monkeypatch):
    """The hub is gone: nobody listens at its address."""

    def leave() -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    return leave


def test_only_needed_files_are_fetched(hub):
    snapshot = fetch(REPO)
    assert sorted(hub.downloads()) == NEEDED
    assert snapshot.commit == NEW
    assert {path.name: path.read_bytes() for path in snapshot.folder.iterdir()} == golden_files()


def test_a_model_loads_by_hub_id_and_a_second_time_without_a_download(hub):
    model = load(REPO, device="cpu")
    assert model.spec.name == REPO
    assert model.spec.notes == {"commit": NEW}
    assert model.spec.sha256 == sha256_of(GOLDEN / "model.safetensors")
    assert model.spec.context_bp == 64
    before = len(hub.downloads())
    again = load(f"hub:{REPO}", device="cpu")
    assert len(hub.downloads()) == before
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_pinned_revision_is_taken_and_needs_no_network_afterwards(hub, nowhere):
    assert fetch(REPO, OLD).commit == OLD
    asked = len(hub.requests)
    assert fetch(REPO, OLD).commit == OLD
    assert len(hub.requests) == asked
    nowhere()
    assert resolve(f"{REPO}@{OLD}").commit == OLD


def test_a_branch_is_looked_up_again(hub):
    hub.branches["main"] = OLD
    assert fetch(REPO).commit == OLD
    hub.branches["main"] = NEW
    assert fetch(REPO).commit == NEW


def test_a_broken_connection_is_resumed_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # the file is small
    hub.break_once_at = 10_000
    snapshot = fetch(REPO)
    assert (snapshot.folder / "model.safetensors").read_bytes() == golden_files()["model.safetensors"]
    assert [line for line in hub.requests if line.endswith("model.safetensors from 10000")]


def test_bytes_that_are_not_what_the_hub_announced_are_refused(hub):
    content = bytearray(golden_files()["model.safetensors"])
    content[-3] ^= 1
    hub.served["model.safetensors"] = bytes(content)
    announced = etag("model.safetensors", golden_files()["model.safetensors"])
    with pytest.raises(CheckpointError, match=rf"model\.safetensors.*the hub says {announced}.*delete .*try again"):
        fetch(REPO)


def test_deleting_the_damaged_file_as_told_mends_the_cache(hub):
    hub.served["model.safetensors"] = bytes(len(golden_files()["model.safetensors"]))
    with pytest.raises(CheckpointError) as caught:
        fetch(REPO)
    hub.served.clear()
    Path(str(caught.value).partition("delete ")[2].partition(" and try")[0]).unlink()
    assert (fetch(REPO).folder / "model.safetensors").read_bytes() == golden_files()["model.safetensors"]


def test_damage_in_the_cache_is_noticed_later(hub):
    path = fetch(REPO).folder / "model.safetensors"
    blob = path.resolve()
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or replaced"):
        fetch(REPO, offline=True)


def test_a_recorded_sum_counts_more_than_the_hubs(hub):
    sums = dict.fromkeys(NEEDED, "")
    assert fetch(REPO, sums=sums).commit == NEW
    with pytest.raises(CheckpointError, match=f"config.json.*the catalogue says {'0' * 64}"):
        fetch(REPO, sums={**sums, "config.json": "0" * 64})


# offline


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_offline_without_a_cached_copy_says_what_to_do(hub, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=f"{REPO}: not in the cache.*copy model.safetensors.*pass its path"):
        fetch(REPO, offline=how == "flag")
    assert hub.requests == []


def test_offline_with_a_cached_copy_asks_nobody(hub):
    fetch(REPO)
    asked = len(hub.requests)
    assert fetch(REPO, offline=True).commit == NEW
    assert load(REPO, device="cpu", offline=True).spec.notes == {"commit": NEW}
    assert len(hub.requests) == asked


def test_offline_with_an_incomplete_copy(hub):
    folder = fetch(REPO).folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not in the cache"):
        fetch(REPO, offline=True)


def test_unreachable_hub_without_a_copy(hub, nowhere):
    nowhere()
    with pytest.raises(CheckpointError, match=r"the hub at http://127\.0\.0\.1:9 cannot be reached .*into a folder"):
        fetch(REPO)


def test_unreachable_hub_with_a_copy_warns_and_uses_it(hub, nowhere, caplog):
    fetch(REPO)
    nowhere()
    assert fetch(REPO).commit == NEW
    assert "cannot be reached" in caplog.text
    assert NEW in caplog.text


# what the hub may say


def test_repository_that_does_not_exist_explains_both_readings(hub):
    with pytest.raises(
        CheckpointError, match=r"no such repository at http.*read as 'hub:some-lab/other'.*'\./some-lab/other'"
    ):
        resolve("some-lab/other")


def test_revision_that_does_not_exist(hub):
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        fetch(REPO, "v9")


def test_gated_repository(hub):
    hub.is_gated = True
    with pytest.raises(CheckpointError, match="ask for consent"):
        fetch(REPO)


def test_hub_with_a_fault(hub):
    hub.fails = True
    with pytest.raises(CheckpointError, match="cannot be reached"):
        fetch(REPO)


def test_captive_portal(hub):
    hub.speaks_html = True
    with pytest.raises(CheckpointError, match="its answer is not a hub's"):
        fetch(REPO)


def test_repository_without_weights(hub):
    hub.repos[REPO][NEW] = {"README.md": b"soon"}
    with pytest.raises(CheckpointError, match=r"does not hold weights \(any of model\.safetensors"):
        fetch(REPO)


def test_repository_without_a_file_that_the_catalogue_names(hub):
    with pytest.raises(CheckpointError, match=r"does not hold merges\.txt"):
        fetch(REPO, sums={"model.safetensors": "", "merges.txt": ""})


def test_html_page_in_place_of_the_weights(hub):
    page = b"<!DOCTYPE html><html>no</html>"
    hub.repos[REPO][NEW]["model.safetensors"] = page
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected weights .*HTML page"):
        load(REPO, device="cpu")


# shards


def test_shards_are_fetched_with_their_index(hub):
    parts = {"m-1.safetensors": {"a": torch.ones(2)}, "m-2.safetensors": {"b": torch.zeros(3)}}
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    blobs = {name: save(tensors) for name, tensors in parts.items()}
    hub.repos[REPO][NEW] = {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": b"{}", **blobs}
    folder = fetch(REPO).folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(hub.repos[REPO][NEW])
    (folder / "m-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not in the cache"):
        fetch(REPO, offline=True)
    assert fetch(REPO).folder == folder


# names


@pytest.fixture
def row(hub, monkeypatch):
    """A catalogue of one row, whose weights lie on the hub of this test."""
    config = json.loads(golden_files()["config.json"])
    lines = [
        "[tiny-ps]",
        f'source = "hub:{REPO}"',
        f'revision = "{OLD}"',
        'layout = "hub"\nhead = "lm"\ncontext_bp = 64\nparams = 1\nlicence = "MIT"\npaper = "doi:0"',
        'strands = "equivariant"',
        "[tiny-ps.files]",
        *(f'"{name}" = "{sha256_of(GOLDEN / name)}"' for name in NEEDED),
        "[tiny-ps.config]",
        *(f"{key} = {json.dumps(config[key])}" for key in ("d_model", "n_layer", "rcps", "vocab_size")),
    ]
    (found,) = parse_rows("caduceus", "\n".join(lines))

    def get(name):
        return found if name == found.name else get_checkpoint(name)

    monkeypatch.setattr(files_module, "list_checkpoints", lambda: (found,))
    monkeypatch.setattr(files_module, "get_checkpoint", get)
    return found


def test_a_name_brings_the_pinned_files_and_the_facts_of_its_row(hub, row):
    model = load("tiny-ps", device="cpu")
    spec = model.spec
    assert (spec.name, spec.licence, spec.paper, spec.context_bp) == ("tiny-ps", "MIT", "doi:0", 64)
    assert (spec.strands, spec.head) == ("equivariant", "lm")
    assert spec.notes == {"commit": OLD}
    assert sorted(hub.downloads()) == NEEDED


def test_a_pinned_name_asks_nobody_once_it_is_cached(hub, row):
    assert set(find_cached(row).values()) == {None}
    load("tiny-ps", device="cpu")
    assert all(path is not None and path.is_file() for path in find_cached(row).values())
    asked = len(hub.requests)
    load("tiny-ps", device="cpu")
    assert len(hub.requests) == asked


def test_the_hub_id_of_a_row_is_the_row(hub, row):
    assert resolve(REPO).checkpoint is row
    assert resolve(f"hub:{REPO}").commit == OLD


def test_another_revision_of_a_row_is_possible(hub, row):
    assert resolve("tiny-ps@main").commit == NEW
    assert resolve(f"hub:{REPO}@main").commit == NEW


def test_a_name_that_is_also_a_folder_must_be_spelled_out(hub, row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(GOLDEN, tmp_path / "tiny-ps")
    with pytest.raises(ConfigError, match=rf"write '\./tiny-ps' for the path, 'hub:{REPO}' for the checkpoint"):
        resolve("tiny-ps")
    assert resolve("./tiny-ps").checkpoint is None
    assert resolve(f"hub:{REPO}").checkpoint is row


def test_an_existing_folder_is_not_taken_for_a_hub_id(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some-lab"
    folder.mkdir()
    os.symlink(GOLDEN, folder / "tiny-ps")
    assert resolve(REPO).name == REPO
    assert resolve(REPO).commit == ""
    assert hub.requests == []
    assert resolve(f"hub:{REPO}").commit == NEW


def test_a_name_whose_config_json_differs_from_the_catalogue_warns_and_follows_it(hub, row, caplog):
    config = json.loads(golden_files()["config.json"])
    tensors = load(GOLDEN, device="cpu")
    assert tensors.spec.config.norm_epsilon == 1e-5
    row.config["norm_epsilon"] = 1e-3
    hub.repos[REPO][OLD]["config.json"] = json.dumps(config).encode()
    row.files["config.json"] = ""
    model = load("tiny-ps", device="cpu")
    assert model.spec.config.norm_epsilon == 1e-5
    assert "differs from the catalogue in ['norm_epsilon']" in caplog.text


def test_weights_that_were_never_published_say_so():
    with pytest.raises(CheckpointError, match=r"mamba-1k-128: there are no weights to load.*chargaff pretrain"):
        resolve("mamba-1k-128")


def test_unknown_name_suggests_and_mentions_paths():
    with pytest.raises(ConfigError, match=r"did you mean 'caduceus-ps-131k'.*nor is there a file or folder"):
        resolve("caduceus-ps-131")


@pytest.mark.parametrize("text", ["hub:nothing", "hub:a/b/c", "hub:", "hub:a b/c"])
def test_malformed_hub_id(text):
    with pytest.raises(ConfigError, match="expected a hub id"):
        resolve(text)


# folders and files


@pytest.mark.parametrize("text", ["./nothing", "/nothing/here", "nothing/", "nothing.safetensors", Path("nothing")])
def test_absent_path(text):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        resolve(text)


def test_folder_and_file_are_the_same_model():
    folder, file = resolve(GOLDEN), resolve(GOLDEN / "model.safetensors")
    assert folder.weights == file.weights
    assert folder.config == file.config == GOLDEN / "config.json"


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink(GOLDEN, tmp_path / "model")
    assert resolve("~/model").weights == tmp_path / "model" / "model.safetensors"


def test_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="a folder without weights"):
        resolve(tmp_path)


def test_folder_of_a_run_points_to_the_models_in_it(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=rf"did you mean {tmp_path}/best\?"):
        resolve(tmp_path)


def test_several_weight_files_must_be_told_apart(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds 2 weight files; give the one to load: .*a\.safetensors"):
        resolve(tmp_path)


def test_run_folder_of_the_training_framework(tmp_path):
    path = tmp_path / "checkpoints" / "test" / "loss.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    (tmp_path / "model_config.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    for text in (tmp_path, path):
        assert resolve(text).weights == path
        assert resolve(text).config == tmp_path / "model_config.json"


def test_config_two_levels_above_belongs_to_training_checkpoints_only(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w.safetensors").write_bytes(b"x")
    assert resolve(tmp_path / "a").config is None
