"""Fetch some pages of each of thousands of hosts, one at a time of each, and hundreds of hosts at once.

    greenworker testsite --hosts 2000 --port 20000      # two thousand hosts, each a port
    greenworker broad_crawl -c 500                      # a worker, or several
    seq -f http://127.0.0.1:%.0f/ 20000 21999 > urls    # a URL a line, in any order
    python broad_crawl.py urls

Hosts take turns, however the list is sorted: all pages of a host in a row do not come to it in a row, and a slow one
holds up nobody but itself.
"""

import re
import sys
import time
from urllib.parse import urljoin
from urllib.request import urlopen

from greenworker import App, host

PAGES = 3  # that a host's first page leads to

app = App(namespace="broad-crawl")
app.limit("host:*", concurrency=1, delay=0.5)

LINK = re.compile(r'<a href="([^"#]+)"')
seen = app.seen("pages", by="url")


@app.task(key=lambda url, **_: f"host:{host(url)}", timeout=30, ignore_result=True)
def page(url: str, depth: int = 0) -> None:
    """Fetch a page, and send some of those of its host that it links to."""
    with urlopen(url, timeout=20) as answer:
        html = answer.read().decode(errors="replace")
    if depth == 0:
        root = urljoin(url, "/")
        links = dict.fromkeys(urljoin(url, link) for link in LINK.findall(html))
        own = [link for link in links if link.startswith(root)]
        page.delay_many(((link, 1) for link in own[:PAGES]), seen=seen, results=False)


def main(file: str) -> None:
    with open(file, encoding="utf-8") as urls:
        page.delay_many(((url.strip(),) for url in urls), seen=seen, results=False)
    while True:
        status = app.status()
        left = status.waiting + status.scheduled + status.running
        if not left:
            break
        hint = "" if status.workers else "; no worker yet: greenworker broad_crawl"
        print(f"{left:,} pages to go, {status.running:,} now{hint}", flush=True)
        time.sleep(1)
    print(f"{seen.drop():,} pages, {status.dead:,} given up")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python broad_crawl.py FILE")
    main(sys.argv[1])
