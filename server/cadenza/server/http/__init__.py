"""The HTTP port: metrics and probes for operators, and OpenAI's API for clients of it."""

from cadenza.server.http.app import OpenAiApi, http_app
from cadenza.server.http.calls import Calls
from cadenza.server.http.server import HttpServer

__all__ = ["Calls", "HttpServer", "OpenAiApi", "http_app"]
