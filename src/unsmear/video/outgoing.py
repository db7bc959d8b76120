"""The video stream of an output container, with field order, side data and alpha tag."""

import io
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

from unsmear.video.alpha import TAG as ALPHA_TAG
from unsmear.video.fields import is_interlaced
from unsmear.video.probe import VideoInfo
from unsmear.video.sidedata import marked

_ANY_IN_MATROSKA = "ffv1"


def add_coded_stream(target: Any, coded: Any, info: VideoInfo | None) -> Any:
    """Add a stream for the packets of ``coded`` to a container.

    Field order and side data are those of ``info``. Raises ValueError where the container does not support the codec.
    """
    with marked(coded, info.side_data if info else {}) as template:
        stream = _added(target, template)
        packed_anew = template is not coded
    context = stream.codec_context
    if packed_anew:
        context.extradata, stream.time_base = coded.codec_context.extradata, coded.time_base
    if info is not None and is_interlaced(info.field_order):
        context.field_order = info.field_order
    if coded.metadata.get(ALPHA_TAG.lower(), coded.metadata.get(ALPHA_TAG)):
        stream.metadata[ALPHA_TAG.lower()] = "1"
    return stream


def _added(target: Any, template: Any) -> Any:
    """Add a stream like ``template``.

    PyAV rejects codecs that Matroska stores by their AVI tag; for these a stream of another codec is added and its
    parameters are replaced.
    """
    try:
        return target.add_stream_from_template(template, opaque=True)
    except ValueError:
        if target.format.name != "matroska":
            raise
    with av.open(io.BytesIO(), "w", format="nut") as scratch:
        stream = target.add_stream_from_template(scratch.add_stream(_ANY_IN_MATROSKA), opaque=True)
    BitStreamFilterContext("null", in_stream=template, out_stream=stream)
    return stream
