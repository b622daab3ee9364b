"""The house rules: imports run down only, one room for Redis, small rooms, nothing that evaluates.

Everything is read with `ast`: imports inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "greenworker"

# From the bottom up. A module imports from lower storeys, or from its own without a circle.
STOREYS = (
    (
        "errors",
        "keys",
        "trim",
        "scripts",
        "backoff",
        "recurrence",
        "replies",
        "hosts",
        "retry_header",
        "packing",
        "frozen",
    ),
    ("limit",),
    ("verdicts", "keyed"),
    ("context", "unique", "signature"),
    ("family", "importable"),
    ("children",),
    ("endpoint",),
    ("wire",),
    ("route",),
    ("codec",),
    ("message",),
    ("connection", "status", "running", "checks"),
    ("connection_pool",),
    ("outcomes",),
    ("broker", "middleware", "embedded", "embedded_guard", "signing"),
    (
        "subscriber",
        "probe",
        "control",
        "timetable",
        "admission",
        "limits",
        "once",
        "seen",
        "find_endpoint",
    ),
    ("findings",),
    ("audit",),
    ("result", "dead"),
    ("client", "cancel"),
    ("task_options",),
    ("task",),
    ("schedule",),
    ("worker.stats", "worker.report", "worker.run", "worker.threads"),
    ("worker.executor",),
    ("testing.record", "testing.memory"),
    ("testing.runner", "testing.line", "testing.once"),
    ("testing.inline",),
    ("app",),
    (
        "worker.config",
        "worker.service",
        "worker.incarnation",
        "worker.proof",
        "worker.gil",
        "worker.patched",
        "worker.events",
        "worker.failures",
    ),
    ("worker.pool",),
    ("worker.settler", "worker.dump", "worker.vitals", "worker.teller", "worker.canceller"),
    ("worker.consumer",),
    ("worker.watchdog", "worker.reaper", "worker.scheduler", "worker.ticker", "worker.retirement"),
    ("worker.parts",),
    ("worker.worker",),
    ("worker",),
    ("testing.moving", "testing.private"),
    ("testing.draining",),
    ("testing",),
    ("testsite.counting",),
    ("testsite.plan",),
    ("testsite.http", "testsite.text", "testsite.traps"),
    ("testsite.site",),
    ("testsite.server", "testsite.process"),
    ("testsite",),
    ("",),  # greenworker/__init__.py: the public face, which names what lies below it
    ("contrib", "contrib.*"),
    ("demo", "demo.*"),
    ("top", "top.*"),
    ("commands", "commands.*"),
    ("testing.pytest",),
    ("cli",),
    ("__main__",),
)

MAX_LINES = 400
# File → the reason why it may be longer.
LONGER: dict[str, str] = {}

FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


def name_of(path: Path) -> str:
    """greenworker/worker/pool.py → worker.pool; greenworker/__init__.py → the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path) for path in FILES}


def storey_of(module: str) -> int | None:
    for number, names in enumerate(STOREYS):
        for name in names:
            if module == name or (name.endswith(".*") and module.startswith(name[:-1])):
                return number
    return None


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line, module, name) of every import; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of what a file imports from greenworker, as STOREYS names it."""
    for line, module, name in imports(path):
        if module != "greenworker" and not module.startswith("greenworker."):
            continue
        if (module, name) == ("greenworker", "__version__"):
            continue  # a constant, free for all
        inside = module.removeprefix("greenworker").removeprefix(".")
        submodule = f"{inside}.{name}".strip(".")
        yield line, submodule if name and submodule in MODULES else inside


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down_only(path: Path) -> None:
    module = name_of(path)
    storey = storey_of(module)
    assert storey is not None, f"greenworker.{module}: give it a room in the table"
    upward = [
        f"line {line}: {target or 'greenworker itself'}"
        for line, target in own_imports(path)
        if (above := storey_of(target)) is None or above > storey or target == module
    ]
    assert not upward, f"greenworker.{module} imports from above: {upward}"


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for path in FILES:
        graph[name_of(path)] |= {target for _, target in own_imports(path)}
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' → '.join((*way, module))}"
        if module not in done:
            for target in graph.get(module, ()):
                walk(target, (*way, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_services_never_import_the_app() -> None:
    """They are handed what they use, a broker, a config: parts.py does that."""
    guilty = [
        f"{path.name}:{line}"
        for path in (PACKAGE / "worker").glob("*.py")
        if path.name not in ("worker.py", "parts.py")
        for line, target in own_imports(path)
        if target == "app"
    ]
    assert not guilty


def loaded_by(statement: str, *flags: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after `statement`, and not before."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*(set(sys.modules) - before))"
    )
    answer = subprocess.run(
        [sys.executable, *flags, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def test_the_package_itself_imports_nothing() -> None:
    """The console script imports it before gevent has patched: nothing may be loaded by then."""
    # -S: site would load threading by itself in some installations.
    loaded = loaded_by("import greenworker", "-I", "-S")
    assert "greenworker" in loaded
    assert not loaded & {"redis", "ssl", "socket", "threading", "gevent", "docopt"}


def test_a_producer_never_loads_the_worker() -> None:
    loaded = loaded_by("from greenworker import App; App('redis://127.0.0.1:1')")
    extra = {name for name in loaded if name == "docopt" or name.startswith("greenworker.worker")}
    assert not extra


def test_frameworks_are_imported_by_whoever_uses_them() -> None:
    rooms = {
        name_of(path)
        for path in FILES
        for _, module, _ in imports(path)
        if module.split(".")[0] in ("django", "flask")
    }
    assert rooms == {"contrib.django", "contrib.flask"}
    loaded = loaded_by("from greenworker import *")
    assert not {name for name in loaded if "contrib" in name}


def test_one_room_imports_redis() -> None:
    rooms = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for _, module, _ in imports(path)
        if module.split(".")[0] == "redis"
    }
    assert rooms <= {"wire.py"}


def calls(tree: ast.AST, *names: str) -> list[int]:
    """Return the lines on which one of the functions `names` is called."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id in names)
            or (isinstance(node.func, ast.Attribute) and node.func.attr in names)
        )
    ]


def test_only_the_programs_patch() -> None:
    """As a library greenworker patches nothing."""
    patching = {
        str(path.relative_to(PACKAGE)): lines
        for path in FILES
        if (lines := calls(ast.parse(path.read_text(encoding="utf-8")), "patch_all"))
    }
    assert patching.keys() <= {"__main__.py", "demo/site.py"}
    # site.py is imported as well: it patches only where it is the program.
    if "demo/site.py" in patching:
        tree = ast.parse((PACKAGE / "demo" / "site.py").read_text(encoding="utf-8"))
        guarded = [
            line
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            for line in calls(node, "patch_all")
        ]
        assert sorted(guarded) == sorted(patching["demo/site.py"])


def test_nothing_evaluates_what_it_reads() -> None:
    """A message is data: whoever can write to Redis must not be able to run code here."""
    unsafe_modules = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
    guilty = []
    for folder in (PACKAGE, ROOT / "examples", ROOT / "benchmarks"):
        for path in folder.rglob("*.py"):
            where = path.relative_to(ROOT)
            if any(part.startswith(".venv") for part in where.parts):
                continue  # a peer's, installed by a benchmark
            guilty += [
                f"{where}:{line} {module}"
                for line, module, _ in imports(path)
                if module.split(".")[0] in unsafe_modules
            ]
            guilty += [
                f"{where}:{node.lineno} {node.func.id}()"
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("eval", "exec")
            ]
    assert not guilty


def test_rooms_are_small() -> None:
    long = {}
    for path in sorted(PACKAGE.rglob("*")):
        name = str(path.relative_to(PACKAGE))
        if path.is_file() and "__pycache__" not in path.parts and name not in LONGER:
            lines = len(path.read_bytes().splitlines())
            if lines > MAX_LINES:
                long[name] = lines
    assert not long, f"over {MAX_LINES} lines: split it, or give a reason in LONGER"


def test_the_promises_name_tests_that_exist() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", design)
    assert len(named) > 15
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"


def test_the_readme_shows_the_demos_own_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"## What the demo runs\n.*?```python\n(.*?)```", readme, re.DOTALL)
    code = (PACKAGE / "demo" / "tasks.py").read_text(encoding="utf-8").splitlines()
    assert "def page(url: str) -> int:" in shown
    assert [line for line in shown.splitlines() if line not in code] == []
    assert len(code) < 50
