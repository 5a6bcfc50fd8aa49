"""Where shards lie: a folder, or anything that `fsspec` has a URL for (``s3://``, ``gs://``, ``https://`` ...).

Bytes are asked for by range, and a range that did not arrive whole is asked for again from where it broke off. So a connection that is
cut costs time and never data, and no state has to be repaired.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from stable_audio_tools.errors import DataError, MissingExtraError

logger = logging.getLogger(__name__)
MAX_TRIES = 8
FIRST_WAIT_SECONDS = 0.5  # doubles with each try: a minute in all
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_REFUSED = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError", "InvalidAccessKeyId")
Result = TypeVar("Result")


class Storage:
    """One kind of place, with the options that open it; made anew in each process, since connections cannot be shared.

    Args:
        url: Any URL or path in it.
        options: For fsspec's file system, such as ``profile``, ``endpoint_url``, ``anon``.

    Raises:
        MissingExtraError: If the package for URLs of this kind is not installed.
        DataError: If fsspec knows no such kind, or not with these options.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = os.fspath(url)
        self.options = dict(options or {})
        self.protocol = get_protocol(self.url)
        self._opened: tuple[int, Any] | None = None
        self.fs  # noqa: B018  # to find mistakes now

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.protocol in ("file", "local")

    @property
    def fs(self) -> Any:
        """The file system of this process."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Any:
        options = dict(self.options)
        if self.protocol in ("http", "https"):
            aiohttp = _http_client()
            # By default a request may take five minutes and no more, however well it goes.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options["client_kwargs"] = {"timeout": timeout, **options.get("client_kwargs", {})}
        try:
            return url_to_fs(self.url, **options)[0]
        except ImportError as error:
            raise missing_package(self.protocol, error) from error
        except Exception as error:  # whatever a plugin raises at its options
            raise self._explained(self.url, error) from error

    def path(self, url: str) -> str:
        """What the file system calls it."""
        return self.fs._strip_protocol(url)

    def link(self, path: str) -> str:
        """The URL of a path of the file system; of a local one, the path."""
        return path if self.is_local else self.fs.unstrip_protocol(path)

    def find(self, url: str) -> dict[str, int]:
        """Files below a folder: URL -> size in bytes (-1 if it is not told); empty if there is no such folder."""

        def find() -> dict[str, int]:
            self.fs.invalidate_cache()
            details = self.fs.find(self.path(url).rstrip("/") + "/" if self.protocol.startswith("http") else self.path(url), detail=True)
            return {self.link(path): int(-1 if info.get("size") is None else info["size"]) for path, info in details.items()}

        try:
            return self.retry(url, find)
        except FileNotFoundError:
            return {}

    def size(self, url: str) -> int:
        """Size of a file in bytes.

        Raises:
            DataError: If there is no such file, or it may not be read.
        """
        try:
            size = self.retry(url, lambda: self.fs.size(self.path(url)))
        except FileNotFoundError as error:
            raise DataError(f"{url}: no such file") from error
        if size is None:
            raise DataError(f"{url}: the server does not say how large it is, so no part of it can be asked for; use another server")
        return int(size)

    def read(self, url: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file.

        Raises:
            DataError: If they cannot be had, after `MAX_TRIES` tries without progress.
        """
        parts: list[bytes] = []
        held = start
        while held < stop:

            def ask(first: int = held) -> bytes:
                data = self.fs.cat_file(self.path(url), start=first, end=stop)
                if len(data) > stop - first:
                    raise DataError(f"{url}: the server sends whole files when it is asked for a part; use one that knows range requests")
                if not data:
                    raise ConnectionError(f"nothing arrived of bytes {first} to {stop}; is the file shorter than it was?")
                return data

            try:
                data = self.retry(url, ask)
            except FileNotFoundError as error:
                raise DataError(f"{url}: no such file any more") from error
            parts.append(data)
            held += len(data)
        return b"".join(parts)

    def read_whole(self, url: str) -> bytes | None:
        """A small file; None if there is none."""
        try:
            return self.retry(url, lambda: self.fs.cat_file(self.path(url)))
        except FileNotFoundError:
            return None

    def write(self, url: str, data: bytes) -> None:
        """Write a small file, at once or not at all."""
        if self.is_local:
            path = self.path(url)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{path}.{os.getpid()}.tmp"
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        else:
            self.retry(url, lambda: self.fs.pipe_file(self.path(url), data))

    def put(self, file: str, url: str) -> None:
        """Move a file of this machine there, at once or not at all: object stores show an upload only when it is complete."""
        if self.is_local:
            path = self.path(url)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(file, path)
        else:
            self.retry(url, lambda: self.fs.put_file(file, self.path(url)))
            os.unlink(file)

    def remove(self, url: str) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: If there is none.
        """
        self.retry(url, lambda: self.fs.rm_file(self.path(url)))

    def retry(self, url: str, ask: Callable[[], Result]) -> Result:
        """Ask until there is an answer, a refusal, or no hope.

        Raises:
            FileNotFoundError: If there is no such file.
            DataError: If it may not be read, or fails again and again.
        """
        for attempt in range(1, MAX_TRIES + 1):
            try:
                return ask()
            except DataError:
                raise
            except Exception as caught:  # noqa: BLE001  # every file system has errors of its own for a broken connection
                error = _meant(caught)
                if isinstance(error, FileNotFoundError):
                    raise error from None
                if self.is_local or _is_refusal(error):
                    raise self._explained(url, error) from error
                if attempt == MAX_TRIES:
                    raise DataError(f"{url}: cannot be read, tried {MAX_TRIES} times: {_said(error)}") from error
                wait = FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * (0.75 + random.random() / 2)
                logger.warning("%s: %s; trying again in %.1f s (%d of %d)", url, _said(error), wait, attempt, MAX_TRIES - 1)
                time.sleep(wait)
        raise AssertionError("not reached")

    def _explained(self, url: str, error: Exception) -> DataError:
        text = f"{url}: {_said(error)}"
        if self.protocol in ("s3", "s3a") and _is_refusal(error):
            text += (
                '; credentials come from "profile" in the dataset\'s entry, from AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, '
                'or from ~/.aws; for a public bucket write "storage_options": {"anon": true}'
            )
        return DataError(text)


def missing_package(protocol: str, error: ImportError) -> MissingExtraError:
    """How to install what URLs of a kind need."""
    extra = _EXTRAS.get(protocol)
    package = f'"stable-audio-tools[{extra}]"' if extra else f"the fsspec package for {protocol}://"
    return MissingExtraError(f"{protocol}:// needs a package that is not installed ({error}); run: pip install {package}")


def _http_client() -> Any:
    try:
        import aiohttp
    except ImportError as error:
        raise missing_package("http", error) from error
    return aiohttp


def _meant(error: Exception) -> Exception:
    """The HTTP of fsspec says that a file was not found whatever went wrong when it asked for the size; the cause is kept."""
    cause = error.__cause__
    is_http = type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", None) not in (404, 410)
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and is_http else error


def _is_refusal(error: Exception) -> bool:
    """Whether asking again would get the same answer."""
    status = getattr(error, "status", None)
    return (
        isinstance(error, (PermissionError, ImportError, TypeError, ValueError)) or type(error).__name__ in _REFUSED or status in (401, 403)
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
