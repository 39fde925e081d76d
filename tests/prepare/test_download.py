"""Downloads from real servers on this machine that do what servers do at their worst."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from mirror import Answer, Mirror

from tcm_bench.prepare.download import download

BODY = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(BODY).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = {"ATTEMPTS": 3, "BACKOFF_S": 0.01, "LONGEST_WAIT_S": 2, "TIMEOUT_S": (2, 0.5)}


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Downloads to `tmp_path/file.tgz` without patience; the lines said are in `fetch.said`."""
    for name, value in QUICK.items():
        monkeypatch.setattr(f"tcm_bench.prepare.download.{name}", value)

    def fetch(*urls, md5=MD5, **options):
        return download(urls, tmp_path / "file.tgz", md5=md5, say=fetch.said.append, **options)

    fetch.said = []
    fetch.file = tmp_path / "file.tgz"
    fetch.part = tmp_path / "file.tgz.part"
    return fetch


def assert_complete(fetch):
    assert fetch.file.read_bytes() == BODY
    assert [path.name for path in fetch.file.parent.iterdir()] == ["file.tgz"]


def test_a_file_comes_whole_and_with_both_hashes(fetch):
    with Mirror(BODY) as mirror:
        assert fetch(mirror.url()) == (MD5, SHA256)
    assert_complete(fetch)


def test_a_file_that_is_there_is_not_fetched_again(fetch):
    fetch.file.write_bytes(BODY)
    assert fetch("http://127.0.0.1:9/nobody/listens") == (MD5, SHA256)


def test_a_dropped_connection_is_continued_where_it_broke(fetch):
    with Mirror(BODY, [Answer(drop_after=1_000_000), Answer(drop_after=500_000), Answer()]) as mirror:
        fetch(mirror.url())
        ranges = [request.get("Range") for request in mirror.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert mirror.requests[1]["If-Range"] == '"one"'
    assert_complete(fetch)


def test_drops_do_not_count_as_long_as_each_attempt_brings_more(fetch):
    with Mirror(BODY, [*[Answer(drop_after=100_000)] * 20, Answer()]) as mirror:
        fetch(mirror.url())
    assert_complete(fetch)


def test_a_server_that_ignores_ranges_is_read_from_the_start(fetch):
    with Mirror(BODY, [Answer(drop_after=1_000_000), Answer(ranges=False)]) as mirror:
        fetch(mirror.url())
    assert_complete(fetch)


def test_a_file_that_changed_between_attempts_is_read_from_the_start(fetch):
    old = bytes(len(BODY))
    with Mirror(BODY, [Answer(body=old, etag='"old"', drop_after=1_000_000), Answer()]) as mirror:
        fetch(mirror.url())
    assert_complete(fetch)


def test_without_a_checksum_a_part_is_not_continued_by_a_weak_tag(fetch):
    """It promises the same meaning and not the same bytes: the rest could be of another file."""
    weak = [Answer(etag='W/"one"', drop_after=1_000_000), Answer(etag='W/"one"')]
    with Mirror(BODY, weak) as mirror:
        fetch(mirror.url(), md5=None)
        assert [request.get("Range") for request in mirror.requests] == [None, None]
    assert_complete(fetch)


def test_without_a_checksum_a_part_of_the_same_version_is_continued(fetch):
    fetch.part.write_bytes(BODY[:1_000_000])
    with Mirror(BODY) as mirror:
        origin = {"url": mirror.url(), "validator": '"one"'}
        fetch.part.with_name("file.tgz.part.json").write_text(json.dumps(origin))
        fetch(mirror.url(), md5=None)
        (request,) = mirror.requests
    assert (request["Range"], request["If-Range"]) == ("bytes=1000000-", '"one"')
    assert_complete(fetch)


def test_a_server_that_continues_another_file_than_before_is_noticed_by_its_tag(fetch):
    fetch.part.write_bytes(bytes(1_000_000))
    careless = Answer(etag='"new"', heeds_if_range=False)
    with Mirror(BODY, [careless]) as mirror:
        fetch.part.with_name("file.tgz.part.json").write_text(json.dumps({"url": mirror.url(), "validator": '"old"'}))
        fetch(mirror.url(), md5=None)
        assert [request.get("Range") for request in mirror.requests] == ["bytes=1000000-", None]
    assert_complete(fetch)


def test_without_a_checksum_a_part_of_unknown_origin_is_not_continued(fetch):
    fetch.part.write_bytes(bytes(1_000_000))
    with Mirror(BODY) as mirror:
        fetch(mirror.url(), md5=None)
        assert "Range" not in mirror.requests[0]
    assert_complete(fetch)


def test_a_part_that_does_not_fit_is_thrown_away_and_the_mirror_asked_again(fetch):
    fetch.part.write_bytes(bytes(1_000_000))
    with Mirror(BODY) as mirror:
        fetch(mirror.url())
        assert [request.get("Range") for request in mirror.requests] == ["bytes=1000000-", None]
    assert_complete(fetch)


def test_a_part_that_is_already_everything_is_recognized(fetch):
    fetch.part.write_bytes(BODY)
    with Mirror(BODY) as mirror:
        fetch(mirror.url())
    assert len(mirror.requests) == 1  # answered by 416
    assert_complete(fetch)


def test_a_part_longer_than_the_file_is_thrown_away(fetch):
    fetch.part.write_bytes(BODY + b"more")
    with Mirror(BODY) as mirror:
        fetch(mirror.url())
    assert_complete(fetch)


@pytest.mark.parametrize(
    "bad",
    [Answer(body=BODY[:-1]), Answer(body=bytes(3_000_000)), Answer(body=b"<html>log in</html>"), Answer(body=b"")],
)
def test_short_and_corrupt_files_lead_to_the_next_mirror(fetch, bad):
    with Mirror(BODY, [bad]) as first, Mirror(BODY) as second:
        fetch(first.url(), second.url())
        assert "Range" not in second.requests[0]
    assert len(first.requests) == 1
    assert any(f"where {MD5} is published" in line for line in fetch.said)
    assert_complete(fetch)


def test_the_sha256_is_checked_too(fetch):
    with Mirror(BODY) as mirror, pytest.raises(ValueError, match=r"has sha256 .* where 00 is published"):
        fetch(mirror.url(), sha256="00")
    assert not list(fetch.file.parent.iterdir())


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_leads_to_the_next_mirror_at_once(fetch, status):
    with Mirror(BODY, [Answer(status=status)]) as first, Mirror(BODY) as second:
        fetch(first.url(), second.url())
        assert len(first.requests) == 1
    assert_complete(fetch)


def test_a_busy_server_is_asked_again_after_the_time_it_asks_for(fetch):
    with Mirror(BODY, [Answer(status=429, headers={"Retry-After": "1"}), Answer(status=503), Answer()]) as mirror:
        before = time.monotonic()
        fetch(mirror.url())
    assert time.monotonic() - before >= 1
    assert_complete(fetch)


@pytest.mark.parametrize("later", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_server_that_asks_for_too_long_a_wait_is_left_for_the_next(fetch, later):
    with Mirror(BODY, [Answer(status=503, headers={"Retry-After": later})]) as first, Mirror(BODY) as second:
        fetch(first.url(), second.url())
        assert len(first.requests) == 1
    assert_complete(fetch)


def test_an_always_busy_server_is_given_up(fetch):
    with Mirror(BODY, [Answer(status=503)]) as mirror, pytest.raises(ValueError, match="it answers 503"):
        fetch(mirror.url())
    assert len(mirror.requests) == 3


def test_a_redirect_is_followed(fetch):
    with Mirror(BODY) as target, Mirror(BODY, [Answer(status=302, headers={"Location": target.url("/x")})]) as mirror:
        fetch(mirror.url())
    assert_complete(fetch)


def test_a_circle_of_redirects_is_a_reason(fetch):
    with (
        Mirror(BODY, [Answer(status=302, headers={"Location": "/again"})]) as mirror,
        pytest.raises(ValueError, match="redirects in circles"),
    ):
        fetch(mirror.url())


def test_an_archive_that_the_server_calls_encoded_keeps_its_bytes(fetch):
    with Mirror(BODY, [Answer(headers={"Content-Encoding": "gzip"})]) as mirror:
        fetch(mirror.url())
    assert_complete(fetch)


def test_a_server_that_stops_sending_is_given_up_and_the_part_kept_for_the_next(fetch):
    silent = Answer(headers={"Content-Length": str(len(BODY))}, body=BODY[:1_000_000])  # promises more, then nothing
    with Mirror(BODY, [silent]) as first, Mirror(BODY) as second:
        fetch(first.url(), second.url())
        assert 900_000 < int(second.requests[0]["Range"].strip("bytes=-")) <= 1_000_000
        assert "If-Range" not in second.requests[0]  # its tag says nothing about another server's file
    assert_complete(fetch)


def test_a_mirror_that_sends_without_end_is_given_up(fetch):
    with Mirror(BODY) as mirror, pytest.raises(ValueError, match=r"sends more than 2\.0 MB"):
        fetch(mirror.url(), size=1_000_000)
    assert not list(fetch.file.parent.iterdir())


def test_when_all_fail_each_mirror_has_its_reason_and_no_secret_is_shown(fetch):
    with Mirror(BODY, [Answer(status=404)]) as first, Mirror(BODY, [Answer(body=b"no")]) as second:
        closed = "http://me:pass" + "word@127.0.0.1:9/c.tgz?key=hidden"
        with pytest.raises(ValueError, match=r"^file\.tgz could not be downloaded") as error:
            fetch(first.url("/a.tgz?token=hidden"), second.url("/b.tgz"), closed, "ftp://example.invalid/d.tgz")
    message = str(error.value)
    assert "/a.tgz: it answers 404" in message
    assert "/b.tgz: the file has md5" in message
    assert "http://127.0.0.1:9/c.tgz: it cannot be reached" in message
    assert "ftp://example.invalid/d.tgz: the request failed (InvalidSchema)" in message
    for secret in ("hidden", "password", "me:"):
        assert secret not in message + "".join(fetch.said)
    assert "\n" not in message


def test_a_full_disk_is_one_sentence(fetch):
    promised = Answer(headers={"Content-Length": str(10**18)})
    with Mirror(BODY, [promised]) as mirror, pytest.raises(ValueError, match=r"the disk of .* is full"):
        fetch(mirror.url())


CLIENT = """
import sys
from pathlib import Path
from tcm_bench.prepare.download import download
download(sys.argv[1:2], Path(sys.argv[2]), md5=sys.argv[3], say=print)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_what_the_next_one_continues(fetch, end):
    slow = Answer(headers={"Content-Length": str(len(BODY))}, body=BODY[:1_500_000])
    with Mirror(BODY, [slow, Answer()]) as mirror:
        words = [sys.executable, "-c", CLIENT, mirror.url(), str(fetch.file), MD5]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not (fetch.part.exists() and fetch.part.stat().st_size >= 1_000_000):
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, end)
        kept = fetch.part.stat().st_size
        assert not fetch.file.exists()
        fetch(mirror.url())
        assert mirror.requests[-1]["Range"] == f"bytes={kept}-"
    assert_complete(fetch)
