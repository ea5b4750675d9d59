"""The command line's parser, made of the fields of settings: a flag and a line of help for each."""

import argparse
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

_METAVARS = {
    "models": "DIR",
    "model": "NAME=PATH",
    "pin": "MODEL=VERSION",
    "version_label": "MODEL:LABEL=VERSION",
    "host": "ADDRESS",
    "tls_certificate": "FILE",
    "tls_key": "FILE",
    "tls_client_ca": "FILE",
    "token_file": "FILE",
    "tensorflow_serving": "WHEN",
    "openai": "WHEN",
    "allowed_origin": "URL",
    "device": "DEVICE",
    "runner": "RUNNER",
    "precision": "PRECISION",
    "device_memory_fraction": "SHARE",
    "client_weight": "NAME=W",
    "cache_dir": "DIR",
    "otlp_endpoint": "URL",
    "log_format": "FORMAT",
    "log_level": "LEVEL",
}
_UNITS = {"_seconds": "SECONDS", "_bytes": "BYTES", "_gib": "GIB"}


def make_parser(
    fields: Mapping[str, FieldInfo], *, prog: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """A parser that gives what was on the command line, and nothing else."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in fields.items():
        _add_flag(parser, name, field)
    return parser


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    flag = "--" + name.replace("_", "-")
    if isinstance(field.default, bool):
        default = flag if field.default else flag.replace("--", "--no-", 1)
        action = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=action, help=f"{field.description} (default {default})")
        return
    plain = isinstance(field.default, int | float | str) and not field.default_factory
    parser.add_argument(
        flag,
        metavar=_metavar(name),
        action="append" if isinstance(field.default, tuple) else "store",
        help=f"{field.description}{f' (default {field.default})' if plain else ''}",
    )


def _metavar(name: str) -> str:
    units = [unit for suffix, unit in _UNITS.items() if name.endswith(suffix)]
    return _METAVARS.get(name, units[0] if units else "N")


def problem(details: Any) -> str:
    """What pydantic's description of a wrong value says to somebody who typed it."""
    where = "--" + "-".join(str(part) for part in details["loc"]).replace("_", "-") if details["loc"] else ""
    message = details["msg"].removeprefix("Value error, ")
    return f"{where} {details['input']!r}: {message}" if where else message
