"""A limit for uploads. Django stores an upload on disk before it checks the login."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import FileUploadHandler

from opsconsole.console.workbook import MAX_BYTES

MAX_REQUEST_BYTES = 2 * MAX_BYTES  # the form reports files that are slightly too large


class CappedUpload(FileUploadHandler):
    """An upload handler that refuses a request larger than any import before reading it."""

    def handle_raw_input(
        self,
        input_data: Any,
        META: Any,  # noqa: N803  # Django's name
        content_length: int,
        boundary: Any,
        encoding: str | None = None,
    ) -> None:
        if content_length > MAX_REQUEST_BYTES:
            raise RequestDataTooBig(f"A request has at most {MAX_REQUEST_BYTES} bytes.")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        return raw_data

    def file_complete(self, file_size: int) -> None:
        return None
