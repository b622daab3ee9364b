"""The yardstick: the least that gevent, redis-py and orjson need for tasks with results. Frozen.

Claims n by a script, spawns each into a Pool under a timeout, settles what has ended by one
script. No retries, leases, priorities, fences, schedules, checks or logs: not a worker, but
the speed that a worker on these libraries can at most come near to.
"""

from gevent import monkey

monkey.patch_all()

import os
import sys
import uuid

import gevent
import orjson
import redis
from gevent.event import Event
from gevent.pool import Pool

CONCURRENCY = 100

CLAIM = """
local messages = redis.call('RPOP', KEYS[1], ARGV[1])
if not messages then return {} end
local held = {}
for _, message in ipairs(messages) do
  held[#held + 1] = string.sub(message, 1, 32)
  held[#held + 1] = message
end
redis.call('HSET', KEYS[2], unpack(held))
return messages
"""

SETTLE = """
for i = 1, #ARGV, 2 do
  redis.call('SET', 'result:' .. ARGV[i], ARGV[i + 1], 'PX', 3600000)
  redis.call('PUBLISH', 'done:' .. ARGV[i], ARGV[i + 1])
  redis.call('HDEL', KEYS[1], ARGV[i])
end
"""


def noop() -> None:
    pass


TASKS = {"noop": noop}


def send(client: redis.Redis, count: int) -> None:
    body = orjson.dumps({"task": "noop", "args": [], "kwargs": {}})
    for first in range(0, count, 1000):
        part = range(min(1000, count - first))
        client.lpush("ready", *(uuid.uuid4().hex.encode() + body for _ in part))


def work(client: redis.Redis) -> None:
    pool, ended, changed = Pool(CONCURRENCY), [], Event()
    claim, settle = client.register_script(CLAIM), client.register_script(SETTLE)

    def run(message: bytes) -> None:
        call = orjson.loads(message[32:])
        with gevent.Timeout(300):
            value = TASKS[call["task"]](*call["args"], **call["kwargs"])
        ended.append((message[:32], orjson.dumps({"state": "SUCCESS", "value": value})))
        changed.set()

    def settler() -> None:
        while True:
            changed.wait()
            changed.clear()
            batch, ended[:] = list(ended), []
            settle(["processing"], [part for pair in batch for part in pair])

    gevent.spawn(settler)
    while True:
        pool.wait_available()
        for message in claim(["ready", "processing"], [pool.free_count()]):
            pool.spawn(run, message)
        gevent.sleep(0)


if __name__ == "__main__":
    connected = redis.Redis.from_url(os.environ["BENCH_URL"])
    if len(sys.argv) > 1:
        send(connected, int(sys.argv[1]))
    else:
        work(connected)
