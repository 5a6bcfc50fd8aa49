"""Reading parts of shards, near or far."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from stable_audio_tools.data.shards.storage import Storage
from stable_audio_tools.data.shards.tars import HEADER_BYTES, Member, is_at
from stable_audio_tools.errors import DataError

BLOCK_BYTES = 8 << 20  # of one request: its delay is small against the transfer, and little is asked for in vain
CACHE_BYTES = 256 << 20  # of each process
_BUFFER_BYTES = 1 << 16


class Shard(NamedTuple):
    """One tar file."""

    url: str
    size: int
    storage: Storage


class Span(io.RawIOBase):
    """A stretch of something, as a file of its own.

    Decoders read through C libraries that cannot pass an error on. So a failure ends the file and is kept here; `opened` raises it.

    Args:
        read: Bytes from start to stop of the whole.
        start: First byte of the stretch.
        size: Its length.
        name: What messages call it.
    """

    failure: Exception | None = None

    def __init__(self, read: Callable[[int, int], bytes], start: int, size: int, name: str) -> None:
        super().__init__()
        self._read, self._start, self._size = read, start, size
        self._position = 0
        self.name = name

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position in the stretch."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position in the stretch."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, as far as the stretch goes."""
        count = min(len(buffer), self._size - self._position)
        if count <= 0 or self.failure is not None:
            return 0
        try:
            data = self._read(self._start + self._position, self._start + self._position + count)
        except Exception as error:  # noqa: BLE001  # kept for whoever opened it
            self.failure = error
            return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class ShardReader:
    """Reads members of shards. From afar in blocks, of which the last ones used are kept, and the next one is fetched ahead.

    Args:
        cache_bytes: How much is kept.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self.num_kept = max(2, cache_bytes // BLOCK_BYTES)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._ahead: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"num_kept": self.num_kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @contextmanager
    def opened(self, shard: Shard, start: int, size: int, name: str) -> Iterator[BinaryIO]:
        """A stretch of a shard as a file. Only the parts of it that are read are fetched.

        Raises:
            DataError: On leaving, whatever happened within, if the stretch could not be read.
        """
        if self._process != os.getpid():
            self._forget()  # threads do not survive a fork
        with self._reading(shard) as read:
            span = Span(read, start, size, name)
            try:
                yield io.BufferedReader(span, _BUFFER_BYTES)
            except Exception:
                if span.failure is not None:
                    raise span.failure from None
                raise
            if span.failure is not None:
                raise span.failure

    @contextmanager
    def _reading(self, shard: Shard) -> Iterator[Callable[[int, int], bytes]]:
        """A function that reads bytes from start to stop."""
        if not shard.storage.is_local:
            yield lambda start, stop: self._read(shard, start, stop)
            return
        try:
            file = open(shard.url, "rb")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{shard.url}: cannot be opened any more: {error.strerror}") from error
        with file:
            yield lambda start, stop: _read_local(file, shard, start, stop)

    def read(self, shard: Shard, member: Member) -> bytes:
        """A whole member."""
        with self.opened(shard, member.offset, member.size, f"{shard.url}#{member.name}") as file:
            return file.read()

    def check(self, shard: Shard, member: Member) -> None:
        """Find out whether the member is where the index has it.

        Raises:
            DataError: If not.
        """
        with self.opened(shard, member.offset - HEADER_BYTES, HEADER_BYTES, shard.url) as file:
            if not is_at(file.read(), member):
                raise DataError(
                    f"{shard.url}: its index is about another file ({member.name} is elsewhere); delete the .idx file beside it"
                )

    def _read(self, shard: Shard, start: int, stop: int) -> bytes:
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        data = b"".join(self._block(shard, number) for number in range(first, last + 1))
        return data[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]

    def _block(self, shard: Shard, number: int) -> bytes:
        key = (shard.url, number)
        future = self._blocks.get(key)
        if future is None or (future.done() and future.exception() is not None):
            future = self._blocks[key] = Future()
            self._fetch(shard, number, future)
        data = future.result()
        self._blocks.move_to_end(key)
        self._fetch_ahead(shard, number + 1)
        while len(self._blocks) > self.num_kept:
            self._blocks.popitem(last=False)
        return data

    def _fetch_ahead(self, shard: Shard, number: int) -> None:
        key = (shard.url, number)
        is_busy = self._ahead is not None and self._ahead.is_alive()
        if is_busy or key in self._blocks or number * BLOCK_BYTES >= shard.size:
            return
        self._blocks[key] = future = Future()
        self._ahead = threading.Thread(target=self._fetch, args=(shard, number, future), daemon=True)
        self._ahead.start()

    @staticmethod
    def _fetch(shard: Shard, number: int, future: Future[bytes]) -> None:
        start = number * BLOCK_BYTES
        try:
            future.set_result(shard.storage.read(shard.url, start, min(start + BLOCK_BYTES, shard.size)))
        except BaseException as error:  # noqa: BLE001  # raised where it is used
            future.set_exception(error)


def _read_local(file: BinaryIO, shard: Shard, start: int, stop: int) -> bytes:
    file.seek(start)
    data = file.read(stop - start)
    if len(data) < stop - start:
        raise DataError(f"{shard.url}: ends at byte {start + len(data)}, and had {shard.size} bytes when the run began")
    return data
