"""What people would write in Python to answer polls: `answerers.py uvloop|asyncio PORT`.

One protocol object per connection, served by the loop's own server. It must not be optimized further.
"""

import asyncio
import sys
from typing import cast

REPLY = b"up 75% #6/24 busy\n"


class Answer(asyncio.Protocol):
    """Sends the reply and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.write(REPLY)
        stream.close()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "uvloop":
        import uvloop  # the asyncio variant must not load it

        uvloop.run(serve(port))
    else:
        asyncio.run(serve(port))


main()
