"""Harvest an API that grants you so many requests a second, for tenants who share them.

    greenworker testsite --hosts 1 --pages 1000 --port 8200 --rate 22 --burst 12    # an API with a quota
    greenworker harvest -n one                     # two workers, or ten: the quota is that of all
    greenworker harvest -n two
    python harvest.py http://127.0.0.1:8200/       # 150 records for acme, and then some for others
    greenworker top -A harvest                     # who waits, and for what

A call has two keys, and runs when both let it. Acme's heap was sent first, and does not hold up the others: no
tenant has more than half of the quota, and what is too much waits in that tenant's own line.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import urlopen

from greenworker import App, Throttled, host

app = App(namespace="harvest")

# In t seconds at most burst + rate · t requests, a little less than is granted: some arrive late, and the next ones do not.
app.limit("api:*", rate="20/s", burst=10)
app.limit("tenant:*", rate="10/s")


@app.task(key=lambda tenant, url: (f"api:{host(url)}", f"tenant:{tenant}"), retries=4)
def record(tenant: str, url: str) -> int:
    """Fetch one record of a tenant's; returns its size."""
    try:
        with urlopen(url, timeout=30) as answer:
            return len(answer.read())
    except HTTPError as error:
        with error:
            if error.code == 429:
                raise Throttled(error.headers["Retry-After"]) from None  # holds its first key
            raise


def main(root: str, records: int) -> None:
    begin = time.monotonic()
    tenants = {"acme": records, "bolt": records // 10, "crux": records // 10}
    sent, n = {}, 1
    for tenant, many in tenants.items():
        urls = [f"{root}page/{n + i}" for i in range(many)]
        sent[tenant] = record.delay_many((tenant, url) for url in urls)
        n += many

    def wait_for(tenant: str) -> None:
        for result in sent[tenant]:
            result.get(timeout=600)
        seconds = time.monotonic() - begin
        print(f"{tenant}: {len(sent[tenant]):,} records after {seconds:.1f} s", flush=True)

    with ThreadPoolExecutor() as threads:
        list(threads.map(wait_for, tenants))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python harvest.py URL [RECORDS]")
    main(sys.argv[1], int(*sys.argv[2:] or [150]))
