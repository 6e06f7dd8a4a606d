from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hybrid_infer.errors import ConfigError
from hybrid_infer.registry.yaml_source import LOADER, MAX_FILE_BYTES, parse_yaml

LOADERS = sorted({LOADER, yaml.SafeLoader}, key=lambda loader: loader.__name__)


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request):
    return request.param


def refused(text: str | bytes, loader=LOADER) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigError) as caught:
        parse_yaml("f", data, loader=loader)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: -2.5\nc: x y\nd: 'y'\ne: \"\\u00e9\"\n",
        "a:\n- 1\n- [2, {b: c}]\n- |\n  two\n  lines\n",
        "a: yes\nb: off\nc: null\nd: ~\ne:\nf: 0x1F\ng: 1_000\nh: .inf\ni: '1'\n",
        "a: &x [1, 2]\nb: *x\n",
        "--- # head\n'on': 1\n...\n",
    ],
)
def test_values_are_those_of_safe_load(text, loader):
    assert parse_yaml("f", text.encode(), loader=loader).root.plain() == yaml.safe_load(text)


def test_dates_and_base_60_numbers_stay_text(loader):
    document = parse_yaml("f", b"a: 2026-01-02\nb: 1:30\nc: 12:30.5\n", loader=loader)
    assert document.root.plain() == {"a": "2026-01-02", "b": "1:30", "c": "12:30.5"}


def test_lines(loader):
    document = parse_yaml("f", b"# head\na:\n  b: 1\n  c:\n  - x\n  -\n    d: 2\n", loader=loader)
    paths = [("a",), ("a", "b"), ("a", "c"), ("a", "c", 0), ("a", "c", 1, "d"), ("a", "nope")]
    assert [document.line(path) for path in paths] == [2, 3, 4, 5, 7, 2]
    assert str(document.error(("a", "b"), "is wrong")) == "f:3: is wrong"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: the file is empty; it must hold a mapping"),
        ("# only a comment\n", "f: the file is empty; it must hold a mapping"),
        ("- a\n", "f:1: the top level must be a mapping"),
        ("\n\nword\n", "f:3: the top level must be a mapping"),
        ("a: 1\nb: 2\na: 3\n", "f:3: duplicate key 'a', first on line 1"),
        ("a:\n  b: {c: 1,\n    c: 2}\n", "f:3: duplicate key 'c', first on line 2"),
        ("a: 1\n'a': 2\n", "f:2: duplicate key 'a', first on line 1"),
        ("a:\n\tb: 1\n", "f:2: a tab in the indentation; YAML is indented with spaces"),
        ("a: 1\n---\nb: 2\n", "f:2: a second document (---) is not allowed"),
        ("a: 1\n2: b\n", "f:2: a key must be text; put it in quotes"),
        ("on: 1\n", "f:1: a key must be text; put it in quotes"),
        ("? [a]\n: 1\n", "f:1: a key must be text, not a list or a mapping"),
        ("a: &x b\n*x : 1\n", "f:2: a key must be text, not a reference (*name)"),
        ("a: *b\n", "f:1: *b refers to nothing above it"),
        ("a: &b\n  c: *b\n", "f:2: *b refers to itself"),
        ("a: &b {c: 1}\nd:\n  <<: *b\n", "f:3: merge keys (<<) are not supported"),
        ("a: !!python/object:os.system x\n", "f:1: tags (!name) are not supported"),
        ("a: !include x\n", "f:1: tags (!name) are not supported"),
        ("a: !!str 3\n", "f:1: tags (!name) are not supported"),
        ("a: !!map {}\n", "f:1: tags (!name) are not supported"),
        (
            "a: 123456789012345678901\n",
            "f:1: the number is too large; if it is text, put it in quotes",
        ),
        ("a: " + "1" * 65, "f:1: the number is too long; if it is text, put it in quotes"),
        ("a: 0b_\n", "f:1: not a number; if it is text, put it in quotes"),
        ("a: 1\nb: \x01\n", "f:2: a control character is not allowed here"),
        (b"a: 1\nb: \xff\n", "f:2: not valid UTF-8"),
        (b"\xef\xbb\xbfa: 1\n", "f:1: starts with a byte order mark; save it as plain UTF-8"),
        ("a: 1\n".encode("utf-16"), "f:1: starts with a byte order mark; save it as plain UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "f: the file is larger than 64 KiB"),
        ("[" * 60_000, "f:1: nested more than 10 levels deep"),
        ("{a: " * 15_000, "f:1: nested more than 10 levels deep"),
        ("a: &x 1\nb: [" + "*x, " * 65 + "]\n", "f:2: more than 64 references (*name)"),
        ("a:\n" + "- 1\n" * 10_001, "f:10001: more than 10,000 values"),
    ],
)
def test_refused(text, message, loader):
    assert refused(text, loader) == message


def test_the_largest_file_is_read():
    data = b"a: 1\n".ljust(MAX_FILE_BYTES, b"#")
    assert parse_yaml("f", data).root.plain() == {"a": 1}


def test_a_bomb_of_references_is_refused_before_it_grows(loader):
    rows = ["a0: &a0 [x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 7)}]" for i in range(1, 9)]
    assert refused("\n".join(rows), loader) == "f:5: more than 10,000 values"


def test_a_syntax_error_names_its_line(loader):
    assert refused("a: 1\nb: [1, 2\nc: 3\n", loader).startswith("f:3: ")


def test_a_message_never_holds_the_value(loader):
    for text in (
        "k: hf_secretsecretsecretsecret: [",
        "k: 'hf_secretsecretsecretsecret",
        "a: \x01 hf_s",
    ):
        assert "hf_s" not in refused(text, loader)


@given(
    st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace"))
)
@example(b"a: ._")
@example(b"a: 0x_")
@example(b"a: '\\ud800'")
@example(b'a: "\\ud800"')
@example(b"%YAML 9.9\n---\na: 1")
@example(b"a: 1e400\nb: 1.0e+400")
def test_any_bytes_are_a_document_or_a_config_error(data):
    for loader in LOADERS:
        try:
            document = parse_yaml("f", data, loader=loader)
        except ConfigError:
            continue
        assert isinstance(document.root.plain(), dict)


yaml_text = st.text(alphabet="ab:-[]{}&*!|>'\"#%@,?~ \n\t0.1<=", max_size=80)


@given(yaml_text)
def test_any_near_yaml_is_a_document_or_a_config_error(text):
    for loader in LOADERS:
        try:
            parse_yaml("f", text.encode(), loader=loader)
        except ConfigError:
            continue
