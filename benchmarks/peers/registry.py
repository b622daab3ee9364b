"""All peers by name, in the order in which they are shown."""

from peers.on_bare import Bare
from peers.on_bullmq import BullMQ
from peers.on_celery import Celery, StockCelery
from peers.on_dramatiq import Dramatiq
from peers.on_greenworker import Greenworker
from peers.on_huey import Huey
from peers.on_least import Least
from peers.on_saq import Saq
from peers.peer import Peer

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Greenworker(),
        Least(),
        Bare(),
        Celery(),
        StockCelery(),
        Dramatiq(),
        Huey(),
        Saq(),
        BullMQ(),
    )
}
