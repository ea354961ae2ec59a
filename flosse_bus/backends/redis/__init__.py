"""``FLOSSE_BUS["default"]["BACKEND"] = "flosse_bus.backends.redis.RedisBackend"``."""

from ...exceptions import InvalidBusBackend

try:
    from .backend import RedisBackend
except ModuleNotFoundError as error:  # because the driver is an extra
    if error.name is None or error.name.split(".")[0] != "redis":
        raise
    raise InvalidBusBackend(
        "RedisBackend needs redis-py: pip install 'django-flosse-bus[redis]'"
    ) from error

__all__ = ["RedisBackend"]
