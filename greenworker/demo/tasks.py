"""The demo's task: a crawler in one function."""

import re
from urllib.parse import urljoin
from urllib.request import urlopen

from greenworker import App

app = App()

LINK = re.compile(r'<a href="([^"#]+)"')

# The demo has one worker, so its memory may hold what was seen. Greenlets switch only where
# they wait: nothing comes between looking a link up here and adding it.
seen: set[str] = set()


@app.task(timeout=30, retries=5)
def page(url: str) -> int:
    """Fetch a page, send a task for each new page it links to, and return its size in bytes."""
    seen.add(url)
    with urlopen(url) as answer:
        html = answer.read()
    new = {urljoin(url, link) for link in LINK.findall(html.decode())} - seen
    if new:
        seen.update(new)
        page.delay_many([(link,) for link in new], results=False)
    return len(html)
