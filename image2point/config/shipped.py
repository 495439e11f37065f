"""The configs that come with the package: those of the folder `configs/`, which is in the wheel too."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from image2point.files import user_path

SHIPPED = Path(__file__).parent.parent / "configs"


def shipped() -> tuple[str, ...]:
    """Names of the shipped configs, such as `modelnet40/resnet50_io_norm`; bases, which begin with `_`, are left out.

    >>> "modelnet40/resnet50_io_norm" in shipped()
    True
    """
    paths = sorted(SHIPPED.glob("**/*.yaml"))
    return tuple(p.relative_to(SHIPPED).with_suffix("").as_posix() for p in paths if not p.name.startswith("_"))


def near(path: str | Path) -> list[str]:
    """Names that somebody may have meant: of config files in the same folder, and of shipped ones.

    >>> near("modelnet40/resnet50_ionorm")
    ['modelnet40/resnet50_io_norm']
    """
    beside = [str(each) for suffix in ("yaml", "yml") for each in sorted(user_path(path).parent.glob(f"*.{suffix}"))]
    return get_close_matches(str(path), [*beside, *shipped()], n=1, cutoff=0.75)


def find(path: str | Path) -> Path:
    """The config that a user names: a file of his own, else a shipped one, with or without `configs/` and `.yaml`.

    >>> find("modelnet40/resnet50_io_norm") == find("configs/modelnet40/resnet50_io_norm.yaml").resolve()
    True
    """
    given = user_path(path)
    if given.exists():
        return given
    name = Path(path).as_posix().removeprefix("configs/").removesuffix(".yaml")
    return (SHIPPED / f"{name}.yaml").resolve() if name in shipped() else given
