"""Runs one command: from arguments to an exit code, every failure as one line on stderr."""

import io
import os
import sys
from collections.abc import Sequence

from cadenza.client.cli._parser import build_parser
from cadenza.client.cli._terminal import report
from cadenza.client.errors import CadenzaError, InvalidOption

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` (without the program's name) asks for, and gives its exit code.

    Raises SystemExit where argparse ends the program: for --help, --version and wrong usage.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log would mix with our one line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except InvalidOption as error:
        report(error)
        return _USAGE
    except CadenzaError as error:
        report(error)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter shall not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    return code
