"""`python -m dfdlib.book`: derive the configuration, or rewrite the generated pages."""

import argparse

from dfdlib.book._config import write_config
from dfdlib.book._pages import pages


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m dfdlib.book", description="Build the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    config = commands.add_parser("config", help="derive the configuration from _config.yml")
    config.add_argument("--execute", choices=("auto", "off"), default="auto")
    config.add_argument("--out", default="_build/_config.yml")
    commands.add_parser("pages", help="rewrite the generated pages")
    options = parser.parse_args()
    if options.command == "config":
        write_config(options.out, execute=options.execute)
    else:
        for path, text in pages().items():
            path.write_text(text, encoding="utf8")


main()
