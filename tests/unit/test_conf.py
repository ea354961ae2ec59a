from __future__ import annotations

import re

import pytest

from flosse_bus import buses
from flosse_bus.conf import configured_aliases, load
from flosse_bus.exceptions import InvalidBusBackend


def set_bus(settings, **entries):
    settings.FLOSSE_BUS = {"default": entries}


@pytest.mark.parametrize("value", [None, {}])
def test_without_the_setting_there_is_a_memory_bus(settings, value):
    settings.FLOSSE_BUS = value
    config = load("default")
    assert configured_aliases() == ["default"]
    assert config.backend.endswith("MemoryBackend")
    assert (config.history_size, config.heartbeat, config.public_topics) == (1000, 15.0, ())


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("HISTORY_SIZE", 0, "an integer of at least 1"),
        ("HISTORY_SIZE", "10", "an integer of at least 1"),
        ("HISTORY_SIZE", True, "an integer of at least 1"),
        ("HISTORY_TTL", 0, "seconds above 0 or None"),
        ("HISTORY_TTL", float("nan"), "seconds above 0 or None"),
        ("HISTORY_BYTES", 0, "an integer of at least 1 or None"),
        ("TOPICS", ["a"], "a dict of patterns"),
        ("MAX_EVENT_SIZE", 1.5, "an integer"),
        ("HEARTBEAT", None, "seconds above 0"),
        ("HEARTBEAT", float("inf"), "seconds above 0"),
        ("RETRY", 0, "an integer of at least 1"),
        ("SEND_TIMEOUT", -1, "seconds above 0"),
        ("RECHECK_EVERY", 0, "seconds above 0"),
        ("RECHECK_EVERY", None, "seconds above 0"),
        ("MAX_PENDING", 0, "an integer"),
        ("PUBLIC_TOPICS", "news", "a list of topics"),
        ("PUBLIC_TOPICS", ["a b"], "'a b' is not a topic or pattern"),
        ("MAX_TOPICS", None, "an integer"),
        ("MAX_STREAMS", 0, "an integer of at least 1 or None"),
        ("MAX_STREAMS_PER_CLIENT", "5", "an integer of at least 1 or None"),
        ("ALLOWED_ORIGINS", "https://a.example", "a list of origins"),
        ("ALLOWED_ORIGINS", ["*"], "'\\*' is no origin"),
        ("ALLOWED_ORIGINS", ["https://a.example/"], "is no origin"),
        ("ALLOWED_ORIGINS", ["https://A.example"], "is no origin"),
        ("ALLOWED_ORIGINS", ["https://*.example"], "is no origin"),
        ("ALLOWED_ORIGINS", ["https://a.example:port"], "is no origin"),
        ("ALLOWED_ORIGINS", [None], "is no origin"),
        ("ALLOWED_ORIGINS", ["https://a.example:443"], "is no origin"),
        ("ALLOWED_ORIGINS", ["ftp://a.example"], "is no origin"),
        ("ALLOWED_HEADERS", "X-Tenant", "a list of header names"),
        ("ALLOWED_HEADERS", ["*"], "no header where cookies travel"),
        ("ALLOWED_HEADERS", ["X Tenant"], "'X Tenant' is not the name of a header"),
        ("OPTIONS", [], "a dict"),
        ("KEY_PREFIX", "", "1 to 64 characters"),
        ("LOCATION", 5, "a str"),
        ("BACKEND", None, "a str"),
    ],
)
def test_a_bad_value_names_its_setting_and_what_belongs_there(settings, key, value, expected):
    set_bus(settings, **{key: value})
    message = re.escape(f"FLOSSE_BUS['default']['{key}']: ") + f".*{expected}"
    with pytest.raises(InvalidBusBackend, match=message):
        load("default")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ALLOWED_ORIGINS", ["https://a.example", "http://localhost:3000"]),
        ("HISTORY_TTL", None),
        ("MAX_STREAMS", 5),
        ("PUBLIC_TOPICS", ("news", "status.*", "**")),
        ("HEARTBEAT", 0.5),
    ],
)
def test_good_values(settings, key, value):
    set_bus(settings, **{key: value})
    load("default")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"default": {"HISTORY": 5}}, "FLOSSE_BUS['default']['HISTORY']: no such setting. Known: BACKEND"),
        ({"default": {"TOPICS": {"a b": {}}}}, "FLOSSE_BUS['default']['TOPICS']['a b']: 'a b' is not a topic or pattern"),
        ({"default": {"TOPICS": {"a": 5}}}, "FLOSSE_BUS['default']['TOPICS']['a']: expected a dict of settings, not 5."),
        ({"default": {"TOPICS": {"a": {"SIZE": 5}}}}, "['TOPICS']['a']['SIZE']: no such setting. Known: HISTORY_SIZE, HISTORY_TTL, HISTORY_BYTES."),
        ({"default": {"TOPICS": {"runs.**": {"HISTORY_SIZE": 0}}}}, "FLOSSE_BUS['default']['TOPICS']['runs.**']['HISTORY_SIZE']: expected an integer of at least 1, not 0."),
        ({"default": {"TOPICS": {"a": {"HISTORY_TTL": "1"}}}}, "['TOPICS']['a']['HISTORY_TTL']: expected a number of seconds above 0 or None, not '1'."),
        ({"default": []}, "FLOSSE_BUS['default']: expected a dict"),
        (["default"], "FLOSSE_BUS: expected a dict"),
        ({"other": {}}, "FLOSSE_BUS: there must be a bus 'default'"),
        ({"default": {"BACKEND": "no.such.Backend"}}, "FLOSSE_BUS['default']['BACKEND']: No module named 'no'"),
        ({"default": {"BACKEND": "collections.OrderedDict"}}, "is not a subclass of"),
        ({"default": {"OPTIONS": {"size": 5}}}, "['OPTIONS']: 'size' is no option of MemoryBackend. It takes none."),
    ],
)  # fmt: skip
def test_a_bus_that_cannot_work(settings, setting, message):
    settings.FLOSSE_BUS = setting
    with pytest.raises(InvalidBusBackend, match=re.escape(message)):
        buses["default"]


def test_an_alias_that_is_not_there(settings):
    settings.FLOSSE_BUS = {"default": {}, "audit": {}}
    with pytest.raises(InvalidBusBackend, match="no bus 'other'. Configured: 'default', 'audit'"):
        buses["other"]


def test_buses_by_alias(settings):
    settings.FLOSSE_BUS = {"default": {}, "audit": {"HISTORY_SIZE": 5}}
    assert list(buses) == ["default", "audit"]
    assert "audit" in buses
    assert "other" not in buses
    assert buses["audit"] is buses["audit"]
    assert [bus.config.history_size for bus in buses.all()] == [1000, 5]
    assert len(buses.opened()) == 2


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("runs.1", {0}),
        ("runs.1.2", {0}),
        ("runs.*", {0}),
        ("runs.**", {0}),
        ("a.1", {1}),
        ("*.1", {0, 1}),
        ("*.2", {0, 2, 3}),
        ("b.*", {1, 2}),
        ("b.2", {2}),
        ("c", {3}),
        ("runs", {3}),
        ("*", {3}),
        ("*.*", {0, 1, 2, 3}),
        ("**", {0, 1, 2, 3}),
    ],
)
def test_the_class_of_a_topic_is_the_entry_that_counts(settings, name, classes):
    set_bus(settings, TOPICS={"runs.**": {}, "*.1": {}, "b.**": {}})
    config = load("default")
    assert set(config.classes_of(name)) == classes
    if "*" not in name:
        assert {config.class_of(name)} == classes


def test_the_signature_is_that_of_the_patterns_in_their_order(settings):
    def signature(topics):
        set_bus(settings, TOPICS=topics)
        return load("default").signature

    one = signature({"a": {}, "b": {"HISTORY_TTL": 5}})
    assert one == signature({"a": {"HISTORY_SIZE": 1}, "b": {}})
    assert len({one, signature({"b": {}, "a": {}}), signature({"a": {}}), signature({})}) == 4
    assert signature({}) == ""
