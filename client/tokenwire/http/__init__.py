"""Help for servers that relay streams over HTTP: errors as statuses and bodies, and server-sent events.

`tokenwire.http.starlette` has a response for Starlette and FastAPI. This package does not import it.
"""

from .event_stream import EventStream
from .problems import headers_of, problem_of, status_of
from .server_sent_events import Position, position_of

__all__ = ["EventStream", "Position", "headers_of", "position_of", "problem_of", "status_of"]
