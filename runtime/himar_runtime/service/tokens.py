"""Lets in who knows one of the server's tokens: --token-file."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from himar_kernels import InputError

from .request import RefusalError

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens of a file, one a line; empty lines and those that begin with # are left out.

    Raises InputError for a file that cannot be read, holds none, or one that no header can carry, without showing it.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read: {reason}.") from error
    tokens = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if not _TOKEN.fullmatch(line):
            raise InputError(
                f"line {number} of {path} is not a token; write one a line, of letters, digits and ._~+/- (RFC 6750)."
            )
        tokens.append(line)
    if not tokens:
        raise InputError(f"{path} holds no token; write one a line, for example of `openssl rand -hex 32`.")
    return tuple(tokens)


def require_token(header: str | None, tokens: Sequence[str]) -> None:
    """Raise RefusalError (401) unless the header Authorization carries one of the tokens, or there are none.

    The comparison takes as long for a token that is nearly right as for any other.
    """
    if not tokens:
        return
    scheme, _, token = (header or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RefusalError(
            401, "this server wants a token; send it in the header 'Authorization: Bearer TOKEN'.", _CHALLENGE
        )
    sent = token.strip().encode()
    if not sum([hmac.compare_digest(sent, each.encode()) for each in tokens]):
        raise RefusalError(401, "the token is not one of this server's; ask its operator for one.", _CHALLENGE)
