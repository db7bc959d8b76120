"""The name of the service in a transport stream (ETSI EN 300 468, 5.2.3 and 6.2.33): PyAV does not show it."""

from collections.abc import Iterator
from pathlib import Path

_PACKET_BYTES = 188
_SYNC = 0x47
_SDT_PID = 0x11
_SDT_TABLE = 0x42
_SERVICE_DESCRIPTOR = 0x48
_SEARCHED_BYTES = 4 << 20
_LATIN1, _UTF8 = 0x10, 0x15  # first bytes of a text that say how it is encoded


def service_tags(path: Path) -> dict[str, str]:
    """``service_name`` and ``service_provider`` of the first service that a file states; empty where there is none."""
    with path.open("rb") as file:
        data = file.read(_SEARCHED_BYTES)
    for section in _sections(data):
        tags = _names(section)
        if tags:
            return tags
    return {}


def _sections(data: bytes) -> Iterator[bytes]:
    """Sections of the table of services, each put together from its packets."""
    section = b""
    for packet in _packets(data):
        if (packet[1] & 0x1F) << 8 | packet[2] != _SDT_PID or not packet[3] & 0x10:
            continue
        payload = packet[4 + (1 + packet[4] if packet[3] & 0x20 else 0) :]
        if packet[1] & 0x40 and payload:  # a section begins
            section = payload[1 + payload[0] :]
        else:
            section += payload
        if len(section) >= 3 and len(section) >= (length := 3 + ((section[1] & 0x0F) << 8 | section[2])):
            if section[0] == _SDT_TABLE:
                yield section[:length]
            section = b""


def _packets(data: bytes) -> Iterator[bytes]:
    """Packets of 188 bytes; those of Blu-ray and AVCHD have a time of four bytes before each."""
    for stride, begin in ((188, 0), (192, 4), (204, 0)):
        if len(data) >= begin + 2 * stride and data[begin] == data[begin + stride] == _SYNC:
            for at in range(begin, len(data) - _PACKET_BYTES + 1, stride):
                if data[at] == _SYNC:
                    yield data[at : at + _PACKET_BYTES]
            return


def _names(section: bytes) -> dict[str, str]:
    at, end = 11, len(section) - 4  # before the checksum
    while at + 5 <= end:
        length = (section[at + 3] & 0x0F) << 8 | section[at + 4]
        descriptors = section[at + 5 : at + 5 + length]
        at += 5 + length
        while len(descriptors) >= 2:
            tag, size = descriptors[0], descriptors[1]
            content, descriptors = descriptors[2 : 2 + size], descriptors[2 + size :]
            if tag == _SERVICE_DESCRIPTOR and len(content) >= 3:
                provider = content[2 : 2 + content[1]]
                name = content[3 + content[1] :][: content[2 + content[1]]] if len(content) > 2 + content[1] else b""
                texts = {"service_name": _text(name), "service_provider": _text(provider)}
                return {key: text for key, text in texts.items() if text}
    return {}


def _text(data: bytes) -> str:
    if data[:1] == bytes([_UTF8]):
        return data[1:].decode("utf-8", "replace")
    if data[:1] == bytes([_LATIN1]):
        return data[3:].decode(f"iso8859-{data[2]}" if len(data) > 2 and 1 <= data[2] <= 15 else "latin-1", "replace")
    if data and data[0] < 0x0C:
        return data[1:].decode(f"iso8859-{data[0] + 4}", "replace")
    return data.decode("latin-1", "replace")
