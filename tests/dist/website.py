"""A web server that takes 150 ms for each request and answers with the name that it was given."""

import asyncio
import sys


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # a health check says nothing
    else:
        await asyncio.sleep(0.15)
        writer.write(f"HTTP/1.0 200 OK\r\n\r\n{sys.argv[2]}".encode())
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, port=int(sys.argv[1]), backlog=1000)
    await server.serve_forever()


asyncio.run(main())
