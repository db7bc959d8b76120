"""Former name of ``unsmear.restore.cpgd``; kept for one release."""

import warnings

from unsmear.restore.cpgd import Attended, CPGDRestorer

__all__ = ["Attended", "CPCRestorer"]

CPCRestorer = CPGDRestorer

warnings.warn("unsmear.restore.cpc is unsmear.restore.cpgd now: import from there", DeprecationWarning, stacklevel=2)
