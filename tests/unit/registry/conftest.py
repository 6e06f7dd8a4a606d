from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry import Registry, load_registry


@pytest.fixture(scope="session")
def packaged() -> Registry:
    return load_registry(environ={})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "my.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def refusal(write: Callable[[str | bytes], Path]) -> Callable[[str | bytes], str]:
    """The message that a file with this content is refused with, its folder left out."""

    def message(content: str | bytes) -> str:
        path = write(content)
        with pytest.raises(ConfigError) as caught:
            load_registry(path, environ={})
        return str(caught.value).replace(str(path), "my.yaml")

    return message
