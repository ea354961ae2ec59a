"""What ``apublish`` costs by default, with ``using=None`` and inside a transaction."""

from __future__ import annotations

from typing import Any

from .idle import ask_peer
from .rows import saturated
from .servers import PEERS
from .tools import Missing

#: The same server, whose publisher calls ``apublish`` with ``using=None``, and by default.
NAMES = ("takeover", "takeover-using")


def apublish(*, quick: bool) -> dict[str, Any]:
    """Time the calls in a loop, and measure deliveries/s to 100 streams with either kind."""
    result = ask_peer("apublishing", "20" if quick else "200", BENCH_SQLITE="1")
    print(
        f"  outside a transaction: {result['default_us']:.1f} us by default, "
        f"{result['none_us']:.1f} us with using=None ({result['ratio']:.2f} x), "
        f"publish {result['sync_us']:.1f} us; inside one, with its commit: "
        f"{result['inside_async_us']:.1f} us, publish {result['inside_sync_us']:.1f} us "
        f"({result['ratio_inside']:.2f} x), an empty one {result['nothing_us']:.1f} us",
        flush=True,
    )
    full = result["saturated"] = {}
    for name in NAMES:
        try:
            with PEERS[name](streams=100) as server:
                full[name] = saturated(server, 1.5 if quick else 3)
        except Missing as error:
            print(f"  saturated, {name}: not measured: {error}", flush=True)
            continue
        print(f"  saturated, {name}: {full[name]['deliveries_s']:,.0f} deliveries/s", flush=True)
    return result
