"""Detectors of disagreement between modalities."""

from tocsin_detectors.modalities.modality_discrepancy import ModalityDiscrepancy

__all__ = ["ModalityDiscrepancy"]
