"""For servers that relay streams over HTTP: statuses and bodies of errors, and server-sent events.

`tokenwire.http.starlette` has a response for Starlette and FastAPI. Nothing else is imported.
"""

from .event_stream import EventStream
from .problems import headers_of, problem_of, status_of
from .server_sent_events import Position, position_of

__all__ = ["EventStream", "Position", "headers_of", "position_of", "problem_of", "status_of"]
