"""Files of backups: compressed, and encrypted if a key is set."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyrage
from django.conf import settings
from django.utils.translation import gettext as _

from opsconsole.stores.store import StoreUnavailable

ENCRYPTED = ".age"
COMPRESSED = ".gz"
PARTIAL = ".partial"
PORTION = 1 << 20
GZIP_BITS = 31  # zlib's window bits, with gzip's header


class BrokenArchive(Exception):
    """The file cannot be read to its end. The message gives the reason."""


def identity() -> pyrage.x25519.Identity | None:
    """Return the key for encryption, None if none is set. Raise StoreUnavailable for an invalid key."""
    if not settings.BACKUP_ENCRYPTION_KEY:
        return None
    try:
        return pyrage.x25519.Identity.from_str(settings.BACKUP_ENCRYPTION_KEY)
    except pyrage.IdentityError:
        raise StoreUnavailable(
            _(
                "BACKUP_ENCRYPTION_KEY is not an age identity. Create one with `age-keygen`: it begins with "
                "AGE-SECRET-KEY-1."
            )
        ) from None


def suffix() -> str:
    """Return the suffix of a file's name, with that of encryption."""
    return ENCRYPTED if identity() is not None else ""


class _Source(io.RawIOBase):
    """A reader of `source` that hashes and then compresses it."""

    def __init__(self, source: BinaryIO, *, compress: bool) -> None:
        self.digest = hashlib.sha256()
        self._source = source
        self._compressor = zlib.compressobj(1, wbits=GZIP_BITS) if compress else None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            portion = self._source.read(PORTION)
            if portion:
                self.digest.update(portion)
                self._ready = portion if self._compressor is None else self._compressor.compress(portion)
            elif self._compressor is None:
                return 0
            else:
                self._ready, self._compressor = self._compressor.flush(), None
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)


def write(source: BinaryIO, path: Path, *, compress: bool) -> str:
    """Write `source` durably to the new file `path`. Return the SHA-256 of the source."""
    key = identity()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        read = _Source(source, compress=compress)
        if key is None:
            shutil.copyfileobj(read, file, PORTION)
        else:
            pyrage.encrypt_io(io.BufferedReader(read, PORTION), file, [key.to_public()])
        file.flush()
        os.fsync(file.fileno())
    return read.digest.hexdigest()


class _Decrypted(io.RawIOBase):
    """A reader of an encrypted file. A thread decrypts it."""

    def __init__(self, file: BinaryIO, key: pyrage.x25519.Identity) -> None:
        self._end, start = os.pipe()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._decrypt, args=(file, start, key), daemon=True)
        self._thread.start()

    def _decrypt(self, file: BinaryIO, start: int, key: pyrage.x25519.Identity) -> None:
        try:
            with open(start, "wb") as pipe:
                pyrage.decrypt_io(file, pipe, [key])
        except (pyrage.DecryptError, OSError) as error:  # the reader may have stopped
            self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        portion = os.read(self._end, len(buffer))
        if not portion:
            self._thread.join()
            if self._error is not None:
                raise BrokenArchive(_("it cannot be decrypted: %(reason)s") % {"reason": self._error})
        buffer[: len(portion)] = portion
        return len(portion)

    def close(self) -> None:
        if not self.closed:
            os.close(self._end)
            self._thread.join()
        super().close()


@contextmanager
def open_backup(path: Path) -> Iterator[BinaryIO]:
    """Open a backup, decrypted and decompressed according to its name. Raise BrokenArchive."""
    try:
        with path.open("rb") as file:
            stream: BinaryIO = file
            if path.suffix == ENCRYPTED:
                key = identity()
                if key is None:
                    raise BrokenArchive(_("it is encrypted, and BACKUP_ENCRYPTION_KEY is not set"))
                stream = io.BufferedReader(_Decrypted(file, key), PORTION)
            with stream:
                if COMPRESSED in path.suffixes:
                    with gzip.open(stream) as content:
                        yield content  # type: ignore[misc]
                else:
                    yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BrokenArchive(_("it is truncated or damaged: %(reason)s") % {"reason": error}) from error


def content_digest(path: Path) -> str:
    """Return the SHA-256 of the contents of a backup."""
    digest = hashlib.sha256()
    with open_backup(path) as content:
        while portion := content.read(PORTION):
            digest.update(portion)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_file(partial: Path, path: Path) -> None:
    """Rename a finished file durably."""
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
