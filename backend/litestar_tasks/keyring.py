"""The keys that secret values are encrypted with, and what an encrypted value looks like."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any, Final

import msgspec

from litestar_tasks.exceptions import ConfigurationError

__all__ = ("Keyring", "check_keys", "is_sealed")

_SEALED: Final = "$secret"
_MAKE_ONE: Final = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'


class Keyring:
    """Seals values with the newest key, and opens what any of the keys has sealed.

    A sealed value is what stands in the broker: an object of JSON that holds a token of ``cryptography``'s Fernet
    (AES-128-CBC and HMAC-SHA256, with a random vector, so that equal values look different).

    Args:
        keys: Keys that ``check_keys`` has passed, the newest first; at least one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Not at the top: it is an extra, and takes longer to import than all of this package.
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet

        self._keys = MultiFernet([Fernet(key) for key in keys])
        self.identity_key = blake2b(keys[0].encode(), digest_size=32, person=b"identity").digest()
        """What digests of secrets are made with. It changes with the newest key."""
        self._refused = InvalidToken

    def seal(self, value: Any) -> dict[str, str]:
        """Encrypt a value of JSON's own types."""
        return {_SEALED: self._keys.encrypt(msgspec.json.encode(value)).decode()}

    def open(self, sealed: Any) -> Any:
        """Decrypt what ``seal`` made.

        Raises:
            ValueError: It is not encrypted, or with none of these keys. The text quotes nothing of it.
        """
        if not is_sealed(sealed):
            raise ValueError("is secret, and was stored without being encrypted; enqueue it by the task or its name")
        try:
            return msgspec.json.decode(self._keys.decrypt(sealed[_SEALED]))
        except self._refused:
            raise ValueError(
                "was encrypted with a key that this process does not have; put that key behind the newer ones in "
                "TasksConfig(secret_keys=[…])"
            ) from None


def is_sealed(value: Any) -> bool:
    """Whether a stored value is an encrypted one."""
    return isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get(_SEALED), str)


def check_keys(keys: Sequence[str]) -> None:
    """Refuse what no ``TasksConfig.secret_keys`` can be, without showing any of it.

    Raises:
        ConfigurationError: It is no list of Fernet keys, or the extra that uses them is not installed.
    """
    if isinstance(keys, str | bytes):
        raise ConfigurationError("secret_keys is one text; give a list of keys, the newest first: secret_keys=[key]")
    for number, key in enumerate(keys, start=1):
        if not _is_fernet_key(key):
            raise ConfigurationError(
                f"secret_keys: number {number} is no Fernet key, which is a text of 44 characters; make one with: "
                f"{_MAKE_ONE}"
            )
    if keys and find_spec("cryptography") is None:
        raise ConfigurationError("secret_keys needs the package cryptography: pip install 'litestar-tasks[secrets]'")


def _is_fernet_key(key: object) -> bool:
    try:
        return isinstance(key, str) and len(key) == 44 and len(urlsafe_b64decode(key)) == 32
    except ValueError:
        return False
