"""What becomes of personal data and secrets in texts."""

from __future__ import annotations

from typing import Literal

from illada.config.base import Config

Action = Literal["replace", "drop", "keep"]


class Privacy(Config):
    """For each kind found in a text or its title: `replace` it, `drop` the document, or `keep` (nobody looks for it).

    `ips` are public addresses of both versions, `secrets` credentials (keys, tokens, passwords in addresses),
    `accounts` card numbers and IBANs. In code, IP addresses and phone numbers are left alone.
    """

    emails: Action = "replace"
    ips: Action = "replace"
    phones: Action = "replace"
    secrets: Action = "replace"
    accounts: Action = "replace"
