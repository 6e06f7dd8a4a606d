from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.errors import ConfigError
from hybrid_infer.settings import (
    SETTING_GROUPS,
    RoutingSettings,
    Settings,
    checked_setting,
    setting_hints,
    validated_settings,
)

ALL = [(group, field.name) for group, kind in SETTING_GROUPS.items() for field in fields(kind)]


def changed(group, name, value) -> Settings:
    default = Settings()
    return replace(default, **{group: replace(getattr(default, group), **{name: value})})


def test_the_groups_are_those_of_settings():
    assert list(SETTING_GROUPS) == [field.name for field in fields(Settings)]
    assert {name: type(getattr(Settings(), name)) for name in SETTING_GROUPS} == SETTING_GROUPS


def test_the_defaults_are_valid():
    assert validated_settings(Settings()) == Settings()


@pytest.mark.parametrize(("group", "name"), ALL)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -1, 0.0, True, None, "1", 10**400, []]
)
def test_what_no_setting_accepts(group, name, value):
    default = getattr(getattr(Settings(), group), name)
    if (value is True and isinstance(default, bool)) or (value is None and default is None):
        return
    with pytest.raises(ConfigError, match=rf"^settings\.{group}\.{name} must be "):
        validated_settings(changed(group, name, value))


def test_the_message_tells_the_bounds():
    for group, name, value, message in [
        ("routing", "embed_timeout_seconds", 0, "a number above 0 and at most 86,400"),
        ("routing", "max_attempts_per_target", 11, "a whole number from 1 to 10"),
        ("routing", "preload", "always", "one of on_failure, at_start, never"),
        ("memory", "local_fraction", 1.5, "a number above 0 and at most 1"),
        ("memory", "max_body_bytes", 1, "a whole number from 1,024 to 17,179,869,184"),
    ]:
        with pytest.raises(ConfigError) as caught:
            validated_settings(changed(group, name, value))
        assert str(caught.value) == f"settings.{group}.{name} must be {message}"


def test_whole_numbers_become_floats_where_floats_are_meant():
    settings = validated_settings(changed("routing", "chat_timeout_seconds", 60))
    assert isinstance(settings.routing.chat_timeout_seconds, float)
    assert settings.routing.chat_timeout_seconds == 60.0


@pytest.mark.parametrize("settings", [None, {}, RoutingSettings(), "x"])
def test_something_else_than_settings(settings):
    with pytest.raises(ConfigError, match=r"^settings must be a Settings, not "):
        validated_settings(settings)


def test_a_group_of_another_kind():
    with pytest.raises(
        ConfigError, match=r"^settings\.routing must be a RoutingSettings, not dict$"
    ):
        validated_settings(Settings(routing={}))


@given(st.sampled_from(ALL), st.floats() | st.integers() | st.text() | st.none())
def test_a_checked_value_has_the_settings_type(setting, value):
    group, name = setting
    try:
        checked = checked_setting(group, name, value)
    except ValueError as error:
        assert str(error).startswith("must be ")  # noqa: PT017 - both ways of ending are right
    else:
        default = getattr(getattr(Settings(), group), name)
        assert type(checked) is type(default) or default is None
        assert name in setting_hints(group)
