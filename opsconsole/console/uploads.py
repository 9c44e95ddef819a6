"""The size of uploads. A stranger can send one, and Django writes it to the disk before it asks for an account."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import FileUploadHandler

from opsconsole.console.workbook import MAX_BYTES

MAX_REQUEST_BYTES = 2 * MAX_BYTES  # a file that is a little too large gets a sentence at its form


class CappedUpload(FileUploadHandler):
    """Refuses a request that is larger than any file that is imported, before it is read."""

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
