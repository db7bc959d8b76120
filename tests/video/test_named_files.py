"""Only what the user named is read: playlists, addresses and references in files open nothing."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import opened
from support.clips import make_clip
from unsmear.errors import UnsmearError, UnsupportedVideo
from unsmear.video import find_inputs, open_video

needs_inotify = pytest.mark.skipif(not opened.supported, reason="needs inotify, which Linux has")

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{0}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{0}'\n"
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="x">
<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{0}</BaseURL>
</Representation></AdaptationSet></Period></MPD>"""
PLAYLISTS = {
    "hls": ("list.m3u8", HLS),
    "hls with a mark before it": ("list.m3u8", "\ufeff" + HLS),
    "hls called mp4": ("list.mp4", HLS),
    "concat": ("list.ffconcat", CONCAT),
    "concat called mkv": ("list.mkv", CONCAT),
    "dash": ("list.mpd", DASH),
    "dash called ts": ("list.ts", DASH),
    "sdp": ("list.sdp", SDP),
    "pls": ("list.pls", "[playlist]\nFile1={0}\n"),
    "asx": ("list.asx", '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>'),
    "an address": ("list.mov", "{0}\n"),
    "real media": ("list.mov", "RTSPtextRTSP://127.0.0.1:{port}/x\n"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a clip that nobody names, under names that could be found."""
    make_clip(tmp_path / "secret.ts", frames=3)
    for name in ("secret.mp4", "secret001.png", "list.sub", "00.mkv"):
        shutil.copy(tmp_path / "secret.ts", tmp_path / name)
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    """Of a socket that must see no connection."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listening.accept()


def opened_by(path: Path) -> tuple[set[str], str]:
    """Which files of its folder are opened to read ``path``, and the line that says what is wrong with it."""
    watch = opened.Watch(path.parent)
    try:
        for given in find_inputs(path):
            list(open_video(given))
        words = ""
    except UnsmearError as error:
        words = str(error)
    return watch.opened(), words


@needs_inotify
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_nothing(kind, folder, port):
    name, text = PLAYLISTS[kind]
    for target in ("secret.ts", str(folder / "secret.ts"), f"file:{folder}/secret.ts", f"http://127.0.0.1:{port}/x.ts"):
        (folder / name).write_text(text.format(target, port=port))
        files, words = opened_by(folder / name)
        assert files == {name}
        assert words.startswith(f"{folder / name}: ")
        assert "which names other files; only what is named here is read" in words or not kind.startswith(
            ("hls", "conc")
        )


def references_elsewhere(path: Path, target: Path) -> None:
    """Let the data reference of a QuickTime file be an alias of another file, as editors write them."""
    data = path.read_bytes()
    at = data.index(b"url \0\0\0\1") - 4
    name, whole = str(target).encode(), bytes(10)
    alias = b"alis" + bytes(4) + whole + b"\4Disk".ljust(28, b"\0") + bytes(12) + b"\x09secret.ts".ljust(64, b"\0")
    alias += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(name)) + name
    alias += bytes(len(name) % 2) + b"\xff\xff"
    entry = struct.pack(">I", len(alias) + 4) + alias
    grown = len(entry) - 12
    out = bytearray(data[:at] + entry + data[at + 12 :])
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = out.rindex(box, 0, at) - 4
        out[place : place + 4] = struct.pack(">I", int.from_bytes(out[place : place + 4], "big") + grown)
    path.write_bytes(out)


@needs_inotify
def test_references_inside_a_container_open_nothing(folder):
    source = make_clip(folder / "reference.mov", frames=3)
    references_elsewhere(source, folder / "secret.ts")
    files, _ = opened_by(source)
    assert files == {"reference.mov"}


@needs_inotify
@pytest.mark.parametrize("name", ["secret%03d.png", "secret*.png", "secret?.ts", "concat:secret.ts|secret.mp4"])
def test_patterns_in_names_are_names(name, folder):
    assert opened_by(folder / name)[0] == set()
    make_clip(folder / "plain.mp4", frames=4).rename(folder / name)
    files, words = opened_by(folder / name)
    assert (files, words) == ({name}, "")


@needs_inotify
def test_an_index_of_subtitles_opens_no_picture_beside_it(folder):
    (folder / "list.idx").write_text(
        "# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\nid: en, index: 0\n"
    )
    assert opened_by(folder / "list.idx")[0] == {"list.idx"}


ADDRESSES = {
    "http": "http://127.0.0.1:{port}/a.mp4",
    "https": "https://127.0.0.1:{port}/a/b.mp4",
    "tcp": "tcp://127.0.0.1:{port}",
    "rtsp": "rtsp://127.0.0.1:{port}/a",
    "file": "file:///etc/passwd",
}


@pytest.mark.parametrize("kind", ADDRESSES)
@pytest.mark.parametrize("read", [find_inputs, open_video])
def test_addresses_are_not_read(kind, read, port):
    address = ADDRESSES[kind].format(port=port).replace("///", "//")
    with pytest.raises(UnsupportedVideo, match=r"addresses are not read; download the file") as error:
        read(Path(address))
    assert str(error.value).startswith(f"{address}: ")


PROTOCOLS = [
    "concat:secret.ts|secret.mp4",
    "subfile,,start,0,end,100,,:secret.ts",
    "cache:secret.ts",
    "fd:",
    "pipe:0",
    "-",
]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_not_read(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UnsupportedVideo, match=r"no such file|standard input is not read"):
        open_video(name)


SPY = """
import sys
from pathlib import Path
folder = sys.argv[1]
import av, cv2, numpy, unsmear
from unsmear.video import open_video
seen = []
def hook(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        seen.append(event)
    if event == "open" and str(given[0]).startswith(folder):
        seen.append(Path(given[0]).name)
sys.addaudithook(hook)
for name in sys.argv[2:]:
    try:
        for _ in open_video(Path(folder) / name):
            pass
    except unsmear.UnsmearError:
        pass
sys.stdout.write(" ".join(sorted(set(seen))))
"""


def test_python_opens_what_is_named_and_no_socket(folder):
    (folder / "list.m3u8").write_text(HLS.format("secret.ts"))
    make_clip(folder / "a.mp4", frames=3)
    shutil.copy(folder / "a.mp4", folder / "b.png")
    done = subprocess.run(
        [sys.executable, "-c", SPY, str(folder), "list.m3u8", "a.mp4", "b.png", "none.mp4"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["a.mp4", "b.png", "list.m3u8"]
