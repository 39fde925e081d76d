"""One file from the first of its mirrors that has it whole."""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from rich.filesize import decimal
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError as BrokenBody
from urllib3.util import Retry

from tcm_bench.files import naming_full_disk
from tcm_bench.progress import progress

CHUNK = 2**20
PIECE = 2**16  # of a transfer: what is lost when a connection goes silent
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

ATTEMPTS = 4  # in a row at a busy server, and in a row without a byte more than before
BACKOFF_S = 1.0  # after the first failure, doubled after each further one
LONGEST_WAIT_S = 60.0  # a server that asks for more is given up
TIMEOUT_S = (10.0, 60.0)  # until a connection stands, and between two pieces


class Hashes(NamedTuple):
    """Of a file's bytes, in hex."""

    md5: str
    sha256: str


class _Unavailable(Exception):
    """Why this mirror is given up."""


class _Broken(Exception):
    """Why a transfer ended early; the next one goes on from there."""


class _Retry(Retry):
    """Asks a busy server again, but not one that wants to be left alone for long."""

    def sleep_for_retry(self, response: BaseHTTPResponse) -> bool:
        """Wait as long as the server asks for, if it does."""
        if (wait_s := self.get_retry_after(response) or 0) > LONGEST_WAIT_S:
            raise _Unavailable(f"it answers {response.status} and asks to wait for {wait_s:.0f} s")
        return super().sleep_for_retry(response)


def download(
    urls: Sequence[str],
    file: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    say: Callable[[str], None],
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
            with naming_full_disk(file.parent):
                return _Mirror(url, file, expected, size, say).fetch()
        except _Unavailable as error:
            reasons.append(f"{shown(url)}: {error}")
            say(reasons[-1])
    raise ValueError(f"{file.name} could not be downloaded ({'; '.join(reasons) or 'no mirror is known'})")


def hashes(file: Path, say: Callable[[str], None]) -> Hashes:
    """MD5, which is what authors publish, and SHA-256, in one pass."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size = file.stat().st_size
    with file.open("rb") as stream, progress(f"checking {file.name}", say, in_bytes=True) as tell:
        while chunk := stream.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            tell(stream.tell(), size)
    return Hashes(md5.hexdigest(), sha256.hexdigest())


def mismatch(found: Hashes, expected: dict[str, str | None]) -> str:
    """The first hash that is not the expected one, in words; empty if there is none."""
    for kind, value in found._asdict().items():
        if expected[kind] is not None and value != expected[kind]:
            return f"has {kind} {value} where {expected[kind]} is published"
    return ""


def _session() -> requests.Session:
    """Busy servers are left to urllib3; a transfer that breaks off is not: it shall go on where it broke."""
    busy = _Retry(
        total=None, connect=0, read=False, other=0, status=ATTEMPTS - 1, status_forcelist=TEMPORARY,
        raise_on_status=False, backoff_factor=BACKOFF_S, backoff_max=LONGEST_WAIT_S,
    )  # fmt: skip
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=busy))
    return session


def shown(url: str) -> str:
    """A URL without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True)
class _Mirror:
    """One URL and the part of the file that is there."""

    url: str
    file: Path
    expected: dict[str, str | None]
    size: int | None
    say: Callable[[str], None]

    @property
    def part(self) -> Path:
        """The bytes so far."""
        return self.file.with_name(f"{self.file.name}.part")

    @property
    def origin(self) -> Path:
        """Of which URL the part is, and of which version of what lies there."""
        return self.file.with_name(f"{self.file.name}.part.json")

    @property
    def have(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    def fetch(self) -> Hashes:
        """The whole file, in as many requests as that takes."""
        failures = furthest = 0
        with _session() as session:
            while True:
                validator = self._validator()
                if not (validator or any(self.expected.values())):  # nothing would tell that the part does not fit
                    self._start_over()
                have = self.have
                try:
                    self._request_rest(session, validator)
                except _Broken as error:
                    failures = 1 if self.have > furthest else failures + 1
                    furthest = max(furthest, self.have)
                    if failures >= ATTEMPTS:
                        raise _Unavailable(f"{error}, {failures} times in a row") from error
                    self.say(f"{shown(self.url)}: {error}; trying again")
                    time.sleep(min(BACKOFF_S * 2 ** (failures - 1), LONGEST_WAIT_S))
                    continue
                found = hashes(self.part, self.say)
                if not (fault := mismatch(found, self.expected)):
                    self.part.replace(self.file)
                    self.origin.unlink(missing_ok=True)
                    return found
                self._start_over()
                if not have:  # else the fault may be in what was there before
                    raise _Unavailable(f"the file {fault}")
                self.say(f"what was there of {self.file.name} does not fit: starting over")

    def _request_rest(self, session: requests.Session, validator: str) -> None:
        """Ask for what is missing and append it; returns when the file is complete."""
        headers = {"Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
                self._receive(response, self.have, validator)
        # In words of our own: the text of these errors quotes the URL with its query.
        except requests.exceptions.SSLError as error:
            raise _Unavailable("its certificate is not trusted") from error
        except requests.Timeout as error:
            raise _Broken("it does not answer in time") from error
        except requests.ConnectionError as error:  # a proxy's too
            raise _Broken("it cannot be reached") from error
        except (requests.exceptions.ChunkedEncodingError, BrokenBody) as error:
            raise _Broken("the connection broke") from error
        except requests.TooManyRedirects as error:
            raise _Unavailable("it redirects in circles") from error
        except requests.RequestException as error:
            raise _Unavailable(f"the request failed ({type(error).__name__})") from error

    def _receive(self, response: requests.Response, have: int, validator: str) -> None:
        """Append the body of an answer to the part, or begin the part anew with it."""
        status, headers = response.status_code, response.headers
        start, _, whole = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if status == 416 and have:
            if whole == str(have):
                return
            self._start_over()
            raise _Broken("it has fewer bytes than are here already")
        if status == 206 and start.partition("-")[0] != str(have):
            self._start_over()
            raise _Broken("it sends another part than was asked for")
        tag = headers.get("ETag", "W/")
        if status == 206 and validator.startswith('"') and "ETag" in headers and tag != validator:
            self._start_over()
            raise _Broken("the file there has changed")
        if status == 200:
            have, whole = 0, headers.get("Content-Length", "")
        elif status != 206:
            raise _Unavailable(f"it answers {status}")
        total = int(whole) if whole.isdigit() else None
        # A weak tag promises the same meaning, not the same bytes: it may not be used with If-Range.
        validator = headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        self.origin.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")
        if total and total - have > shutil.disk_usage(self.part.parent).free:
            raise OSError(errno.ENOSPC, "No space left on device")
        what = f"downloading {self.file.name}"
        with self.part.open("ab" if have else "wb") as part, progress(what, self.say, in_bytes=True) as tell:
            # `raw`: some servers call a .tgz "encoded"; its bytes are to be kept as they are.
            for chunk in response.raw.stream(PIECE, decode_content=False):
                part.write(chunk)
                have += len(chunk)
                tell(have, total)
                if self.size and have > 2 * self.size:
                    self._start_over()
                    raise _Unavailable(f"it sends more than {decimal(2 * self.size)}")
        if total is not None and have < total:
            raise _Broken(f"the connection ended after {have} of {total} bytes")

    def _start_over(self) -> None:
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _validator(self) -> str:
        """What this URL called the version that the part is of; empty if unknown."""
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
            return origin["validator"] if origin["url"] == self.url else ""
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # or cut short by a kill
            return ""
