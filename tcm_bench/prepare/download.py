"""One file from the first of its mirrors that has it whole."""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError as BrokenBody

from tcm_bench.prepare.progress import gigabytes, progress

CHUNK = 2**20
PIECE = 2**16  # of a transfer: what is lost when a connection goes silent
TOO_BUSY = (429, 503)
TEMPORARY = (408, 425, 500, 502, 504)


@dataclass(frozen=True)
class Patience:
    """How long to try one mirror.

    Attributes:
        attempts: In a row without a byte more than before; two at a server that never answers.
        backoff_s: Wait after the first failure, doubled after each further one.
        longest_wait_s: No wait is longer; a server that asks for more is given up.
        timeout_s: Until a connection stands, and between two pieces.
    """

    attempts: int = 5
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: tuple[float, float] = (10.0, 60.0)


class Hashes(NamedTuple):
    """Of a file's bytes, in hex."""

    md5: str
    sha256: str


class _Unavailable(Exception):
    """Why this mirror is given up."""


class _Interrupted(Exception):
    """Why this attempt failed; another may succeed. `wait_s`: as the server asked for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def download(
    urls: Sequence[str],
    file: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    say: Callable[[str], None],
    patience: Patience = Patience(),
) -> Hashes:
    """Fetch a file; what is already there is kept and continued, also by a later process.

    While it is incomplete its bytes lie in `FILE.part`. Certificates and proxies are those of `requests`.

    Args:
        urls: Mirrors, in the order in which they are tried.
        file: Where it goes; a file that is there already and has the checksum is not fetched again.
        md5: As published; None: unknown.
        sha256: The same.
        size: Bytes, roughly; a mirror that sends twice as much is given up. None: unknown.
        say: Takes lines about what is going on.
        patience: How long to try.

    Returns:
        Hashes of the file.

    Raises:
        ValueError: If no mirror has it, with the reason of each, or the disk is full.
    """
    expected = {"md5": md5, "sha256": sha256}
    if file.exists():
        found = hashes(file, say)
        if not mismatch(found, expected):
            return found
        file.unlink()
    file.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        try:
            return _Mirror(url, file, expected, size, say, patience).fetch()
        except _Unavailable as error:
            reasons.append(f"{shown(url)}: {error}")
            say(reasons[-1])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(f"the disk of {file.parent} is full: free some space and repeat") from error
    raise ValueError(f"{file.name} could not be downloaded ({'; '.join(reasons) or 'no mirror is known'})")


def hashes(file: Path, say: Callable[[str], None]) -> Hashes:
    """MD5, which is what authors publish, and SHA-256, in one pass."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as stream, progress(f"checking {file.name}", file.stat().st_size, say) as advance:
        while chunk := stream.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            advance(len(chunk))
    return Hashes(md5.hexdigest(), sha256.hexdigest())


def mismatch(found: Hashes, expected: dict[str, str | None]) -> str:
    """The first hash that is not the expected one, in words; empty if there is none."""
    for kind, value in found._asdict().items():
        if expected[kind] is not None and value != expected[kind]:
            return f"has {kind} {value} where {expected[kind]} is published"
    return ""


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Mirror:
    """One URL and the part of the file that is there."""

    def __init__(
        self,
        url: str,
        file: Path,
        expected: dict[str, str | None],
        size: int | None,
        say: Callable[[str], None],
        patience: Patience,
    ) -> None:
        self.url, self.file, self.expected, self.size = url, file, expected, size
        self.say, self.patience = say, patience
        self.answered = False
        self.part = file.with_name(f"{file.name}.part")
        self.origin = file.with_name(f"{file.name}.part.json")  # which version of the file the part is of

    def fetch(self) -> Hashes:
        """The whole file, in as many attempts as that takes."""
        if not self._can_continue():
            self._start_over()
        failures, furthest = 0, self._have()
        while True:
            resumed = self._have() > 0
            try:
                self._attempt()
                found = hashes(self.part, self.say)
                if not (fault := mismatch(found, self.expected)):
                    self.part.replace(self.file)
                    self.origin.unlink(missing_ok=True)
                    return found
                self._start_over()
                if not resumed:  # the fault may be in what was there before
                    raise _Unavailable(f"the file {fault}")
                self.say(f"what was there of {self.file.name} does not fit: starting over")
            except _Interrupted as error:
                failures = 1 if self._have() > furthest else failures + 1
                furthest = max(furthest, self._have())
                if failures >= (self.patience.attempts if self.answered else 2):
                    raise _Unavailable(f"{error}, {failures} times in a row") from error
                if error.wait_s is not None and error.wait_s > self.patience.longest_wait_s:
                    raise _Unavailable(f"{error} and asks to wait for {error.wait_s:.0f} s") from error
                wait_s = min(self.patience.backoff_s * 2 ** (failures - 1), self.patience.longest_wait_s)
                wait_s = wait_s if error.wait_s is None else error.wait_s
                self.say(f"{shown(self.url)}: {error}; trying again in {wait_s:.0f} s")
                time.sleep(wait_s)

    def _attempt(self) -> None:
        """Ask for what is missing and append it; returns when the file is complete."""
        have, origin = self._have(), self._read_origin()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if origin.get("url") == self.url and origin.get("validator"):
                headers["If-Range"] = origin["validator"]
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=self.patience.timeout_s) as response:
                self._receive(response, have, origin)
        except (requests.Timeout, requests.exceptions.ChunkedEncodingError, BrokenBody) as error:
            raise _Interrupted(_in_words(error)) from error
        except requests.exceptions.SSLError as error:
            raise _Unavailable("its certificate is not trusted") from error
        except requests.ConnectionError as error:  # a proxy's too
            raise _Interrupted("it cannot be reached") from error
        except requests.RequestException as error:
            raise _Unavailable(_in_words(error)) from error

    def _receive(self, response: requests.Response, have: int, origin: dict[str, str]) -> None:
        """Append the body of an answer to the part, or begin the part anew with it."""
        self.answered = True
        status, headers = response.status_code, response.headers
        if status == 416 and have:
            if headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return
            self._start_over()
            raise _Interrupted("it has fewer bytes than are here already")
        if status in TOO_BUSY:
            raise _Interrupted(f"it answers {status} (too busy)", _seconds(headers.get("Retry-After")))
        if status in TEMPORARY:
            raise _Interrupted(f"it answers {status}")
        if status not in (200, 206):
            raise _Unavailable(f"it answers {status}")
        tag = headers.get("ETag") or ""
        if status == 206:
            start, _, total_text = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            changed = origin.get("url") == self.url and tag != origin.get("tag", tag)
            if changed or start.partition("-")[0] != str(have):
                self._start_over()
                raise _Interrupted("the file there has changed")
            total = int(total_text) if total_text.isdigit() else None
        else:
            have = 0
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        # A weak tag promises the same meaning, not the same bytes: it may not be used with If-Range.
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
        self.origin.write_text(json.dumps({"url": self.url, "tag": tag, "validator": validator}), encoding="utf-8")
        free = shutil.disk_usage(self.part.parent).free
        if total and total - have > free:
            raise OSError(errno.ENOSPC, "No space left on device")
        what = f"downloading {self.file.name}"
        with self.part.open("ab" if have else "wb") as part, progress(what, total, self.say, have) as advance:
            # `raw`: some servers call a .tgz "encoded"; its bytes are to be kept as they are.
            for chunk in response.raw.stream(PIECE, decode_content=False):
                part.write(chunk)
                have += len(chunk)
                advance(len(chunk))
                if self.size and have > 2 * self.size:
                    self._start_over()
                    raise _Unavailable(f"it sends more than {gigabytes(2 * self.size)}")
        if total is not None and have < total:
            raise _Interrupted(f"the connection ended after {have} of {total} bytes")

    def _can_continue(self) -> bool:
        """Whether the part may be continued from here: its version is known, or a checksum will tell."""
        origin = self._read_origin()
        known = origin.get("url") == self.url and bool(origin.get("validator") or origin.get("tag"))
        return known or any(self.expected.values())

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _start_over(self) -> None:
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _read_origin(self) -> dict[str, str]:
        try:
            return dict(json.loads(self.origin.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):  # or cut short by a kill
            return {}


def _in_words(error: Exception) -> str:
    """Without the text of the error: it quotes the URL with its query."""
    if isinstance(error, requests.Timeout):
        return "it does not answer in time"
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects in circles"
    if isinstance(error, BrokenBody | requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return f"the request failed ({type(error).__name__})"


def _seconds(retry_after: str | None) -> float | None:
    """What a server asks to wait, as a number or a date; None if it does not say."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
