"""What a score means: thresholds and p-values with a promise, and the bundle that carries them."""

from tocsin_calibration.bundle import Bundle
from tocsin_calibration.errors import BundleError, CalibrationError, CalibrationFault
from tocsin_calibration.evalue import promise_log_evalue
from tocsin_calibration.joint import Rule
from tocsin_calibration.law import FalseAlarmLaw
from tocsin_calibration.promise import Judged, Promise, calibrate
from tocsin_calibration.split import pvalues, required_size, threshold

__all__ = [
    "Bundle",
    "BundleError",
    "CalibrationError",
    "CalibrationFault",
    "FalseAlarmLaw",
    "Judged",
    "Promise",
    "Rule",
    "calibrate",
    "promise_log_evalue",
    "pvalues",
    "required_size",
    "threshold",
]
