"""`cadenza load`: its flags. What they do is in `cadenza.load`, which is imported when it runs."""

import argparse
import os

from cadenza.client._settings import settings_from
from cadenza.client.cli._connect import client_options, connect
from cadenza.client.cli._run import run
from cadenza.client.errors import InvalidOption

EPILOG = """\
values:
  durations  500ms, 60s, 2m; seconds without a unit
  lengths    64, or percentiles: 5=20,50=100,95=900

exit codes:
  0    done; with --sweep: a rate was found
  1    the server was not reached, or no request succeeded; with --sweep: no rate meets --goodput
  2    wrong usage; nothing was sent
  3    the run is invalid: the generator could not keep up
  130  interrupted
"""


def load(args: argparse.Namespace) -> int:
    """Loads the server."""
    try:
        import rich  # noqa: F401 - the one package that the load tester needs beside the SDK's
    except ImportError:
        raise InvalidOption(
            "`cadenza load` is not installed: pip install 'cadenza[load]'", reason="INVALID_OPTION"
        ) from None
    from cadenza.load import _command
    from cadenza.load._loop import new_event_loop

    settings = settings_from(args.target, client_options(args), os.environ)
    return run(_command.load(args, connect(args), settings), new_event_loop)


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """All flags of `cadenza load` but those of the connection."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_pace(parser)
    _add_work(parser)
    _add_judgement(parser)
    _add_generator(parser)
    _add_output(parser)


def _add_pace(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pace")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--rate", metavar="R", help="open loop: requests/s, or a ramp over the run: 1:20")
    which.add_argument("--concurrency", metavar="N", type=int, help="closed loop: streams at all times")
    which.add_argument("--trace", metavar="FILE", help="open loop: replay a CSV with the column `scheduled`")
    which.add_argument(
        "--sweep",
        metavar="LOW:HIGH",
        help="find the highest rate that meets --goodput; or visit rates: 1,2,4",
    )
    group.add_argument(
        "--arrivals",
        choices=("poisson", "gamma", "constant"),
        default="poisson",
        help="(default: %(default)s)",
    )
    group.add_argument(
        "--burstiness",
        metavar="SHAPE",
        type=float,
        help="of gamma arrivals: 1 is Poisson, below it comes in bursts",
    )
    group.add_argument(
        "--trace-speed", metavar="X", type=float, default=1.0, help="2 replays in half the time"
    )
    group.add_argument("--duration", metavar="TIME", help="for how long requests are begun (default: 60s)")
    group.add_argument("--requests", metavar="N", type=int, help="closed loop: end after so many")
    group.add_argument(
        "--warmup",
        metavar="TIME",
        help="beginning that is not measured (default: 5s; none with --requests, --trace)",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("work")
    group.add_argument(
        "--shape",
        choices=("chat", "code"),
        default="chat",
        help="lengths as in real traffic (default: %(default)s)",
    )
    group.add_argument("--prompt-tokens", metavar="LENGTH", help="of prompts, instead of the shape's")
    group.add_argument("--reply-tokens", metavar="LENGTH", help="of replies, instead of the shape's")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        help="prompts instead of random tokens: JSON lines, text lines, or humaneval",
    )
    group.add_argument("--max-tokens", metavar="N", type=int, help="of each completion, with --prompts")
    group.add_argument(
        "--ignore-eos", action="store_const", const=True, help="with --prompts; random tokens always do"
    )
    group.add_argument("--temperature", metavar="T", type=float, default=0.0, help="(default: 0, greedy)")
    group.add_argument(
        "--no-cache-prompt",
        dest="cache_prompt",
        action="store_const",
        const=False,
        help="neither use nor fill the server's prefix cache",
    )
    group.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of arrivals, lengths and tokens (default: 0)"
    )


def _add_judgement(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judgement")
    group.add_argument(
        "--goodput", metavar="BOUNDS", help="count requests within these: ttft=500ms,tpot=50ms,latency=10s"
    )
    group.add_argument(
        "--percentile",
        type=float,
        choices=(50.0, 90.0, 95.0, 99.0, 99.9),
        default=99.0,
        help="at which a sweep wants them met (default: 99)",
    )
    group.add_argument(
        "--max-lag",
        metavar="TIME",
        default="20ms",
        help="generator lag at p99 that invalidates a run (default: 20ms)",
    )
    group.add_argument(
        "--metrics", metavar="URL", help="the server's /metrics, or off (default: port 8501 of the target)"
    )


def _add_generator(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generator")
    group.add_argument(
        "--processes", metavar="N", type=int, default=1, help="that share the load (default: 1)"
    )
    group.add_argument(
        "--max-in-flight", metavar="N", type=int, default=10_000, help="requests at once (default: 10000)"
    )
    group.add_argument(
        "--harness",
        choices=("cadenza", "mlperf"),
        default="cadenza",
        help="whose generator (default: %(default)s)",
    )
    group.add_argument("--mlperf-logs", metavar="DIR", default="mlperf-logs", help="(default: %(default)s)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="all figures")
    group.add_argument("--csv", metavar="FILE", help="a line per request")
    group.add_argument("--html", metavar="FILE", help="a page with plots")
    group.add_argument("--svg", metavar="DIR", help="each plot as a file; of a sweep, those against rate")
