"""A site to crawl that tells what its visitors did: `greenworker testsite`.

Many hosts, each a port, with pages, latencies, limits and traps that a seed decides. For tests:

    with running_site(hosts=50, pages=20, rate=5, concurrency=2) as site:
        crawl(site.root)
        assert site.stats().total.pages == site.pages
        assert not site.stats().total.violated
"""

from greenworker.testsite.counting import Limits, Seen
from greenworker.testsite.plan import Settings
from greenworker.testsite.process import RunningSite, running_site
from greenworker.testsite.site import Report

__all__ = ["Limits", "Report", "RunningSite", "Seen", "Settings", "running_site"]
