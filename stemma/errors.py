"""The errors a user can meet, each with a stable code, the offending field and what to do about it.

Only the vocabulary lives here. The API turns an error into RFC 9457 problem details, the command line into
one readable line and `exit_code`; neither adds words of its own.
"""

from __future__ import annotations

from typing import ClassVar


class StemmaError(Exception):
    """A failure that its user can understand and mend.

    `code` is stable and meant for machines; `message` says what is wrong; `field` names the offending input,
    where there is one; `hint` says what to do.
    """

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Internal error"

    def __init__(self, code: str, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        advice = f" {self.hint}" if self.hint else ""
        return f"{where}{self.message}{advice}"


class InvalidInput(StemmaError):
    """The request itself is wrong; sending it again unchanged cannot help."""

    status = 422
    exit_code = 2
    title = "Invalid input"


class TooLarge(InvalidInput):
    """The request or file is over a stated limit."""

    status = 413
    title = "Too large"


class UnsupportedType(InvalidInput):
    """What was sent is of a kind that is not read here."""

    status = 415
    title = "Unsupported type"


class Unauthenticated(StemmaError):
    """Nobody known sent this: no key, or one that is unknown, expired or revoked."""

    status = 401
    exit_code = 7
    title = "Unauthenticated"


class Forbidden(StemmaError):
    """Whoever sent this is known and may not do it."""

    status = 403
    exit_code = 7
    title = "Forbidden"


class NotApproved(Forbidden):
    """What needs an approval has none for exactly these bytes."""

    title = "Not approved"


class NotFound(StemmaError):
    """The named thing does not exist."""

    status = 404
    exit_code = 3
    title = "Not found"


class Conflict(StemmaError):
    """The request contradicts the present state, for example a name that is taken."""

    status = 409
    exit_code = 4
    title = "Conflict"


class PreconditionFailed(Conflict):
    """The state that the request names as the one it saw is no longer the present one."""

    status = 412
    title = "Precondition failed"


class PreconditionRequired(InvalidInput):
    """The request does not say which state it saw, and without that it could change what nobody looked at."""

    status = 428
    title = "Precondition required"


class Unavailable(StemmaError):
    """Something this needs (database, index, port, disk) is not there now; a later try may succeed."""

    status = 503
    exit_code = 5
    title = "Unavailable"


class CheckFailed(StemmaError):
    """What was built does not satisfy its own invariants; the last good version stays in place."""

    status = 500
    exit_code = 6
    title = "Check failed"


class BudgetExhausted(StemmaError):
    """A budget has not enough left for what was asked; trying again before its period ends cannot help."""

    status = 402
    exit_code = 7
    title = "Budget exhausted"
