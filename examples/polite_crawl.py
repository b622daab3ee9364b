"""Crawl many hosts, and be polite to each of them, with however many workers.

    greenworker testsite --port 8100 --rate 12 --concurrency 2     # ten hosts that refuse who is too fast
    greenworker polite_crawl -c 500                    # a worker, or several
    python polite_crawl.py http://127.0.0.1:8100/      # sends the first page, waits for the last
    greenworker top -A polite_crawl                    # which hosts wait, and for what

What has to wait for its host waits on the server and holds no slot: the other hosts have them all. And
where a host says 429, `Throttled` holds back what waits for that host, not only the page that was told so.
"""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import urlopen

from greenworker import App, Ignore, Throttled, host
from greenworker.errors import BadArguments

app = App(namespace="polite-crawl")

# Of each host, over all workers: two requests at once, a tenth of a second from one to the next, and
# slower where it bears less. The most specific pattern counts, alone.
app.limit("host:*", concurrency=2, delay=0.1, adaptive=True)
app.limit("host:*.example.com", concurrency=10)

LINK = re.compile(r'<a href="([^"#]+)"')
seen = app.seen("pages")


@app.task(key=lambda url: f"host:{host(url)}", timeout=60, retries=4)
def page(url: str) -> int:
    """Fetch a page, and send those that it links to, whatever their hosts; returns its size."""
    try:
        with urlopen(url, timeout=30) as answer:
            html = answer.read()
    except HTTPError as error:
        with error:
            if error.code in (429, 503):
                raise Throttled(error.headers["Retry-After"]) from None
            if error.code in (404, 410):
                raise Ignore from None
            raise
    send(links(url, html.decode(errors="replace")))
    return len(html)


def links(url: str, html: str) -> Iterator[str]:
    """The addresses that a page links to, of whatever host; not those of no host, as mailto: is."""
    for link in LINK.findall(html):
        with suppress(ValueError, BadArguments):
            found = urljoin(url, link)
            host(found)
            yield found


def send(urls: Iterable[str]) -> None:
    """Send the pages that nobody has sent yet: what is sent has been seen, in one step."""
    page.delay_many(((url,) for url in urls), seen=seen, results=False)


def main(root: str) -> None:
    send([root])  # interrupted and started again, it goes on
    while True:
        status = app.status()
        left = status.waiting + status.scheduled + status.running
        if not left:
            break
        hosts = app.limits.keys()
        waiting = sum(1 for one in hosts if one.waiting)
        hint = "" if status.workers else "; no worker yet: greenworker polite_crawl"
        print(f"{left:,} pages to go, on {waiting:,} hosts{hint}", flush=True)
        time.sleep(1)
    print(f"{seen.drop():,} pages, {status.dead:,} given up")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python polite_crawl.py URL")
    main(sys.argv[1])
