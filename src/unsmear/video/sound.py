"""Sound in another codec, for containers that cannot hold it as it is."""

from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter

# Bits a second and channel: what is transparent, or close to it, for these encoders.
_BIT_RATES = {"libopus": 96_000, "aac": 128_000, "mp2": 192_000, "ac3": 160_000, "wmav2": 128_000}
_MOST = {"mp2": 384_000, "ac3": 640_000, "wmav2": 256_000}
_UP_TO_STEREO = ("mono", "stereo")
_LAYOUTS = {"mp2": _UP_TO_STEREO, "wmav2": _UP_TO_STEREO, "ac3": (*_UP_TO_STEREO, "5.1")}
_LAYOUTS |= {"libopus": (*_UP_TO_STEREO, "5.1", "7.1")}
_CHANNELS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_USUAL_HZ = (48000, 44100, 32000)
_RATES: dict[str, tuple[int, ...]] = {"mp2": _USUAL_HZ, "ac3": _USUAL_HZ, "wmav2": _USUAL_HZ, "libopus": (48000,)}


def suited(encoders: tuple[str, ...], stream: Any) -> list[str]:
    """``encoders`` in the order in which they suit a stream of sound: the lossless ones first where it is lossless.

    None of them where its sample rate or format is unknown, as where its first packets are damaged.
    """
    context = stream.codec_context
    if not context.sample_rate or context.format is None:
        return []
    lossless = context.codec.lossless and not context.codec.lossy
    deeper = {"pcm_s16le": "pcm_s24le"} if lossless and context.format.bytes > 2 else {}
    names = [deeper.get(name, name) for name in encoders]
    return sorted(names, key=lambda name: av.Codec(name, "w").lossless != lossless)


class SoundEncoder:
    """Encodes the packets of one stream of sound again; silence fills gaps, so that it stays with the picture."""

    def __init__(
        self, target: Any, source: Any, encoder: str, *, rate: int | None = None, padded: bool = False
    ) -> None:
        """Add a stream for ``source`` to the container ``target``.

        ``rate`` is the only one that this takes, in Hz; ``padded`` sound begins at 0.
        """
        self._source = source
        context = source.codec_context
        rates = (rate,) if rate else _RATES.get(encoder)
        sample_rate = context.sample_rate if not rates or context.sample_rate in rates else rates[0]
        layout = _layout(encoder, context.layout)
        self.stream = target.add_stream(encoder, rate=sample_rate, layout=layout)
        self.stream.time_base = Fraction(1, sample_rate)
        self.stream.format = _format(encoder, context.format)
        channels = av.AudioLayout(layout).nb_channels
        if encoder in _BIT_RATES:
            self.stream.bit_rate = min(_BIT_RATES[encoder] * channels, _MOST.get(encoder, 1 << 30))
        self._form = f"sample_rates={sample_rate}:channel_layouts={layout}"
        self._resampling = "async=1:first_pts=0" if padded else "async=1"
        self._graph: Any = None

    def encode(self, packet: Any) -> list[Any]:
        """Packets that are ready once ``packet``, whose times are those of the output, is in."""
        try:
            frames = self._source.decode(packet)
        except av.error.FFmpegError:  # players pass over what is damaged, too
            return []
        return [ready for frame in frames for ready in self._through(frame)]

    def rest(self) -> list[Any]:
        """The packets that are left when all is in."""
        try:
            frames = self._source.decode(None)
        except av.error.FFmpegError:
            frames = []
        packets = [ready for frame in frames for ready in self._through(frame)]
        if self._graph is not None:
            packets += self._through(None)
        return packets + list(self.stream.encode(None))

    def _through(self, frame: Any) -> list[Any]:
        if self._graph is None:
            self._graph = self._made(frame)
        self._graph.push(frame)
        packets: list[Any] = []
        while True:
            try:
                ready = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return packets
            packets += self.stream.encode(ready)

    def _made(self, frame: Any) -> Any:
        context = self.stream.codec_context
        if not context.is_open:
            context.open()
        graph = av.filter.Graph()
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format,
                layout=named_layout(frame.layout),
                time_base=frame.time_base,
            ),
            graph.add("aresample", self._resampling),
            graph.add("aformat", f"sample_fmts={context.format.name}:{self._form}"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        if context.frame_size:
            graph.set_audio_frame_size(context.frame_size)
        return graph


def named_layout(layout: Any) -> str:
    """The channels that are meant where only their number is stated."""
    return _CHANNELS.get(layout.nb_channels, layout.name) if layout.name.endswith(" channels") else str(layout.name)


def _layout(encoder: str, layout: Any) -> str:
    """The channels that an encoder takes for ``layout``: the same, or the next smaller number of them."""
    allowed, name = _LAYOUTS.get(encoder), named_layout(layout)
    if allowed is None or name in allowed:
        return name
    fitting = [name for name in allowed if av.AudioLayout(name).nb_channels <= layout.nb_channels]
    return fitting[-1] if fitting else allowed[0]


def _format(encoder: str, source: Any) -> str:
    """The encoder's sample format that keeps most of the source's bits."""
    formats = av.Codec(encoder, "w").audio_formats or []
    enough = [form for form in formats if form.bytes >= min(source.bytes, 4)]
    return str((enough or formats)[0].name)
