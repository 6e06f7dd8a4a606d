import re

from hybrid_infer.datatypes.long_texts import cut_long_text
from hybrid_infer.snapshots.probes import CANARY_PROBES, PROBES, probes_digest


def test_labels_and_texts_are_unique():
    assert len({probe.label for probe in PROBES}) == len(PROBES)
    assert len({probe.text for probe in PROBES}) == len(PROBES)
    assert len(PROBES) <= 32, "one request each"


def test_the_hostile_ones_are_there():
    texts = {probe.label: probe.text for probe in PROBES}
    assert texts["upper case"].isupper()
    assert not texts["accents"].isascii()
    assert "今日" in texts["cjk"]
    assert "🎉" in texts["emoji"]
    assert not texts["whitespace only"].strip()
    assert "$&" in texts["$&"]
    over_length = re.findall(r"\w+|[^\w\s]", texts["over-length"])
    assert len(over_length) > 512, "a word is a token at least, and so is a sign"


def test_they_are_sent_as_they_are():
    assert [cut_long_text(probe.text, 256).text for probe in PROBES] == [p.text for p in PROBES]


def test_the_canary_sends_the_first_two():
    assert PROBES[:2] == CANARY_PROBES


def test_the_digest_is_that_of_the_goldens():
    assert len(probes_digest()) == 64
