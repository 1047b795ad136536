from .bundle import Bundle
from .calibrating import calibrate, calibrate_sessions
from .errors import BundleError, CalibrationError, CalibrationFault
from .evaluation.comparison import Comparison, compare
from .evaluation.evaluate import evaluate
from .evaluation.results import Evaluation
from .online.adaptive import ACI, ConformalPID, DtACI
from .online.alarm_rate import promise_log_evalue, promise_test, quiet_test
from .online.collecting import Reservoir, Rolling
from .online.drift import DriftWatch
from .online.feedback import Feedback
from .online.watch import ShiryaevRoberts, Watch
from .promise import Judged, Promise
from .risk.correctness import Isotonic, Platt, Temperature, VennAbers
from .risk.dcs import distributional_correctness, expected_dcs, ternary
from .risk.decision import Costs, RiskPolicy, fit_risk_policy
from .risk.harmonised import harmonise
from .risk.retries import Stage, Verifier, correlation_of, plan_cascade, plan_retries
from .risk.selective import Selective, conformal_risk_control, learn_then_test, sgr
from .risk.worth import worth
from .selection.batch import mean_bound, order_statistic_bound
from .selection.fdr import benjamini_hochberg, conformal_selection, selection_pvalues
from .selection.label_sets import calibrate_label_sets
from .selection.online_fdr import Addis, LordPlusPlus, Saffron
from .selection.optcs import optimised_selection
from .sessions.metrics import session_metrics
from .sessions.rule import SessionRule
from .sessions.windows import Window
from .thresholds.contaminated import false_alarm_bounds
from .thresholds.law import FalseAlarmLaw
from .thresholds.smoothing import smoothed_pvalues, uniforms
from .thresholds.split import pvalues, required_size, threshold
from .thresholds.weighted import covariate_weights, estimate_shares, label_shift_weights

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
