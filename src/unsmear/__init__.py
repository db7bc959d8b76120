"""unsmear: take the motion blur out of video, guided by the motion that its codec already knows."""

__version__ = "0.1.0"
