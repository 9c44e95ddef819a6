"""The secret key of a console without SECRET_KEY: created once in the data folder."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from opsconsole.env import make_data_folder


def secret_key(folder: Path, *, production: bool) -> str:
    """Return the key in `folder`, created on first use. Raise ImproperlyConfigured in production."""
    if production:
        raise ImproperlyConfigured("SECRET_KEY is not set. Set it in production.")
    path = folder / "secret_key"
    try:
        return _kept(path)
    except (OSError, ValueError) as error:
        raise ImproperlyConfigured(f"The secret key in {str(path)!r} cannot be used: {error}.") from None


def _kept(path: Path) -> str:
    folder = path.parent
    if not path.exists():
        make_data_folder(folder)
        draft = folder / f"secret_key.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_text(get_random_secret_key())
        try:
            os.link(draft, path)  # the first of two processes wins, and both read its key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()
