"""What gunicorn reads before anything else."""

# With --preload the app is imported here, in the master. gunicorn itself patches after the fork
# only, which is too late for what was imported before.
from gevent import monkey

monkey.patch_all()


def when_ready(server):
    """Say how much there is to do: the master uses the app, and only then forks the web workers.

    Nothing is to be closed for them: a forked client opens connections of its own.
    """
    from tasks import app

    server.log.info("tasks waiting: %d", app.status().waiting)
