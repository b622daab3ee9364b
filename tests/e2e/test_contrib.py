"""Django's and Flask's middleware, beyond what their examples show."""

from __future__ import annotations

import pytest

from greenworker.errors import TaskFailed
from tests.e2e.conftest import Project

DJANGO = """
    from django.conf import settings

    settings.configure(
        INSTALLED_APPS=[],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite", "CONN_MAX_AGE": 600,
            }
        },
    )
    from django.db import connection, connections, transaction
    from greenworker.contrib.django import DjangoMiddleware, delay_on_commit

    app.middleware(DjangoMiddleware())
    used = []

    def was_and_is_open():
        before = connection.connection is not None
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        used.append(connections["default"])
        return before

    @app.task
    def green():
        return was_and_is_open()

    @app.task(thread=True)
    def threaded():
        return was_and_is_open()

    @app.task
    def left_open():
        return sum(one.connection is not None for one in used)

    @app.task
    def add(n):
        note(f"added {n}")
"""


def test_a_connection_is_closed_with_its_greenlet_and_kept_by_a_thread(project: Project) -> None:
    # Given a worker with Django, and a sender that has none: settings are a process' own
    project.write(DJANGO)
    project.worker("--threads", "1")
    tasks = project.module("""
        @app.task(name="tasks.green")
        def green(): ...

        @app.task(name="tasks.threaded")
        def threaded(): ...

        @app.task(name="tasks.left_open")
        def left_open(): ...
    """, name="senders")  # fmt: skip
    assert [tasks.green.delay().get(timeout=20) for _ in range(2)] == [False, False]
    assert tasks.left_open.delay().get(timeout=20) == 0
    assert [tasks.threaded.delay().get(timeout=20) for _ in range(2)] == [False, True]
    assert tasks.left_open.delay().get(timeout=20) == 2  # the thread's own, seen twice


def test_what_is_rolled_back_is_not_sent(project: Project) -> None:
    project.write(DJANGO)
    sender = project.script("""
        from tasks import add, app, delay_on_commit, transaction

        delay_on_commit(add, 0)  # no transaction: at once
        print(app.status().waiting)
        with transaction.atomic():
            delay_on_commit(add, n=1)
            print(app.status().waiting)
        print(app.status().waiting)
        try:
            with transaction.atomic():
                delay_on_commit(add, 2)
                raise ValueError
        except ValueError:
            pass
        try:
            with transaction.atomic():
                delay_on_commit(add, 3, 4)
        except TypeError as error:
            print(error)
        print(app.status().waiting)
    """)
    assert sender.wait() == 0, sender.output
    assert sender.stdout == [
        *("1", "1", "2"),
        "tasks.add(n): too many positional arguments",
        "2",
    ]


def test_a_transaction_around_a_run_is_left_alone(project: Project) -> None:
    """As in a test of the user's own, which runs tasks within its transaction."""
    project.write(DJANGO)
    sender = project.script("""
        import gevent
        from greenworker.message import Message
        from tasks import app, connection, was_and_is_open, transaction

        def test():
            with transaction.atomic():
                app.middlewares[0].run(Message("id", "t"), lambda message: was_and_is_open())
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
            print("committed")

        gevent.spawn(test).get()
    """)
    assert sender.wait() == 0, sender.output
    assert sender.stdout == ["committed"]


def test_flask_is_made_where_it_is_needed_and_torn_down_after_each_run(project: Project) -> None:
    tasks = project.module("""
        from flask import Flask, current_app, g
        from greenworker.contrib.flask import FlaskMiddleware

        def make():
            note("made")
            web = Flask("web")
            web.teardown_appcontext(lambda error: note(f"torn down after {error!r}"))
            return web

        app.middleware(FlaskMiddleware(make))

        @app.task
        def t(n):
            assert "n" not in g
            g.n = n
            if n:
                raise ValueError(current_app.name)
    """)
    assert project.notes == []
    project.worker()
    tasks.t.delay(0).get(timeout=20)
    with pytest.raises(TaskFailed, match="ValueError: web"):
        tasks.t.delay(1).get(timeout=20)
    assert project.notes == ["made", "torn down after None", "torn down after ValueError('web')"]
