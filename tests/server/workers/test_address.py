"""The address that workers share is nobody else's."""

import socket
from contextlib import ExitStack

import pytest

from tokenwire_server.config import ConfigError
from tokenwire_server.workers.address import reserved


def listener(address, *options):
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind((host, int(port)))
        sock.listen()
        stack.pop_all()
    return sock


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "[::1]:0", "0.0.0.0:0"])
def test_a_chosen_port_stays_reserved_for_sockets_that_share_it(listen):
    with reserved(listen) as address:
        assert address.rpartition(":")[0] == listen.rpartition(":")[0]
        local = f"127.0.0.1:{address.rpartition(':')[2]}"
        if listen != "[::1]:0":
            with pytest.raises(OSError):
                listener(local, socket.SO_REUSEADDR)
        with pytest.raises(ConfigError, match="in use"):
            with reserved(address):
                pass
        with listener(local, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            pass


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
def test_an_address_on_which_a_program_listens_is_refused(options):
    with listener("127.0.0.1:0", *options) as other:
        port = other.getsockname()[1]
        for listen in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"[::]:{port}"):
            with pytest.raises(ConfigError, match="in use"):
                with reserved(listen):
                    pass


def test_the_port_of_a_server_that_has_just_stopped_can_be_used():
    with listener("127.0.0.1:0", socket.SO_REUSEADDR) as server:  # as gRPC does
        address = server.getsockname()
        with socket.create_connection(address) as caller:
            server.accept()[0].close()  # it closes first, and its side stays in TIME_WAIT
            caller.recv(1)
    with reserved(f"127.0.0.1:{address[1]}") as again:
        assert again == f"127.0.0.1:{address[1]}"


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_an_address_of_another_machine_is_refused(listen):
    with pytest.raises(ConfigError, match="not an address of this machine"):
        with reserved(listen):
            pass
