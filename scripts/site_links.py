"""What mkdocs does with links out of docs/: in the repository they lead to files, on the site to none.

Such a link becomes the file's path in the repository. That the file is there, tests/unit/test_docs.py
checks for every link of every page.
"""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page, as mkdocs hands it over, with its links out of docs/ named only."""
    return _OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`{path}`" if path.endswith(text) else f"{text} (`{path}`)"
