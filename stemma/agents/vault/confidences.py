"""What the founder confides to their own calls: the text of `STEMMA_HOME/.founder_secrets`, which is kept nowhere else.

It goes into the prompts of founders' calls alone, and only to the providers `local` and `offline` unless the switch
`secrets-online` is on. Whether a call is a founder's is for its caller to know.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Final

from stemma.agents.model import Agent
from stemma.errors import Forbidden, InvalidInput
from stemma.llm.model import Message, Prompt
from stemma.llm.switches import SwitchBoard, Switches
from stemma.store.files import storage_error
from stemma.store.settings import Settings

FILE: Final = ".founder_secrets"
MAX_BYTES: Final = 16_384

_AT_HOME: Final = ("local", "offline")
_BEFORE: Final = "The founder, whom you answer, confides this to you. It is for this answer alone:\n\n"


class Confidences:
    """The founder's confidences, read anew for each call."""

    def __init__(self, settings: Settings, board: SwitchBoard) -> None:
        self._settings = settings
        self._board = board

    def confide(self, _agent: Agent, prompt: Prompt) -> Prompt:
        """The prompt of a founder's call with the confidences behind its first message, and only providers that may
        be told them. It stays as it is where there are none, or where it names none of those providers.

        Raises Forbidden with code `founder_secrets_exposed` where others may read the file, InvalidInput with code
        `founder_secrets_invalid` where it is too long or no text.
        """
        text = read(self._settings)
        providers = trusted(prompt.providers, self._board.now())
        if text is None or providers is None:
            return prompt
        first, *rest = prompt.messages
        return replace(prompt, messages=(first, Message("system", _BEFORE + text), *rest), providers=providers)


def trusted(providers: tuple[str, ...], switches: Switches) -> tuple[str, ...] | None:
    """Those of a prompt's providers that may be told the confidences, None where none may.

    Empty stands for those configured, as in a prompt.
    """
    if switches.secrets_online:
        return providers
    return tuple(name for name in providers or _AT_HOME if switches.shares_founder_secrets(name)) or None


def read(settings: Settings) -> str | None:
    """The confidences, None where there are none; raises what `Confidences.confide` does."""
    path: Path = settings.home / FILE
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                what = "Others on this machine may read the founder's secrets: they are told to nobody."
                hint = f"Run `chmod 600 {FILE}` in STEMMA_HOME."
                raise Forbidden("founder_secrets_exposed", what, field=FILE, hint=hint)
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error) from error
    if len(content) > MAX_BYTES:
        what = f"The founder's secrets are longer than {MAX_BYTES:,} bytes."
        raise InvalidInput("founder_secrets_invalid", what, field=FILE)
    try:
        return content.decode().strip() or None
    except UnicodeDecodeError:
        raise InvalidInput("founder_secrets_invalid", "The founder's secrets are no UTF-8 text.", field=FILE) from None
