"""Lifted networks on the Hugging Face hub: upload with a model card, and download."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from image2point.errors import InputError, one_line
from image2point.files import write_text
from image2point.lifting.artefact import CONTENT, WEIGHTS, Artefact, parsed, read_content


def push(save: Callable[[Path], object], repository: str, private: bool = False) -> str:
    """See `LiftedNetwork.push_to_hub`; `save` writes the network to a folder."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        save(home)
        artefact = parsed(read_content(home / CONTENT), CONTENT)
        write_text(home / "README.md", card(artefact, repository))
        try:
            hub = HfApi()
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=home, commit_message="A lifted network")
        except HFValidationError as error:
            raise InputError(f"expected OWNER/NAME, found {repository!r}: {one_line(error)}") from None
        except Exception as error:  # whatever the hub's client raises where there is no network or no permission
            raise InputError(
                f"{repository} cannot be uploaded: {one_line(error, 300)}; is there a token that may write?"
            ) from None
        return f"{hub.endpoint}/{repository}"


def fetch(name: str) -> Path:
    """The folder with the network OWNER/NAME[@REVISION] of the hub, downloaded where the cache has it not.

    Raises InputError where it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        paths = [Path(hf_hub_download(repository, file, revision=revision or None)) for file in (WEIGHTS, CONTENT)]
    except HFValidationError as error:
        raise InputError(f"expected hf:OWNER/NAME[@REVISION], found 'hf:{name}': {one_line(error)}") from None
    except RepositoryNotFoundError:
        raise InputError(f"hf:{name}: the hub has no such network, or it is private and no token was given") from None
    except EntryNotFoundError as error:
        raise InputError(f"hf:{name} is no network of this package, or cannot be reached: {one_line(error)}") from None
    except Exception as error:  # whatever the hub's client raises where there is no network
        raise InputError(f"hf:{name} cannot be had ({type(error).__name__}: {one_line(error)})") from None
    return paths[0].parent


def card(artefact: Artefact, repository: str) -> str:
    """The model card of a network, in Markdown, from what its `network.json` says."""
    from huggingface_hub import ModelCardData

    lifting, use, facts = artefact.lifting, artefact.usage, artefact.facts
    data = ModelCardData(
        license=facts.licence or "unknown",
        library_name="image2point",
        pipeline_tag=None,
        tags=["point-cloud", "image2point", "segmentation" if lifting.decoder else "classification"],
        base_model=f"timm/{lifting.network}" if lifting.weights.source.startswith("timm") else None,
    )
    options, weights = lifting.options, lifting.weights
    kind = f"scores every point, with the decoder {lifting.decoder}" if lifting.decoder else "scores whole clouds"
    lines = [
        "---", data.to_yaml(), "---", "", f"# {repository}", "",
        f"{lifting.network}, a 2D network that was lifted to voxels; it {kind}.", "", "```python",
        "import image2point as i2p", "", f'net = i2p.load("hf:{repository}")',
        "net.predict([points])  # arrays [P, 3]" if use else "net(voxels)", "```", "",
        "| | |", "|---|---|",
        f"| classes | {', '.join(use.classes) if use and use.classes else options.num_classes} |",
    ]  # fmt: skip
    if use:
        lines += [
            f"| voxel size | {use.voxel_size:g} |",
            f"| input features | {', '.join(use.features)} |",
            f"| up | {use.up or 'any axis'} |",
            f"| clouds | {'moved and scaled into the unit sphere' if use.normalise else 'in their own units'} |",
        ]
    lines += [
        f"| kernels | {options.rule} along {options.axis}, stem {options.stem} |",
        *([f"| ends with | {options.until} |"] if options.until else []),
        f"| 2D weights | {weights.source}{f', sha256 {weights.sha256}' if weights.sha256 else ''} |",
        *([f"| began as | {lifting.start} |"] if lifting.start else []),
        *([f"| trained | {facts.policy} |"] if facts.policy else []),
        f"| licence | {facts.licence or 'not known'} |",
        *[f"| {name} | {value:.4g} |" for name, value in facts.scores.items()],
    ]
    return "\n".join(lines) + "\n"
