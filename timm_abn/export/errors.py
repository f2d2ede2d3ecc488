"""Why a network cannot be exported."""

from ..errors import TimmAbnError

__all__ = ['ExportError']


class ExportError(TimmAbnError):
    """A network cannot be exported; the message says why in one line."""
