"""The feed from a file and from a server: signed by the operator of the feed, limited, remembered."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from flows import advisories
from flows.advisories import fetch, main, read_feed, sign
from flows.teacher import _advisories
from tasks.errors import GatehouseError
from tasks.params import Monitoring, load_params
from tasks.teachers.advisories import FEED_FILE

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BAD = "ab" * 32


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The signed feed FEED.json, with one advisory, issued at NOW."""
    monkeypatch.chdir(tmp_path)
    publish(NOW)
    return tmp_path / "FEED.json"


def publish(issued: datetime, *digests: str, key: str = "keys/feed.key", out: str = "FEED.json") -> None:
    listed = [{"id": "A-1", "text": "Stolen.", "severity": "critical", "sha256": list(digests or (BAD,))}]
    Path("feed.yaml").write_text(yaml.safe_dump({"advisories": listed}))
    sign(Path("feed.yaml"), Path(key), Path(out), issued)


def section(source: str, key: str = "keys/feed.pub") -> Monitoring:
    known = load_params(Path(__file__).parents[2] / "params.yaml").monitoring
    return known.model_copy(update={"advisories": source, "advisories_key": key})


@pytest.mark.usefixtures("feed")
def test_a_feed_is_believed_remembered_and_told_to_the_teacher_gate() -> None:
    content, state = read_feed(section("FEED.json"), NOW)
    assert content is not None
    assert (state.believed, state.advisories, state.problem) == ("offered", 1, "")
    known = _advisories("")
    assert known is not None
    assert [a.id for a in known.about(BAD)] == ["A-1"]
    before = FEED_FILE.stat().st_mtime_ns
    read_feed(section("FEED.json"), NOW)
    assert FEED_FILE.stat().st_mtime_ns == before  # a file that changes runs a stage again


@pytest.mark.usefixtures("feed")
@pytest.mark.parametrize("how", ["older", "another key", "changed", "gone", "future"])
def test_what_is_not_believed_never_means_no_advisories(how: str) -> None:
    read_feed(section("FEED.json"), NOW)
    if how == "older":
        publish(NOW - timedelta(days=3), "cd" * 32)
    elif how == "another key":
        publish(NOW + timedelta(days=1), "cd" * 32, key="others/feed.key")
    elif how == "changed":
        Path("FEED.json").write_text(Path("FEED.json").read_text().replace('"payload": "e', '"payload": "f'))
    elif how == "future":
        publish(NOW + timedelta(days=99), "cd" * 32)
    else:
        Path("FEED.json").unlink()
    content, state = read_feed(section("FEED.json"), NOW)
    assert content is not None
    assert content.advisories[0].sha256 == (BAD,)
    assert (state.believed, state.refused) == ("last", how != "gone")
    assert state.problem


@pytest.mark.usefixtures("feed")
def test_without_a_first_feed_there_is_none_to_fall_back_on() -> None:
    content, state = read_feed(section("nothing.json"), NOW)
    assert (content, state.believed) == (None, "none")
    assert "does not exist" in state.problem


@pytest.mark.usefixtures("feed")
def test_a_changed_memory_is_told_and_a_newer_feed_still_believed() -> None:
    read_feed(section("FEED.json"), NOW)
    advisories.NEWEST.write_text("{}")
    content, state = read_feed(section("FEED.json"), NOW)
    assert content is not None
    assert state.refused
    assert "no use" in state.problem


@pytest.mark.usefixtures("feed")
def test_without_the_publisher_s_key_nothing_is_believed() -> None:
    content, state = read_feed(section("FEED.json", "no/such.pub"), NOW)
    assert (content, state.believed, state.refused) == (None, "none", True)
    assert "no/such.pub" in state.problem


def test_no_feed_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_feed(section("", ""), NOW)[1].source == ""
    assert _advisories("") is None


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        body = b"x" * (advisories.MAX_BYTES + 1) if self.path == "/large" else Path("FEED.json").read_bytes()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(feed: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_a_feed_from_a_server(server: str) -> None:
    content, state = read_feed(section(f"{server}/feed"), NOW)
    assert content is not None
    assert state.believed == "offered"
    for path, words in (("/moved", "answers 302"), ("/large", "larger than")):
        with pytest.raises(GatehouseError, match=words):
            fetch(server + path)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "http://example.org/feed", "ftp://127.0.0.1/x", "http://127.0.0.1.example.org/", "https://"],
)
def test_other_places_are_not_asked(url: str) -> None:
    with pytest.raises(GatehouseError, match="only a file, an https URL, or http on loopback"):
        fetch(url)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GatehouseError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/feed")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (advisories.MAX_BYTES + 1))
    with pytest.raises(GatehouseError, match="larger than"):
        fetch(str(tmp_path / "f"))


@pytest.mark.usefixtures("feed")
def test_the_publisher_s_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", "feed.yaml", "--key", "keys/feed.key", "--out", "OUT.json"]) == 0
    assert "readers verify with keys/feed.pub" in capsys.readouterr().out
    assert read_feed(section("OUT.json"), datetime.now(UTC))[1].believed == "offered"
    for content, words in (("advisories: [", "not valid YAML"), ("[]", "must hold"), ("advisories: [{id: A}]", "text")):
        Path("bad.yaml").write_text(content)
        with pytest.raises(SystemExit):
            main(["sign", "bad.yaml", "--key", "keys/feed.key", "--out", "BAD.json"])
        assert words in capsys.readouterr().out
        assert not Path("BAD.json").exists()
    with pytest.raises(SystemExit):
        main(["sign", "none.yaml", "--key", "keys/feed.key", "--out", "BAD.json"])
