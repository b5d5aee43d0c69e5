"""The executable specification of the TurboQuant family."""

__version__ = "0.1.0"
