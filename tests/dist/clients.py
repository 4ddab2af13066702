"""Clients that come at an even pace, whatever becomes of the others, until standard input says a line.

The first line says that they begin. Each other one is a count, and what so many of them got: the status and the body,
or in round brackets what went wrong instead.
"""

import asyncio
import select
import sys
from collections import Counter

EVERY_S = 0.025
PATIENCE_S = 30


async def ask(port: int) -> str:
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            writer.close()
            return f"{head.split()[1]} {body}"
    except (OSError, IndexError) as error:
        return f"({type(error).__name__})"


async def main(port: int) -> None:
    clients = []
    clock = asyncio.get_running_loop().time
    due = clock()
    while not select.select([sys.stdin], [], [], 0)[0]:
        clients.append(asyncio.create_task(ask(port)))
        due += EVERY_S
        await asyncio.sleep(due - clock())
    for got, count in Counter(await asyncio.gather(*clients)).items():
        print(count, got)


print("asking", flush=True)
asyncio.run(main(int(sys.argv[1])))
