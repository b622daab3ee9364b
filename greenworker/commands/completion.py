"""`greenworker completion`: scripts that have a shell complete the command line.

All is read from the manual that docopt parses, and from the table of what each command takes: what is
written there once is completed everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

from greenworker.commands.options import Options
from greenworker.errors import ConfigError

# As the manual lists what there is to choose from.
_CHOICES = re.compile(r"\w+(?:, \w+)+ or \w+")
_FOR_ALL = ("app", "url", "workdir", "concurrency", "help", "version")  # the worker as well


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the manual: `short` is a letter or empty, `value` what its value is called or empty,
    `choices` those that the manual lists."""

    short: str
    name: str
    value: str
    about: str
    choices: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return [f"-{self.short}", f"--{self.name}"] if self.short else [f"--{self.name}"]


@dataclass(frozen=True, slots=True)
class Manual:
    """What there is to complete: commands with a line about each, what they take as arguments, options,
    and who takes which."""

    commands: Mapping[str, str]
    arguments: Mapping[str, Sequence[str]]
    options: Sequence[Option]
    taken: Mapping[str, Sequence[Option]]  # `worker` for a call that names no command


def run(
    options: Options,
    manual: str,
    usable: Mapping[str, Sequence[str]],
    own: Mapping[str, str] | None = None,
) -> int:
    """Print the script for a shell; returns the exit code. `own`: the manuals of commands that have one."""
    shell = options.named("shell") or ""
    write = _SHELLS.get(shell)
    if write is None:
        raise ConfigError(f"completion for {shell!r}: there are {', '.join(_SHELLS)}")
    print(write(read_manual(manual, usable, own)))
    return 0


def read_manual(
    manual: str, usable: Mapping[str, Sequence[str]], own: Mapping[str, str] | None = None
) -> Manual:
    """The manual's own words; `usable`: the options that each command takes, the worker all others, but
    for the commands that have a manual of their `own`."""
    options = _options(manual)
    told = manual.partition("Commands:\n")[2].partition("\n\n")[0]
    texts = dict(re.findall(r"^  (\w+) (.*(?:\n {10,}.*)*)", told, re.MULTILINE))
    arguments = {
        # `dead list; dead show …`: a verb follows its command.
        **{
            name: re.findall(rf"\b{name} ([a-z]+)", texts[name]) for name in _taking(manual, "verb")
        },
        **{name: _choices(texts[name]) for name in _taking(manual, "shell")},
    }
    commands = {name: _line(text) for name, text in texts.items()}
    others = {name for names in usable.values() for name in names}
    workers = [one for one in options if one.name not in others]
    for_all = [one for one in options if one.name in _FOR_ALL]
    taken = {
        command: [one for one in options if one.name in names or one.name in ("help", "version")]
        for command, names in usable.items()
    }
    taken["worker"] = [*dict.fromkeys([*workers, *for_all])]
    for command, its_manual in (own or {}).items():
        taken[command] = _options(its_manual)
        # What both have is completed as the first manual says.
        known = {one.name for one in options}
        options = [*options, *(one for one in taken[command] if one.name not in known)]
    return Manual(commands, arguments, options, taken)


def _options(manual: str) -> list[Option]:
    section = manual.partition("Options:\n")[2].partition("\n\n")[0]
    return [
        Option(short, name, value, _line(text), _choices(text) if value else ())
        for short, name, value, text in re.findall(
            r"^  (?:-(\w)(?: [A-Z]+)?, )?--([\w-]+)(?: ([A-Z]+))?(.*(?:\n {10,}.*)*)",
            section,
            re.MULTILINE,
        )
    ]


def _taking(manual: str, what: str) -> list[str]:
    """The commands whose usage names such an argument."""
    return re.findall(rf"^  greenworker (\w+) .*<{what}>", manual, re.MULTILINE)


def _choices(text: str) -> tuple[str, ...]:
    found = _CHOICES.search(" ".join(text.split()))
    return tuple(re.split(", | or ", found[0])) if found else ()


def _line(text: str) -> str:
    """The first sentence, in plain letters: each shell has its own characters to obey."""
    words = re.sub(r"^For [^:.]*: ", "", " ".join(text.split()))
    first = re.split(r"[.:;](?: |$)", words)[0]
    return shorten(re.sub(r"[^\w ,/:-]", "", first), 70, placeholder="")


def _bash(manual: Manual) -> str:
    cases = "\n".join(
        f"    {command}) words='{_words(manual, command)}' ;;" for command in manual.taken
    )
    with_values = [one for one in manual.options if one.value]
    chosen = "\n".join(
        f"    {'|'.join(one.words)}) words='{' '.join(one.choices)}' ;;"
        for one in with_values
        if one.choices
    )
    values = "|".join(word for one in with_values for word in one.words)
    return f"""\
# bash completion for greenworker, for ~/.bashrc: eval "$(greenworker completion bash)"
_greenworker() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command='' words='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i-1]}} in {values}) continue ;; esac
    case ${{COMP_WORDS[i]}} in {"|".join(manual.commands)}) command=${{COMP_WORDS[i]}}; break ;; esac
  done
  case $before in
{chosen}
    --workdir) COMPREPLY=($(compgen -d -- "$current")); return ;;
    {values}) return ;;
  esac
  [[ $words ]] || case $command in
    '') words='{" ".join(manual.commands)} {_words(manual, "worker")}' ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _greenworker greenworker"""


def _zsh(manual: Manual) -> str:
    commands = "\n".join(f"    '{name}:{about}'" for name, about in manual.commands.items())
    cases = "\n".join(
        f"    {command}) _arguments -s : {_zsh_specs(manual, command)} ;;"
        for command in manual.taken
    )
    values = "|".join(word for one in manual.options if one.value for word in one.words)
    return f"""\
#compdef greenworker
# zsh completion for greenworker, for ~/.zshrc behind compinit: source <(greenworker completion zsh)
_greenworker() {{
  local command='' i
  local -a commands=(
{commands}
  )
  for ((i = 2; i < CURRENT; i++)); do
    case ${{words[i-1]}} in {values}) continue ;; esac
    case ${{words[i]}} in {"|".join(manual.commands)}) command=${{words[i]}}; break ;; esac
  done
  case $command in
    '')
      [[ ${{words[CURRENT]}} == -* || ${{words[CURRENT-1]}} == ({values}) ]] ||
        _describe -t commands command commands
      _arguments -s : {_zsh_specs(manual, "worker")} ;;
{cases}
  esac
}}
compdef _greenworker greenworker"""


def _zsh_specs(manual: Manual, command: str) -> str:
    specs = []
    for one in manual.taken[command]:
        choices = f"({' '.join(one.choices)})" if one.choices else " "
        action = "_directories" if one.name == "workdir" else choices
        value = f":{one.value}:{action}" if one.value else ""
        specs += [f"'{word}[{one.about}]{value}'" for word in one.words]
    # The command itself is the first argument, if it was named.
    words = " ".join(manual.arguments.get(command, ()))
    specs.append(f"'*:argument:({words})'" if words else "'*:argument: '")
    return " ".join(specs)


def _fish(manual: Manual) -> str:
    values = " ".join(word for one in manual.options if one.value for word in one.words)
    lines = [
        f"complete -c greenworker -n '__greenworker_is none' -a {name} -d '{about}'"
        for name, about in manual.commands.items()
    ]
    for command, options in manual.taken.items():
        test = "none worker" if command == "worker" else command
        begin = f"complete -c greenworker -n '__greenworker_is {test}'"
        for one in options:
            short = f" -s {one.short}" if one.short else ""
            choices = f" -x -a '{' '.join(one.choices)}'" if one.choices else " -x"
            action = " -r -F" if one.name == "workdir" else choices
            value = action if one.value else ""
            lines.append(f"{begin}{short} -l {one.name}{value} -d '{one.about}'")
        if command in manual.arguments:
            lines.append(f"{begin} -a '{' '.join(manual.arguments[command])}'")
    return f"""\
# fish completion for greenworker, for ~/.config/fish/config.fish: greenworker completion fish | source
function __greenworker_is
    set -l words (commandline -opc)
    set -l command none
    for i in (seq 2 (count $words))
        contains -- $words[(math $i - 1)] {values}; and continue
        if contains -- $words[$i] {" ".join(manual.commands)}
            set command $words[$i]
            break
        end
    end
    contains -- $command $argv
end
complete -c greenworker -f
""" + "\n".join(lines)


def _words(manual: Manual, command: str) -> str:
    options: Iterable[str] = (word for one in manual.taken[command] for word in one.words)
    return " ".join([*manual.arguments.get(command, ()), *options])


_SHELLS: dict[str, Callable[[Manual], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
