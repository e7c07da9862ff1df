"""The advisory feed: fetched, verified, remembered.

`python -m flows.advisories sign FILE.yaml --key KEY --out FEED.json` publishes one.

The newest feed that was believed is kept as it came, signed: it is what an older one is noticed by, and what goes on
being compared while no newer one can be had.
"""

from __future__ import annotations

import argparse
import ipaddress
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml
from rich.console import Console

from flows.terminal import mendable
from tasks.errors import GatehouseError
from tasks.files import read_yaml, write_json, write_text, writing
from tasks.monitoring.advisories import Feed, FeedState, accept, age_days, open_feed, parse_feed, seal_feed
from tasks.params import Monitoring
from tasks.promotion.keys import public_key_path, read_public_key, signing_key
from tasks.teachers.advisories import FEED_FILE

NEWEST = Path(".gatehouse/advisories.dsse.json")
MAX_BYTES = 4 * 2**20
SECONDS = 20.0


def read_feed(monitoring: Monitoring, now: datetime) -> tuple[Feed | None, FeedState]:
    """The feed to compare with, and what came of reading it; whatever is wrong with it is in the state.

    A feed that is believed is kept, and written to cards/feed.yaml, where the teacher's gate looks.
    """
    source = monitoring.advisories
    if not source:
        return None, FeedState(source="")
    try:
        key = read_public_key(Path(monitoring.advisories_key))
    except GatehouseError:
        why = f"monitoring.advisories_key: {monitoring.advisories_key} is missing, or no public key (EC P-256, PEM)."
        return None, FeedState(source=source, problem=why, refused=True)
    problem, refused = "", False
    seen: Feed | None = None
    if NEWEST.exists():
        try:
            seen = open_feed(NEWEST.read_bytes(), key, source=str(NEWEST))
        except GatehouseError as error:
            problem, refused = f"What was kept of the newest feed is no use: {error}", True
    offered: Feed | None = None
    try:
        data = fetch(source)
        try:
            offered = accept(open_feed(data, key, source=source), seen, now=now, source=source)
        except GatehouseError as error:
            problem, refused = str(error), True
        else:
            if offered != seen:
                with writing(NEWEST) as temporary:
                    temporary.write_bytes(data)
            _tell_the_teacher_gate(offered)
    except GatehouseError as error:
        problem = str(error)
    feed = offered or seen
    return feed, FeedState(
        source=source,
        believed="offered" if offered else "last" if seen else "none",
        issued_at=feed.issued_at.isoformat() if feed else "",
        age_days=round(age_days(feed, now), 2) if feed else None,
        advisories=len(feed.advisories) if feed else 0,
        problem=problem,
        refused=refused,
    )


def fetch(source: str) -> bytes:
    """The feed's bytes, at most MAX_BYTES of them, within SECONDS; redirects are not followed.

    Raises:
        GatehouseError: it cannot be had, is too large, or is of a scheme that is not allowed.
    """
    if "://" not in source:
        return _file(Path(source))
    if not _allowed(source):
        raise GatehouseError(f"Advisory feed {source}: only a file, an https URL, or http on loopback is read.")
    deadline, body = time.monotonic() + SECONDS, bytearray()
    try:
        with httpx.stream("GET", source, follow_redirects=False, timeout=SECONDS / 2) as response:
            if response.status_code != 200:
                raise GatehouseError(f"Advisory feed {source} answers {response.status_code}, not 200.")
            for chunk in response.iter_bytes(65_536):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise GatehouseError(f"Advisory feed {source} is larger than {MAX_BYTES} bytes.")
                if time.monotonic() > deadline:
                    raise GatehouseError(f"Advisory feed {source} takes longer than {SECONDS:g} s.")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise GatehouseError(f"Advisory feed {source} cannot be fetched ({type(error).__name__}: {error}).") from error
    return bytes(body)


def _file(path: Path) -> bytes:
    if not path.is_file():
        raise GatehouseError(f"Advisory feed {path} does not exist; correct monitoring.advisories in params.yaml.")
    with path.open("rb") as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise GatehouseError(f"Advisory feed {path} is larger than {MAX_BYTES} bytes.")
    return data


def _allowed(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    if parts.scheme != "http" or not parts.hostname:
        return False
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def _tell_the_teacher_gate(feed: Feed) -> None:
    """As the user's own file of advisories is written; only where it changes, for a change runs the stage again."""
    listed = [a.model_dump(mode="json", include={"id", "text", "sha256"}) for a in feed.advisories]
    head = "# Written by monitoring from the newest signed feed; changes here are overwritten.\n"
    text = head + yaml.safe_dump({"advisories": listed}, sort_keys=False, allow_unicode=True)
    if not FEED_FILE.exists() or FEED_FILE.read_text(encoding="utf-8") != text:
        write_text(FEED_FILE, text)


def sign(file: Path, key: Path, out: Path, now: datetime) -> Feed:
    """Publish a YAML file with a list `advisories` (id, text, severity, sha256) as a signed feed, issued now."""
    missing = f"{file} does not exist; write a list `advisories` of id, text, severity, sha256."
    content = read_yaml(file, name=str(file), missing=missing)
    if not isinstance(content, dict):
        raise GatehouseError(f"{file} must hold a list `advisories` of id, text, severity, sha256.")
    feed = parse_feed({**content, "version": 1, "issued_at": now}, source=str(file))
    write_json(out, seal_feed(feed, signing_key(key)))
    return feed


def main(argv: list[str] | None = None) -> int:
    """Command line of whoever publishes a feed."""
    parser = argparse.ArgumentParser(prog="python -m flows.advisories", description="Publish a signed advisory feed.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("sign", help=sign.__doc__)
    command.add_argument("file", type=Path, metavar="FILE.yaml")
    command.add_argument("--key", type=Path, required=True, help="private EC key in PEM; made once when it is missing")
    command.add_argument("--out", type=Path, required=True, metavar="FEED.json")
    arguments = parser.parse_args(argv)
    console = Console(width=160)
    with mendable("advisories", console):
        feed = sign(arguments.file, arguments.key, arguments.out, datetime.now(UTC))
        console.print(
            f"{arguments.out}: {len(feed.advisories)} advisories, issued {feed.issued_at.isoformat()}; readers verify "
            f"with {public_key_path(arguments.key)}",
            highlight=False,
            soft_wrap=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
