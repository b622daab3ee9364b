"""`greenworker limit` with the real command: what is allowed of keys, and how they stand."""

from __future__ import annotations

import json

from tests.e2e.conftest import Project
from tests.support.eventually import eventually

TASKS = """
    from greenworker import Throttled, host

    app.limit("host:*", concurrency=1)
    app.limit("tenant:*", rate="100/min", burst=20)

    @app.task(key=lambda url, **_: "host:" + host(url))
    def page(url, depth=0):
        note(f"began {url}")
        if depth:
            raise Throttled("600")
        wait_for("go")
        return url
"""


def said(project: Project, *args: str) -> list[str]:
    done = project.run("limit", *args, "-A", "tasks")
    assert (done.returncode, done.stderr) == (0, "")
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_limits_are_seen_set_and_dropped(project: Project) -> None:
    tasks = project.module(TASKS)
    assert said(project) == [
        "limit allows says",
        "host:* concurrency 1 code (no worker has told of it yet)",
        "tenant:* rate 100/min, burst 20 code (no worker has told of it yet)",
        "",
        "(no key is held or at its limit)",
    ]
    done = project.run("limit", "drop", "host:*", "-A", "tasks")
    assert done.returncode == 2
    assert "limit host:*: code declares it, and no worker has told of it yet" in done.stderr
    worker = project.worker("-n", "w1")
    results = tasks.page.delay_many(
        [(f"http://{name}.example/{n}",) for n in (1, 2) for name in "ab"]
    )
    throttled = tasks.page.delay("http://c.example/", 1)
    eventually(lambda: len(project.notes) == 3)
    eventually(lambda: any("throttled 9m" in line for line in said(project)))
    table = said(project)
    assert table[1] == "host:* concurrency 1 code of w1"
    assert [line.split()[:5] for line in table[4:7]] == [
        ["key", "state", "running", "waiting", "a"],
        ["host:a.example", "busy", "1", "1", table[5].split()[4]],
        ["host:b.example", "busy", "1", "1", table[6].split()[4]],
    ]
    assert table[4].endswith(" p50 p95 refused limit"), "as top calls it"
    assert table[7].startswith("host:c.example throttled 9m 0 1 ")
    assert table[7].endswith(" 1 host:*")
    assert said(project, "list", "--limit", "1")[-1] == "and 2 more; --limit N shows more"
    # A worker's settings are no limits: the shell may have them.
    done = project.run("limit", "set", "host:*", "-c", "2", "--rate", "1000/s", "--burst", "20", "--adaptive", "-A", "tasks", env={"GREENWORKER_CONCURRENCY": "7"})  # fmt: skip
    assert done.stdout == "host:*: concurrency 2, rate 1000/s, burst 20, adaptive\n"
    # At the next claim.
    eventually(lambda: len(project.notes) == 5)
    told = json.loads("\n".join(said(project, "--json")))
    (host, tenant) = told["limits"]
    assert (host["pattern"], host["rate"], host["declared"], host["by"]) == ("host:*", "1000/s", False, ["w1"])  # fmt: skip
    assert (tenant["burst"], tenant["declared"], tenant["changed"] > 1e9) == (20, True, True)
    assert [(one["key"], one["state"], one["limit"]) for one in told["keys"]] == [
        ("host:c.example", "throttled", "concurrency=2 rate=1000/1000 burst=20 adaptive=1"),
        ("host:a.example", "busy", "concurrency=2 rate=1000/1000 burst=20 adaptive=1"),
        ("host:b.example", "busy", "concurrency=2 rate=1000/1000 burst=20 adaptive=1"),
    ]
    assert said(project)[1].endswith(" UTC, over code of w1: concurrency 1")
    assert (host["over"], tenant["over"]) == ("concurrency=1", None)
    assert said(project, "drop", "host:*") == [
        "host:*: dropped; what code declares counts again: concurrency 1"
    ]
    assert said(project)[1] == "host:* concurrency 1 code of w1"
    done = project.run("limit", "drop", "host:*", "-A", "tasks")
    assert done.stderr == (
        "greenworker: limit host:*: code declares it, and nobody has set another: there is nothing to drop; "
        "to lift it: greenworker limit set 'host:*' --none\n"
    )
    project.allow("go")
    assert all(result.get(timeout=20) for result in results)
    assert throttled.info().attempt == 0
    project.check()
    worker.signal(15)
    assert worker.wait() == 0
    assert any("throttled: host:c.example is held for 600 s" in line for line in worker.lines)
    # Its limits have left with it, and a pass through what is parked has begun, which whoever changes a limit finishes:
    # until then check judges nothing that is parked.
    limits = f"{project.root}limits"
    assert project.redis.hexists(limits, "?")
    said(project, "set", "other:*", "--none")
    assert set(project.redis.hkeys(limits)) == {"#", "other:*"}
    project.check()


def test_keys_are_held_and_go_on(project: Project) -> None:
    tasks = project.module(TASKS)
    project.allow("go")
    project.worker()
    where = ("-u", project.url, "--namespace", project.namespace)
    done = project.run("limit", "hold", "host:a.example", "host:b.example", *where)
    assert done.stdout.splitlines() == [
        "host:a.example: held until it is resumed; nothing was known of it",
        "host:b.example: held until it is resumed; nothing was known of it",
    ]
    assert said(project, "hold", "host:b.example", "--for", "890.5s") == [
        "host:b.example: held for 890.5s"
    ]
    results = [tasks.page.delay(f"http://{name}.example/") for name in "abc"]
    assert results[2].get(timeout=20)
    assert said(project)[5:] == ["host:a.example held 0 1 0 - - 0 host:*", said(project)[6]]
    assert said(project)[6].startswith("host:b.example held 14m 0 1 0")
    done = project.run("limit", "resume", "host:a.example", "--json", *where)
    assert json.loads(done.stdout) == {"key": "host:a.example", "done": "resume", "known": True}
    assert results[0].get(timeout=20)
    assert results[1].state == "PENDING"
    assert said(project, "resume", "host:b.example", "host:x") == [
        "host:b.example: resumed",
        "host:x: resumed; nothing was known of it",
    ]
    assert results[1].get(timeout=20)


def test_one_may_ask_of_some_keys_also_of_those_that_are_open(project: Project) -> None:
    tasks = project.module(TASKS)
    project.allow("go")
    project.worker("-n", "w1")
    assert tasks.page.delay("http://a.example/").get(timeout=20)
    tasks.page.delay("http://c.example/", 1)
    eventually(lambda: any("throttled" in line for line in said(project)))
    assert said(project)[5].startswith("host:c.example"), "nobody asked for what is open"
    table = said(project, "list", "host:new.example", "host:a.example", "x", "host:a.example")
    assert [line.split()[:4] + line.split()[-2:] for line in table] == [
        ["limit", "allows", "says", "allows", "says"],
        ["host:*", "concurrency", "1", "code", "of", "w1"],
        [],
        ["key", "state", "running", "waiting", "refused", "limit"],
        ["host:new.example", "open", "0", "0", "0", "host:*"],
        ["host:a.example", "open", "0", "0", "0", "host:*"],
        ["x", "open", "0", "0", "0", "none"],
    ]
    assert said(project, "list", "x")[0] == "(no limit)"
    told = json.loads("\n".join(said(project, "list", "host:a.example", "x", "--json")))
    assert [one["pattern"] for one in told["limits"]] == ["host:*"]
    assert [(one["key"], one["state"], one["limit"]) for one in told["keys"]] == [
        ("host:a.example", "open", "concurrency=1"),
        ("x", "open", None),
    ]
    assert (told["keys"][0]["per_minute"] > 0, told["keys_in_all"]) == (True, 2)
    # To ask is to read.
    assert set(project.redis.hkeys(f"{project.root}keys")) == {"host:a.example", "host:c.example"}


def test_what_is_not_there_is_told_in_a_line(project: Project) -> None:
    where = ("-u", project.url, "--namespace", project.namespace)
    done = project.run("limit", "drop", "host:*", *where)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "greenworker: no limit host:*; there are: none\n"
    assert project.run("limit", *where).stdout.splitlines() == [
        "(no limit)",
        "",
        "(no key is held or at its limit)",
    ]
    assert project.run("limit", "set", "ä:*", "--none", *where).stdout == "ä:*: no limit\n"
    done = project.run("limit", "drop", "host:*", "ä:*", *where)
    assert done.stderr == "greenworker: no limit host:*; there are: ä:*\n"
    assert project.run("limit", "drop", "ä:*", *where).stdout == "ä:*: dropped\n"
    done = project.run("limit", "drop", "two words", *where)
    assert done.stderr.startswith("greenworker: limit 'two words': a pattern is 1 to 200")


def test_what_cannot_be_read_is_told_and_dropped(project: Project) -> None:
    project.module(TASKS)
    project.redis.hset(f"{project.root}limits", "host:*", "s 1 concurrency=\033[31mmany")
    assert said(project)[1] == "host:* cannot be read damaged: limit drop takes it away"
    (limit,) = (
        one for one in json.loads("\n".join(said(project, "--json")))["limits"] if one["damaged"]
    )
    assert (limit["pattern"], limit["concurrency"], limit["changed"]) == ("host:*", None, None)
    done = project.run("check", "-A", "tasks")
    assert done.returncode == 1
    assert said(project, "drop", "host:*") == ["host:*: dropped; with the next worker that starts, what code declares: concurrency 1"]  # fmt: skip
    assert said(project)[1] == "host:* concurrency 1 code (no worker has told of it yet)"
    project.check()


def test_a_send_from_the_shell_has_its_tasks_key(project: Project) -> None:
    project.write(TASKS)
    project.run("limit", "hold", "host:a.example", "-A", "tasks")
    done = project.run("send", "tasks:page", '["http://a.example/"]')
    assert done.returncode == 0
    head = project.redis.hget(f"{project.root}msg", done.stdout.strip()).partition("\n")[0]
    assert head.endswith(" keys=host:a.example")
    done = project.run("send", "tasks:page", '["nowhere"]')
    assert (done.returncode, done.stdout) == (2, "")
    assert "tasks.page: key: its function raised BadArguments: host('nowhere'): give an absolute URL" in done.stderr  # fmt: skip
