from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry import EnvironmentOptions, read_environment
from hybrid_infer.settings import POLICIES

NAMES = [
    "HYBRID_INFER_MODELS",
    "HYBRID_INFER_PROFILE",
    "HYBRID_INFER_POLICY",
    "HYBRID_INFER_DEVICE",
]


def test_unset_and_empty_are_the_same():
    assert (
        read_environment({}) == read_environment(dict.fromkeys(NAMES, "")) == EnvironmentOptions()
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"])
def test_accepted(policy, device):
    values = ["x.yaml", "tiny", policy, device]
    expected = EnvironmentOptions("x.yaml", "tiny", policy, device)
    assert read_environment(dict(zip(NAMES, values, strict=True))) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HYBRID_INFER_PROFILE", "Tiny"),
        ("HYBRID_INFER_PROFILE", " "),
        ("HYBRID_INFER_POLICY", "remote_first"),
        ("HYBRID_INFER_POLICY", "local"),
        ("HYBRID_INFER_DEVICE", "gpu"),
        ("HYBRID_INFER_DEVICE", "cuda:"),
        ("HYBRID_INFER_DEVICE", "cuda:-1"),
        ("HYBRID_INFER_DEVICE", "cpu\n"),
    ],
)
def test_a_malformed_value_names_its_variable(name, value):
    with pytest.raises(ConfigError, match=f"^{name} is "):
        read_environment({name: value})


def test_the_message_offers_the_choices():
    with pytest.raises(ConfigError) as caught:
        read_environment({"HYBRID_INFER_POLICY": "remote_first"})
    assert str(caught.value) == (
        "HYBRID_INFER_POLICY is 'remote_first'; it must be one of remote-first, local-first, "
        "remote-only, local-only; did you mean 'remote-first'?"
    )


@given(st.dictionaries(st.sampled_from(NAMES), st.text()))
def test_any_value_is_an_option_or_a_config_error(environ):
    try:
        read_environment(environ)
    except ConfigError as error:
        assert "HYBRID_INFER_" in str(error)  # noqa: PT017 - both ways of ending are right
