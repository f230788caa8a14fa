"""Ray Train's process group, over the address by which Ray knows a node. After: launch.

Left alone, gloo takes the address that the name of the machine stands for. In /etc/hosts of many that is 127.0.0.1 or
127.0.1.1, where ranks on other machines look for it in vain.
"""

import os
import socket
import struct
import sys
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of a network interface."""


class OwnAddressConfig(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _OwnAddressBackend


class _OwnAddressBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_own_address)
        super().on_start(worker_group, backend_config)


def use_own_address() -> None:
    """In a worker: gloo's network interface is that of the node's address; what the user has set stays."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Name of the network interface of this machine that has an IPv4 address; None if none has it, or not on Linux."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
