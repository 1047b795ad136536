"""What can go wrong, each error saying what, where, and what to do.

TocsinError
├── ConfigError      the configuration file, its environment overrides, or what they point to
├── RecordingError   a recording cannot be written or read
├── FeedbackError    labels cannot be read or delivered
├── ReloadError      a configuration read anew while serving that cannot be used
├── CheckError       something to be checked that cannot be asked, or says nothing that can be read
└── StartError       a port, a socket or a server that the command needs

Errors of the other two components (`tocsin_detectors.DetectorError`, `tocsin_calibration.CalibrationFault`) pass
through unchanged. Nothing here is ever raised on the serving path: see `tocsin.unscored` for that.
"""


class TocsinError(Exception):
    """The root of this package's errors."""


class ConfigError(TocsinError):
    """A configuration that cannot be used; the message names the file and the path inside it."""


class RecordingError(TocsinError):
    """A recording that cannot be written or read."""


class FeedbackError(TocsinError):
    """Labels that cannot be read, or not be delivered to a running Tocsin."""


class ReloadError(TocsinError):
    """A configuration that cannot be used while serving; the old one stays in force."""


class CheckError(TocsinError):
    """Something that was to be checked cannot be asked, or its answers cannot be read."""


class StartError(TocsinError):
    """Something a command needs could not be started."""
