"""The weights of torchvision's classifiers, trained on ImageNet: where training on photographs begins."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green, blue: what images are normalised by


def fetched(name: str, url: str, digest: str) -> dict[str, Tensor]:
    """The state dict at `url`, from torch's cache (where torchvision's own download puts it too), or else downloaded
    there first. It is read only if it has the SHA-256 `digest`, and never as a program (`weights_only`).

    Raises OSError in words, with the `name` of the network, where the file can not be had, ValueError where it is not
    the one expected.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/")[-1])
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{name}'s ImageNet weights could not be fetched from {url} ({error}). They are not needed: every "
                f"lesson trains from scratch, and data/checkpoints/ holds networks that are trained already. To use "
                f"them without a connection, put the file at {file}"
            ) from error
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != digest:
        raise ValueError(f"{file} is not {name}'s ImageNet weights (SHA-256 {found}): delete it, and call again")
    return torch.load(file, map_location="cpu", weights_only=True)
