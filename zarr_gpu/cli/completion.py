# ruff: noqa: T201 - a command prints
"""``zarr-gpu completion``: scripts for bash, zsh and fish, made from the parser itself."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from zarr_gpu.cli import common

if TYPE_CHECKING:
    from zarr_gpu.cli.main import Subparsers

Tree = dict[str, "Node"]


class Node:
    """A command: its help, its options with their choices, and its subcommands."""

    def __init__(self, parser: argparse.ArgumentParser, text: str = "") -> None:
        self.text = text
        self.options: list[tuple[list[str], str, list[str], bool]] = []
        self.choices: list[str] = []
        self.files = False
        """Some argument is no word of ours."""
        self.below: Tree = {}
        for action in parser._actions:  # noqa: SLF001 - argparse offers no other way to ask
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - has no other name
                texts = {a.dest: a.help or "" for a in action._choices_actions}  # noqa: SLF001 - as above
                self.below = {n: Node(p, texts.get(n, "")) for n, p in action.choices.items()}
                continue
            choices = [str(choice) for choice in action.choices or ()]
            if action.option_strings:
                takes = action.nargs != 0
                text = re.sub(r"\s+", " ", action.help or "").replace("%%", "%")
                self.options.append((list(action.option_strings), text, choices, takes))
            else:
                self.choices += choices
                self.files |= not choices


def add_parsers(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = common.command(
        subparsers,
        "completion",
        _completion,
        "print a script that completes commands and options in a shell",
        """
        zarr-gpu completion bash
        zarr-gpu completion zsh
        zarr-gpu completion fish
        """,
        more="bash: source <(zarr-gpu completion bash). zsh: the same, after compinit. "
        "fish: zarr-gpu completion fish | source.",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def _completion(args: argparse.Namespace) -> int:
    from zarr_gpu.cli.main import parser

    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell](Node(parser())), end="")
    return common.OK


def _paths(node: Node, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Node]]:
    out = [(path, node)]
    for name, child in node.below.items():
        out += _paths(child, (*path, name))
    return out


def _words(node: Node) -> list[str]:
    return [*node.below, *node.choices, *(name for names, *_ in node.options for name in names)]


def bash(root: Node) -> str:
    """A function for ``complete``; what is no word of ours is a file name."""
    commands, values = [], []
    for path, node in _paths(root):
        commands.append(f'    "{" ".join(path)}") words="{" ".join(_words(node))}" ;;')
        for names, _, choices, takes in node.options:
            if takes and choices:
                for name in names:
                    key = f"{' '.join(path)}|{name}"
                    values.append(f'    "{key}") words="{" ".join(choices)}" ;;')
    known = "|".join(f'"{" ".join(path)}"' for path, _ in _paths(root) if path)
    return "\n".join(
        [
            "# completion of zarr-gpu for bash",
            "_zarr_gpu() {",
            '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            '  local at="" next word words="" i',
            "  for ((i = 1; i < COMP_CWORD; i++)); do",
            '    word="${COMP_WORDS[i]}"; next="${at:+$at }$word"',
            f'    case "$next" in {known}) at="$next" ;; esac',
            "  done",
            '  case "$at|$previous" in',
            *values,
            "    *)",
            '    case "$at" in',
            *commands,
            "    esac ;;",
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _zarr_gpu zarr-gpu",
            "",
        ]
    )


def zsh(root: Node) -> str:
    """One function per command, by ``_arguments``."""
    lines = ["#compdef zarr-gpu", "# completion of zarr-gpu for zsh"]
    for path, node in reversed(_paths(root)):
        lines += [f"{_name(path)}() {{", *_zsh_body(path, node), "}"]
    lines += ["compdef _zarr_gpu zarr-gpu", ""]
    return "\n".join(lines)


def _name(path: tuple[str, ...]) -> str:
    return "_".join(("_zarr_gpu", *(part.replace("-", "_") for part in path)))


def _zsh_body(path: tuple[str, ...], node: Node) -> list[str]:
    arguments = []
    for names, text, choices, takes in node.options:
        value = f":value:({' '.join(choices)})" if choices else ":value:_files"
        for name in names:
            arguments.append(f"    '{name}[{_quoted(text)}]{value if takes else ''}'")
    if not node.below:
        if node.choices:
            arguments.append(f"    '1:value:({' '.join(node.choices)})'")
        if node.files:
            arguments.append("    '*:file:_files'")
        return ["  _arguments \\", " \\\n".join(arguments)]
    items = " ".join(f"'{name}:{_quoted(child.text)}'" for name, child in node.below.items())
    cases = [f"      {name}) {_name((*path, name))} ;;" for name in node.below]
    return [
        "  local line state",
        "  _arguments -C \\",
        " \\\n".join([*arguments, "    '1: :->command'", "    '*::argument:->arguments'"]),
        "  case $state in",
        f"    command) local -a commands=({items}); _describe command commands ;;",
        "    arguments) case $line[1] in",
        *cases,
        "    esac ;;",
        "  esac",
    ]


def _quoted(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text).replace("'", "'\\''")


_AT = r"""
function __zarr_gpu_at --description 'the words of a command have been typed'
  set -l exactly $argv[1]
  set -l path $argv[2..-1]
  set -l words (string match -v -- '-*' (commandline -opc)[2..-1])
  set -l n (count $path)
  test (count $words) -ge $n; or return 1
  test $exactly = 1; and test (count $words) -ne $n; and return 1
  test $n -eq 0; and return 0
  test "$words[1..$n]" = "$path"
end
"""


def fish(root: Node) -> str:
    """A ``complete`` line for every option and subcommand."""
    lines = ["# completion of zarr-gpu for fish", _AT.strip()]
    for path, node in _paths(root):
        where = " ".join(("__zarr_gpu_at", "1" if node.below else "0", *path))
        for name, child in node.below.items():
            lines.append(_fish(where, f"-f -a {name}", child.text))
        for choice in node.choices:
            lines.append(_fish(where, f"{'' if node.files else '-f '}-a {choice}", ""))
        for names, text, choices, takes in node.options:
            flags = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in names)
            if takes:
                flags += f" -x -a '{' '.join(choices)}'" if choices else " -r"
            lines.append(_fish(where, flags, text))
    return "\n".join([*lines, ""])


def _fish(condition: str, flags: str, text: str) -> str:
    about = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"complete -c zarr-gpu -n '{condition}' {flags} -d '{about}'"
