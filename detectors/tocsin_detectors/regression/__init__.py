"""Detectors of regression outputs and quantiles."""

from tocsin_detectors.regression.interval_width import IntervalWidth
from tocsin_detectors.regression.quantile_aggregation import QuantileAggregation
from tocsin_detectors.regression.split_point import SplitPointClassification, SplitPointRegression

__all__ = ["IntervalWidth", "QuantileAggregation", "SplitPointClassification", "SplitPointRegression"]
