"""App: a registry of tasks and the way to their server. There is no global one."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

from greenworker import keys
from greenworker.admission import Admission
from greenworker.broker import PUSH_TTL
from greenworker.cancel import cancel, cancel_marked
from greenworker.client import Client
from greenworker.context import CurrentTask
from greenworker.control import Marked, Purged, Switched
from greenworker.dead import DeadLetter, DeadLetters
from greenworker.embedded import EmbeddedServer
from greenworker.endpoint import Endpoint
from greenworker.errors import ConfigError, DeclarationError
from greenworker.find_endpoint import find_endpoint
from greenworker.findings import Report
from greenworker.importable import importable_name, same_function
from greenworker.limit import LimitOptions
from greenworker.limits import Limits
from greenworker.middleware import Middleware, check, check_all
from greenworker.recurrence import Cron, Every, Recurrence
from greenworker.result import Result
from greenworker.running import Running
from greenworker.schedule import ScheduleOptions, Schedules
from greenworker.seen import Seen
from greenworker.signing import Signer, signer_from_environment
from greenworker.status import Status
from greenworker.task import Task
from greenworker.task_options import make_options
from greenworker.timetable import Timetable
from greenworker.unique import By

if TYPE_CHECKING:
    from greenworker.testing.inline import Sent
    from greenworker.testing.record import Errors

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Middleware)
F = TypeVar("F", bound=Callable[[DeadLetter], object])

_log = logging.getLogger("greenworker")


class App:
    """Declares tasks and sends them.

    The server: `url` (redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://), else
    $GREENWORKER_URL, else a private embedded server shared by the processes of this folder; `embedded=False` or
    GREENWORKER_URL=required forbids that. `include` names modules whose tasks belong to the app.
    `signing_keys`, else $GREENWORKER_SIGNING_KEYS (commas between), sign what is sent and refuse to
    run what none of them has signed; the first one signs, see docs/security.md.
    `middleware` stands around what is sent and run, the first outermost, see Middleware.
    `connections` bounds what sending and looking up use at once; a send that cannot be made
    fails after `patience` seconds (below 300). Creating an App connects to nothing.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str = "default",
        include: Iterable[str] = (),
        embedded: bool | str | os.PathLike[str] = True,
        connections: int = 16,
        patience: float = 5.0,
        signing_keys: Iterable[str | bytes] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        keys.root(namespace)  # refuses a bad name here and now
        if not isinstance(connections, int) or connections < 1:
            raise ConfigError(f"connections={connections!r}: give a whole number from 1 on")
        if not isinstance(patience, (int, float)) or not 0 < patience < PUSH_TTL:
            # Later, a repeat would send again.
            raise ConfigError(f"patience={patience!r}: give seconds above 0 and below {PUSH_TTL:g}")
        self.namespace = namespace
        self.include = tuple(include)
        self.tasks: dict[str, Task[..., Any]] = {}
        # The client's namespace: in a test it may be another one.
        self.schedule = Schedules(lambda: Timetable(self.client.pool, self.client.broker.namespace))
        self.limits = Limits(lambda: Admission(self.client.pool, self.client.broker.namespace))
        self.middlewares = check_all(middleware)
        self.failure_functions: list[Callable[[DeadLetter], object]] = []
        self._url = url
        self._source = "App(url)"
        self._embedded = embedded
        self._connections = connections
        self._patience = patience
        self._signer = None if signing_keys is None else Signer(signing_keys, namespace)
        self._client: Client | None = None
        self._stand_in: Client | None = None  # in tests
        self._endpoint: Endpoint | None = None
        self._server: EmbeddedServer | None = None
        self._lock = threading.RLock()

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self, *, bind: Literal[True], **options: Any
    ) -> Callable[[Callable[Concatenate[CurrentTask, P], R]], Task[P, R]]: ...

    @overload
    def task(self, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:  # type: ignore[misc]
        """Declare a task: `@app.task`, or `@app.task(timeout=10, retries=3)`.

        Options: name, queue, timeout, soft_timeout, retries, retry_for, no_retry_for, backoff, priority,
        expires, result_ttl, ignore_result, bind, sensitive, thread, tags, key, unique, unique_until, unique_for, on_conflict;
        see TaskOptions. Raises DeclarationError.
        """
        if function is None:
            return lambda function: self._declare(function, options)
        return self._declare(function, options)

    @overload
    def every(
        self, seconds: float, task: Task[P, R], **options: Unpack[ScheduleOptions]
    ) -> Task[P, R]: ...

    @overload
    def every(
        self, seconds: float, **options: Unpack[ScheduleOptions]
    ) -> Callable[[Task[P, R]], Task[P, R]]: ...

    def every(self, seconds: float, task: Any = None, **options: Any) -> Any:
        """Send a task every so many seconds, counted from 1970: 3600 is each full hour, in UTC.

        `@app.every(30)` above `@app.task`, or `app.every(30, task, args=(1,), name="one")`; options are
        those of ScheduleOptions. Returns the task. Raises DeclarationError.
        """
        return self._schedule(Every(seconds), task, options)

    @overload
    def cron(
        self, line: str, task: Task[P, R], *, tz: str = "UTC", **options: Unpack[ScheduleOptions]
    ) -> Task[P, R]: ...

    @overload
    def cron(
        self, line: str, *, tz: str = "UTC", **options: Unpack[ScheduleOptions]
    ) -> Callable[[Task[P, R]], Task[P, R]]: ...

    def cron(self, line: str, task: Any = None, *, tz: Any = "UTC", **options: Any) -> Any:
        """Send a task when a cron line says so, `minute hour day-of-month month day-of-week`, by the clocks
        of a time zone; see `recurrence.Cron`. As `every` otherwise."""
        return self._schedule(Cron(line, tz), task, options)

    def limit(self, pattern: str, **options: Unpack[LimitOptions]) -> None:
        """Declare what is allowed for each key that `pattern` fits (`*`: whatever is there), over all workers.

        `app.limit("host:*", concurrency=2, delay=0.25)`; also rate="100/min" with burst=20, and adaptive=True with
        floor= and ceiling=; see Limit. The most specific pattern counts alone. Workers tell the server when they
        start, and what people have set there stands. Raises DeclarationError.
        """
        self.limits.declare(pattern, options)

    def middleware(self, one: M) -> M:
        """Add a middleware within those that are there, before anything is sent or run; returns it."""
        with self._lock:
            if self._client is not None:
                raise ConfigError(
                    f"middleware {one!r:.80} comes late: the app is in use; add it where the app is made"
                )
            self.middlewares = (*self.middlewares, check(one))
        return one

    def on_failure(self, function: F) -> F:
        """Have a worker call `function(letter)` when a message has failed for good; returns it, to decorate.

        `letter` is the DeadLetter that is there by then. Whichever worker has buried it calls, once; not
        if it dies between the two. Errors of the function are logged and change nothing.
        """
        if not callable(function):
            raise ConfigError(
                f"on_failure takes a function of one dead letter, not {function!r:.60}"
            )
        self.failure_functions.append(function)
        return function

    def result(self, id: str) -> Result[Any]:
        """The handle on a message that was sent by whatever process."""
        return self.client.result(keys.check_name("id", id))

    def status(self) -> Status:
        """What is where: queues, workers, scheduled, dead, counters."""
        return self.client.status()

    def check(self, limit: int = 100) -> Report:
        """Audit the server, busy or not: is every message in one place, do the counters add up?

        Changes nothing. Per kind of fault at most `limit` findings, 1 or more, are listed and looked for.
        """
        return self.client.check(limit)

    def pause(self, *queues: str) -> list[Switched]:
        """Have workers claim nothing from these queues, from the next claim on, until `resume()`.

        What they hold runs on, and sends go on. Says of each queue whether that is a change, and
        whether anybody uses it.
        """
        return self.client.control.pause(*queues)

    def resume(self, *queues: str) -> list[Switched]:
        """Have workers claim from these queues again."""
        return self.client.control.resume(*queues)

    def purge(self, queue: str) -> Purged:
        """Drop what waits in a queue and was sent before now; says how much that was.

        Who waits for one of them gets TaskCancelled. What is delayed, or waits for a retry, stays. Works in
        bounded calls: an error in the middle has a note that says how many were dropped before. A call whose reply
        was lost is made again, and what the lost one dropped is counted by the server alone (`purged`).
        """
        return self.client.control.purge_all(queue)

    @overload
    def cancel(self, *ids: str | Result[Any], dry_run: bool = False) -> dict[str, str]: ...

    @overload
    def cancel(self, *, task: str = ..., tag: str = ..., dry_run: bool = False) -> Marked: ...

    def cancel(self, *ids: Any, dry_run: bool = False, **mark: str) -> Any:
        """End messages by ids, or all that were sent until now and are of a `task`, or have a `tag`; see Result.cancel.

        Says what became of each id: cancelled; running, its worker is told; ended before; unknown. A task or a
        tag costs the same however much it hits. `dry_run` looks (for these at all messages), and changes nothing.
        """
        if bool(ids) + len(mark) != 1:
            raise ConfigError("cancel what? Give ids, or task=, or tag=")
        if ids:
            return cancel(self.client.broker, ids, dry_run)
        return cancel_marked(self.client.control, dry_run, **mark)

    def running(self, limit: int = 100, timeout: float = 2.0) -> Running:
        """What runs on all workers now, the longest first, at most `limit` of it, and where it stands.

        Each worker answers for itself, within a second; who has not after `timeout` s is `.silent`: cut off,
        dead, or blocked by what is no task or holds the GIL. Of one that a task blocks, that task is told.
        """
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ConfigError(f"limit={limit!r}: give a whole number from 1 on")
        if not isinstance(timeout, (int, float)) or not 0 < timeout < PUSH_TTL:
            raise ConfigError(f"timeout={timeout!r}: give seconds above 0 and below {PUSH_TTL:g}")
        return self.client.control.running(limit, timeout)

    def seen(self, name: str, by: By | None = None) -> Seen:
        """What was seen before, by that name; see Seen. Raises ConfigError."""
        return Seen(lambda: (self.client.pool, self.client.broker.namespace), name, by)

    @property
    def dead(self) -> DeadLetters:
        """What failed for good: list it, retry it, delete it."""
        return DeadLetters(self.client.broker)

    def load(self) -> None:
        """Import the modules named by `include`."""
        for module in self.include:
            importlib.import_module(module)

    def queues(self) -> list[str]:
        """Every queue that the tasks and their schedules declare, and `default`, sorted."""
        scheduled = (schedule.queue for schedule in self.schedule.declared.values())
        return sorted(
            {"default", *(task.options.queue for task in self.tasks.values()), *scheduled}
        )

    def use(self, url: str, source: str) -> None:
        """Take another server than the one declared; before anything is sent."""
        self.close()
        self._endpoint, self._url, self._source = None, url, source

    def bound_connections(self, most: int) -> None:
        """Send through at most so many connections; before anything is sent."""
        self.close()
        self._connections = most

    @property
    def endpoint(self) -> Endpoint:
        """Where this app's server is; raises ConfigError. The first use reads the environment."""
        with self._lock:
            if self._endpoint is None:
                self._endpoint, self._server = find_endpoint(
                    self._url, self._source, self._embedded
                )
            return self._endpoint

    @property
    def client(self) -> Client:
        client = self._client
        if client is not None:
            return client
        with self._lock:
            if self._client is None:
                self._client = Client(
                    self.endpoint,
                    self.namespace,
                    self._connections,
                    self._patience,
                    self.signer,
                    self.middlewares,
                )
            return self._client

    @property
    def signer(self) -> Signer | None:
        """What signs and verifies messages; None without keys. Reads the environment, as `endpoint`."""
        return self._signer or signer_from_environment(self.namespace)

    def close(self) -> None:
        """Close the connections; the app can be used again."""
        with self._lock:
            if self._stand_in is not None:
                return  # what is under test may close it: no test is to reach the server by that
            client, self._client = self._client, None
            server, self._server = self._server, None
            if server is not None:
                self._endpoint = None
        if client is not None:
            client.close()
        if server is not None:
            server.detach()

    def testing(
        self, *, errors: Errors = "raise", limit: int = 10_000
    ) -> AbstractContextManager[Sent]:
        """Run tasks where they are sent, without a server, for as long as the context lasts.

        What a task has failed of for good is raised at the send that brought it about, or kept for its
        Result: `errors="keep"`. More than `limit` runs at one moment are refused. Delays are kept until
        `sent.drain(…)` lets time pass; retries wait for none. Raises ConfigError within another one.
        """
        # Here: a program that only sends loads no worker.
        from greenworker.testing.inline import testing

        return testing(self, errors, limit)

    @property
    def is_tested(self) -> bool:
        """Whether something stands in for its client."""
        return self._stand_in is not None

    @contextmanager
    def stand_in(self, client: Client) -> Iterator[None]:
        """Have this client in place of the app's own for as long as the context lasts: for greenworker.testing."""
        with self._lock:
            if self._stand_in is not None:
                raise ConfigError(
                    "this app is being tested already: leave the one app.testing() or clock(app) before the next"
                )
            before, self._client = self._client, client
            self._stand_in = client
        try:
            yield
        finally:
            with self._lock:
                self._client, self._stand_in = before, None
            client.close()

    def _schedule(self, recurrence: Recurrence, task: Any, options: Mapping[str, Any]) -> Any:
        if task is None:
            return lambda task: self._schedule(recurrence, task, options)
        self.schedule.declare(recurrence, task, options, self.tasks)
        return task

    def _declare(self, function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
        if not callable(function):
            raise DeclarationError(
                f"@app.task takes a function, not {function!r:.60}; options need names"
            )
        given = dict(options)
        name = given.pop("name", None) or importable_name(function)
        if not isinstance(name, str) or not name.isprintable() or len(name) > 1000:
            raise DeclarationError(f"name={name!r:.60}: give up to 1,000 printable characters")
        try:
            task: Task[..., Any] = Task(function, make_options(name, given), lambda: self.client)
        except DeclarationError:
            raise
        except (TypeError, ValueError) as error:  # an unknown option, no signature to be had
            raise DeclarationError(f"{name}: {error}") from None
        known = self.tasks.get(name)
        if known is not None and not same_function(known.function, function):
            raise DeclarationError(f"two tasks are called {name}; give one of them another name=")
        self.tasks[name] = task
        return task
