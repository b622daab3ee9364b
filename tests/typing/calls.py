"""What a type checker makes of a task. A comment `# E: code` expects an error of mypy there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from greenworker import (
    App,
    CurrentTask,
    DeadLetter,
    KeyState,
    Limit,
    Message,
    Middleware,
    Result,
    Results,
    Task,
    Throttled,
    current_task,
    host,
    retry_after,
    spawn,
)

app = App()


@app.task
def fetch(url: str, *, retry: bool = False) -> int:
    return len(url)


@app.task(timeout=5.0, retries=3)
def mail(to: str) -> None: ...


@app.task(bind=True)
def count(run: CurrentTask, n: int) -> str:
    return run.id * n


@app.task(bind=True, queue="slow")
def nothing(run: CurrentTask) -> list[int]:
    return [run.attempt]


# Calling runs it here.
assert_type(fetch("x"), int)
assert_type(fetch("x", retry=True), int)
fetch(3)  # E: arg-type
fetch()  # E: call-arg

# delay() takes what the function takes, and its result is of what the function returns.
assert_type(fetch.delay("x"), Result[int])
assert_type(fetch.delay("x", retry=True), Result[int])
assert_type(fetch.delay("x").get(), int)
assert_type(fetch.delay("x").get(timeout=5.0), int)
assert_type(mail.delay("a@b"), Result[None])
fetch.delay(3)  # E: arg-type
fetch.delay()  # E: call-arg
fetch.delay("x", True)  # E: call-arg
fetch.delay("x", again=True)  # E: call-arg
mail.delay(to=1)  # E: arg-type

# With bind=True the first parameter is the worker's business.
assert_type(count.delay(3), Result[str])
assert_type(count.delay(n=3), Result[str])
assert_type(nothing.delay(), Result[list[int]])
count.delay("3")  # E: arg-type
count.delay(current_task(), 3)  # E: call-arg, arg-type
nothing.delay(1)  # E: call-arg

# apply_async() keeps the type of the result and checks its options.
assert_type(fetch.apply_async(["x"], countdown=5), Result[int])
fetch.apply_async(["x"], countdown="5")  # E: arg-type
fetch.apply_async(["x"], delay=5)  # E: call-arg

# Many at once: handles, or their number.
assert_type(fetch.delay_many([("x",), {"url": "y"}]), Results[int])
assert_type(fetch.delay_many([("x",)], results=True), Results[int])
assert_type(fetch.delay_many([("x",)], results=False), int)
assert_type(fetch.delay_many([("x",)])[0], Result[int])
assert_type(fetch.delay_many([("x",)])[1:], Results[int])
assert_type([result.get() for result in fetch.delay_many([("x",)])], list[int])
fetch.delay_many(5)  # E: call-overload

# Tasks are values; a Result[bool] is a Result[int].
known: Task[[str], None] = mail
wrong: Task[[int], None] = mail  # E: assignment
every: list[Task[..., Any]] = [mail, count]


def wait(result: Result[object]) -> object:
    return result.get()


wait(fetch.delay("x"))

current_task().attempt = 3  # E: misc


# A schedule leaves the task what it is, and its options are checked.
@app.every(30, name="often")
@app.cron("0 3 * * *", tz="Europe/Berlin", misfire="skip")
@app.task
def beat(n: int = 0) -> int:
    return n


assert_type(beat(1), int)
assert_type(beat.delay(1), Result[int])
beat.delay("1")  # E: arg-type
same: Task[[str], None] = app.every(30, mail, args=("a@b",), priority=9)
app.every("30", mail)  # E: call-overload
app.every(30, mail, misfire="all")  # E: call-overload
app.every(30, mail, countdown=5)  # E: call-overload, call-overload
app.cron("* * * * *", mail, tz=5)  # E: call-overload
app.every(30)(len)  # E: arg-type
# Children keep the type of what their function returns.
assert_type(spawn(max, 1, 2).get(), int)
spawn(mail, 1)  # E: arg-type


# What is added comes back as it is, to decorate or to keep.
@app.on_failure
def tell(letter: DeadLetter) -> str:
    return letter.id


class Around(Middleware):
    def send(self, message: Message, call_next: Callable[[Message], None]) -> None:
        call_next(message)


told: Callable[[DeadLetter], str] = tell
assert_type(app.middleware(Around()), Around)
app.middleware(print)  # E: type-var
app.on_failure("mail")  # E: type-var


# Limits by key.
@app.task(key=lambda url, **_: "host:" + host(url))
def page(url: str, depth: int = 0) -> int:
    raise Throttled("30", key=current_task().keys[0])


assert_type(page.delay("x", 1), Result[int])
page.apply_async(("x",), key="host:x")
page.apply_async(("x",), key=("a", "b"))
page.apply_async(("x",), key=5)  # E: arg-type
app.limit("host:*", concurrency=2, delay=0.25, rate="100/min", burst=20)
app.limit("host:*", adaptive=True, floor="1/min", ceiling="50/s")
app.limit("host:*", rate=5)  # E: arg-type
app.limit("host:*", colour=5)  # E: call-arg
app.limit(5)  # E: arg-type
assert_type(app.limits.list(), list[Limit])
assert_type(app.limits.set("host:*", none=True), Limit)
assert_type(app.limits.drop("host:*"), bool)
assert_type(app.limits.keys("host:x"), list[KeyState])
assert_type(app.limits.hold("host:x", 5.0), bool)
app.limits.set("host:*", concurrency="2")  # E: arg-type
assert_type(host("http://x/"), str)
assert_type(retry_after("5"), float | None)
Throttled([5])  # E: arg-type
