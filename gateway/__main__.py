"""`kvshelf`, the command."""

from __future__ import annotations

import rich_click as click

from gateway.cli import ask, audit, demo, documents, keys, routing, serve, simulate, usage


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kvshelf")
def main() -> None:
    """Documents read once, questioned often: a gateway in front of vLLM and LMCache."""


main.add_command(serve.up)
main.add_command(serve.serve)
main.add_command(serve.check)
main.add_command(demo.demo)
main.add_command(ask.ask)
main.add_command(routing.route)
main.add_command(documents.documents)
main.add_command(keys.keys)
main.add_command(audit.audit)
main.add_command(usage.usage)
main.add_command(simulate.simulate)

if __name__ == "__main__":
    main()
