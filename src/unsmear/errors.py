"""The errors that unsmear raises on purpose.

Every message is one line that names the bad value, what was expected and what to do about it. The
command line prints that line and nothing else; whoever uses the library catches ``UnsmearError``.
"""


class UnsmearError(Exception):
    """Base of every error raised on purpose."""


class UsageError(UnsmearError):
    """An option or argument that cannot be right whatever the input holds (exit status 2)."""


class UnsupportedVideo(UnsmearError):
    """The input is readable but is not something that can be restored (no picture, audio only …)."""


class DamagedVideo(UnsmearError):
    """The input claims to be a video and cannot be decoded to its end."""


class OutputError(UnsmearError):
    """The output exists already, or cannot be written."""


class WeightsError(UnsmearError):
    """Model weights that are missing, damaged, or that do not fit the network."""


class DataLayoutError(UnsmearError):
    """A data set whose folders or files are not laid out as expected."""


class Interrupted(UnsmearError):
    """The job was stopped from outside; what was finished is kept for a second run to resume."""
