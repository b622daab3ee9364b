"""The command line: how each form is read, what it defaults to, and what goes before what."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greenworker import App, DeadLetter, __version__, cli, codec
from greenworker.commands import completion, dead, limit, logs, schedule, testsite, top
from greenworker.commands import worker as worker_command
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import BY_FLAG_ALONE, Options
from greenworker.errors import ConfigError
from greenworker.task_options import TaskOptions
from greenworker.worker import WorkerConfig
from greenworker.worker.config import default_name


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever GREENWORKER_* the developer has set."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def parse(line: str) -> Options:
    return cli.parse(line.split())


def command(options: Options) -> str:
    """Which command runs, as cli.main decides it."""
    return next(
        (one for one in cli.COMMANDS if options.flag(one, command=True)),
        "worker",
    )


def settings(options: Options) -> dict[str, Any]:
    """What the worker is told."""
    return worker_command._settings(options)


# Every option of --help: its name, whether it takes a value, and what follows it.
SECTION = cli.__doc__.partition("Options:\n")[2].partition("\n\n")[0]
OPTIONS = {
    match["name"]: (match["value"] is not None, " ".join(match["text"].split()))
    for match in re.finditer(
        r"^  (?:-\w(?: [A-Z]+)?, )?--(?P<name>[\w-]+)(?: (?P<value>[A-Z]+))?(?P<text>.*(?:\n {10,}.*)*)",
        SECTION,
        re.MULTILINE,
    )
}
DEFAULTS = {
    name: text.partition("Default: ")[2]
    for name, (_, text) in OPTIONS.items()
    if "Default: " in text
}
VARIABLES = [f"GREENWORKER_{name.replace('-', '_').upper()}" for name in OPTIONS]


# --- every form


@pytest.mark.parametrize(
    ("line", "runs", "modules"),
    [
        ("app.tasks", "worker", ["app.tasks"]),
        ("worker app.tasks", "worker", ["app.tasks"]),
        ("-c 1000 app.tasks", "worker", ["app.tasks"]),
        ("app.tasks -c 1000", "worker", ["app.tasks"]),
        ("worker -c 1000 app.tasks", "worker", ["app.tasks"]),
        ("-c 1000 worker app.tasks", "worker", ["app.tasks"]),
        ("-A app.tasks", "worker", ["app.tasks"]),
        ("--app=app.tasks", "worker", ["app.tasks"]),
        ("worker -A app.tasks", "worker", ["app.tasks"]),
        ("shop.tasks:app mail.tasks", "worker", ["shop.tasks:app", "mail.tasks"]),
        ("shop.tasks -q mail.tasks", "worker", ["shop.tasks", "mail.tasks"]),
        ("worker status", "worker", ["status"]),
        ("worker demo", "worker", ["demo"]),
        ("worker worker", "worker", ["worker"]),
        ("worker status demo", "worker", ["status", "demo"]),
        ("status", "status", []),
        ("status -A m", "status", ["m"]),
        ("-A m status", "status", ["m"]),
        ("status -u redis://h --json", "status", []),
        ("--json status", "status", []),
        ("check", "check", []),
        ("check -A m --limit 5", "check", ["m"]),
        ("--json check -u redis://h", "check", []),
        ("worker check", "worker", ["check"]),
        ("dead list", "dead", []),
        ("dead list -A m --task t", "dead", ["m"]),
        ("-A m dead show x y", "dead", ["m"]),
        ("dead --all retry", "dead", []),
        ("worker dead", "worker", ["dead"]),
        ("worker dead list", "worker", ["dead", "list"]),
        ("list show", "worker", ["list", "show"]),
        ("running", "running", []),
        ("running -A m --limit 5", "running", ["m"]),
        ("top", "top", []),
        ("top --once --json -A m", "top", ["m"]),
        ("-u redis://h top --every 2 --no-color", "top", []),
        ("worker top", "worker", ["top"]),
        ("pause mail", "pause", []),
        ("pause mail slow -A m", "pause", ["m"]),
        ("-A m resume mail", "resume", ["m"]),
        ("purge mail --yes", "purge", []),
        ("-y purge mail pause", "purge", []),
        ("send app:fetch", "send", []),
        ("send app:fetch [] --wait", "send", []),
        ("send -A m app.fetch {}", "send", ["m"]),
        ("completion bash", "completion", []),
        ("worker running", "worker", ["running"]),
        ("worker pause mail", "worker", ["pause", "mail"]),
        ("worker send", "worker", ["send"]),
        ("worker purge", "worker", ["purge"]),
        ("cancel x y", "cancel", []),
        ("cancel -A m --tag crawl-7", "cancel", ["m"]),
        ("--task t cancel -A m", "cancel", ["m"]),
        ("worker cancel", "worker", ["cancel"]),
        ("worker completion bash", "worker", ["completion", "bash"]),
        ("bash send", "worker", ["bash", "send"]),
        ("schedule", "schedule", []),
        ("schedule app.tasks", "schedule", []),
        ("schedule -A m", "schedule", ["m"]),
        ("-A m schedule pause x y", "schedule", ["m"]),
        ("schedule --json list", "schedule", []),
        ("worker schedule", "worker", ["schedule"]),
        ("worker schedule list", "worker", ["schedule", "list"]),
        ("limit", "limit", []),
        ("limit list -A m", "limit", ["m"]),
        ("-A m limit set host:* -c 2", "limit", ["m"]),
        ("worker limit", "worker", ["limit"]),
        ("demo", "demo", []),
        ("-q demo", "demo", []),
        ("testsite", "testsite", []),
        ("worker testsite", "worker", ["testsite"]),
        ("", "worker", []),
        ("worker", "worker", []),
    ],
)
def test_what_runs_and_on_which_modules(line: str, runs: str, modules: list[str]) -> None:
    options = parse(line)
    assert (command(options), options.modules) == (runs, modules)


@pytest.mark.parametrize(
    ("line", "verb", "ids"),
    [
        ("dead list", "list", []),
        ("dead show x", "show", ["x"]),
        ("dead show x y --values", "show", ["x", "y"]),
        ("dead retry", "retry", []),
        ("dead retry x y", "retry", ["x", "y"]),
        ("dead retry x --dry-run y", "retry", ["x", "y"]),
        ("dead delete list", "delete", ["list"]),
        ("dead delete retry dead", "delete", ["retry", "dead"]),
        ("dead delete --dry-run -- -x --all", "delete", ["-x", "--all"]),
        ("--task t dead delete x", "delete", ["x"]),
    ],
)
def test_what_is_done_with_which_dead_letters(line: str, verb: str, ids: list[str]) -> None:
    options = parse(line)
    assert (options.verb, options.ids) == (verb, ids)


@pytest.mark.parametrize("verb", ["pause", "resume", "purge"])
@pytest.mark.parametrize(
    ("line", "queues"),
    [
        ("VERB mail", ["mail"]),
        ("VERB mail slow", ["mail", "slow"]),
        ("--json VERB mail -u redis://h slow", ["mail", "slow"]),
        ("VERB VERB", ["VERB"]),
        ("VERB worker", ["worker"]),
        ("VERB status dead list", ["status", "dead", "list"]),
    ],
)
def test_which_queues(verb: str, line: str, queues: list[str]) -> None:
    options = parse(line.replace("VERB", verb))
    assert (command(options), options.queues) == (
        verb,
        [one.replace("VERB", verb) for one in queues],
    )


def test_what_is_sent_and_how() -> None:
    line = ["send", "app.tasks:fetch", '["a", {"b": -1}]', "--countdown", "5", "--queue", "slow"]
    options = cli.parse([*line, "--priority=9", "--id", "order-17", "--wait", "--json"])
    assert options.named("task") == "app.tasks:fetch"
    assert options.named("arguments") == '["a", {"b": -1}]'
    assert options.seconds("countdown") == 5.0
    assert [options.text(name) for name in ("queue", "priority", "id")] == ["slow", "9", "order-17"]
    assert options.flag("wait")
    assert parse("send app.tasks:fetch").named("arguments") is None


@pytest.mark.parametrize(
    ("line", "verb", "names"),
    [
        ("schedule", "", []),
        ("schedule -A m", "", []),
        ("schedule app.tasks", "app.tasks", []),
        ("schedule list", "list", []),
        ("schedule list app.tasks", "list", ["app.tasks"]),
        ("schedule pause x", "pause", ["x"]),
        ("schedule run x -A m y", "run", ["x", "y"]),
        ("-A m schedule resume schedule dead", "resume", ["schedule", "dead"]),
        ("schedule pause -A m -- -x", "pause", ["-x"]),
    ],
)
def test_what_is_done_with_which_schedules(line: str, verb: str, names: list[str]) -> None:
    options = parse(line)
    assert (options.verb, options.ids) == (verb, names)


@pytest.mark.parametrize(
    ("line", "verb", "names"),
    [
        ("limit", "", []),
        ("limit list --limit 5", "list", []),
        ("limit set host:* --concurrency 2 --delay 0.25 --rate 100/min --burst 20 --adaptive", "set", ["host:*"]),
        ("limit set --burst 20 a b", "set", ["a", "b"]),
        ("limit hold a --for 30s limit", "hold", ["a", "limit"]),
        ("--json limit drop -- --none", "drop", ["--none"]),
    ],
)  # fmt: skip
def test_what_is_done_with_which_limits(line: str, verb: str, names: list[str]) -> None:
    options = parse(line)
    assert (options.verb, options.ids) == (verb, names)


@pytest.mark.parametrize(
    "burst", ["--burst 20", "--burst=20", "--burst-size 20", "--burst-size=20"]
)
def test_all_that_a_limit_may_say(burst: str) -> None:
    options = parse(
        f"limit set host:* -c 2 --delay 0.25 --rate 100/min {burst} --adaptive --floor 1/min --ceiling=50/s"
    )
    assert limit._said(options, ["host:*"]) == {
        "concurrency": 2, "delay": 0.25, "rate": "100/min", "burst": 20, "adaptive": True, "floor": "1/min",
        "ceiling": "50/s", "none": False,
    }  # fmt: skip
    assert not options.flag("burst")
    # A worker's burst has none, and needs none.
    assert parse("--burst limits").flag("burst")
    assert parse("worker limit --burst").flag("burst")
    assert limit._said(parse("limit set a -c 0"), ["a"])["concurrency"] == 0
    assert limit._said(parse("limit set a --none"), ["a"])["none"]


def test_a_workers_settings_are_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENWORKER_CONCURRENCY", "1000")
    monkeypatch.setenv("GREENWORKER_RATE", "5")
    said = limit._said(parse("limit set a --delay 1"), ["a"])
    assert {name for name, value in said.items() if value} == {"delay"}


@pytest.mark.parametrize(
    ("line", "ids", "task", "tag", "dry_run"),
    [
        ("cancel a b", ["a", "b"], None, None, False),
        ("cancel --dry-run -- -a", ["-a"], None, None, True),
        ("cancel --task app.fetch", [], "app.fetch", None, False),
        ("cancel --tag crawl-7 --dry-run", [], None, "crawl-7", True),
    ],
)
def test_what_is_cancelled(
    line: str, ids: list[str], task: str | None, tag: str | None, dry_run: bool
) -> None:
    options = parse(line)
    assert (options.ids, options.text("task"), options.text("tag")) == (ids, task, tag)
    assert options.flag("dry-run") is dry_run


def test_no_setting_of_the_environment_chooses_what_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GREENWORKER_TAG", "crawl-7")
    assert parse("cancel x").text("tag") is None


def test_all_that_dead_letters_can_be_chosen_by() -> None:
    options = parse(
        "dead retry --task t --error E --reason r --text x --older 2h --newer 7d --limit 9"
    )
    assert dead._filters(options) == {
        "task": "t", "error": "E", "reason": "r", "text": "x", "older": 7200.0,
        "newer": 604800.0, "limit": 9,
    }  # fmt: skip
    assert set(dead._filters(parse("dead list")).values()) == {None}


def test_every_reason_is_told_of() -> None:
    package = Path(cli.__file__).parent
    python = (package / "worker/executor.py").read_text()
    said = set(re.findall(r"""_(?:dead|unfit)\([\w.]+, "(\w+)\"""", python))
    for script in ("reap", "weed"):
        text = (package / f"lua/{script}.lua").read_text()
        said |= set(re.findall(r"bury\([^;]*?now, '(\w+)'", text, re.DOTALL))
    assert {"failed", "rejected", "poison", "malformed", "stuck"} <= said
    manual = cli.__doc__.partition("--reason WORD")[2].partition("--text TEXT")[0]
    for reason in said:
        assert re.search(rf"\b{reason}\b", manual), reason
        assert re.search(rf"\b{reason}\b", DeadLetter.__doc__ or ""), reason


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("30s", 30.0), ("15m", 900.0), ("2h", 7200.0), ("7d", 604800.0), ("1.5h", 5400.0)],
)
def test_ages(age: str, seconds: float) -> None:
    assert parse(f"dead list --older {age}").age("older") == seconds


@pytest.mark.parametrize("age", ["30", "2w", "-3s", "", "s", "1h30m", "nans", "1e3s", "\u0661s"])
def test_an_age_that_is_none(age: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--newer {age}: give an age such as 30s")):
        cli.parse(["dead", "list", "--newer", age]).age("newer")


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_nothing_is_done_to_all_dead_letters_by_accident(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a forgotten filter nor the environment is a choice."""
    for name in ("ALL", "TASK", "OLDER"):
        monkeypatch.setenv(f"GREENWORKER_{name}", "1s" if name == "OLDER" else "1")
    for line in (f"dead {verb}", f"dead {verb} --limit 5", f"dead {verb} --dry-run"):
        assert cli.main(line.split()) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f"dead {verb}: which ones? Name ids, give a filter" in err
        assert "--all" in err
    assert cli.main(["dead", verb, "--all", "x"]) == 2
    assert "either ids or --all" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["list", "retry", "delete"])
@pytest.mark.parametrize("name", ["task", "error", "reason", "text", "older", "newer", "limit"])
def test_a_filter_that_is_empty_is_a_variable_that_is_not_set(
    verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--text "$ERR"` would fit every dead letter."""
    assert cli.main(["dead", verb, f"--{name}", ""]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"--{name} " in err
    assert "give a" in err


@pytest.mark.parametrize(
    "line", ["-c 7 m", "-c7 m", "--concurrency 7 m", "--concurrency=7 m", "m -c 7", "m --conc 7"]
)
def test_a_value_may_be_written_in_every_usual_way(line: str) -> None:
    assert parse(line).count("concurrency") == 7


def test_all_options_at_once() -> None:
    options = parse(
        "-c 9 --threads 3 -Q high,low -u redis://h -n w1 -l debug -q --timeout 1 --grace 2 --lease 3 "
        "--block-warn 0.1 --max-block 0 --max-tasks 4 --max-memory 2G --max-stuck 5 --burst --solo --allow-eviction --log-json --log-values m"
    )
    assert settings(options) == {
        "concurrency": 9, "threads": 3, "queues": ("high", "low"), "name": "w1", "timeout": 1.0, "grace": 2.0,
        "lease": 3.0, "block_warn": 0.1, "max_block": 0.0, "max_tasks": 4, "max_memory": 2 << 30,
        "max_stuck": 5, "burst": True, "solo": True,
        "allow_eviction": True, "log_values": True,
    }  # fmt: skip
    assert options.text("url") == "redis://h"
    assert options.flag("log-json")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--nope m", "unknown option --nope"),
        ("m --nope=3", "unknown option --nope"),
        ("-x m", "unknown option -x"),
        ("-x9 m", "unknown option -x"),
        ("m -c", "-c needs a value"),
        ("m --concurrency", "--concurrency needs a value"),
        ("status app.tasks", "its module is given by -A"),
        ("check app.tasks", "greenworker worker check"),
        ("dead", "dead what? list, show, retry or delete"),
        ("dead -A m", "greenworker worker dead"),
        ("dead list --limt 5", "unknown option --limt"),
        ("pause", "pause what? Name queues; a module called pause is run by"),
        ("resume --json", "resume what? Name queues"),
        ("purge --yes", "purge what? Name queues"),
        ("send", "send what? module:function, and its arguments as one JSON list"),
        ("send a:b [] 7", "send makes no sense of '7'"),
        ("completion", "completion for which shell? bash, zsh or fish"),
        ("completion bash zsh", "completion makes no sense of 'zsh'"),
        ("running app.tasks", "its module is given by -A"),
        ("top app.tasks", "its module is given by -A"),
        ("running --id", "--id needs a value"),
        ("demo app.tasks", "makes no sense of 'app.tasks'"),
        ("-c 3 status app.tasks", "greenworker worker status"),
        ("--burst=1 m", "--burst"),
    ],
)
def test_a_call_that_makes_no_sense(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        parse(line)
    assert "greenworker --help" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-3", "x", "1.5", "", "١"])
def test_a_concurrency_that_is_none(value: str) -> None:
    options = cli.parse(["-c", value, "m"])
    with pytest.raises(ConfigError, match=f"--concurrency {value}"):
        settings(options)


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf", "1e9"])
@pytest.mark.parametrize("name", ["timeout", "grace", "lease", "block-warn", "max-block"])
def test_seconds_that_are_none(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name} {value}: give seconds"):
        settings(cli.parse([f"--{name}", value, "m"]))


@pytest.mark.parametrize(
    ("value", "size"),
    [("500M", 500 << 20), ("2G", 2 << 30), ("2gb", 2 << 30), ("7MiB", 7 << 20), ("4096", 4096)],
)
def test_a_size(value: str, size: int) -> None:
    assert settings(parse(f"--max-memory {value} m"))["max_memory"] == size


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5G", "M", "5X", ""])
def test_a_size_that_is_none(value: str) -> None:
    with pytest.raises(ConfigError, match=f"--max-memory {value}: give a size, as in 500M or 2G"):
        settings(cli.parse(["--max-memory", value, "m"]))


def test_a_debuggers_prompt_may_last() -> None:
    assert settings(parse("--solo m"))["block_warn"] == 0
    assert "max_block" not in settings(parse("--solo m"))
    assert settings(parse("--solo --max-block 5 m"))["max_block"] == 5.0


def test_help_is_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert not caught.value.code
    assert capsys.readouterr().out.strip() == cli.__doc__.strip()


def test_mistakes_exit_with_2_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("--nope", "", "worker", "-c 0 m", "-l loud m", "--workdir /nowhere m"):
        assert cli.main(line.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("greenworker: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("status -c 0", "--concurrency is not for status"),
        ("status --burst", "--burst is not for status"),
        ("check --burst", "--burst is not for check"),
        ("check --limit 0", "--limit 0: give a whole number, 1 to 1,000,000"),
        ("status --limit 3", "--limit is not for status"),
        ("--limit 3 m", "--limit is for check, dead, limit and running"),
        ("pause q --limit 3", "--limit is not for pause"),
        ("purge q --wait", "--wait is not for purge"),
        ("send a:b --namespace x", "--namespace is not for send"),
        ("completion bash --json", "--json is not for completion"),
        ("running -Q a", "--queues is not for running"),
        ("--queue x m", "--queue is for send"),
        ("--id x m", "--id is for send"),
        ("--yes m", "--yes is for purge"),
        ("--tag x m", "--tag is for cancel and send"),
        ("--task x m", "--task is for dead and cancel"),
        ("cancel x --yes", "--yes is not for cancel"),
        ("cancel", "cancel what? Name ids, or --task NAME, or --tag TAG"),
        ("cancel x --tag y", "cancel what? Name ids, or --task NAME, or --tag TAG"),
        ("cancel -u redis://h --tag a,b", "tag 'a,b': use 1 to 64 letters"),
        ("--cancel-grace -1 m", "--cancel-grace -1: give seconds, 0 or more"),
        ("--dry-run m", "--dry-run is for dead, purge and cancel"),
        ("running --limit 0", "--limit 0: give a whole number"),
        ("top --limit 3", "--limit is not for top"),
        ("top --every 0", "--every 0: give seconds, 0.1 or more"),
        ("top --every x", "--every x: give seconds"),
        ("top --json", "--json is for top --once"),
        ("top", "top needs a terminal to read keys from and to draw on; see top --once"),
        ("--once m", "--once is for top"),
        ("--every 3 m", "--every is for top"),
        ("--no-color m", "--no-color is for top"),
        ("status --once", "--once is not for status"),
        ("pause a,b", "queue 'a,b': use 1 to 64 letters"),
        ("completion tcsh", "completion for 'tcsh': there are bash, zsh, fish"),
        ("send fetch", "which task is 'fetch'? greenworker send app.tasks:add '[1, 2]'"),
        ("send nowhere:fetch", "no module 'nowhere'"),
        ("send a:b [", "the arguments are not JSON"),
        ("send a:b 7", "the arguments are a single value; give a JSON list"),
        ("send a:b [123456789012345678901234567890]", "more than 64 bits"),
        ("send a:b -A m", "name the module once: a:b, or -A m"),
        ("demo -c 5", "--concurrency is not for demo"),
        ("demo --json", "--json is not for demo"),
        ("-c 5 testsite", "--concurrency is not for testsite"),
        ("testsite --json", "unknown option --json; see greenworker testsite --help"),
        ("testsite app.tasks", "greenworker worker testsite"),
        (
            "--namespace x m",
            "--namespace is for status, check, dead, schedule, limit, running, top, pause, resume, purge and cancel",
        ),
        (
            "--json m",
            "--json is for status, check, dead, schedule, limit, running, top, pause, resume, purge, cancel and send",
        ),
        ("limit lst", "limit 'lst': there are list, set, drop, hold and resume"),
        ("limit list host:*", "key 'host:*': use 1 to 200 printable"),
        ("limit x", "limit 'x': there are list, set, drop, hold and resume"),
        ("limit list -c 2", "--concurrency is not for limit list"),
        ("limit drop x --none", "--none is not for limit drop"),
        ("limit set", "limit set: which ones? Name patterns, as 'host:*'"),
        ("limit hold", "limit hold: which ones? Name keys"),
        (
            "limit set a",
            "limit set a: give one of --concurrency, --delay, --rate, --adaptive, or --none",
        ),
        ("limit set a --none -c 3", "limit set a: give --none, or what it allows, not both"),
        ("limit set a --delay 0", "limit set a: give one of"),
        ("limit set a --rate 5", "limit a: rate='5': give starts in a time, such as 100/min"),
        (
            "limit set a --burst 5",
            "limit set a: --burst says nothing without --rate, as in --rate 100/min",
        ),
        ("limit set a --rate 5/s --burst 0", "--burst-size 0: give a whole number"),
        ("limit set a --rate 5/s --burst -1", "--burst-size -1: give a whole number"),
        ("limit set a --rate 5/s --burst 1.5", "--burst-size 1.5: give a whole number"),
        ("limit set a --rate 5/s --burst", "--burst needs a value"),
        ("limit set a --rate 5/s --burst-size x", "--burst-size x: give a whole number"),
        ("limit set a -c -1", "--concurrency -1: give a whole number, 0 to 1,000,000"),
        ("limit set a -c 00x", "--concurrency 00x: give a whole number, 0"),
        ("limit set a --delay -1", "--delay -1: give seconds"),
        ("limit set a --delay 1e6", "limit a: delay=1000000.0: give seconds between two starts"),
        ("limit set a --floor 1/s", "limit set a: --floor says nothing without --adaptive"),
        (
            "limit set a -c 2 --ceiling 1/s",
            "limit set a: --ceiling says nothing without --adaptive",
        ),
        (
            "limit set a --adaptive --floor 2/s --ceiling 1/s",
            "limit a: floor='2/s' is above ceiling='1/s'",
        ),
        ("limit set a,b -c 1", "limit 'a,b': a pattern is 1 to 200 printable"),
        ("limit drop a,b", "limit 'a,b': a pattern is"),
        ("limit hold host:*", "key 'host:*': use 1 to 200 printable"),
        ("limit hold a --for 0s -u redis://h", "limit hold: --for 0s holds nothing"),
        ("limit hold a --for 5 -u redis://h", "--for 5: give an age"),
        ("limit resume a --for 5s", "--for is not for limit resume"),
        ("limit list --task x", "--task is not for limit"),
        ("--adaptive m", "--adaptive is for limit"),
        ("--burst-size 5 m", "--burst-size is for limit"),
        ("schedule pause", "schedule pause: which ones?"),
        ("schedule paus x", "schedule 'paus': there are list, pause, resume and run"),
        ("schedule run x", "schedule run needs -A MODULE"),
        ("schedule list --task t", "--task is not for schedule"),
        ("schedule app.tasks -c 3", "--concurrency is not for schedule"),
        ("schedule list m -A n", "name the modules once: m, or -A n"),
        ("--all m", "--all is for dead"),
        ("--values m", "--values is for dead"),
        ("--rate 3 m", "--rate is for dead and limit"),
        ("dead tasks", "dead 'tasks': there are list, show, retry and delete"),
        ("dead show", "dead show: which ones?"),
        ("dead list x", "dead list takes filters, no ids"),
        ("status --task x", "--task is not for status"),
        ("dead list --rate 3", "--rate is not for dead list"),
        ("dead list --values", "--values is not for dead list"),
        ("dead show x --task y", "--task is not for dead show"),
        ("dead delete x --rate 3", "--rate is not for dead delete"),
        ("dead list -c 3", "--concurrency is not for dead list"),
        ("dead retry --all --rate 0", "--rate 0: give a whole number"),
        ("dead list --limit -1", "--limit -1: give a whole number"),
        ("dead list --older yesterday", "--older yesterday: give an age"),
        ("dead delete --older=0s", "dead delete: which ones?"),
        ("dead retry --older 0h --dry-run", "dead retry: which ones?"),
        (
            "dead list -A m --namespace x",
            "--namespace x: the App of -A m has a namespace of its own",
        ),
        (
            "status -A m --namespace x",
            "leave --namespace out, or give it with -u URL and without -A",
        ),
        ("check -A m -u redis://h --namespace x", "--namespace x: the App of -A m"),
        ("status --namespace=", "namespace ''"),
        ("-A m m", "name the modules once"),
        ("-c 99999999999999999999 m", "give a whole number, 1 to 1,000,000"),
    ],
)
def test_what_a_command_has_no_use_for_is_refused(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("greenworker: ")
    assert says in err
    assert err.count("\n") == 1


def test_top_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["top"]) == 2
    assert capsys.readouterr().err == (
        'greenworker: top shows itself with rich: pip install "greenworker[top]", or top --once\n'
    )


@pytest.mark.parametrize("value", ["", " "])
def test_queues_that_are_empty_are_a_variable_that_is_not_set(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-Q "$QUEUES"` would listen to all of them."""
    assert cli.main(["-Q", value, "m"]) == 2
    assert capsys.readouterr().err == (
        "greenworker: --queues is empty: name queues, or leave it out for all\n"
    )


# --- folders


@pytest.mark.parametrize("line", ["m", "status -A m", "status", "dead list"])
def test_a_folder_that_has_been_deleted(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "greenworker: the current folder: No such file or directory; "
        "change to one that is there, or give --workdir\n"
    )


def test_a_folder_that_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:  # root may enter them all
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "chdir", refuse)
    assert cli.main(["--workdir", str(tmp_path), "m"]) == 2
    assert capsys.readouterr().err == (
        f"greenworker: --workdir {tmp_path}: Permission denied; "
        "this user needs the right to enter it\n"
    )


# --- hints that hold a URL


FORMS = (
    "use redis://host:6379/0, rediss://host:6379/0, unix:///path or "
    "redis+sentinel://host1,host2/master, and %2F %3F %23 %40 for / ? # @ in a password"
)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:6379", f"bad server URL 127.0.0.1:6379 (from --url): {FORMS}"),
        (
            "redis+sentinel://h",
            "bad server URL redis+sentinel://h (from --url): "
            "sentinels need redis+sentinel://host1,host2/master (the name that they know it by)",
        ),
        (
            "redis://h?ssl_ciphers=x",
            "bad server URL redis://h (from --url): ssl_ciphers is about TLS: use rediss://",
        ),
    ],
)
def test_a_bad_url_is_told_how_it_should_be(
    url: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "-u", url]) == 2
    assert capsys.readouterr().err == f"greenworker: {says}\n"


def test_no_url_where_one_is_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENWORKER_URL", "required")
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().err == (
        "greenworker: no server URL, and GREENWORKER_URL=required forbids the embedded server: "
        "set GREENWORKER_URL=redis://host:6379/0 or App(url)\n"
    )


# --- defaults


def test_every_default_that_help_states_is_the_real_one() -> None:
    told = settings(parse("m"))
    real = WorkerConfig(**{name: value for name, value in told.items() if value is not None})
    assert set(DEFAULTS) == {
        "concurrency", "threads", "queues", "name", "timeout", "grace", "cancel-grace", "lease", "block-warn",
        "max-block", "max-stuck",
        "loglevel", "namespace", "limit", "every",
    }  # fmt: skip
    for option in (
        "concurrency",
        "threads",
        "timeout",
        "grace",
        "cancel-grace",
        "lease",
        "block-warn",
        "max-block",
    ):
        assert float(DEFAULTS[option]) == getattr(real, option.replace("-", "_")), option
    assert DEFAULTS["max-stuck"] == "a tenth of the concurrency, at least 1"
    assert DEFAULTS["name"] == "host.pid"
    assert real.name == default_name()
    assert "queues" not in {name for name, value in told.items() if value is not None}
    assert DEFAULTS["queues"] == "every queue that the tasks declare, and `default`"
    assert DEFAULTS["loglevel"] == "info"
    assert logs.level_of(parse("m")) == 20
    assert app_or_url(parse("status -u redis://h")).namespace == DEFAULTS["namespace"]
    assert float(DEFAULTS["every"]) == top.EVERY
    most, _, what = DEFAULTS["limit"].partition(" ")
    assert what == "for check, running and limit, none for dead"
    assert int(most) == limit._MOST
    for ask in (App.check, App.running):
        assert int(most) == inspect.signature(ask).parameters["limit"].default


def test_the_table_of_defaults() -> None:
    """What newcomers are told, wherever it is set."""
    config, task = WorkerConfig(), TaskOptions("t")
    assert (config.concurrency, config.timeout, config.grace, config.lease) == (100, 300, 25, 30)
    assert (config.beat_every, config.sweep_every) == (config.lease / 6, config.lease / 2)
    assert (config.block_warn, config.max_deliveries) == (0.5, 3)
    assert not any((config.burst, config.solo, config.log_values, config.allow_eviction))
    assert (task.priority, task.result_ttl, task.retries, task.queue) == (5, 3600, 0, "default")
    assert (task.timeout, task.expires, task.ignore_result, task.bind) == (None, None, False, False)
    assert codec.MAX_PAYLOAD == 1_000_000
    finish = Path(cli.__file__).with_name("lua").joinpath("finish.lua").read_text()
    assert "DEAD_MOST, DEAD_FOR = 100000, 30 * 24 * 3600 * 1000" in finish


# --- the environment


@pytest.mark.parametrize(
    "name", [name for name, (takes, _) in OPTIONS.items() if takes and name not in BY_FLAG_ALONE]
)
def test_a_value_can_come_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"GREENWORKER_{name.replace('-', '_').upper()}"
    monkeypatch.setenv(variable, "7")
    assert parse("m").text(name) == "7"
    assert cli.parse([f"--{name}", "8", "m"]).text(name) == "8"
    monkeypatch.setenv(variable, "")
    assert parse("m").text(name) is None


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (takes, _) in OPTIONS.items()
        if not takes and name not in ("help", *BY_FLAG_ALONE)
    ],
)
def test_a_switch_can_come_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"GREENWORKER_{name.replace('-', '_').upper()}"
    for value, on in (("1", True), ("yes", True), ("True", True), ("0", False), ("", False)):
        monkeypatch.setenv(variable, value)
        assert parse("m").flag(name) is on
        assert cli.parse([f"--{name}", "m"]).flag(name) is True
    monkeypatch.setenv(variable, "perhaps")
    with pytest.raises(ConfigError, match=f"{variable}='perhaps': give 1 or 0"):
        parse("m").flag(name)


@pytest.mark.parametrize("name", sorted(BY_FLAG_ALONE))
def test_what_chooses_or_shows_counts_by_its_flag_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that was set once, somewhere, narrows nothing unseen."""
    takes, _ = OPTIONS[name]
    monkeypatch.setenv(f"GREENWORKER_{name.upper()}", "7")
    if takes:
        assert parse("dead list").text(name) is None
        assert cli.parse(["dead", "list", f"--{name}", "8"]).text(name) == "8"
    else:
        assert parse("dead list").flag(name) is False
        assert cli.parse(["dead", "list", f"--{name}"]).flag(name) is True


def test_help_says_which_options_are_flags_only() -> None:
    told = cli.__doc__.partition("Only\nflags are ")[2].partition(".\n")[0]
    names = {word.strip(",")[2:] for word in told.split() if word.startswith("--")}
    assert names == BY_FLAG_ALONE


def test_what_begins_with_a_dash_in_the_manual_is_an_option() -> None:
    """docopt takes every such line for the declaration of one, wherever it stands."""
    lines = [line for line in cli.__doc__.splitlines() if line.lstrip().startswith("-")]
    assert len(lines) == len(OPTIONS)
    assert all(line in SECTION for line in lines)


def test_the_environment_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENWORKER_CONCURRENCY", "1000")
    monkeypatch.setenv("GREENWORKER_BLOCK_WARN", "2")
    monkeypatch.setenv("GREENWORKER_BURST", "1")
    monkeypatch.setenv("GREENWORKER_APP", "app.tasks")
    options = parse("")
    assert options.modules == ["app.tasks"]
    told = settings(options)
    assert (told["concurrency"], told["block_warn"], told["burst"]) == (1000, 2.0, True)
    assert settings(parse("-c 5"))["concurrency"] == 5


def test_a_version_of_the_environment_is_somebody_elses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENWORKER_VERSION", "0.1.0")
    assert cli.main([]) == 2
    assert "which tasks?" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"greenworker {__version__}\n"


def test_a_bad_value_of_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GREENWORKER_CONCURRENCY", "many")
    with pytest.raises(ConfigError, match="GREENWORKER_CONCURRENCY many: give a whole number"):
        settings(parse("m"))


@pytest.mark.parametrize(
    ("line", "variable", "value", "level"),
    [
        ("m", "LOGLEVEL", "error", 40),
        ("-l warning m", "LOGLEVEL", "error", 30),
        ("m", "QUIET", "1", 30),
        ("m", "VERBOSE", "1", 10),
        ("-v m", "QUIET", "1", 10),
        ("-q m", "VERBOSE", "1", 30),
        ("-l error m", "VERBOSE", "1", 40),
        ("-l error m", "QUIET", "1", 40),
        ("-v m", "LOGLEVEL", "error", 10),
    ],
)
def test_the_log_level(
    line: str, variable: str, value: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GREENWORKER_{variable}", value)
    assert logs.level_of(parse(line)) == level


# --- which server


@pytest.mark.parametrize(
    ("line", "server", "source"),
    [
        ("status", "redis://environment", "GREENWORKER_URL"),
        ("status -u redis://flag", "redis://flag", "--url"),
        ("status -A declared", "redis://declared", "App(url)"),
        ("status -A declared -u redis://flag", "redis://flag", "--url"),
        ("status -A open", "redis://environment", "GREENWORKER_URL"),
        ("status -A open -u redis://flag", "redis://flag", "--url"),
    ],
)
def test_a_flag_goes_before_the_app_and_the_app_before_the_environment(
    line: str, server: str, source: str, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENWORKER_URL", "redis://environment")
    endpoint = app_or_url(parse(line)).endpoint
    assert (endpoint.url, endpoint.source) == (server, source)


@pytest.mark.parametrize(
    ("line", "server", "namespace"),
    [
        ("dead list", "redis://declared", "default"),
        ("dead list -u redis://flag", "redis://flag", "default"),
        ("dead list -u redis://flag --namespace staging", "redis://flag", "staging"),
        ("dead list -A open -u redis://flag", "redis://flag", "default"),
    ],
)
def test_a_namespace_by_its_flag_goes_before_the_app_of_the_environment(
    line: str, server: str, namespace: str, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENWORKER_APP", "declared")
    app = app_or_url(parse(line))
    assert (app.endpoint.url, app.namespace) == (server, namespace)


def test_a_namespace_without_a_server_is_refused_beside_the_app_of_the_environment(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENWORKER_APP", "declared")
    with pytest.raises(ConfigError, match="the App of GREENWORKER_APP declared has a namespace"):
        app_or_url(parse("dead list --namespace staging"))
    # What the environment says of both is the App's
    monkeypatch.setenv("GREENWORKER_NAMESPACE", "staging")
    assert app_or_url(parse("dead list")).namespace == "default"


@pytest.mark.parametrize("line", ["status", "status -A open"])
def test_the_embedded_server_comes_last(
    line: str, modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert app_or_url(parse(line)).endpoint.source == "embedded"
    assert str(modules / ".greenworker") in caplog.text


@pytest.mark.parametrize("line", ["status", "status -A open"])
def test_the_embedded_server_can_be_forbidden(
    line: str, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENWORKER_URL", "required")
    with pytest.raises(ConfigError, match="GREENWORKER_URL=required forbids the embedded"):
        _ = app_or_url(parse(line)).endpoint


# --- tab completion


def completed(line: str, folder: Path) -> list[str]:
    """What bash offers for the last word of a line."""
    (folder / "script").write_text(written("bash"))
    words = line.split(" ")
    program = (
        'source "$0/script"; COMP_WORDS=("${@:1}"); COMP_CWORD=$(($# - 1)); _greenworker; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program, str(folder), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def written(shell: str) -> str:
    own = {"testsite": testsite.__doc__ or ""}
    manual = completion.read_manual(cli.__doc__, cli.COMMANDS, own)
    return completion._SHELLS[shell](manual)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("greenworker st", ["status"]),
        ("greenworker dead s", ["show"]),
        ("greenworker -A m dead re", ["retry"]),
        ("greenworker completion z", ["zsh"]),
        ("greenworker limit se", ["set"]),
        ("greenworker limit set x --ad", ["--adaptive"]),
        ("greenworker limit set x --conc", ["--concurrency"]),
        ("greenworker purge mail --y", ["--yes"]),
        ("greenworker purge --li", []),
        ("greenworker testsite --ho", ["--hosts"]),
        ("greenworker check --li", ["--limit"]),
        ("greenworker --li", []),
        ("greenworker -n check --conc", ["--concurrency"]),
        ("greenworker worker --conc", ["--concurrency"]),
        ("greenworker -l ", ["debug", "info", "warning", "error"]),
        ("greenworker dead list --reason po", ["poison"]),
        ("greenworker -c ", []),
        ("greenworker send app:fetch --", None),
    ],
)
def test_what_bash_completes(line: str, offered: list[str] | None, tmp_path: Path) -> None:
    found = completed(line, tmp_path)
    if offered is None:
        usable = {f"--{name}" for name in (*cli.COMMANDS["send"], "help", "version")}
        assert set(found) == usable
    else:
        assert found == offered


def test_all_of_the_manual_can_be_completed() -> None:
    """And nothing else: who writes a command or an option into the manual need do nothing more."""
    manual = completion.read_manual(cli.__doc__, cli.COMMANDS)
    assert set(manual.commands) == {*cli.COMMANDS, "worker"}
    assert {one.name: bool(one.value) for one in manual.options} == {
        name: takes for name, (takes, _) in OPTIONS.items()
    }
    assert {name for names in cli.COMMANDS.values() for name in names} <= set(OPTIONS)
    taken = {command: {one.name for one in options} for command, options in manual.taken.items()}
    assert set().union(*taken.values()) == set(OPTIONS)
    assert {"app", "concurrency", "workdir"} <= taken["worker"]
    assert not {"limit", "json", "yes"} & taken["worker"]
    verbs = {name for name, words in manual.arguments.items() if words}
    assert verbs == {"dead", "schedule", "limit", "completion"}
    assert tuple(manual.arguments["dead"]) == dead.VERBS
    assert tuple(manual.arguments["schedule"]) == schedule.VERBS
    assert tuple(manual.arguments["limit"]) == limit.VERBS
    assert tuple(manual.arguments["completion"]) == tuple(completion._SHELLS)
    assert all(manual.commands.values())
    assert all(one.about for one in manual.options)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script.rstrip("\n") == written(shell)
    for name in (*cli.COMMANDS, *OPTIONS):
        assert re.search(rf"\b{name}\b", script), name
    # No text of the manual may end a quote, or be a shell's order: tried by hand with zsh 5.9, fish 3.6
    texts = re.findall(r"'[^'\n]*'", script)
    assert len(texts) > 10
    assert not [text for text in texts if "`" in text]
    assert all(line.count("'") % 2 == 0 for line in script.splitlines())


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: module `declared` has an App with a URL, `open` one without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, url in (("declared", "'redis://declared'"), ("open", "")):
        (tmp_path / f"{name}.py").write_text(f"from greenworker import App\napp = App({url})\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path
