"""What a score means: thresholds and p-values with a promise, risk with a guarantee, and the bundle that carries them.

Further functions live in modules named after what they do: `thresholds`, `sessions`, `online`, `risk`, `selection`,
`evaluation`.
"""

from tocsin_calibration.bundle import Bundle
from tocsin_calibration.calibrating import calibrate, calibrate_sessions
from tocsin_calibration.errors import BundleError, CalibrationError, CalibrationFault
from tocsin_calibration.evaluation.comparison import Comparison, compare
from tocsin_calibration.evaluation.evaluate import evaluate
from tocsin_calibration.evaluation.results import Evaluation
from tocsin_calibration.online.adaptive import ACI, ConformalPID, DtACI
from tocsin_calibration.online.alarm_rate import promise_log_evalue, promise_test, quiet_test
from tocsin_calibration.online.collecting import Reservoir, Rolling
from tocsin_calibration.online.drift import DriftWatch
from tocsin_calibration.online.feedback import Feedback
from tocsin_calibration.online.watch import ShiryaevRoberts, Watch
from tocsin_calibration.promise import Judged, Promise
from tocsin_calibration.risk.correctness import Isotonic, Platt, Temperature, VennAbers
from tocsin_calibration.risk.dcs import distributional_correctness, expected_dcs, ternary
from tocsin_calibration.risk.decision import Costs, RiskPolicy, fit_risk_policy
from tocsin_calibration.risk.harmonised import harmonise
from tocsin_calibration.risk.retries import Stage, Verifier, correlation_of, plan_cascade, plan_retries
from tocsin_calibration.risk.selective import Selective, conformal_risk_control, learn_then_test, sgr
from tocsin_calibration.risk.worth import worth
from tocsin_calibration.selection.batch import mean_bound, order_statistic_bound
from tocsin_calibration.selection.fdr import benjamini_hochberg, conformal_selection, selection_pvalues
from tocsin_calibration.selection.label_sets import calibrate_label_sets
from tocsin_calibration.selection.online_fdr import Addis, LordPlusPlus, Saffron
from tocsin_calibration.selection.optcs import optimised_selection
from tocsin_calibration.sessions.metrics import session_metrics
from tocsin_calibration.sessions.rule import SessionRule
from tocsin_calibration.sessions.windows import Window
from tocsin_calibration.thresholds.contaminated import false_alarm_bounds
from tocsin_calibration.thresholds.law import FalseAlarmLaw
from tocsin_calibration.thresholds.smoothing import smoothed_pvalues, uniforms
from tocsin_calibration.thresholds.split import pvalues, required_size, threshold
from tocsin_calibration.thresholds.weighted import covariate_weights, estimate_shares, label_shift_weights

__all__ = [
    "ACI",
    "Addis",
    "Bundle",
    "BundleError",
    "CalibrationError",
    "CalibrationFault",
    "Comparison",
    "ConformalPID",
    "Costs",
    "DriftWatch",
    "DtACI",
    "Evaluation",
    "FalseAlarmLaw",
    "Feedback",
    "Isotonic",
    "Judged",
    "LordPlusPlus",
    "Platt",
    "Promise",
    "Reservoir",
    "RiskPolicy",
    "Rolling",
    "Saffron",
    "Selective",
    "SessionRule",
    "ShiryaevRoberts",
    "Stage",
    "Temperature",
    "VennAbers",
    "Verifier",
    "Watch",
    "Window",
    "benjamini_hochberg",
    "calibrate",
    "calibrate_label_sets",
    "calibrate_sessions",
    "compare",
    "conformal_risk_control",
    "conformal_selection",
    "correlation_of",
    "covariate_weights",
    "distributional_correctness",
    "estimate_shares",
    "evaluate",
    "expected_dcs",
    "false_alarm_bounds",
    "fit_risk_policy",
    "harmonise",
    "label_shift_weights",
    "learn_then_test",
    "mean_bound",
    "optimised_selection",
    "order_statistic_bound",
    "plan_cascade",
    "plan_retries",
    "promise_log_evalue",
    "promise_test",
    "pvalues",
    "quiet_test",
    "required_size",
    "selection_pvalues",
    "session_metrics",
    "sgr",
    "smoothed_pvalues",
    "ternary",
    "threshold",
    "uniforms",
    "worth",
]
