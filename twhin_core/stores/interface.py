"""What every object store offers beside fsspec's interface, and which class serves which scheme.

fsspec knows the classes by name, so that torch's checkpoints use them too and only the store in use is imported.
"""

from __future__ import annotations

from typing import Any, Protocol

import fsspec

from twhin_core.errors import UserError

CLASSES = {
    "gs": "twhin_core.stores.gcs.GCS",
    "s3": "twhin_core.stores.s3.S3",
    "abfs": "twhin_core.stores.azure.Azure",
}
"""The class of each scheme."""

Generation = int | str
"""What changes with every write of other content: Google's generation, or an ETag; 0 if there is no object."""

for _scheme, _name in CLASSES.items():
    fsspec.register_implementation(_scheme, _name, clobber=True)


def scheme_of(url: str) -> str:
    """The scheme of `url` if it is on an object store, and `""` if it is local.

    Raises:
        UserError: no object store here has this scheme, or `url` names no bucket.
    """
    scheme, separator, path = url.partition("://")
    if not separator or scheme == "file":
        return ""
    if scheme not in CLASSES:
        *known, last = (f"{known}://" for known in CLASSES)
        raise UserError(f"{url}: only local paths, {', '.join(known)} and {last} are supported")
    if not path.strip("/"):
        raise UserError(f"{url}: names no bucket")
    return scheme


class ObjectStore(Protocol):
    """Beside these, a store has the methods of fsspec's file systems. A path is `bucket/key`.

    Every method may raise FileNotFoundError, StorageRefused (missing or insufficient credentials) or StorageError.
    """

    @staticmethod
    def options() -> dict[str, Any]:
        """The arguments of the class.

        Raises:
            UserError: what the environment says of credentials is wrong.
        """

    def has_bucket(self, bucket: str) -> bool:
        """Whether there is a bucket of this name."""

    def read_generation(self, path: str) -> tuple[bytes, Generation]:
        """An object's content and generation, from one request; `b""` and 0 if there is no object."""

    def write_if(self, path: str, content: bytes, generation: Generation) -> Generation | None:
        """Writes an object if its generation is still `generation` (0: there is none).

        A retry can fail because the first attempt succeeded and only its response was lost. So if the precondition
        fails but the object has the same content, the write counts as successful.

        Returns:
            The new generation, or None if the object has another generation and content.
        """
