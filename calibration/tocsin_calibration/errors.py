"""What can go wrong with calibration, each error saying what, where, and what to do.

CalibrationFault
├── CalibrationError   the data or the request cannot give a promise
└── BundleError        a bundle file cannot be used
"""


class CalibrationFault(ValueError):
    """The root of this package's errors."""


class CalibrationError(CalibrationFault):
    """Calibration data or settings that cannot carry the promise asked for."""


class BundleError(CalibrationFault):
    """A bundle that is damaged, foreign, too large, or not yet calibrated."""
