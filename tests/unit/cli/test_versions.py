import pytest

from hybrid_infer.cli import versions


def test_this_environment_meets_its_own_floors():
    found = {version.name: version for version in versions.installed_versions()}
    assert {"python", "hybrid-infer", "torch", "transformers", "httpx2"} <= set(found)
    assert "matplotlib" not in found
    assert all(version.ok for version in found.values())


@pytest.mark.parametrize(
    ("installed", "specifiers", "ok"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("2.6", ">=2.6.0", True),
        ("3.0.1", "<3,>=2", False),
        ("2.4.0", "<3,>=2", True),
        ("5.3.0rc1", ">=5.3,<6", True),
        (None, ">=1", False),
    ],
)
def test_ranges(installed, specifiers, ok):
    assert versions._judge("name", installed, specifiers).ok is ok


def test_what_was_unsafe_below_a_version_is_examined_where_it_is_installed(monkeypatch):
    installed = {"h11": "0.14.0", "jinja2": "3.1.6", "starlette": None}
    monkeypatch.setattr(versions, "_installed", installed.get)
    found = {version.name: version.ok for version in versions.installed_versions()}
    assert found["h11"] is False
    assert found["jinja2"] is True
    assert "starlette" not in found
