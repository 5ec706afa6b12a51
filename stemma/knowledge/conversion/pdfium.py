"""Opening PDFs by PDFium, one at a time: it is not thread-safe, so that one lock guards every call into it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from stemma.knowledge.conversion.unreadable import Unreadable

_PDFIUM = threading.Lock()
_ERR_PASSWORD = 4


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """The PDF as a `pypdfium2.PdfDocument`, for this thread alone while the block lasts.

    Raises Unreadable: `pdf_encrypted`, `pdf_damaged`, also for what PDFium refuses within the block.
    """
    import pypdfium2

    with _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _ERR_PASSWORD:
                raise Unreadable(
                    "pdf_encrypted",
                    "The PDF is protected by a password.",
                    hint="Save a copy without the password.",
                ) from error
            raise _damaged(error) from error
        try:
            yield document
        except pypdfium2.PdfiumError as error:
            raise _damaged(error) from error
        finally:
            document.close()


def _damaged(error: Exception) -> Unreadable:
    return Unreadable("pdf_damaged", f"The PDF cannot be read: {error}.", hint="Open it in a viewer and save it again.")
