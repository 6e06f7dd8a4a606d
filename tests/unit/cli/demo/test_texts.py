import subprocess
import sys

from hybrid_infer.cli.demo.texts import docstring_texts


def test_a_few_hundred_distinct_real_texts_always_the_same():
    texts = docstring_texts(300)
    assert len(set(texts)) == 300
    assert all(40 <= len(text) <= 240 and "\n" not in text for text in texts)
    assert docstring_texts(300) == texts


def test_modules_are_read_and_not_imported():
    script = (
        "import sys; from hybrid_infer.cli.demo.texts import docstring_texts;"
        "before = set(sys.modules); docstring_texts(300);"
        "print(sorted({'antigravity', 'asyncore', 'cmd', 'calendar'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
