"""Downloads, from a server on this machine that can be told to misbehave."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest

from dnrlib.data.download import download
from dnrlib.errors import DataError

BODY = Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.ranges.append(start)
        if not self.server.resumes:
            self.reply(200, BODY)
        elif start >= len(BODY):
            self.reply(416, b"")
        else:
            self.reply(206, BODY[start:])

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ranges, server.resumes, server.breaks_after = [], True, None
    server.url = f"http://127.0.0.1:{server.server_port}/ml-1m.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "raw" / "ml-1m.zip"


@pytest.fixture
def part(target):
    target.parent.mkdir(parents=True)
    return target.with_name("ml-1m.zip.part")


def test_a_file_arrives_whole_under_its_own_name(server, target):
    assert download(server.url, target, MD5) == target
    assert target.read_bytes() == BODY
    assert not target.with_name("ml-1m.zip.part").exists()


def test_progress_is_shown(server, target, capsys):
    download(server.url, target, MD5)
    assert "ml-1m.zip" in capsys.readouterr().err


def test_what_is_there_already_is_not_fetched_again(server, target, part):
    part.write_bytes(BODY[:1000])
    download(server.url, target, MD5)
    assert server.ranges == [1000]
    assert target.read_bytes() == BODY


def test_a_server_that_cannot_resume_starts_anew(server, target, part):
    part.write_bytes(BODY[:1000])
    server.resumes = False
    assert download(server.url, target, MD5).read_bytes() == BODY


def test_a_file_that_was_complete_but_not_renamed(server, target, part):
    part.write_bytes(BODY)
    assert download(server.url, target, MD5).read_bytes() == BODY


def test_a_broken_connection_is_resumed_by_the_next_call(server, target):
    server.breaks_after = 100_000
    with pytest.raises(DataError, match="broke off after 100000 of 300000 bytes"):
        download(server.url, target, MD5)
    assert not target.exists()
    server.breaks_after = None
    assert download(server.url, target, MD5).read_bytes() == BODY
    assert server.ranges == [0, 100_000]


def test_a_wrong_checksum_leaves_nothing(server, target, part):
    with pytest.raises(DataError, match=f"has MD5 {MD5}, the publisher states 0123"):
        download(server.url, target, "0123")
    assert not target.exists()
    assert not part.exists()


def test_an_unreachable_server_is_reported_at_once_with_a_way_out(server, target):
    server.server_close()
    start = time.monotonic()
    with pytest.raises(DataError, match="cannot be downloaded") as error:
        download(server.url, target, MD5)
    assert time.monotonic() - start < 2
    for advice in (server.url, str(target), "DATASET=simulated"):
        assert advice in str(error.value)


def test_a_folder_that_cannot_be_written_is_reported(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be downloaded"):
        download(server.url, tmp_path / "file" / "ml-1m.zip", MD5)


def test_several_processes_fetch_once(server, target):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download(server.url, target, MD5), range(4)))
    assert server.ranges == [0]
    assert {path.read_bytes() for path in paths} == {BODY}
