"""What an operator can watch of files. Labels take few values: outcomes are `ok`, an error code, or `broken`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from protocol.errors import ChatError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class FileMetrics:
    """The metrics of files of one process, in the registry of all its metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, labels, registry=registry)

        self._uploads = counter("parley_uploads", "Uploads by outcome: ok or an error code", "outcome")
        self._downloads = counter("parley_downloads", "Downloads by outcome: ok or an error code", "outcome")
        self._bytes = counter("parley_file_bytes", "Bytes of files, in and out", "direction")
        self._damaged = counter("parley_files_damaged", "Files that were found not to be as they were written")
        self._scans = counter("parley_file_scans", "Scans for viruses by outcome", "outcome")
        self._pictures = counter("parley_file_pictures", "Pictures that were made of files, by outcome", "outcome")
        self._removed = counter("parley_files_removed", "Files that were removed, by reason", "why")
        self._swept = counter("parley_blobs_swept", "Blobs that were removed because no row named them")
        self._finishing = Histogram(
            "parley_upload_finish_seconds",
            "Time from the last byte of an upload to its answer",
            buckets=_SECONDS,
            registry=registry,
        )

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Inside, an upload becomes a file: counts it and the time it takes."""
        started = time.perf_counter()
        with self.refusals_of_uploads():
            yield
        self._uploads.labels("ok").inc()
        self._finishing.observe(time.perf_counter() - started)

    @contextmanager
    def refusals_of_uploads(self) -> Iterator[None]:
        """Counts an upload that is refused or fails inside."""
        with _refusals(self._uploads):
            yield

    @contextmanager
    def download(self) -> Iterator[None]:
        """Inside, a file is opened to be handed out: counts what comes of it."""
        with _refusals(self._downloads):
            yield
        self._downloads.labels("ok").inc()

    @contextmanager
    def avatar(self) -> Iterator[None]:
        """Inside, a picture of a user or a chatroom is uploaded: counts what comes of it, of both."""
        with _refusals(self._uploads), _refusals(self._pictures):
            yield
        self._uploads.labels("ok").inc()
        self.pictured("ok")

    def received(self, size: int) -> None:
        """So many bytes of an upload have come."""
        self._bytes.labels("in").inc(size)

    def sent(self, size: int) -> None:
        """So many bytes of a download are on their way."""
        self._bytes.labels("out").inc(size)

    def damaged(self) -> None:
        """A file, or a part of it, is not as it was written."""
        self._damaged.inc()

    def scanned(self, outcome: str) -> None:
        """A file was found `clean`, `infected` or `too_large` to be scanned, or the scan `failed`."""
        self._scans.labels(outcome).inc()

    def pictured(self, outcome: str) -> None:
        """A picture was made of a file: `ok`, or the error code for which there is none."""
        self._pictures.labels(outcome).inc()

    def removed(self, why: str, count: int) -> None:
        """So many files were removed: `unused`, `expired`, or by their `uploader`."""
        self._removed.labels(why).inc(count)

    def swept(self, count: int) -> None:
        """So many blobs were removed because no row named them."""
        self._swept.inc(count)


@contextmanager
def _refusals(counter: Counter) -> Iterator[None]:
    try:
        yield
    except ChatError as error:
        counter.labels(error.code).inc()
        raise
    except BaseException:
        counter.labels("broken").inc()
        raise
