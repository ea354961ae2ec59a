from __future__ import annotations

from itertools import product

import pytest

from flosse_bus.exceptions import InvalidTopic
from flosse_bus.topics import (
    AuthoriserRegistry,
    check_subscription,
    check_topic,
    compile_pattern,
    compile_template,
    fill,
    meets,
)

TOPICS = ["a", "orders", "orders.5", "user:5", "a-b_c.D/e@f:9", "a..b", ".", "x" * 255]
NOT_TOPICS = [
    "", "x" * 256, "a b", "ä", "a\n", "a\r", "a\0", "a,b", "a#b", "a{b}", "{", "٣",
    None, 5, b"a", ["a"],
]  # fmt: skip
PATTERNS = ["*", "**", "a.*", "*.b", "a.*.c", "a.**", "*.*.**"]
NOT_PATTERNS = [
    "a*",
    "*a",
    "a.b*",
    "**.a",
    "a.**.b",
    "***",
    "a.***",
    "*" * 3,
    "a.* ",
    "x." * 127 + "**",
]


@pytest.mark.parametrize("name", TOPICS)
def test_topics(name):
    assert check_topic(name) == name
    assert check_subscription(name) == name


@pytest.mark.parametrize("name", NOT_TOPICS)
def test_what_is_no_topic_is_no_subscription_either(name):
    with pytest.raises(InvalidTopic, match="1-255 ASCII"):
        check_topic(name)
    with pytest.raises(InvalidTopic, match="1-255 ASCII"):
        check_subscription(name)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_for_subscribing_only(name):
    assert check_subscription(name) == name
    with pytest.raises(InvalidTopic, match="a pattern cannot be published to"):
        check_topic(name)


@pytest.mark.parametrize("name", NOT_PATTERNS)
def test_what_is_no_pattern(name):
    with pytest.raises(InvalidTopic):
        check_subscription(name)


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("a", ["a"], ["b", "a.b", "*", "aa"]),
        ("*", ["a", "*", "a-b"], ["a.b", "**", "*.*"]),
        ("**", ["a", "a.b", "*", "**", "a.**", "*.*"], []),
        ("a.*", ["a.b", "a.*", "a."], ["a", "a.b.c", "a.**", "b.c", "*.b"]),
        ("a.**", ["a.b", "a.b.c", "a.*", "a.**", "a.*.c"], ["a", "ab", "*.b", "**"]),
        ("*.b", ["a.b", "*.b"], ["a.c", "**", "a.a.b"]),
        ("a.*.c", ["a.b.c", "a.*.c"], ["a.b.c.d", "a.b.*", "a.c"]),
        ("a.b", ["a.b"], ["axb", "a.*"]),
    ],
)
def test_a_pattern_covers_topics_and_narrower_patterns(pattern, covered, not_covered):
    regex = compile_pattern(pattern)
    assert [name for name in covered if not regex.fullmatch(name)] == []
    assert [name for name in not_covered if regex.fullmatch(name)] == []


@pytest.mark.parametrize(
    ("template", "name", "values"),
    [
        ("orders.{order_id}", "orders.5", {"order_id": "5"}),
        ("orders.{order_id}", "orders.*", None),
        ("orders.{order_id}", "orders.**", None),
        ("orders.{order_id}", "orders.5.lines", None),
        ("orders.{order_id}", "orders.", None),
        ("{a}.{b}", "x.y", {"a": "x", "b": "y"}),
        ("user:{id}", "user:7", {"id": "7"}),
        ("log.{name}-log", "log.a-log-log", {"name": "a-log"}),
        ("chat.{team}-{room}", "chat.sales-5", {"team": "sales", "room": "5"}),
        ("chat.{team}-{room}", "chat.sales-board-5", None),
        ("chat.{team}-{room}", "chat.sales-board-", None),
        ("chat.{team}-to-{room}", "chat.a-to-b-to-c", None),
        ("customers.{id}.*", "customers.5.orders", {"id": "5"}),
        ("customers.{id}.**", "customers.5.**", {"id": "5"}),
        ("customers.{id}.**", "customers.*.**", None),
    ],
)
def test_templates_take_their_values_from_concrete_segments(template, name, values):
    match = compile_template(template).fullmatch(name)
    assert (match and match.groupdict()) == values


def test_patterns_meet_if_a_topic_is_of_both():
    segments = ["a", "b", "*"]
    names = ["**"]
    for count in (1, 2, 3):
        names += map(".".join, product(segments, repeat=count))
        names += [".".join([*one, "**"]) for one in product(segments, repeat=count)]
    topics = [".".join(one) for count in range(1, 6) for one in product("ab", repeat=count)]
    covered = {name: {t for t in topics if compile_pattern(name).fullmatch(t)} for name in names}
    for one, other in product(names, repeat=2):
        assert meets(one, other) == bool(covered[one] & covered[other]), (one, other)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("orders.{}", "is not a name"),
        ("orders.{order-id}", "is not a name"),
        ("orders.{a}{b}", "need text between"),
        ("orders.{a}to{b}", "need text between"),
        ("orders.{a}0{b}", "need text between"),
        ("orders.{a}-{b}{c}", "need text between"),
        ("{a}.{a}", "once"),
        ("orders {a}", "cannot stand"),
        ("orders.{a", "cannot stand"),
        ("**.a", "cannot stand"),
        ("", "is not a topic template"),
        (None, "is not a topic template"),
    ],
)
def test_bad_templates_say_what_is_wrong(template, message):
    with pytest.raises(InvalidTopic, match=message):
        compile_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "{a}", "{a}.{b}", "x-{a}-y", "{a}-log", "{a}-{b}", "{a}--{b}", "{a}-to-{b}", "-{a}-{b}-",
        "{a}-{b}:{c}", "{a}-{b}-{c}", "{a}:b{b}", "{a}-{b}.{c}", "{a}-b", "a-{a}/a{b}",
    ],
)  # fmt: skip
def test_what_is_put_into_a_template_reads_back_as_it_was_or_not_at_all(template):
    """Neither :func:`fill` nor whoever puts names together by hand gets at the values of others."""
    regex = compile_template(template)
    texts = ["".join(text) for n in (1, 2, 3) for text in product("a-:", repeat=n)]
    if len(regex.groupindex) == 3:
        texts = texts[:12]
    names = {}
    for values in product(texts, repeat=len(regex.groupindex)):
        given = dict(zip(regex.groupindex, values, strict=True))
        by_hand = template.format(**given)
        try:
            filled = fill(template, given)
        except InvalidTopic:
            filled = None
        match = regex.fullmatch(by_hand)
        if match is not None:
            assert match.groupdict() == given
            assert names.setdefault(by_hand, given) == given
        assert filled == (None if match is None else by_hand)
    assert names


def test_a_value_that_holds_a_separator_is_refused_without_being_told():
    with pytest.raises(InvalidTopic, match=r"\{team\} holds -") as caught:
        fill("chat.{team}-{room}", {"team": "sales-board", "room": 5})
    assert "sales" not in str(caught.value)


def test_the_registry_keeps_order_and_forgets():
    registry = AuthoriserRegistry()

    def first(request): ...

    def second(request, n): ...

    registry.register("a.**", first)
    registry.register("a.{n}", second)
    assert [(a.function, kw) for a, kw in registry.matching("a.5")] == [
        (first, {}),
        (second, {"n": "5"}),
    ]
    registry.unregister(first)
    assert [a.function for a, _ in registry.matching("a.5")] == [second]
    assert list(registry.matching("b")) == []
