"""Crawl a web site: each task saves one page and sends a task for every page it links to.

    python -m greenworker.demo.site --port 8000        # a site that you may crawl
    greenworker crawl -c 500                           # a worker, or several
    python crawl.py http://127.0.0.1:8000/ pages       # sends the first page, waits for the last

Any task may run twice, after a crash for one. Two things make that harmless here, and make
several workers fetch each page once:

- the id of a task is that of its page: sending it while it waits or runs does nothing;
- a page whose file is there is done. The file comes last, after the links have been sent.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import urlopen

from greenworker import App

# A namespace of its own: when nothing is left in it, the crawl is over.
app = App(namespace="crawl")


@app.task(timeout=60, retries=5, backoff=1.0)
def page(url: str, folder: str) -> int:
    """Save a page under `folder`, and send those of its site that it links to; returns its size."""
    file = Path(folder, f"{page_id(url)}.html")
    if file.exists():
        return file.stat().st_size
    with urlopen(url, timeout=30) as answer:
        is_html = answer.headers.get_content_type() == "text/html"
        body: bytes = answer.read() if is_html else b""
    for link in links(url, body.decode(errors="replace")):
        if not Path(folder, f"{page_id(link)}.html").exists():
            send(link, folder)
    # In one step: half a page must not pass for a page that is done.
    part = file.with_suffix(f".{os.getpid()}")
    part.write_bytes(body)
    part.replace(file)
    return len(body)


def send(url: str, folder: str) -> None:
    """Send the task for a page, unless it already waits or runs."""
    page.apply_async((url, folder), id=page_id(url))


def page_id(url: str) -> str:
    """Return what names a page in an id and in a file name: both are too narrow for a URL."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def links(url: str, html: str) -> set[str]:
    """Return the addresses within the site of `url` that its page links to."""
    parser = _LinkParser()
    parser.feed(html)
    found = {urldefrag(urljoin(url, link)).url for link in parser.links}
    return {link for link in found if urlsplit(link)[:2] == urlsplit(url)[:2]}


class _LinkParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attributes if name == "href" and value]


def main(root: str, target: str) -> None:
    folder = Path(target).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    given_up = app.status().dead
    send(root, str(folder))
    while True:
        status = app.status()
        left = status.waiting + status.scheduled + status.running
        if not left:
            break
        hint = "" if status.workers else "; no worker yet: greenworker crawl"
        print(f"{left:,} pages to go{hint}", flush=True)
        time.sleep(1)
    saved = sum(1 for _ in folder.glob("*.html"))
    print(f"{saved:,} pages in {folder}, {status.dead - given_up:,} given up")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python crawl.py URL FOLDER")
    main(*sys.argv[1:])
