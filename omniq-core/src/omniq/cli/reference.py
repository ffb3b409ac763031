"""What tells of all commands: completion for shells, and the page of the documentation, which is generated.

python -m omniq.cli.reference > docs/cli.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from omniq.cli.app import COMMANDS, load_command, omniq
from omniq.cli.options import example

SHELLS: Final = ("bash", "fish", "zsh")
WIDTH: Final = 100

INTRODUCTION: Final = """\
# The command line

`omniq` is installed with omniq-core; `python -m omniq` is the same. This page is generated from the commands
(`python -m omniq.cli.reference`), and each example in it is run by a test.

* **Where the queue is** say `--url`, `--project` and `--config`, before or after the command's name, else the
  environment, else the file: see the first block.
* **Lists** have filters, `--limit` and `--cursor` for pages, and `--json`; what isn't output, such as a hint that
  there is more, goes to stderr.
* **Many at once**: what changes tasks takes ids, or conditions, or `--all`; `--dry-run` tells how many are meant, and
  on a terminal it is asked first, unless `--yes` is given.
* **Exit codes**: 0 it worked, 1 it didn't, 2 the command or the configuration is wrong, 3 there is no such task,
  schedule, worker, result or plugin, 4 the task hasn't ended yet, 130 interrupted, 141 nobody reads the output any
  more. What is wrong is told in one line on stderr; `--debug` shows the traceback, too.
* **Completion**: `eval "$(omniq completion bash)"`, or see `omniq completion`.
"""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@example("omniq completion zsh")
def completion(shell: str) -> None:
    """Print what lets a shell complete commands and options.

    \b
    bash:  echo 'eval "$(omniq completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(omniq completion zsh)"' >> ~/.zshrc
    fish:  omniq completion fish > ~/.config/fish/completions/omniq.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(omniq, {}, "omniq", "_OMNIQ_COMPLETE").source())


# ── the page ────────────────────────────────────────────────────────────────


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands and groups of OmniQ itself, by the words that call them, in the order of the help."""
    for spec in COMMANDS:
        yield from _below((spec.name,), load_command(spec))


def _below(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _below((*path, name), each)


def page() -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION, _block(omniq, ())]
    for path, command in commands():
        level = "##" if len(path) == 1 else "###"
        parts.append(f"{level} omniq {' '.join(path)}\n\n{_block(command, path)}")
    return "\n".join(parts)


def _block(command: click.Command, path: tuple[str, ...]) -> str:
    context = click.Context(
        command,
        info_name=" ".join(("omniq", *path)),
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return f"```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    click.echo(page(), nl=False)
