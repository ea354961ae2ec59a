"""Real clients over connections that are cut: every event once and in order, or a reset."""

from __future__ import annotations

import pytest

from tests import TORTURE
from tests.clients import page
from tests.clients.arena import PATIENCE
from tests.clients.cases import DIRECT, behind, end, restarts_behind, silence
from tests.clients.roster import ROSTER, TOLD_CASES
from tests.clients.verdict import EXACT, LOST, TOLD, judge
from tests.conftest import missing
from tests.proxies import KINDS

pytestmark = [pytest.mark.server, pytest.mark.browser, pytest.mark.timeout(240)]

BEHIND = {kind.__name__.lower(): kind for kind in KINDS}
#: In make torture the proxies are all tried.
TRIED = list(BEHIND) if TORTURE else ["nginx"]


def verdicts(arena, published):
    """Hold every client's screen against what was published."""
    found = {}
    for seat in arena.seats:
        expected = [number for number, name in published if name is None or seat.client.named]
        found[seat.client] = judge(arena.seen(seat), expected)
    return found


def check(arena, case, published, record_property):
    """Every client must have shown what this case wants, or what is known that it cannot."""
    cells, wrong = {}, []
    for client, verdict in verdicts(arena, published).items():
        wanted = {TOLD} if case in TOLD_CASES else {EXACT}
        if case in client.refetches:
            wanted = {EXACT, TOLD}
        limit = client.limits.get(case)
        right = verdict.outcome in wanted
        cells[client.name] = verdict.outcome if right or not limit else page.LIMIT
        if right == bool(limit):
            wrong.append((client.name, verdict, limit))
    for name, times in arena.reconnected().items():
        arena.returns.setdefault(name, []).extend(times)
    arena.results[case] = cells
    arena.empty |= {
        seat.client.name
        for seat in arena.seats
        if any(entry["kind"] == "empty" for entry in arena.seen(seat))
    }
    record_property("clients", {"case": case, "cells": cells, "absent": arena.absent})
    seen = {seat.client.name: arena.seen(seat)[-14:] for seat in arena.seats}
    assert not wrong, "\n".join(
        f"{name}: {verdict.outcome} {verdict.detail} (limit: {limit})\n  {seen[name]}"
        for name, verdict, limit in wrong
    )


@pytest.mark.parametrize("case", DIRECT)
def test_directly(arena, record_property, case):
    check(arena, case, DIRECT[case](arena, case), record_property)


@pytest.mark.parametrize("case", TRIED)
def test_behind(arena, record_property, certificate, tmp_path, case):
    kind = BEHIND[case]
    if kind.program() is None:
        missing(f"no {kind.binary} on this machine")
    with kind(tmp_path, certificate, arena.server.port) as proxy:
        check(arena, case, behind(arena, case, proxy), record_property)
        arena.stop()


@pytest.mark.skipif(not TORTURE, reason="takes minutes: FLOSSE_TORTURE is not set")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kill", "patience", "unaware"),
    [
        pytest.param(False, None, set(), id="stopped"),
        pytest.param(True, None, {"WebKitGTK"}, id="killed"),
        pytest.param(True, PATIENCE, set(), id="killed-and-watched"),
    ],
)
def test_ten_restarts_behind_nginx(arena, certificate, tmp_path, kill, patience, unaware):
    nginx = BEHIND["nginx"]
    if nginx.program() is None:
        missing("no nginx on this machine")
    with nginx(tmp_path, certificate, arena.server.port) as proxy:
        published = restarts_behind(arena, proxy, 10, kill=kill, patience=patience)
        found = {client.name: verdict for client, verdict in verdicts(arena, published).items()}
        torn = {seat.client.name for seat in arena.seats if "middle" in seat.client.limits}
        arena.stop()
    print(f"{len(published)} events, ten restarts:")
    for name, verdict in found.items():
        print(f"  {name}: {verdict.outcome} {verdict.detail[:300]}")
    inexact = {name for name, verdict in found.items() if verdict.outcome != EXACT}
    assert inexact - torn <= unaware  # not every time


def test_what_users_must_do_is_needed(arena):
    """Without it, they lose what comes after a stream that ends as HTTP says."""
    naive = [client for client in ROSTER if client.naive and client.name not in arena.absent]
    if not naive:
        missing("none of these clients is on this machine")
    with arena.only(naive):
        found = verdicts(arena, end(arena, page.NAIVE))
    assert {verdict.outcome for verdict in found.values()} == {LOST}, found


def test_a_read_timeout_is_needed(arena):
    """Without one, nobody notices that a stream has gone silent."""
    with arena.only(ROSTER):
        found = verdicts(arena, silence(arena, page.NAIVE, patience=None))
    assert {verdict.outcome for verdict in found.values()} == {LOST}, found


def test_who_heeds_retry(arena):
    """All defaults are longer than what this server sends, which is a fifth of a second."""
    heeds = {name: min(times) < 0.9 for name, times in arena.returns.items() if times}
    assert heeds
    assert heeds == {each.name: each.retry is None for each in ROSTER if each.name in heeds}


def test_who_shows_messages_without_data(arena):
    """Where a proxy answers for a server that is away, it sends a comment."""
    if "nginx" not in arena.results:
        pytest.skip("nginx has not been tried")
    assert arena.empty == {seat.client.name for seat in arena.seats if seat.client.empty}


def test_the_page_says_what_was_found(arena):
    """Versions may differ. FLOSSE_TORTURE writes it, as the last of these tests."""
    lost = any(LOST in cells.values() for cells in arena.results.values())
    if TORTURE and not arena.absent and not lost:
        page.PATH.write_text(page.render(arena.results, arena.versions))
    expected = page.render(arena.results, arena.versions)
    assert page.without_versions(page.PATH.read_text()) == page.without_versions(expected)
