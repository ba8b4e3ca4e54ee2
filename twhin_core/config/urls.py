"""URLs of servers, as keys of the config hold them."""

from __future__ import annotations

from urllib.parse import urlsplit

WEB = ("http", "https")


def web_url(url: str) -> str:
    """An http(s):// URL without a password. Raises ValueError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in WEB or not parts.hostname:
        raise ValueError(f"expected an http(s):// URL; got {url!r}")
    if parts.password is not None:
        raise ValueError("holds a password, which config.yaml would show; set it in the environment instead")
    return url
