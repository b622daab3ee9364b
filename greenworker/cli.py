"""greenworker runs I/O-bound tasks by the thousand on green threads.

Usage:
  greenworker (status | check | running | top | demo | testsite) [options]
  greenworker dead [options] <verb> [<id>...]
  greenworker schedule [options] [<verb>] [<id>...]
  greenworker limit [options] [<verb>] [<id>...]
  greenworker (pause | resume | purge) [options] <queue>...
  greenworker cancel [options] [<id>...]
  greenworker send [options] <task> [<arguments>]
  greenworker completion [options] <shell>
  greenworker [worker] [options] [<module>...]

Commands:
  worker      Run the tasks of the App in each <module>, written module or
              module:app. This is the default: greenworker -c 1000 app.tasks
              runs the worker, and a module that is called like a command is
              run by: greenworker worker status
  status      Show queues, workers, and what waits, runs, is scheduled or dead.
              Takes -A MODULE or -u URL, --namespace and --json.
  check       Audit the server, busy or not: is every message in exactly one place,
              do the counters add up, does everything belong to somebody? Says
              what is wrong and how to mend it, and changes nothing. Takes what
              status takes, and --limit.
  dead        What failed for good. dead list; dead show ID...: all that is known
              of it; dead retry and dead delete, for ids, for what fits the
              filters --task, --error, --reason, --text, --older, --newer, or
              for --all: send it again, with all its attempts before it, or
              forget it. And what status takes.
  schedule    What is sent again and again, every so many seconds or by a cron
              line: schedule list MODULE, or only schedule MODULE, tells when next
              and when last; schedule pause NAME... sends nothing, schedule resume
              NAME... goes on with what comes, schedule run NAME... sends one now.
              Takes what status takes; run needs -A MODULE.
  limit       What is allowed of keys, such as host:example.com, and how they stand:
              limit list, or with KEY... of just these, open ones too. At the next
              claim everywhere, limit set 'host:*' changes it, as told by -c, --delay,
              by --rate, --burst, --adaptive, --floor and --ceiling, or --none;
              limit drop 'host:*' has what code declares count again. limit hold KEY
              hands out nothing of a key, --for a time or until limit resume KEY.
              Takes what status takes, and --limit.
  running     What each worker runs now: task, id, for how long, and the line where
              it stands. Takes what status takes, and --limit.
  top         See it live: queues, workers, keys that are limited, how fast it goes,
              and in one line what limits it now. j and k choose a row, p pauses it
              or has it go on, l changes a key's limit, q quits. Takes what status
              takes, --every, --no-color, and --once: one frame, or --json.
  pause       Have workers claim nothing from each <queue>, from the next claim on;
              what runs goes on, and so do sends. Takes what status takes.
  resume      Have workers claim from each <queue> again.
  purge       Drop what waits in each <queue>, after a question; whoever waits for
              its results is told. What is delayed or waits for a retry stays.
              Takes what status takes, --yes and --dry-run.
  cancel      End what has not ended, by ids, or with --task or --tag all that was
              sent until now: what waits or is delayed never runs, in what runs
              Cancelled is raised, and whoever waits for its result is told. Takes
              what status takes, and --dry-run.
  send        Send a call of <task>, written module:function, or with -A MODULE by
              its name. <arguments> is JSON, a list or an object of named ones:
              greenworker send app.tasks:fetch '["http://example.org"]'. Prints
              the id. Takes --countdown, --queue, --priority, --id, --tag, --wait
              and --json, and -u.
  completion  Print a script that has <shell> complete this command line: bash, zsh
              or fish. For bash: eval "$(greenworker completion bash)"
  demo        Crawl a local web site with a server, a worker and tasks of its
              own: the main job on real input, in about 15 seconds.
  testsite    Serve web sites to test crawlers on, many hosts with limits and traps,
              and tell what they saw. Its options are its own, and stand behind it:
              greenworker testsite --help

Options:
  -A MODULE, --app MODULE   The tasks' module, for <module>.
  -u URL, --url URL         The server: redis://, rediss://, unix:// or
                            redis+sentinel://host1,host2/master. Else the
                            App's own, else $GREENWORKER_URL, else a private
                            embedded server.
  -c N, --concurrency N     Tasks at once; for limit set, of each key. Default: 100
  --threads N               Native threads, for the tasks that declare thread=True.
                            Default: 10
  -Q LIST, --queues LIST    Queues, with commas between, all of one before the
                            next. Default: every queue that the tasks declare,
                            and `default`
  -n NAME, --name NAME      This worker's name, for people. Default: host.pid
  --timeout SECONDS         Hard limit of one run, for tasks that declare none;
                            0 means none. Default: 300
  --grace SECONDS           To finish what runs at a stop; the rest is released
                            for others. Default: 25
  --cancel-grace SECONDS    For a run that was cancelled, to tidy up; then it is
                            killed. Default: 10
  --lease SECONDS           A worker that is silent for so long is dead, and its
                            tasks run elsewhere. Default: 30
  --block-warn SECONDS      Say which task blocks the loop for so long.
                            Default: 0.5
  --max-block SECONDS       End the process, with 3, when the loop is blocked for
                            so long; 0 means never. Default: 120
  --max-tasks N             Begin so many tasks, then finish what runs and exit.
  --max-memory SIZE         Finish what runs and exit when the process uses more
                            memory than this: 500M, 2G.
  --max-stuck N             The same when more than N tasks ignore their timeout
                            and cannot be ended. Default: a tenth of the
                            concurrency, at least 1
  --burst                   Run what waits or is due within a minute, then exit.
  --solo                    Run one task at a time in the main greenlet, with no
                            time limit and no eye on the loop, so that pdb works.
  --allow-eviction          Run on a server whose maxmemory-policy may drop
                            tasks.
  --workdir DIR             Change to this folder first; modules are found there.
  -l LEVEL, --loglevel LEVEL  debug, info, warning or error. Default: info
  -v, --verbose             The same as -l debug.
  -q, --quiet               The same as -l warning, and no banner.
  --log-json                Log lines as JSON.
  --log-values              Show arguments and results in log lines.
  --namespace NAME          For all commands that look at a server, without -A.
                            Default: default
  --json                    For all commands that look at a server: print JSON; dead
                            letters and schedules a line each.
  --task NAME               For dead and cancel: those of this task.
  --tag TAG                 For cancel: those that were sent with this tag. For send:
                            with this tag.
  --error TYPE              For dead: those with this error, as ValueError.
  --reason WORD             For dead: those with this reason: failed, rejected,
                            stuck, poison, malformed, signature, arguments,
                            unknown, result or internal.
  --text TEXT               For dead: those whose error or traceback has this text.
  --older AGE               For dead: those that died more than 30s, 15m, 2h or 7d
                            ago.
  --newer AGE               For dead: those that died less than so long ago.
  --limit N                 For dead: at most so many, the oldest ones. For check:
                            at most so many findings of a kind. For running: at
                            most so many tasks, the longest running. For limit:
                            at most so many keys.
                            Default: 100 for check, running and limit, none for
                            dead
  --all                     For dead retry and delete, in place of ids or filters.
  --rate N                  For dead retry: at most so many a second. For limit
                            set: starts of each key in a time: 100/min, 5/s,
                            1000/hour, 10/30s.
  --burst-size N            For limit set, where --burst N says the same: so many
                            at once after a pause; unless told, what the rate allows
                            in 0.1 s, at least 1.
  --delay SECONDS           For limit set: between two starts.
  --adaptive                For limit set: find the rate by how the other side
                            bears it.
  --floor RATE              For limit set: no slower than this when adaptive.
  --ceiling RATE            For limit set: no faster than this when adaptive.
  --none                    For limit set: lift what a wider pattern says.
  --for AGE                 For limit hold: for 30s, 15m, 2h or 7d, not until it
                            is resumed.
  --dry-run                 For dead retry and delete, purge and cancel: say how many
                            it would be, and change nothing.
  --values                  For dead show: show the arguments, too.
  -y, --yes                 For purge: do not ask.
  --countdown SECONDS       For send: not before so many seconds from now.
  --queue NAME              For send: to this queue, not to the task's own.
  --priority N              For send: 0 to 9, 9 goes first.
  --id ID                   For send: under this id, of which one is present at a
                            time.
  --wait                    For send: wait until it has ended, and print its result.
  --once                    For top: print one frame, and exit.
  --every SECONDS           For top: look so often. Default: 1
  --no-color                For top: no colours, as with NO_COLOR=1.
  -h, --help                Show this.
  --version                 Show the version.

Each option can be set in the environment, too: GREENWORKER_CONCURRENCY=1000.
So can the keys that messages are signed with, the one that signs first:
GREENWORKER_SIGNING_KEYS=key,older-key. Only
flags are --task, --tag, --error, --reason, --text, --older, --newer, --limit, and
for send --countdown, --queue, --priority, --id, --wait, and
for limit --burst-size, --delay, --adaptive, --floor, --ceiling, --none, --for, and
also --yes, --all, --values, --version.

Signals: TERM or INT finish what runs, then exit; a second one releases it and
exits now; where the loop is blocked, with 3, two seconds after that or five
after the grace. TSTP claims nothing more, CONT resumes, TTIN shows what runs.

Exit codes: 0 done; 2 a mistake in the call or in the app; 3 the loop was blocked
for --max-block, or C code held the GIL for that long, which ends the process by
SIGALRM (142 in a shell); 1 anything else, also when check has found something,
or a worker has not answered to running.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from itertools import chain
from pathlib import Path

from docopt import DocoptExit, docopt

from greenworker import __version__
from greenworker.commands.options import Options
from greenworker.commands.text import harmless
from greenworker.endpoint import redact_all
from greenworker.errors import ConfigError, GreenworkerError

# What each command takes; all other options are the worker's.
_SERVER = ("app", "url", "namespace", "json", "workdir")
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": _SERVER,
    "check": (*_SERVER, "limit"),
    "dead": (
        *(*_SERVER, "task", "error", "reason", "text", "older", "newer", "limit"),
        *("all", "rate", "dry-run", "values"),
    ),
    "schedule": _SERVER,
    "limit": (
        *(*_SERVER, "limit", "concurrency", "delay", "rate", "burst-size", "adaptive"),
        *("floor", "ceiling", "none", "for"),
    ),
    "running": (*_SERVER, "limit"),
    "top": (*_SERVER, "once", "every", "no-color"),
    "pause": _SERVER,
    "resume": _SERVER,
    "purge": (*_SERVER, "yes", "dry-run"),
    "cancel": (*_SERVER, "task", "tag", "dry-run"),
    "send": (
        *("app", "url", "json", "workdir", "countdown", "queue", "priority", "id", "tag", "wait"),
    ),
    "completion": (),
    "demo": (),
    "testsite": (),
}
_FOR_ALL = ("app", "url", "workdir", "concurrency")  # the worker as well
# What a command that lacks something is asked.
_LACKS = {
    "dead": "dead what? list, show, retry or delete",
    **{verb: f"{verb} what? Name queues" for verb in ("pause", "resume", "purge")},
    "send": "send what? module:function, and its arguments as one JSON list or object",
    "completion": "completion for which shell? bash, zsh or fish",
}


def main(argv: Sequence[str], early_ssl: Sequence[str] = ()) -> int:
    """Run the command line; returns the exit code. Mistakes are told in one line."""
    if isinstance(sys.stdout, TextIOWrapper):
        # Names and errors may hold what this terminal's encoding does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if argv and argv[0] == "testsite":
            return _testsite(argv[1:])
        options = parse(argv)
        if options.flag("version"):
            print(f"greenworker {__version__}")
            return 0
        code = _command(options, early_ssl)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        return _say(error, 2)
    except GreenworkerError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # `greenworker status | head`: nobody reads on, not even what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def parse(argv: Sequence[str]) -> Options:
    """The parsed call; raises ConfigError."""
    try:
        parsed = docopt(__doc__, _with_bursts(argv))
    except DocoptExit:
        raise ConfigError(f"{_misread(argv)}; see greenworker --help") from None
    # docopt reads `status app.tasks` as a worker for two modules, the first of them `status`.
    first, *others = parsed["<module>"] or [""]
    if first in COMMANDS and not parsed["worker"]:
        if others:
            wrong = f"{first} makes no sense of {others[-1]!r}: its module is given by -A, and"
        else:
            wrong = f"{_LACKS[first]};"
        raise ConfigError(
            f"{wrong} a module called {first} is run by: greenworker worker {first}; "
            "see greenworker --help"
        )
    return Options(parsed)


def _with_bursts(argv: Sequence[str]) -> list[str]:
    """A burst has a size in `limit set`, and none in a worker's call: docopt knows an option in one form only."""
    words = list(argv)
    is_limit = words[:1] == ["limit"]
    if "limit" in words:
        for at, (word, after) in enumerate(zip(words, [*words[1:], ""], strict=True)):
            if word.startswith("--burst=") or (
                word == "--burst" and (is_limit or after.isdecimal())
            ):
                words[at] = word.replace("--burst", "--burst-size")
    return words


def _testsite(argv: Sequence[str]) -> int:
    # It has a manual of its own: many options, that here would be a worker's (--burst, -c).
    from greenworker.commands import testsite

    return testsite.run(argv)


def _command(options: Options, early_ssl: Sequence[str]) -> int:
    command = next((name for name in COMMANDS if options.flag(name, command=True)), None)
    if command is not None and command != "dead":  # its verbs have options of their own
        options.refuse_others(command, COMMANDS[command])
    if command == "demo":
        from greenworker.demo import crawl

        return crawl.run()
    if command == "testsite":
        return _testsite(())
    workdir = options.text("workdir")
    if workdir is not None:
        if not Path(workdir).is_dir():
            raise ConfigError(f"--workdir {workdir}: no such folder")
        try:
            os.chdir(workdir)
        except OSError as error:
            raise ConfigError(
                f"--workdir {workdir}: {error.strerror}; this user needs the right to enter it"
            ) from None
    if command is not None:
        return _other_than_worker(command, options)
    from greenworker.commands import worker

    for flag in chain(*COMMANDS.values()):
        if flag not in _FOR_ALL and options.said_by_flag(flag):
            commands = [name for name, usable in COMMANDS.items() if flag in usable]
            raise ConfigError(
                f"--{flag} is for {_listed(commands)}; a worker's namespace is its App's"
            )
    return worker.run(options, early_ssl)


def _other_than_worker(command: str, options: Options) -> int:
    # Each is imported when it is asked for: most take a while.
    if command == "completion":
        from greenworker.commands import completion, testsite

        return completion.run(
            options, __doc__ or "", COMMANDS, {"testsite": testsite.__doc__ or ""}
        )
    if command in ("pause", "resume", "purge"):
        from greenworker.commands import queues

        return queues.run(options, command)
    code: int = import_module(f"greenworker.commands.{command}").run(options)
    return code


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _misread(argv: Sequence[str]) -> str:
    """What is wrong with a call that docopt refuses, as far as can be told."""
    known = {word.rstrip(",") for word in (__doc__ or "").split() if word.startswith("-")}
    for word in argv:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            return f"unknown option {name}"
        if name.startswith("-") and not name.startswith("--") and name[:2] not in known:
            return f"unknown option {name[:2]}"
    if argv and argv[-1] in known:
        return f"{argv[-1]} needs a value"
    return f"cannot make sense of: {' '.join(argv)}"


def _say(error: Exception, code: int) -> int:
    # What is quoted may be anything: a mistaken call with a URL in the wrong place, a server's words.
    print(f"greenworker: {harmless(redact_all(str(error)))}", file=sys.stderr)
    return code
