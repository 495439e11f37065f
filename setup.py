"""What `pyproject.toml` cannot say: where the project lives, and the README as a package index shows it.

PROJECT_URL is the address of the repository, which a workflow knows. With it, relative links of the README become
absolute, at the tag of the version; without it they become plain text and pictures go, so that none is broken.
"""

import os
import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
URL = os.environ.get("PROJECT_URL", "").rstrip("/")
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "image2point/__init__.py").read_text(encoding="utf-8"), re.M)[1]
RELATIVE = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)]*)\)")
PICTURE = re.compile(r"!(\[[^\]]*\])\((?!https?://)([^)]*)\)")
PAGES = {"Repository": "", "Documentation": "/tree/main/docs", "Changelog": "/blob/main/CHANGELOG.md"}

readme = (ROOT / "README.md").read_text(encoding="utf-8")
readme = PICTURE.sub(rf"!\1({URL}/raw/v{VERSION}/\2)" if URL else "", readme)
readme = RELATIVE.sub(rf"[\1]({URL}/blob/v{VERSION}/\2)" if URL else r"\1", readme)
setup(
    long_description=readme.replace("<this repository>", URL or "<this repository>"),
    long_description_content_type="text/markdown",
    project_urls={name: URL + page for name, page in PAGES.items() if URL},
)
