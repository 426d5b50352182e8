"""`chargaff download`: a checkpoint into the cache."""


def run(name: str, /) -> None:
    """Fetch a checkpoint and verify its files; afterwards it loads without a network.

    Files lie in the cache of huggingface_hub (HF_HUB_CACHE moves it).

    Args:
        name: checkpoint name (see `chargaff models`), or hub id owner/repository[@revision].
    """
    from chargaff.workflows.checkpoints import download_checkpoint

    files = download_checkpoint(name)
    print(files.folder)
