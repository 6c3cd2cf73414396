"""An SSH server with SFTP on this machine, for one key: what a team's own machine is to DVC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh


@contextmanager
def sftp_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """Its port and the file of the private key that it takes, until the block ends; ``folder`` is the root of what it shows."""
    folder.mkdir()
    own, theirs = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    key = folder.with_name("key")
    theirs.write_private_key(key)
    theirs.write_public_key(key.with_suffix(".pub"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sftp")
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[own], authorized_client_keys=str(key.with_suffix(".pub")),
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(folder).encode()),
        )  # fmt: skip

    async def end() -> None:
        acceptor.close()
        await acceptor.wait_closed()

    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result(30)
    try:
        yield acceptor.get_port(), key
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
