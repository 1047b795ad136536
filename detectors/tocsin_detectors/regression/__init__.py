"""Detectors of regression outputs and quantiles."""

from tocsin_detectors.regression.interval_width import IntervalWidth
from tocsin_detectors.regression.quantile_aggregation import QuantileAggregation
from tocsin_detectors.regression.split_point_classification import SplitPointClassification
from tocsin_detectors.regression.split_point_regression import SplitPointRegression

__all__ = ["IntervalWidth", "QuantileAggregation", "SplitPointClassification", "SplitPointRegression"]
